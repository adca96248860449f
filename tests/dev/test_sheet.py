"""Captions under pictures."""

from __future__ import annotations

from provoke.tools.sheet import CAPTION, wrap


def test_captions_wrap_by_words() -> None:
    text = "a red circle left of a blue ring"
    wrapped = wrap(text, CAPTION, 80)
    assert len(wrapped) > 1
    assert " ".join(wrapped) == text
    assert all(CAPTION.getlength(line) <= 80 for line in wrapped)
    assert wrap("", CAPTION, 80) == [""]
    assert wrap("unbreakable", CAPTION, 5) == ["unbreakable"]
