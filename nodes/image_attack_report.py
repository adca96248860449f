"""What an attack on an image model says of itself, in words: everything measured on the host's own results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.budgets import Budget
from ..core.objectives import l1_distance, pairwise_distances
from ..core.search import Selection, Step
from .attack_settings import LEVELS, AttackSettings
from .objective import Make, Situation


@dataclass(frozen=True)
class Verdict:
    """A score for the report: what an objective says of the results, measured when they are there."""

    name: str
    make: Make


@dataclass(frozen=True)
class Measured:
    """Pictures from the host's own path (B*count H W C, image-major), and what they took.

    default: the unperturbed results; results: of the attacked images; by_noise: of random changes in the same budget;
    region: B*count 1 h w, where to compare, or None; seconds: the whole run; verdicts: what else is scored.
    """

    default: Tensor
    results: Tensor
    by_noise: Tensor
    region: Tensor | None
    seconds: float
    verdicts: Sequence[Verdict] = ()


def describe(
    s: AttackSettings, model: str, notes: Sequence[str], budget: Budget, step: Step, found: Selection, m: Measured
) -> str:
    """The report: model, budget used, search, change of the result next to random noise, diversity, cost, notes."""
    region = None if m.region is None else m.region.cpu()
    default, results, by_noise = (t.movedim(-1, 1).float().cpu() for t in (m.default, m.results, m.by_noise))
    away = l1_distance(default, region)
    change, random = away(results) * LEVELS, away(by_noise) * LEVELS
    moved = (found.variable - budget.center).abs().flatten(1)
    largest, mean = float(moved.amax()) * LEVELS, float((moved.sum(1) / budget.entries).amax()) * LEVELS
    rms = float((moved.square().sum(1) / budget.entries).sqrt().amax()) * LEVELS
    skipped = int(step["skipped"].sum())
    rows = zip(change.view(-1, s.count), random.view(-1, s.count), strict=True)
    lines = [
        f"model      {model}",
        f"budget     {s.norm}{f' ({s.truncation})' if s.norm == 'L-inf' else ''}, epsilon {s.epsilon:g} levels of 255; "
        f"used: {largest:.2f} at most, {rms:.2f} root mean square, {mean:.2f} on average",
        f"search     {s.step_rule if s.method == 'gradient' else 'best of random changes'}, {step['i']} steps, "
        f"seed {s.seed}: {step['stopped']}" + (f"; {skipped} unusable gradients skipped" if skipped else ""),
        f"change     of the results {'everywhere' if region is None else 'in the hole'}, mean absolute, in levels "
        "(in brackets: by random noise in the same budget)",
        *(f"  image {i}  {_pairs(row, base)}" for i, (row, base) in enumerate(rows, 1)),
        f"  mean     {float(change.mean()):.2f} ({float(random.mean()):.2f}){_times(change, random)}",
    ]
    if s.count > 1:
        pairs = pairwise_distances(results, s.count, region) * LEVELS
        pairs = pairs[:, ~torch.eye(s.count, dtype=torch.bool)]
        lines.append(
            f"diversity  {float(pairs.mean()):.2f} levels between two results, {float(pairs.min()):.2f} at least"
        )
    for verdict in m.verdicts:
        with torch.no_grad():
            score = verdict.make(Situation(default, region))
            before, after, noisy = (score(images).float().cpu() for images in (default, results, by_noise))
        lines.append(f"score      {verdict.name}: of the results (of the default; by random noise)")
        rows = zip(*(scores.view(-1, s.count) for scores in (after, before, noisy)), strict=True)
        lines += [
            f"  image {i}  " + "  ".join(f"{a:.3f} ({b:.3f}; {n:.3f})" for a, b, n in zip(*row, strict=True))
            for i, row in enumerate(([scores.tolist() for scores in row] for row in rows), 1)
        ]
    lines.append(
        f"cost       {step['cost'] + found.cost:.0f} runs of the model a result to search, {m.seconds:.1f} s in all"
    )
    return "\n".join([*lines, *(f"note       {note}" for note in notes)])


def _pairs(row: Tensor, base: Tensor) -> str:
    return "  ".join(f"{c:.2f} ({n:.2f})" for c, n in zip(row.tolist(), base.tolist(), strict=True))


def _times(change: Tensor, random: Tensor) -> str:
    return f": {float(change.mean() / random.mean()):.1f} times" if float(random.mean()) > 0 else ""
