"""Step rules: how the variable moves, given the gradient. Rules climb; the budget knows which way its norm climbs
fastest.

A rule is stateful for one search and reset by `reset()`. `update` returns where to go; the search projects.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from .budgets import Budget, per_item

Schedule = Callable[[float], float]


def constant(progress: float) -> float:
    """Full step size throughout."""
    return 1.0


def cosine(progress: float) -> float:
    """From full step size down to a twentieth (progress 0 to 1): large moves first, then settling."""
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress))


class Rule(Protocol):
    """What the search asks of a step rule. `uses_gradient` is False for rules that need only scores."""

    uses_gradient: bool

    def reset(self) -> None: ...

    def update(self, x: Tensor, gradient: Tensor, score: Tensor, budget: Budget, progress: float) -> Tensor:
        """Where to go from x (B, ...): gradient like x, score B, progress = step / steps in [0, 1)."""
        ...


class Steepest:
    """x + step_size * direction(gradient): FGSM with one step of size epsilon; PGD with several (Madry et al. 2018).

    Args:
        step_size: in the budget's unit (that of epsilon).
        schedule: multiplies the step size over the run.
    """

    uses_gradient = True

    def __init__(self, step_size: float, *, schedule: Schedule = constant) -> None:
        self.step_size, self.schedule = step_size, schedule

    def reset(self) -> None:
        """Has no state."""

    def update(self, x: Tensor, gradient: Tensor, score: Tensor, budget: Budget, progress: float) -> Tensor:
        return x + self.step_size * self.schedule(progress) * budget.direction(x, gradient)


class Momentum:
    """MI-FGSM (Dong et al. 2018): m = decay * m + g / mean|g|, step along direction(m)."""

    uses_gradient = True

    def __init__(self, step_size: float, *, decay: float = 1.0, schedule: Schedule = constant) -> None:
        self.step_size, self.decay, self.schedule = step_size, decay, schedule
        self.reset()

    def reset(self) -> None:
        self.momentum: Tensor | None = None

    def update(self, x: Tensor, gradient: Tensor, score: Tensor, budget: Budget, progress: float) -> Tensor:
        gradient = budget.free(gradient)
        size = gradient.abs().flatten(1).mean(1)
        unit = gradient / per_item(size.clamp_min(1e-38), gradient)
        self.momentum = unit if self.momentum is None else self.decay * self.momentum + unit
        return x + self.step_size * self.schedule(progress) * budget.direction(x, self.momentum)


class Signed:
    """x + step_size * sign(gradient), whatever the budget's norm: SAGE's step (arXiv 2306.00974, there 0.05)."""

    uses_gradient = True

    def __init__(self, step_size: float, *, schedule: Schedule = constant) -> None:
        self.step_size, self.schedule = step_size, schedule

    def reset(self) -> None:
        """Has no state."""

    def update(self, x: Tensor, gradient: Tensor, score: Tensor, budget: Budget, progress: float) -> Tensor:
        return x + self.step_size * self.schedule(progress) * budget.free(gradient).sign()


class ClippedAscent:
    """Gradient ascent with Nesterov's momentum, the gradient's length clipped (ReNO, arXiv 2406.04312: momentum 0.9).

    ReNO clips at 0.1 of its own losses' unit; scores here have any unit, so that the clip is at the length of the first
    gradient. step_size is the root mean square move of a step at the clip, without momentum.
    """

    uses_gradient = True

    def __init__(self, step_size: float, *, momentum: float = 0.9, schedule: Schedule = constant) -> None:
        self.step_size, self.momentum, self.schedule = step_size, momentum, schedule
        self.reset()

    def reset(self) -> None:
        self.limit: Tensor | None = None
        self.velocity: Tensor | None = None

    def update(self, x: Tensor, gradient: Tensor, score: Tensor, budget: Budget, progress: float) -> Tensor:
        gradient = budget.free(gradient)
        # scaled by its maximum first: the square of a 1e-30 gradient would vanish
        most = gradient.abs().flatten(1).amax(1).clamp_min(1e-38)
        unit = gradient / per_item(most, gradient)
        size = (unit.flatten(1).square().sum(1) / budget.entries).sqrt().clamp_min(1e-38)
        length = size * most
        self.limit = length if self.limit is None else torch.where(self.limit > 1e-38, self.limit, length)
        share = (length / self.limit.clamp_min(1e-38)).clamp_max(1.0)
        climb = unit * per_item(share / size, unit)
        self.velocity = climb if self.velocity is None else self.momentum * self.velocity + climb
        return x + self.step_size * self.schedule(progress) * (climb + self.momentum * self.velocity)


class Adam:
    """Adam (Kingma and Ba 2015), ascending; step_size is its learning rate in units of the variable's entries."""

    uses_gradient = True

    def __init__(
        self, step_size: float, *, betas: tuple[float, float] = (0.9, 0.999), schedule: Schedule = constant
    ) -> None:
        self.step_size, self.betas, self.schedule = step_size, betas, schedule
        self.reset()

    def reset(self) -> None:
        self.scale: Tensor | None = None
        self.mean: Tensor | None = None
        self.square: Tensor | None = None
        self.count = 0

    def update(self, x: Tensor, gradient: Tensor, score: Tensor, budget: Budget, progress: float) -> Tensor:
        a, b = self.betas
        gradient = budget.free(gradient)
        # Adam does not see a constant factor; without this one the square of a 1e-25 gradient would vanish in float32
        size = gradient.abs().flatten(1).amax(1)
        self.scale = size if self.scale is None else torch.where(self.scale > 0, self.scale, size)
        gradient = gradient / per_item(self.scale.clamp_min(1e-38), gradient)
        mean = torch.zeros_like(x) if self.mean is None else self.mean
        square = torch.zeros_like(x) if self.square is None else self.square
        self.count += 1
        self.mean, self.square = a * mean + (1 - a) * gradient, b * square + (1 - b) * gradient.square()
        move = self.mean / (1 - a**self.count) / ((self.square / (1 - b**self.count)).sqrt() + 1e-8)
        return x + self.step_size * self.schedule(progress) * move


