"""Searching prompts in words: word by word along a gradient (SAGE), by evolution, or at random from what is natural.

A method is an endless generator of looks, each a step: whoever drives it counts them and stops it. It ends by itself
where nothing new can be said. Every prompt is looked at once; the pool remembers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .template import CLOSE, Draft, Filling
from .writing import Writer, replaced

VAIN = 5  # words in a row that no natural sentence was found for: then a place is given up
PATIENCE = 60  # prompts in a row that were drawn and are not new, or not natural: then there are no more
SHARE = 0.5  # of the evolution's children that change one word; the others are written on from there


class Halt(Exception):
    """Ends a search between two looks: raised by a pool's `poll`, with the reason in words."""


@dataclass(frozen=True)
class Seen:
    """One look. score: what the search climbs. image: 1 C H W. cost: in runs of the sampler. filling: of a prompt in
    words; None for a look at vectors between words."""

    score: float
    image: Tensor
    cost: float
    filling: Filling | None = None


@dataclass(frozen=True)
class Found:
    """A prompt, its score, and its mean surprise in nats a token. total: the score with what naturalness counts."""

    prompt: str
    filling: Filling
    score: float
    nats: float
    total: float


@dataclass
class Pool:
    """Every prompt that was looked at, once. (Its picture is not kept: memory does not grow with the steps.)

    Args:
        look: at a prompt in words.
        weight: of a nat a token, in score.
        poll: called after every sentence that was written in vain, since there may be no look for long; may raise.
    """

    writer: Writer
    look: Callable[[Filling, str], Seen]
    weight: float = 0.0
    found: dict[str, Found] = field(default_factory=dict)
    poll: Callable[[], None] = lambda: None

    def at(self, filling: Filling) -> Iterator[Seen]:
        """A step, unless the prompt is known."""
        prompt = self.writer.template.said(filling)
        if prompt in self.found:
            return
        seen, nats = self.look(filling, prompt), self.writer.nats([prompt])[0]
        total = seen.score - self.weight * nats if self.weight else seen.score
        self.found[prompt] = Found(prompt, filling, seen.score, nats, total)
        yield seen

    def total(self, filling: Filling) -> float:
        """Of a prompt that was looked at; minus infinity where it is not a number."""
        total = self.found[self.writer.template.said(filling)].total
        return total if total == total else -torch.inf

    def best(self, count: int) -> list[Found]:
        """The first of equals first; what is not finite last."""
        return sorted(self.found.values(), key=lambda one: -one.total if one.total == one.total else torch.inf)[:count]

    def new(self, draft: Draft, rng: torch.Generator) -> Filling | None:
        """A natural prompt that begins so and was not looked at; None where none is found."""
        for _ in range(PATIENCE):
            filling = self.writer.completed(draft, rng)
            if filling is not None and self.is_new(filling):
                return filling
            self.poll()
        return None

    def is_new(self, filling: Filling) -> bool:
        return self.writer.template.said(filling) not in self.found and self.writer.fits(filling)


# ---------------------------------------------------------------------------------------------- at random


def at_random(pool: Pool, rng: torch.Generator) -> Iterator[Seen]:
    """Prompts as the language model writes them: what a search has to beat."""
    while (filling := pool.new(Draft(), rng)) is not None:
        yield from pool.at(filling)


# ---------------------------------------------------------------------------------------------- evolution


def evolution(pool: Pool, rng: torch.Generator, *, population: int) -> Iterator[Seen]:
    """The best prompts so far have children: another word in one place, or another way on from there. No gradient.

    Args:
        population: prompts at random to begin with, and parents later on.
    Source: (mu + 1) evolution with the language model's proposals as mutations; ours.
    """
    for _ in range(population):
        if (filling := pool.new(Draft(), rng)) is not None:
            yield from pool.at(filling)
    barren = 0
    while pool.found and barren < PATIENCE:
        parents = pool.best(population)
        # of two parents the better one: the best have more children, and not all
        parent = parents[min(_drawn(len(parents), rng), _drawn(len(parents), rng))]
        child = _child(pool, parent.filling, rng)
        if child is None or not pool.is_new(child):
            barren += 1
            pool.poll()
            continue
        barren = 0
        yield from pool.at(child)


def _child(pool: Pool, filling: Filling, rng: torch.Generator) -> Filling | None:
    slot, place = _place(filling, rng)
    if float(torch.rand((), generator=rng)) < SHARE:
        words = pool.writer.instead(filling, slot, place)
        return replaced(filling, slot, place, words[_drawn(len(words), rng)]) if words else None
    return pool.writer.completed(Draft((*filling[:slot], filling[slot][:place]), slot), rng)


# ---------------------------------------------------------------------------------------------- by the gradient

MARK = "<provoke-slot>"


