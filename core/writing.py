"""What may be said in a template's slots: words that a language model proposes, and which sentences stay natural."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from .errors import ProvokeError
from .template import CLOSE, Draft, Filling, Template

BESIDE = -math.log(2)  # of closing a slot where another follows at once: the model has no say in it
SAMPLES = 24  # of the model's own sentences, for what is usual
_WIDER = 4  # so many words are asked for where the text behind a slot has a say


class Language(Protocol):
    """A language model."""

    def next_words(self, text: str, count: int, rarest: float) -> list[tuple[str, float]]:
        """The likeliest next words with their log probabilities in nats, the likeliest first; "" is the text's end.
        None below a share `rarest` of the likeliest."""
        ...

    def read(self, texts: Sequence[str], *, ended: bool) -> list[list[tuple[float, float]]]:
        """Of every token of each text its log probability, and by how much the likeliest one in its place is likelier,
        in nats. ended: and of the text's end, as one more."""
        ...


@dataclass(frozen=True)
class Rules:
    """What a prompt has to keep to.

    context: what the model reads before every prompt. proposals: how many words a place has at most. rarest: a proposal
    is at least this share as likely as the likeliest. slack: nats a token that a prompt may be less likely than the
    model's own ones; a single token may be so much less likely as rarest says. stay: words that every prompt has.
    never: words or phrases that none has.
    """

    context: str = ""
    proposals: int = 24
    rarest: float = 0.02
    slack: float = 0.5
    stay: tuple[str, ...] = ()
    never: tuple[str, ...] = ()