class APGD:
    """Auto-PGD (Croce and Hein 2020): halves the step and restarts from the best point when progress stalls, per item.

    Args:
        epsilon: the first step is twice this (as published).
        steps: length of the run: the checkpoints lie at fixed shares of it.
        momentum: weight of the new move against the last one (published: 0.75).
        rho: share of steps between two checkpoints that must improve, or the step is halved (published: 0.75).
    """

    uses_gradient = True

    def __init__(self, epsilon: float, steps: int, *, momentum: float = 0.75, rho: float = 0.75) -> None:
        self.first, self.momentum, self.rho = 2 * epsilon, momentum, rho
        self.checkpoints = apgd_checkpoints(steps)
        self.reset()

    def reset(self) -> None:
        self.count = 0
        self.step_size: Tensor | None = None

    def update(self, x: Tensor, gradient: Tensor, score: Tensor, budget: Budget, progress: float) -> Tensor:
        if self.step_size is None:
            self.step_size = torch.full((len(x),), self.first, device=x.device)
            self.last_x, self.last_score = x, score
            self.best_x, self.best_gradient, self.best_score = x, gradient, score
            self.rises, self.checked_best = torch.zeros_like(score), score
            self.just_halved = torch.ones_like(score, dtype=torch.bool)
        self.rises += score > self.last_score
        better = score > self.best_score
        self.best_x = torch.where(per_item(better, x).bool(), x, self.best_x)
        self.best_gradient = torch.where(per_item(better, x).bool(), gradient, self.best_gradient)
        self.best_score = torch.where(better, score, self.best_score)
        self.last_score = score
        if self.count in self.checkpoints:
            x, gradient = self._checkpoint(x, gradient)
        weight = 1.0 if self.count == 0 else self.momentum
        ahead = budget.project(x + per_item(self.step_size, x) * budget.direction(x, gradient))
        move = x + weight * (ahead - x) + (1 - weight) * (x - self.last_x)
        self.last_x, self.count = x, self.count + 1
        return move

    def _checkpoint(self, x: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        window = self.count - max((c for c in self.checkpoints if c < self.count), default=0)
        stalled = self.rises < self.rho * window
        stuck = ~self.just_halved & (self.best_score <= self.checked_best)
        halve = stalled | stuck
        assert self.step_size is not None
        self.step_size = torch.where(halve, self.step_size / 2, self.step_size)
        self.just_halved, self.checked_best = halve, self.best_score
        self.rises = torch.zeros_like(self.rises)
        back = per_item(halve, x).bool()
        return torch.where(back, self.best_x, x), torch.where(back, self.best_gradient, gradient)


def apgd_checkpoints(steps: int) -> tuple[int, ...]:
    """The steps at which APGD looks back: shares 0.22, then gaps shrinking by 0.03 down to 0.06 (section 3.2)."""
    shares = [0.0, 0.22]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    return tuple(math.ceil(round(share * steps, 6)) for share in shares[1:-1])  # 0.57 * 100 is 57, not 58


class RandomDraws:
    """Best of n random points on the budget's surface: the baseline, and the fallback for models without a gradient."""

    uses_gradient = False

    def __init__(self, rngs: Sequence[torch.Generator]) -> None:
        self.rngs = rngs

    def reset(self) -> None:
        """Has no state but its generators."""

    def update(self, x: Tensor, gradient: Tensor, score: Tensor, budget: Budget, progress: float) -> Tensor:
        return budget.random(self.rngs)
