"""A prompt with slots, and what stands in them so far: "a photo of a {colour} circle {more:6}".

A slot in braces takes one word, or from one up to as many as its number says; the same name twice takes the same words
in both places. Source: SAGE (arXiv 2306.00974), "A photo of a [class] ..."; the syntax is ours.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from .errors import ProvokeError

Filling = tuple[tuple[str, ...], ...]  # of each slot its words

MOST = 40  # words in a slot
_SLOT = re.compile(r"\{([^{}]*)\}")
_INSIDE = re.compile(r"\s*(\w+)\s*(?::\s*(\d{1,3})\s*)?")
CLOSE = ""  # in the place of a word: the slot is full


@dataclass(frozen=True)
class Slot:
    """name; most: how many words it takes at most."""

    name: str
    most: int


@dataclass(frozen=True)
class Template:
    """fixed: the text before, between and behind the slots' places, one more than `order`, which has the slot (its
    number among `slots`) of each place."""

    fixed: tuple[str, ...]
    order: tuple[int, ...]
    slots: tuple[Slot, ...]

    @classmethod
    def of(cls, text: str) -> Template:
        """Raises ProvokeError for a text without a slot, or one that cannot be read."""
        slots: dict[str, Slot] = {}
        order = []
        pieces = _SLOT.split(" ".join(text.split()))
        for inside in pieces[1::2]:
            found = _INSIDE.fullmatch(inside)
            most = int(found[2] or 1) if found else 0
            if found is None or not 0 < most <= MOST:
                raise _unreadable(f"The slot {{{inside}}} cannot be read")
            slot = slots.setdefault(found[1], Slot(found[1], most))
            if found[2] and slot.most != most:
                raise _unreadable(f"The slot {{{found[1]}}} takes up to {slot.most} words, and then up to {most}")
            order.append(list(slots).index(found[1]))
        if not slots or any(brace in piece for piece in pieces[::2] for brace in "{}"):
            raise _unreadable(f"There is no slot in the template {text.strip()!r}, or a brace that stands alone")
        return cls(tuple(pieces[::2]), tuple(order), tuple(slots.values()))

    @property
    def plain(self) -> str:
        """The template without its slots."""
        return self.said(tuple(() for _ in self.slots))

    @property
    def words(self) -> str:
        """What every prompt says."""
        return " ".join(self.fixed)

    def said(self, filling: Filling) -> str:
        """The prompt with these words in its slots."""
        places = (" ".join(filling[slot]) for slot in self.order)
        return _tidy("".join(part for pair in zip(self.fixed, [*places, ""], strict=True) for part in pair))

    def before(self, draft: Draft) -> str:
        """What is written of a draft, up to where its next word goes."""
        filling = (*draft.words, *(() for _ in self.slots))
        first = self.order.index(draft.slot)
        parts = [self.fixed[i] + " ".join(filling[slot]) for i, slot in enumerate(self.order[:first])]
        return _tidy("".join([*parts, self.fixed[first], " ".join(filling[draft.slot])]))

    def behind(self, slot: int) -> str | None:
        """The text between a slot and the next one, or the end: "" there; None where another slot follows at once."""
        first = self.order.index(slot)
        text = self.fixed[first + 1].strip()
        return text if text or first + 1 == len(self.order) else None


@dataclass(frozen=True)
class Draft:
    """A prompt that is being written, slot by slot: the words of the full slots, then those of the open one."""

    words: Filling = ((),)
    full: int = 0

    @property
    def slot(self) -> int:
        """The number of the open one."""
        return self.full

    def finished(self, template: Template) -> bool:
        return self.full == len(template.slots)

    def with_word(self, word: str, template: Template) -> Draft:
        """One word further, or (CLOSE) in the next slot; a slot that has all its words is full."""
        if word != CLOSE:
            words = (*self.words[:-1], (*self.words[-1], word))
            longer = replace(self, words=words)
            return longer if len(words[-1]) < template.slots[self.slot].most else longer.with_word(CLOSE, template)
        last = self.full + 1 == len(template.slots)
        return Draft(self.words if last else (*self.words, ()), self.full + 1)


def _tidy(text: str) -> str:
    """Single blanks, none before a comma."""
    return re.sub(r"\s+([,.;:!?])", r"\1", " ".join(text.split()))


def _unreadable(came: str) -> ProvokeError:
    return ProvokeError(
        came,
        f"slots such as {{colour}} (one word) or {{more:6}} (one to six, {MOST} at most)",
        "write such slots into the template, for example: a photo of a {colour} dog {more:6}",
    )
