"""What travels between nodes: judges, and objectives that are made when a search knows its pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..core.agreement import Votes, agreed
from ..core.errors import ProvokeError
from ..core.objectives import Objective, WeightedSum, region_at
from ..core.semantic import looking_at
from ..host.api import io
from ..host.judges import Held, judging

PROMPT = "{prompt}"  # in an objective's text

ScorerSocket = io.Custom("PROVOKE_SCORER")
ClassifierSocket = io.Custom("PROVOKE_CLASSIFIER")
VlmSocket = io.Custom("PROVOKE_VLM")
LanguageSocket = io.Custom("PROVOKE_LANGUAGE")
ObjectiveSocket = io.Custom("PROVOKE_OBJECTIVE")
ScoresSocket = io.Custom("PROVOKE_SCORES")


@dataclass(frozen=True)
class Situation:
    """What an objective may ask of the search that it serves.

    default: B C h w in [0, 1], the results without a perturbation, or None where there are none (Score Images).
    region: B 1 h w, where a result counts, or None for everywhere.
    place: number of the picture, and of how many, where they are taken one by one (`scored_one_by_one`).
    prompt: what the pictures were asked for, where the search knows it: in place of {prompt} in an objective's text.
    absent: whether the part is weighed by less than 0, so that less of it is wanted: what levels off, levels off there.
    """

    default: Tensor | None = None
    region: Tensor | None = None
    place: tuple[int, int] | None = None
    prompt: str | None = None
    absent: bool = False

    def told(self, text: str) -> str:
        """A text with the prompt in place of {prompt}. Raises ProvokeError where there is none."""
        if PROMPT not in text:
            return text
        if self.prompt is None:
            raise ProvokeError(
                f"The objective's text {text!r} speaks of the prompt, and this node knows of none",
                "a search that writes its prompts itself (Learn Token, Search Prompt)",
                f"write the words themselves instead of {PROMPT}",
            )
        return text.replace(PROMPT, self.prompt)

    def needs_default(self, name: str) -> Tensor:
        """The default results. Raises ProvokeError where there are none."""
        if self.default is None:
            raise ProvokeError(
                f"The objective '{name}' compares with default results, and none came in",
                "pictures to compare with",
                "connect them to `default`",
            )
        return self.default

    def own(self, batch: Tensor, name: str) -> Tensor:
        """What belongs to these pictures of a batch that came in with the objective: one for all, or one for each."""
        if self.place is None or len(batch) == 1:
            return batch
        number, count = self.place
        if count % len(batch):
            raise ProvokeError(
                f"The objective has {len(batch)} {name} for {count} pictures",
                "one, or one for each",
                f"give one {name}",
            )
        return batch[number * len(batch) // count][None]

    def seen_by(self, judge: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """The judge, looking at the region: outside it it sees the default, or mid grey where there is none."""
        return looking_at(judge, self.region, self.default)


Make = Callable[[Situation], Objective]


@dataclass(frozen=True)
class Term:
    """One part of an objective.

    name: for reports. held: the judges that it computes with. region: B H W in [0, 1], where the picture counts; None
    leaves it to the method (a mask's hole) or takes all of it.
    """

    name: str
    make: Make
    weight: float = 1.0
    held: tuple[Held, ...] = ()
    region: Tensor | None = None

    def in_situation(self, situation: Situation) -> Objective:
        """The objective, with this term's own region where it has one, and in the direction in which it counts."""
        situation = replace(situation, absent=self.weight < 0)
        if self.region is None:
            return self.make(situation)
        return self.make(replace(situation, region=_region(self.region, situation)))


@dataclass(frozen=True)
class Parts:
    """An objective as it travels on a socket: a weighted sum of terms."""

    terms: tuple[Term, ...]

    @property
    def name(self) -> str:
        """For reports."""
        return ", ".join(term.name for term in self.terms)

    @property
    def held(self) -> tuple[Held, ...]:
        """Every judge once."""
        return tuple({id(held): held for term in self.terms for held in term.held}.values())

    def times(self, factor: float) -> Parts:
        """The same sum times a number: -1 turns it round."""
        return Parts(tuple(replace(term, weight=factor * term.weight) for term in self.terms))

    def build(self, situation: Situation) -> WeightedSum:
        """The objective itself, within the judges' session."""
        parts: dict[str, tuple[float, Objective]] = {}
        for term in self.terms:
            name = term.name
            while name in parts:  # two of a kind stay two terms
                name += "'"
            parts[name] = (term.weight, term.in_situation(situation))
        return WeightedSum(parts)


@dataclass(frozen=True)
class Scores:
    """What was measured. total: B, the weighted sum; terms: each part by its name, B; weights: of the parts; votes: of
    parts with several judges what each says, B, positive where it says so."""

    total: Tensor
    terms: dict[str, Tensor]
    weights: dict[str, float] = field(default_factory=dict)
    votes: dict[str, Votes] = field(default_factory=dict)

    @property
    def agreed(self) -> Tensor | None:
        """B bool: where all judges of every such part say what is wanted of it: that it is so, or that it is not (of a
        part that is weighed by less than 0). None where no part has several judges."""
        return self._unanimous(1)

    @property
    def denied(self) -> Tensor | None:
        """B bool: where they all say the opposite, as after *break* of what is asked for here. None as `agreed`."""
        return self._unanimous(-1)

    def _unanimous(self, sign: int) -> Tensor | None:
        each = [agreed(votes, absent=sign * self.weights.get(name, 1.0) < 0) for name, votes in self.votes.items()]
        return torch.stack(each).all(0) if each else None


def scored_one_by_one(
    objective: Parts,
    images: Tensor,
    default: Tensor | None,
    prompt: str | None = None,
    *,
    session: Callable[..., AbstractContextManager[Any]] = judging,
) -> Scores:
    """An objective on pictures (B C H W), one at a time: a batch has no say in a picture's figure, nor in memory.

    default: what each is compared with: one for all, or B, or B / k (image-major); or None. On the CPU.
    session: `judges.passed` where the judges are loaded already, within a search.
    """
    count, totals, weights = len(images), [], dict[str, float]()
    found: dict[str, list[Tensor]] = {}
    said: dict[str, dict[str, list[Tensor]]] = {}
    with session(*objective.held), torch.no_grad():
        for i in range(count):
            usual = None if default is None else default[i * len(default) // count][None]
            part = objective.build(Situation(usual, place=(i, count), prompt=prompt))
            terms, votes = part.judged(images[i : i + 1])
            weights = {name: weight for name, (weight, _) in part.parts.items()}
            totals.append(part.total(terms).float().cpu())
            _append(found, terms)
            for name, each in votes.items():
                _append(said.setdefault(name, {}), each)
    return Scores(torch.cat(totals), _whole(found), weights, {name: _whole(each) for name, each in said.items()})


def scores_joined(several: Sequence[Scores]) -> Scores:
    """What one objective says of several batches, as of one."""
    first = several[0]
    return Scores(
        torch.cat([one.total for one in several]),
        {name: torch.cat([one.terms[name] for one in several]) for name in first.terms},
        first.weights,
        {
            name: {judge: torch.cat([one.votes[name][judge] for one in several]) for judge in each}
            for name, each in first.votes.items()
        },
    )


def compares(parts: Parts, prompt: str) -> bool:
    """Whether an objective looks at the default picture too: elsewhere than in its region, or to compare."""
    if any(term.region is not None for term in parts.terms):
        return True
    try:
        parts.build(Situation(prompt=prompt))
    except ProvokeError:
        return True  # if it was something else, it is said when it is built with the picture
    return False


def _append(lists: dict[str, list[Tensor]], values: dict[str, Tensor]) -> None:
    for name, value in values.items():
        lists.setdefault(name, []).append(value.float().cpu())


def _whole(lists: dict[str, list[Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat(values) for name, values in lists.items()}


def _region(mask: Tensor, situation: Situation) -> Tensor:
    """MASK socket (B H W or H W) -> B 1 h w, for results of another size."""
    mask = mask[None] if mask.ndim == 2 else mask
    if mask.ndim != 3 or not bool((mask > 0).flatten(1).any(1).all()):
        raise ProvokeError(
            f"The objective's region is {tuple(mask.shape)} (B H W)" if mask.ndim != 3 else "The region is empty",
            "a mask with something in it",
            "paint the region, or disconnect it",
        )
    region = situation.own(mask[:, None].float(), "region")
    if situation.default is None:
        return region
    default = situation.default
    if len(default) % len(region):
        raise ProvokeError(
            f"The region has {len(region)} masks for {len(default)} pictures",
            "one mask, or one for each picture",
            "give one mask",
        )
    return region_at(region.repeat_interleave(len(default) // len(region), 0), default)


def pictures(image: Tensor, name: str) -> Tensor:
    """IMAGE socket (B H W C) -> B 3 H W, an ordinary tensor. Raises ProvokeError for another shape."""
    if image.ndim != 4 or image.shape[-1] < 3 or not len(image):
        raise ProvokeError(f"{name} is {tuple(image.shape)}", "an IMAGE: B H W 3", f"connect a picture to {name}")
    return image[..., :3].movedim(-1, 1).float().clone()


def one_of(name: str, labels: Sequence[str]) -> int:
    """The number of a class by its name (or by its number). Raises ProvokeError where there is none such."""
    wanted = name.strip().lower()
    lowered = [label.lower() for label in labels]
    if wanted in lowered:
        return lowered.index(wanted)
    if wanted.isdigit() and int(wanted) < len(labels):
        return int(wanted)
    near = [label for label in labels if wanted and wanted in label.lower()] or list(labels)
    raise ProvokeError(
        f"The classifier has no class {name!r}",
        f"one of its {len(labels)}: {', '.join(near[:12])}{', ...' if len(near) > 12 else ''}",
        "write one of these",
    )


def one_within(name: str, labels: Sequence[str]) -> int:
    """The number of a class as a judge with other labels knows it: its own name, or the one label that lies within it
    word for word ("circle" in "red circle"; of several the longest).

    Raises ProvokeError where there is none such, or two of the same length.
    """
    wanted = name.lower().split()
    words = [label.lower().split() for label in labels]
    if wanted in words:
        return words.index(wanted)
    within = [i for i, label in enumerate(words) if label and _holds(wanted, label)]
    longest = [i for i in within if len(words[i]) == max(len(words[k]) for k in within)]
    if len(longest) == 1:
        return longest[0]
    if longest:
        raise ProvokeError(
            f"Of the judge's labels {', '.join(repr(labels[i]) for i in longest)} lie within {name!r}",
            "one that does",
            "use a classifier that has the class itself, or name it in other words",
        )
    return one_of(name, labels)  # says what there is


def _holds(words: list[str], part: list[str]) -> bool:
    return any(words[i : i + len(part)] == part for i in range(len(words) - len(part) + 1))
