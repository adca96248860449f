"""The curve of a running search, as the page draws it: few numbers, however long the search is.

A search of a hundred thousand steps keeps as many points as one of five hundred: whenever there are too many, every
second one goes, and from then on only every second step is kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

LINES = 16  # curves that a person can still tell apart; the best is found among all
POINTS = 512  # about the pixels that a node is wide
ENDLESS = 1e5  # a budget of more than this bounds nothing

Point = list[float | None]  # step, largest distance as a share of the budget, and a score for each line


@dataclass(frozen=True)
class Reading:
    """What a step says.

    score: B, the weighted sum of the `terms` (B each). distance: B, in the budget's unit, of at most `limit`. cost: in
    model runs so far.
    """

    score: Tensor
    distance: Tensor | None = None
    limit: float = 0.0
    cost: float | None = None
    stopped: str = ""
    terms: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, step: object) -> Reading | None:
        """From a `core.search.Step`, or from what has such a mapping (score alone will do) as its `step`. None for
        anything else: what has no score has no curve."""
        said: Any = step if isinstance(step, Mapping) else getattr(step, "step", None)
        if not isinstance(said, Mapping) or not isinstance(said.get("score"), Tensor):
            return None
        rest = {name: said[name] for name in ("distance", "limit", "cost", "stopped", "terms") if name in said}
        return cls(said["score"], **rest)

    def row(self) -> tuple[list[float], float | None]:
        """Scores, and the largest distance as a share of the budget, in one transfer from the device."""
        bounded = self.distance is not None and 0 < self.limit < ENDLESS
        parts = [self.score, self.distance] if bounded and self.distance is not None else [self.score]
        scores, *distances = torch.stack([part.detach().float().flatten() for part in parts]).tolist()
        return scores, max(distances[0]) / self.limit if distances else None


@dataclass
class Curve:
    """What is kept of a search. `steps` are expected in all."""

    steps: int = 0
    step: int = -1  # the last one
    seconds: float = 0.0
    cost: float | None = None
    images: int = 0
    best: tuple[int, int, float] | None = None  # image, step, score
    parts: dict[str, float] = field(default_factory=dict)  # what the best score is made of
    used: float | None = None  # share of the budget at the best's step: the largest of any image
    over: bool = False
    said: str = ""  # why it is over
    points: list[Point] = field(default_factory=list)
    _every: int = 1

    def take(self, reading: Reading, seconds: float) -> None:
        """One step more, so many seconds after the beginning."""
        scores, distance = reading.row()
        self.step, self.seconds, self.cost, self.images = self.step + 1, seconds, reading.cost, len(scores)
        self.said = reading.stopped
        for image, score in enumerate(scores):
            if math.isfinite(score) and (self.best is None or score > self.best[2]):
                self.best, self.used = (image, self.step, score), distance
                self.parts = {
                    name: float(term.flatten()[image]) for name, term in reading.terms.items() if term.numel() > image
                }
        if self.step % self._every == 0 or reading.stopped:
            self.points.append([self.step, _short(distance), *map(_short, scores[:LINES])])
        if len(self.points) > POINTS:
            self._every *= 2
            self.points = self.points[::2]

    def told(self, since: int = -1) -> dict[str, Any]:
        """For JSON: everything, with the points after step `since`. Nothing of it changes later."""
        best = None if self.best is None else [*self.best[:2], _short(self.best[2])]
        return {
            "steps": self.steps,
            "step": self.step,
            "seconds": round(self.seconds, 1),
            "cost": _short(self.cost),
            "images": self.images,
            "best": best,
            "over": self.over,
            "said": self.said,
            "points": [point for point in self.points if point[0] is not None and point[0] > since],
        }

    def facts(self) -> dict[str, Any]:
        """What was found, and what it took; for who wants to make it again. Without what is not known."""
        image, step, score = self.best if self.best is not None else (None, None, None)
        told = {
            "score": _short(score),
            "parts": {name: _short(value) for name, value in self.parts.items()} or None,
            "image": None if image is None else image + 1,
            "images": self.images,
            "step": step,
            "steps": self.step,
            "budget_used": _short(self.used),
            "model_runs": _short(self.cost),
            "seconds": round(self.seconds, 1),
            "ended": self.said,
        }
        return {name: value for name, value in told.items() if value is not None}


def _short(value: float | None) -> float | None:
    """Four digits: more than the eye sees. None (null) for what JSON has no number for."""
    return float(f"{value:.4g}") if value is not None and math.isfinite(value) else None