class Writer:
    """A template, a language model, and the rules between them. What the model has said is remembered.

    Raises: ProvokeError where the rules contradict the template.
    """

    def __init__(self, template: Template, language: Language, rules: Rules) -> None:
        self.template, self.language, self.rules = template, language, rules
        self._options: dict[tuple[str, int, bool, int], list[tuple[str, float]]] = {}
        self._read: dict[str, tuple[float, float]] = {}
        self._logs: dict[str, float] = {}
        self.usual = self.oddest = math.inf
        _check(template, rules)

    # ---------------------------------------------------------------------------------------------- words

    def options(self, draft: Draft) -> list[tuple[str, float]]:
        """The words that may come next in a draft (CLOSE: none, the slot is full) with their log probabilities in nats,
        the likeliest first. Nothing where no word is left.

        What must stay and is not there yet counts as the likeliest wherever it is natural, and is all there is where
        the room just suffices for it.
        """
        template, slot = self.template, draft.slot
        asked, missing = self._proposed(draft), self._missing(draft)
        most = max((log for _, log in asked), default=0.0)
        wanted = [(word, self._after(draft, word)) for word in missing]
        room = template.slots[slot].most - len(draft.words[-1])
        if missing and room + sum(other.most for other in template.slots[slot + 1 :]) <= len(missing):
            return wanted
        last = slot + 1 == len(template.slots)
        # also where the likeliest must not come: what is left has to be natural by itself
        floor = most + math.log(self.rules.rarest)
        likely = [
            (word, log)
            for word, log in asked
            if log >= floor and word not in missing and not (word == CLOSE and missing and last)
        ]
        allowed = [pair for pair in likely if not self._banned(pair[0])][: self.rules.proposals]
        return [(word, most) for word, log in wanted if log >= floor] + allowed

    def completed(self, draft: Draft, rng: torch.Generator) -> Filling | None:
        """The draft as the model goes on with it, each word drawn by its probability. None where it comes to an end
        without one."""
        while not draft.finished(self.template):
            words = self.options(draft)
            if not words:
                return None
            logs = torch.tensor([log for _, log in words], dtype=torch.float64)
            draft = draft.with_word(words[int(torch.multinomial(logs.softmax(0), 1, generator=rng))][0], self.template)
        return draft.words

    def instead(self, filling: Filling, slot: int, place: int) -> list[str]:
        """Words that may stand in the place of one in a whole prompt: proposals that leave the sentence natural, the
        likeliest sentence first. Without the word itself."""
        draft = Draft((*filling[:slot], filling[slot][:place]), slot)
        words = [word for word, _ in self.options(draft) if word not in (CLOSE, filling[slot][place])]
        others = {word: replaced(filling, slot, place, word) for word in words}
        nats = self.nats([self.template.said(other) for other in others.values()])
        kept = [(cost, word) for (word, other), cost in zip(others.items(), nats, strict=True) if self.fits(other)]
        return [word for _, word in sorted(kept)]

    # ---------------------------------------------------------------------------------------------- sentences

    def settle(self, rng: torch.Generator) -> None:
        """Learns what is natural from some prompts that the model writes itself, free of the rules' words: usual, their
        surprise in nats a token, and oddest, by how much the oddest token is rarer than the likeliest. The better
        quarter counts: where the template goes on behind a slot, the model could not know."""
        free = Writer(self.template, self.language, replace(self.rules, stay=(), never=()))
        free._options = self._options
        own = [free.completed(Draft(), rng) for _ in range(SAMPLES)]
        read = self._reads([self.template.said(filling) for filling in own if filling is not None])
        if not read or not self.options(Draft()):
            raise ProvokeError(
                f"The language model has no words for the template {self.template.plain!r} that may be said",
                "words that it proposes, and that are not forbidden",
                "forbid fewer words, lower rarest, raise proposals, or choose another template or context",
            )
        self.usual, self.oddest = (sorted(values)[len(read) // 4] for values in zip(*read, strict=True))

    def nats(self, prompts: Sequence[str]) -> list[float]:
        """The mean surprise of a token of each prompt with its end, in nats: lower is more natural."""
        return [nats for nats, _ in self._reads(prompts)]

    def fits(self, filling: Filling) -> bool:
        """Whether a whole prompt has what must stay, nothing that must not come, and is natural: on the whole, and in
        every word (the text behind a slot included)."""
        said = self.template.said(filling)
        if not all(_holds(said, word) for word in self.rules.stay):
            return False
        if any(_holds(said, phrase) for phrase in self.rules.never):
            return False
        nats, odd = self._reads([said])[0]
        return nats <= self.usual + self.rules.slack and odd <= self.oddest - math.log(self.rules.rarest)

    # ---------------------------------------------------------------------------------------------- within

    def _proposed(self, draft: Draft) -> list[tuple[str, float]]:
        """Before the rules' words: what the model says, with the text behind a slot where that closes."""
        slot, words = self.template.slots[draft.slot], draft.words[-1]
        before = f"{self.rules.context} {self.template.before(draft)}".strip()
        key = (before, draft.slot, bool(words), slot.most - len(words))
        if key not in self._options:
            behind, last = self.template.behind(draft.slot), slot.most == len(words) + 1
            count, rarest = self.rules.proposals, self.rules.rarest
            if last and behind:  # what is unlikely by itself may be the likeliest with the text that follows
                count, rarest = _WIDER * count, rarest**2
            found = dict(self.language.next_words(before, count, rarest))
            end = found.pop(CLOSE, -math.inf)
            if last and behind is not None:
                found = self._with_rest(before, found, behind)
            elif words:
                found[CLOSE] = BESIDE if behind is None else end if not behind else self._first_of(before, behind)
            self._options[key] = sorted(found.items(), key=lambda pair: -pair[1])
        return self._options[key]

    def _with_rest(self, before: str, words: dict[str, float], behind: str) -> dict[str, float]:
        """Log probabilities of words together with the text that follows them."""
        if not words:
            return {}
        texts = [f"{before} {word} {behind}".strip() for word in words]
        start = self._log(before)
        whole = self.language.read(texts, ended=not behind)
        return {word: sum(log for log, _ in read) - start for word, read in zip(words, whole, strict=True)}

    def _first_of(self, before: str, behind: str) -> float:
        """Log probability that the next word is the first one of the text behind."""
        return self._log(f"{before} {behind.split()[0]}") - self._log(before)

    def _after(self, draft: Draft, word: str) -> float:
        """Log probability of a word as the next one, proposed or not."""
        before = f"{self.rules.context} {self.template.before(draft)}".strip()
        return self._log(f"{before} {word}".strip()) - self._log(before)

    def _log(self, text: str) -> float:
        if text not in self._logs:
            self._logs[text] = sum(log for log, _ in self.language.read([text], ended=False)[0]) if text else 0.0
        return self._logs[text]

    def _reads(self, prompts: Sequence[str]) -> list[tuple[float, float]]:
        """Of each prompt with its end: nats a token, and by how many its oddest token is rarer than the likeliest."""
        new = list(dict.fromkeys(prompt for prompt in prompts if prompt not in self._read))
        if new:
            context = self.rules.context.strip()
            skipped = len(self.language.read([context], ended=False)[0]) if context else 0
            found = self.language.read([f"{context} {prompt}".strip() for prompt in new], ended=True)
            for prompt, whole in zip(new, found, strict=True):
                read = whole[skipped:] or whole
                self._read[prompt] = (-sum(log for log, _ in read) / len(read), max(odd for _, odd in read))
        return [self._read[prompt] for prompt in prompts]

    def _missing(self, draft: Draft) -> list[str]:
        """What must stay, and is not there yet."""
        said = " ".join([self.template.words, *(word for words in draft.words for word in words)])
        return [word for word in self.rules.stay if not _holds(said, word)]

    def _banned(self, word: str) -> bool:
        return any(word.lower() == phrase.lower() for phrase in self.rules.never)


def replaced(filling: Filling, slot: int, place: int, word: str) -> Filling:
    """With another word in one place."""
    words = (*filling[slot][:place], word, *filling[slot][place + 1 :])
    return (*filling[:slot], words, *filling[slot + 1 :])


def _split(text: str) -> list[str]:
    return [word.strip(",.;:!?()\"'").lower() for word in text.split()]


def _holds(text: str, phrase: str) -> bool:
    """Whether a text has the words of a phrase next to each other; upper and lower case alike."""
    words, part = _split(text), _split(phrase)
    return any(words[i : i + len(part)] == part for i in range(len(words) - len(part) + 1))


def _check(template: Template, rules: Rules) -> None:
    came: Callable[[str], str] | None = None
    forbidden = [phrase for phrase in rules.never if any(_holds(word, phrase) for word in rules.stay)]
    if forbidden:
        came = "The word {!r} must stay and must not come".format
    elif forbidden := [phrase for phrase in rules.never if _holds(template.plain, phrase)]:
        came = "The template itself says {!r}, which must not come".format
    if came is not None:
        raise ProvokeError(came(forbidden[0]), "words that can be left out", "take it out of must_not_come")
    spare = [word for word in rules.stay if not _holds(template.words, word)]
    long = [word for word in spare if len(word.split()) != 1]
    if long:
        raise ProvokeError(
            f"{long[0]!r} must stay, and is not in the template's own words",
            "single words, which the search puts into slots",
            "write the phrase into the template itself",
        )
    if len(spare) > sum(slot.most for slot in template.slots):
        raise ProvokeError(
            f"{len(spare)} words must stay that the template does not say, and its slots have no room for them",
            "room for each",
            "write them into the template, or give a slot more words: {more:8}",
        )