@dataclass
class Lean:
    """Ranks proposals by a gradient: `steps` searches vectors in their place, and leaves the order in `words`."""

    steps: Callable[[str, int, Sequence[str], Lean], Iterator[Seen]]
    words: list[str] = field(default_factory=list)

    def ranked(self, text: str, vectors: int, words: Sequence[str]) -> Iterator[Seen]:
        self.words = list(words)
        yield from self.steps(text, vectors, words, self)


def by_gradient(pool: Pool, lean: Lean, rng: torch.Generator, *, beam: int, tries: int) -> Iterator[Seen]:
    """SAGE's prompt search: the token [x] and the future [y] after it are searched as vectors, the proposed words
    nearest to [x] are tried, and the best begin the next sentences; then single words of the best sentences again.

    Args:
        lean: where the gradient would have the next word. beam: sentences that are written on at a time. tries: nearest
            proposals that are tried as words.
    Source: arXiv 2306.00974. Ours: a tried word is judged in a whole sentence, as the model goes on from it (so that
    every look is at a natural prompt), a beam in place of one sentence, and what comes after the first sentences.
    """
    drafts = {Draft(): -torch.inf}  # with the totals of the sentences that they were tried in
    while drafts:
        grown: dict[Draft, float] = {}
        for draft, total in drafts.items():
            yield from _grown(pool, lean, draft, total, rng, tries, grown)
        best = sorted(grown, key=lambda draft: -grown[draft])[:beam]
        drafts = {draft: grown[draft] for draft in best if not draft.finished(pool.writer.template)}
    looked: set[tuple[str, int, int]] = set()
    while (place := _next_place(pool, beam, looked, rng)) is not None:
        pool.poll()
        yield from _again(pool, lean, *place, tries)
    yield from at_random(pool, rng)


def _grown(
    pool: Pool,
    lean: Lean,
    draft: Draft,
    total: float,
    rng: torch.Generator,
    tries: int,
    grown: dict[Draft, float],
) -> Iterator[Seen]:
    """The drafts that one word makes of a draft, with their totals: where there is no choice, the draft's own."""
    template = pool.writer.template
    words = [word for word, _ in pool.writer.options(draft)]
    real = [word for word in words if word != CLOSE]
    if len(words) == 1:
        grown[draft.with_word(words[0], template)] = total
        return
    if len(real) > tries:
        text, vectors = _marked(pool, draft)
        yield from lean.ranked(text, vectors, real)
        real = lean.words
    left, vain = tries, 0
    for word in [*(word for word in words if word == CLOSE), *real]:
        longer = draft.with_word(word, template)
        whole = longer.finished(template)
        filling = longer.words if whole else pool.new(longer, rng)
        if filling is None or not pool.writer.fits(filling):
            # no natural sentence begins so: the next nearest has its turn
            vain += not whole
            pool.poll()
            if vain == VAIN:
                return  # rules that few sentences meet: each of the words would take as many tries
            continue
        vain = 0
        yield from pool.at(filling)
        grown[longer] = pool.total(filling)
        left -= word != CLOSE
        if left == 0:
            return


def _again(pool: Pool, lean: Lean, found: Found, slot: int, place: int, tries: int) -> Iterator[Seen]:
    """Other words in one place of a whole sentence, by the gradient there."""
    proposed = pool.writer.instead(found.filling, slot, place)
    words = [word for word in proposed if pool.is_new(replaced(found.filling, slot, place, word))]
    if len(words) > tries:
        text = pool.writer.template.said(replaced(found.filling, slot, place, MARK))
        yield from lean.ranked(text, 1, words)
        words = lean.words[:tries]
    for word in words:
        yield from pool.at(replaced(found.filling, slot, place, word))


def _next_place(
    pool: Pool, beam: int, looked: set[tuple[str, int, int]], rng: torch.Generator
) -> tuple[Found, int, int] | None:
    """A place in one of the best prompts that was not tried yet."""
    for found in pool.best(beam):
        places = [(slot, at) for slot, words in enumerate(found.filling) for at in range(len(words))]
        left = [place for place in places if (found.prompt, *place) not in looked]
        if left:
            slot, at = left[_drawn(len(left), rng)]
            looked.add((found.prompt, slot, at))
            return found, slot, at
    return None


def _marked(pool: Pool, draft: Draft) -> tuple[str, int]:
    """The text with MARK where the next word goes, and how many vectors stand there: [x] alone where it is the slot's
    last word, else with [y] behind it."""
    template = pool.writer.template
    slots = template.slots
    filling = (*draft.words[:-1], (*draft.words[-1], MARK), *(() for _ in slots[draft.slot + 1 :]))
    return template.said(filling), 1 if len(draft.words[-1]) + 1 == slots[draft.slot].most else 2


def _place(filling: Filling, rng: torch.Generator) -> tuple[int, int]:
    places = [(slot, at) for slot, words in enumerate(filling) for at in range(len(words))]
    return places[_drawn(len(places), rng)]


def _drawn(count: int, rng: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=rng))
