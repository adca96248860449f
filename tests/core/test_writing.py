"""What may be said: proposals, what must stay and must not come, what is natural; and the three ways of searching."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice, pairwise

import pytest
import torch

from provoke.core.errors import ProvokeError
from provoke.core.template import CLOSE, Draft, Filling, Template
from provoke.core.wording import PATIENCE, VAIN, Halt, Lean, Pool, Seen, at_random, by_gradient, evolution
from provoke.core.writing import Rules, Writer

COLOURS = {"red": 0.5, "blue": 0.3, "grey": 0.195, "zinc": 0.005}
THINGS = {"cat": 0.5, "dog": 0.3, "hat": 0.2}


class Grammar:
    """A language model of "a COLOUR THING (and a COLOUR THING)*", with a table for probabilities."""

    def __init__(self) -> None:
        self.asked = 0

    def _next(self, words: Sequence[str]) -> dict[str, float]:
        last = words[-1] if words else ""
        if last in THINGS:
            return {CLOSE: 0.6, "and": 0.4}
        return {"a": COLOURS, **dict.fromkeys(COLOURS, THINGS), "and": {"a": 1.0}, "": {"a": 1.0}}.get(
            last, {"a": 0.001}
        )

    def next_words(self, text: str, count: int, rarest: float) -> list[tuple[str, float]]:
        self.asked += 1
        found = {CLOSE: -20.0} | {word: math.log(p) for word, p in self._next(text.split()).items()}
        return sorted(found.items(), key=lambda pair: -pair[1])[: count + 1]

    def read(self, texts: Sequence[str], *, ended: bool) -> list[list[tuple[float, float]]]:
        found = []
        for text in texts:
            words = text.split()
            tables = [(word, self._next(words[:i])) for i, word in enumerate([*words, *([CLOSE] if ended else [])])]
            logs = [(math.log(table.get(word, 1e-6)), math.log(max(table.values()))) for word, table in tables]
            found.append([(log, most - log) for log, most in logs])
        return found


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def writer(text: str = "a {colour} cat {more:4}", **rules: object) -> Writer:
    made = Writer(Template.of(text), Grammar(), Rules(**rules))  # type: ignore[arg-type]
    made.settle(rng())
    return made


def said(one: Writer, seed: int = 0) -> str:
    filling = one.completed(Draft(), rng(seed))
    assert filling is not None
    return one.template.said(filling)


# ---------------------------------------------------------------------------------------------- what may be said


def test_proposals_are_the_models_with_the_text_that_follows() -> None:
    one = writer()
    assert [word for word, _ in one.options(Draft())] == ["red", "blue", "grey"]
    assert len(writer(rarest=0.005).options(Draft())) == 4
    assert dict(one.options(Draft()))["red"] == pytest.approx(math.log(0.5 * 0.5))  # red, then cat
    assert [word for word, _ in writer(rarest=0.1).options(Draft())] == ["red", "blue", "grey"]
    assert [word for word, _ in writer(proposals=2).options(Draft())] == ["red", "blue"]
    more = one.options(Draft((("red",), ("and", "a", "blue")), 1))
    assert [word for word, _ in more] == ["cat", "dog", "hat"]


def test_a_slot_closes_as_likely_as_the_model_ends_or_goes_on_with_the_text() -> None:
    one = writer("a red cat {more:8}")
    words = dict(one.options(Draft((("and", "a", "blue", "dog"),), 0)))
    assert words[CLOSE] == pytest.approx(math.log(0.6))
    middle = writer("a red {thing:5} and a blue hat")
    words = dict(middle.options(Draft((("cat",),), 0)))
    assert words[CLOSE] == pytest.approx(math.log(0.4))


def test_sentences_are_drawn_by_their_probability_and_by_the_seed() -> None:
    one = writer("{all:3}")
    drawn = [said(one, seed) for seed in range(300)]
    assert drawn == [said(writer("{all:3}"), seed) for seed in range(300)]
    assert sum(text.startswith("a red") for text in drawn) / 300 == pytest.approx(0.5, abs=0.1)


def test_words_that_must_stay_and_words_that_must_not_come() -> None:
    one = writer("{all:8}", stay=("grey", "hat"), never=("red", "a blue cat"), slack=1.0)
    found = [one.completed(Draft(), rng(seed)) for seed in range(60)]
    kept = [one.template.said(filling) for filling in found if filling is not None and one.fits(filling)]
    assert len(kept) > 3
    for text in kept:
        assert {"grey", "hat"} <= set(text.split())
        assert "red" not in text.split()
        assert "a blue cat" not in text
    assert not one.fits((("a", "grey", "hat", "and", "a", "red", "cat"),))


@pytest.mark.parametrize(
    ("text", "rules", "words"),
    [
        ("a cat {more}", {"never": ("cat",)}, "The template itself says 'cat'"),
        ("a cat {more}", {"stay": ("dog",), "never": ("dog",)}, "must stay and must not come"),
        ("a cat {more}", {"stay": ("dog", "hat")}, "have no room"),
        ("a cat {more:4}", {"stay": ("blue dog",)}, "is not in the template's own words"),
        ("a {colour}", {"never": tuple(COLOURS)}, "has no words for the template"),
    ],
)
def test_rules_that_contradict_are_refused(text: str, rules: dict[str, object], words: str) -> None:
    with pytest.raises(ProvokeError, match=words):
        writer(text, **rules)


def test_what_is_not_natural_does_not_fit() -> None:
    one = writer("{all:7}", slack=0.5)
    assert one.fits((("a", "red", "cat"),))
    assert not one.fits((("cat", "a", "red"),))
    assert not one.fits((("a", "red", "cat", "and", "a", "red", "a"),))
    assert writer("{all:7}", slack=20.0, rarest=1e-9).fits((("cat", "a", "red"),))
    (nats,) = one.nats(["a red cat"])
    assert nats == pytest.approx(-(math.log(0.5) + math.log(0.5) + math.log(0.6)) / 4)


def test_the_context_counts_for_nothing_but_what_follows() -> None:
    with_context, without = writer("{all:7}", context="a red cat and"), writer("{all:7}")
    assert with_context.nats(["a red cat"]) == pytest.approx(without.nats(["a red cat"]))


def test_other_words_in_a_place_leave_the_sentence_natural() -> None:
    one = writer("{all:7}", slack=1.0)
    assert one.instead((("a", "red", "cat"),), 0, 1) == ["blue", "grey"]  # zinc is too rare here
    assert one.instead((("a", "red", "cat"),), 0, 0) == []


# ---------------------------------------------------------------------------------------------- the search


def pool(template: str = "{all:7}", target: str = "a grey hat and a blue dog") -> Pool:
    """Scores: how many of the target's words stand in their places."""
    wanted = target.split()

    def look(filling: Filling, prompt: str) -> Seen:
        words = prompt.split()
        right = sum(a == b for a, b in zip(words, wanted, strict=False)) - abs(len(words) - len(wanted)) / 2
        return Seen(float(right), torch.zeros(1, 3, 2, 2), 1.0, filling)

    return Pool(writer(template, slack=1.0), look)


