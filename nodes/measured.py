"""What an attack's report measures on the host's own results: change, diversity, scores, next to random noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.budgets import Budget
from ..core.objectives import l1_distance, pairwise_distances
from .attack_settings import LEVELS
from .objective import Make, Situation


@dataclass(frozen=True)
class Verdict:
    """A score for the report: what an objective says of the results, measured when they are there."""

    name: str
    make: Make


@dataclass(frozen=True)
class Measured:
    """Pictures from the host's own path (B*count H W C, image-major), and what they took.

    default: the unperturbed results; results: of what was found; by_noise: of random changes in the same budget;
    region: B*count 1 h w, where to compare, or None; seconds: the whole run; verdicts: what else is scored.
    """

    default: Tensor
    results: Tensor
    by_noise: Tensor
    region: Tensor | None
    seconds: float
    verdicts: Sequence[Verdict] = ()

    def lines(self, count: int, where: str) -> list[str]:
        """The figures, `count` results an image. where: in words, what the region is."""
        region = None if self.region is None else self.region.cpu()
        pictures = (t.movedim(-1, 1).float().cpu() for t in (self.default, self.results, self.by_noise))
        default, results, by_noise = pictures
        away = l1_distance(default, region)
        change, random = away(results) * LEVELS, away(by_noise) * LEVELS
        rows = zip(change.view(-1, count), random.view(-1, count), strict=True)
        lines = [
            f"change     of the results {'everywhere' if region is None else where}, mean absolute, in levels "
            "(in brackets: by random noise in the same budget)",
            *(f"  image {i}  {_pairs(row, base)}" for i, (row, base) in enumerate(rows, 1)),
            f"  mean     {float(change.mean()):.2f} ({float(random.mean()):.2f}){_times(change, random)}",
        ]
        if count > 1:
            pairs = pairwise_distances(results, count, region) * LEVELS
            pairs = pairs[:, ~torch.eye(count, dtype=torch.bool)]
            lines.append(
                f"diversity  {float(pairs.mean()):.2f} levels between two results, {float(pairs.min()):.2f} at least"
            )
        for verdict in self.verdicts:
            with torch.no_grad():
                score = verdict.make(Situation(default, region))
                before, after, noisy = (score(images).float().cpu() for images in (default, results, by_noise))
            lines.append(f"score      {verdict.name}: of the results (of the default; by random noise)")
            groups = zip(*(scores.view(-1, count) for scores in (after, before, noisy)), strict=True)
            lines += [
                f"  image {i}  " + "  ".join(f"{a:.3f} ({b:.3f}; {n:.3f})" for a, b, n in zip(*row, strict=True))
                for i, row in enumerate(([scores.tolist() for scores in row] for row in groups), 1)
            ]
        return lines


def spent(budget: Budget, found: Tensor, scale: float) -> str:
    """How far the variable went, in the budget's unit times `scale`: the most of any result."""
    moved = (found - budget.center).abs().flatten(1) * scale
    largest, mean = float(moved.amax()), float((moved.sum(1) / budget.entries).amax())
    rms = float((moved.square().sum(1) / budget.entries).sqrt().amax())
    return f"used: {largest:.2f} at most, {rms:.2f} root mean square, {mean:.2f} on average"


def _pairs(row: Tensor, base: Tensor) -> str:
    return "  ".join(f"{c:.2f} ({n:.2f})" for c, n in zip(row.tolist(), base.tolist(), strict=True))


def _times(change: Tensor, random: Tensor) -> str:
    return f": {float(change.mean() / random.mean()):.1f} times" if float(random.mean()) > 0 else ""
