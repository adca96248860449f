"""Templates with slots: what they read as, what they say, where the next word goes."""

from __future__ import annotations

import pytest

from provoke.core.errors import ProvokeError
from provoke.core.template import CLOSE, Draft, Template


def test_a_template_says_its_words_and_those_of_its_slots() -> None:
    template = Template.of("a  {colour} circle, and {more:3}, on {colour}")
    assert [(slot.name, slot.most) for slot in template.slots] == [("colour", 1), ("more", 3)]
    assert template.said((("red",), ("a", "dog"))) == "a red circle, and a dog, on red"
    assert template.plain == "a circle, and, on"
    assert Template.of("{more:8}").plain == ""


@pytest.mark.parametrize("text", ["a dog", "", "a {} dog", "a {b dog", "a {b|c} dog", "{a:0}", "{a:99}", "{a:2} {a:3}"])
def test_what_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ProvokeError, match="slots such as"):
        Template.of(text)


def test_a_draft_grows_word_by_word_through_the_slots() -> None:
    template = Template.of("a {colour} dog {more:2} on {more:2} at {where:3}")
    draft = Draft()
    assert template.before(draft) == "a"
    draft = draft.with_word("red", template)
    assert draft.slot == 1  # one word fills the first
    assert template.before(draft) == "a red dog"
    draft = draft.with_word("sits", template)
    assert template.before(draft) == "a red dog sits"
    assert draft.slot == 1
    draft = draft.with_word(CLOSE, template)
    assert template.before(draft) == "a red dog sits on sits at"
    draft = draft.with_word("noon", template).with_word(CLOSE, template)
    assert draft.finished(template)
    assert template.said(draft.words) == "a red dog sits on sits at noon"


def test_what_follows_a_slot() -> None:
    template = Template.of("{a} dog {b}{c:2} ")
    assert [template.behind(slot) for slot in range(3)] == ["dog", None, ""]
