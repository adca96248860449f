"""What a failure report says of each picture: which prompt, seed and files made it, its scores, and who said what."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from ..core.errors import ProvokeError
from ..host.contact_sheet import MOST, eight_bit, wrapped
from .objective import Scores

T = TypeVar("T")


@dataclass(frozen=True)
class Failures:
    """Pictures (H W C in [0, 1] each), and what came in with them: one for all, or one for each (image-major)."""

    pictures: list[Tensor]
    prompts: list[str]
    seeds: list[int]
    scores: list[Scores]

    @classmethod
    def of(
        cls, images: Sequence[Tensor], prompts: Sequence[str], seeds: Sequence[int], scores: Sequence[Scores]
    ) -> Failures:
        """From lists of what the sockets gave. Raises ProvokeError where their numbers do not go together."""
        for batch in images:
            if batch.ndim != 4 or batch.shape[-1] < 3:
                raise ProvokeError(
                    f"One of images is {tuple(batch.shape)} (B H W C)",
                    "pictures in colour, B H W 3",
                    "connect an IMAGE in colour; one in grey by way of Convert Image to Mask and Convert Mask to Image",
                )
        pictures = [picture for batch in images for picture in batch]
        count = len(pictures)
        if not 0 < count <= MOST:
            raise ProvokeError(
                f"{count} pictures came in", f"1 to {MOST}: what one can still look at", "keep the best with Pick Best"
            )
        for name, values in (("prompts", prompts), ("seeds", seeds)):
            if not values or count % len(values):
                raise ProvokeError(
                    f"{len(values)} {name} for {count} pictures",
                    "one, or one for each picture (or for as many in a row as there are pictures to each)",
                    f"connect the {name} that belong to the pictures",
                )
        scored = sum(len(one.total) for one in scores)
        if scores and scored != count:
            raise ProvokeError(
                f"{scored} scores for {count} pictures", "one for each", "connect Score Images of these very pictures"
            )
        return cls(pictures, list(prompts), list(seeds), list(scores))

    def records(self) -> list[dict[str, Any]]:
        """A record for each picture, plain enough for JSON.

        sha256 is of the picture's 8-bit RGB bytes, row by row, as Save Image writes them: whoever makes it again can
        tell whether it is the same.
        """
        count, judged = len(self.pictures), [record for one in self.scores for record in _scored(one)]
        places, records = self._places(), []
        for i, picture in enumerate(self.pictures):
            levels = eight_bit(picture)
            records.append(
                {
                    "number": i + 1,
                    "prompt": _its(self.prompts, i, count),
                    "seed": _its(self.seeds, i, count),
                    "place": places[i],
                    "width": levels.shape[1],
                    "height": levels.shape[0],
                    "sha256": hashlib.sha256(levels.tobytes()).hexdigest(),
                    **(judged[i] if judged else {}),
                }
            )
        return records

    def _places(self) -> list[int]:
        """Each picture's place in its sampler's batch: among those in a row with its prompt and its seed."""
        count = len(self.pictures)
        # by their numbers: a list may say a prompt twice, and each is a batch of its own
        batches = [(_which(self.prompts, i, count), _which(self.seeds, i, count)) for i in range(count)]
        return [i - batches.index(batch) for i, batch in enumerate(batches)]


def caption(record: dict[str, Any]) -> list[str]:
    """The lines under a picture: number and seed, score, who agrees, and the prompt's beginning."""
    lines = [f"{record['number']}   seed {record['seed']}"]
    if "score" in record:
        lines.append(f"score {record['score']:.4g}{_agreement(record)}")
    return [*lines, *wrapped(record["prompt"], 5 - len(lines))]


def _agreement(record: dict[str, Any]) -> str:
    votes = [value for each in record.get("votes", {}).values() for value in each.values()]
    if not votes:
        return ""
    if record["agreed"] or record["denied"]:
        return "   all agree" if record["agreed"] else "   all say the opposite"
    return f"   {sum(value > 0 for value in votes)} of {len(votes)} say so"


def _scored(scores: Scores) -> list[dict[str, Any]]:
    """By picture: the total, the parts and their weights, and what each judge says (above 0: that it is so)."""
    records: list[dict[str, Any]] = []
    for i, total in enumerate(scores.total.tolist()):
        parts = {
            name: {"value": float(v[i]), "weight": scores.weights.get(name, 1.0)} for name, v in scores.terms.items()
        }
        record: dict[str, Any] = {"score": total, "parts": parts}
        if scores.agreed is not None and scores.denied is not None:
            votes = {name: {judge: float(v[i]) for judge, v in each.items()} for name, each in scores.votes.items()}
            record |= {"votes": votes, "agreed": bool(scores.agreed[i]), "denied": bool(scores.denied[i])}
        records.append(record)
    return records


def _its(values: Sequence[T], number: int, count: int) -> T:
    return values[_which(values, number, count)]


def _which(values: Sequence[Any], number: int, count: int) -> int:
    """Which of the values is a picture's, where each has as many in a row."""
    return number * len(values) // count