def leaning_to(target: str) -> Lean:
    """A gradient that knows the target's words."""

    def steps(text: str, vectors: int, words: Sequence[str], lean: Lean) -> Iterator[Seen]:
        lean.words = sorted(words, key=lambda word: word not in target.split())
        yield Seen(0.0, torch.zeros(1, 3, 2, 2), 3.0)

    return Lean(steps)


def test_a_prompt_is_looked_at_once_and_all_are_natural() -> None:
    for method in ("random", "evolution", "gradient"):
        one = pool()
        seen = list(islice(steps_of(one, method), 60))
        said = [one.writer.template.said(step.filling) for step in seen if step.filling is not None]
        assert len(said) == len(set(said)) == len(one.found)
        assert all(one.writer.fits(found.filling) for found in one.found.values())


def steps_of(one: Pool, method: str, seed: int = 1) -> Iterator[Seen]:
    match method:
        case "random":
            return at_random(one, rng(seed))
        case "evolution":
            return evolution(one, rng(seed), population=6)
        case _:
            return by_gradient(one, leaning_to("a grey hat and a blue dog"), rng(seed), beam=2, tries=1)


@pytest.mark.parametrize("method", ["evolution", "gradient"])
def test_a_search_ends_higher_than_chance(method: str) -> None:
    scores = []
    for way in (method, "random"):
        best = []
        for seed in range(8):
            one = pool()
            list(islice(steps_of(one, way, seed), 40))
            best.append(one.best(1)[0].score)
        scores.append(sum(best) / len(best))
    assert scores[0] > scores[1]


@pytest.mark.parametrize("method", ["random", "evolution", "gradient"])
def test_a_small_world_comes_to_its_end(method: str) -> None:
    one = pool("a {colour} cat")
    assert len(list(islice(steps_of(one, method), 100))) < 100
    assert set(one.found) == {f"a {colour} cat" for colour in ("red", "blue", "grey")}


def test_the_same_seed_goes_the_same_way() -> None:
    for method in ("random", "evolution", "gradient"):
        ways = []
        for seed in (3, 3, 4):
            one = pool()
            list(islice(steps_of(one, method, seed), 20))
            ways.append(list(one.found))
        assert ways[0] == ways[1] != ways[2]


@pytest.mark.parametrize("method", ["random", "evolution", "gradient"])
def test_where_no_sentence_is_natural_the_tries_are_few_and_whoever_drives_is_asked(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, polls, tries = pool(), list[int](), list[int]()
    completed = one.writer.completed

    def counted(draft: Draft, rng: torch.Generator) -> Filling | None:
        tries.append(draft.slot)
        return completed(draft, rng)

    def poll() -> None:
        polls.append(len(tries))

    monkeypatch.setattr(one.writer, "completed", counted)
    monkeypatch.setattr(one.writer, "options", lambda draft: [(f"word{i}", 0.0) for i in range(20)])
    monkeypatch.setattr(one.writer, "fits", lambda filling: False)
    one.poll = poll
    seen = [step for step in steps_of(one, method) if step.filling is not None]
    assert not seen
    assert not one.found
    # in one place, and then at random; of as many prompts as evolution begins with
    assert len(tries) == {"random": 1, "evolution": 6, "gradient": VAIN + 1}[method] * PATIENCE
    assert polls
    assert max(b - a for a, b in pairwise([0, *polls])) <= 1  # after each try

    def halt() -> None:
        raise Halt("enough")

    one.poll = halt
    with pytest.raises(Halt, match="enough"):
        list(steps_of(one, method))


def test_naturalness_counts_by_its_weight() -> None:
    one = pool()
    one.weight = 2.0
    list(islice(at_random(one, rng()), 5))
    for found in one.found.values():
        assert found.total == pytest.approx(found.score - 2 * found.nats)


def test_what_is_not_finite_comes_last() -> None:
    one = pool()
    looked = one.look
    one.look = lambda filling, prompt: Seen(math.nan, torch.zeros(1, 3, 2, 2), 1.0, filling)
    list(islice(at_random(one, rng()), 1))
    one.look = looked
    list(islice(at_random(one, rng()), 2))
    assert math.isnan(one.best(9)[-1].total)
    assert not math.isnan(one.best(1)[0].total)
