"""Model inversion of a vision-language model: what arXiv 2402.16305 adds to a search of the clean latent.

gradient of the VLM, averaged over augmented copies (the hardest ones), scaled to `balance` times the pull's norm
+ the pull of the diffusion model (distillation.py), which is given, not differentiated
-> a step of plain ascent, some noise, an exponential moving average that the latent restarts from
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import replace

import torch
from torch import Tensor

from . import augment
from .augment import Augmentation
from .budgets import L2, Budget, per_item
from .objectives import Objective
from .problem import Evaluation, Generator, ImageProblem, Problem
from .steps import Rule, Schedule

Pull = Callable[[Tensor, float, torch.Generator], Tensor]


def views(*, noise: float = 0.1, flips: bool = False) -> Augmentation:
    """The published set: affine (30 degrees, translation 0.1), perspective 0.2 (chance 0.4), colour jitter 0.1 (0.5),
    random erasing (0.5), pixel noise (`noise`, in image units).

    No flips unless asked for: left and right are part of what a text says, and a judge that also sees the mirrored
    picture is told the opposite every other time (the paper found that they hurt).
    Ours: past the edge lies more of the border (a reflection shows things twice), and the jitter leaves the hue.
    """
    steps = [
        augment.affine(degrees=30, translate=0.1, beyond="border"),
        augment.sometimes(0.4, augment.perspective(0.2)),
        augment.sometimes(0.5, augment.colour_jitter(brightness=0.1, contrast=0.1, saturation=0.1)),
        augment.sometimes(0.5, augment.erasing()),
        augment.pixel_noise(noise),
    ]
    return augment.compose(*([augment.sometimes(0.5, augment.mirrored)] if flips else []), *steps)


class HardExamples(ImageProblem):
    """An `ImageProblem` whose gradient is that of the `hardest` copies alone, those with the lowest score, per image.

    All copies are scored without a graph first, and those that are chosen again with one: copies + 3 * hardest forwards
    of the judge instead of 3 * copies. Scores are the mean of all copies.

    Attribute: looks, how often the judge has looked at a copy (of the whole batch). In a batch each image has its own
    hardest copies, so that up to all of them are looked at again.
    """

    def __init__(
        self, generator: Generator, objective: Objective, *, augment: Augmentation | None, copies: int, hardest: int
    ) -> None:
        super().__init__(generator, objective, augment=augment, copies=copies)
        self.hardest = min(hardest, copies) or copies
        self.looks = 0

    def _augmented(self, image: Tensor, rng: torch.Generator) -> Tensor:
        self.looks += 1  # each look is at a copy made here
        return super()._augmented(image, rng)

    def _looked_at(self, image: Tensor, rng: torch.Generator) -> tuple[Tensor, list[dict[str, Tensor]]]:
        if self.hardest == self.copies:
            return super()._looked_at(image, rng)
        states, copies = [], []
        with torch.no_grad():
            for _ in range(self.copies):
                states.append(rng.get_state())
                copies.append(self.objective.terms(self._augmented(image, rng)))
        after = rng.get_state()
        scores = torch.stack([self.objective.total(terms) for terms in copies])
        chosen = torch.zeros_like(scores).scatter_(0, scores.argsort(0)[: self.hardest], 1.0)  # copies B
        cotangent = torch.zeros_like(image)
        for state, wanted in zip(states, chosen, strict=True):
            if bool(wanted.any()):
                rng.set_state(state)  # the same copy again
                cotangent += self._one_copy(image, rng)[0] * per_item(wanted / self.hardest, image)
        rng.set_state(after)
        return cotangent, copies


class Pulled:
    """A problem whose gradient has a second term that is given rather than differentiated.

    With two gradients balanced by their norms there is no single score that climbs: the terms are reported, and the
    selector decides by the problem's own score. It counts its gradient evaluations, one a step of the search.

    Args:
        problem: scores, and the first gradient.
        pull: (variable, progress, rng) -> the second one, like the variable; None for none.
        steps: of the search.
        alone: how many of the last steps follow the pull alone.
        weight: of the pull.
        balance: the first gradient is scaled to so many times the pull's norm, per image; without a pull, to a root
            mean square of so much. As it is times this number where not `balanced`.
        free: takes out what may not change, before norms are taken.
    """

    def __init__(
        self,
        problem: Problem,
        pull: Pull | None,
        *,
        steps: int,
        alone: int = 0,
        weight: float = 1.0,
        balance: float = 2.0,
        balanced: bool = True,
        free: Callable[[Tensor], Tensor] = lambda change: change,
    ) -> None:
        self.problem, self.pull, self.steps, self.alone = problem, pull, steps, alone
        self.weight, self.balance, self.balanced, self.free = weight, balance, balanced, free
        self.done = 0

    def evaluate(self, variable: Tensor, rng: torch.Generator, *, gradient: bool) -> Evaluation:
        if not gradient:
            return self.problem.evaluate(variable, rng, gradient=False)
        progress, left = self.done / max(1, self.steps), self.steps - self.done
        self.done += 1
        given = None if self.pull is None else self.weight * self.free(self.pull(variable, progress, rng))
        if given is not None and (left <= self.alone or self.balance == 0):
            own = self.problem.evaluate(variable, rng, gradient=False)
            return replace(own, gradient=given, terms={**own.terms, "pull": _size(given)})
        own = self.problem.evaluate(variable, rng, gradient=True)
        assert own.gradient is not None
        climb = self.free(own.gradient)
        if self.balanced:
            wanted: Tensor | float = 1.0 if given is None else _size(given)
            climb = climb * per_item(wanted / _size(climb).clamp_min(1e-30), climb)
        climb = self.balance * climb
        total = climb if given is None else climb + given
        terms = {**own.terms, "climb": _size(climb), **({} if given is None else {"pull": _size(given)})}
        return replace(own, gradient=total, terms=terms)


def _size(x: Tensor) -> Tensor:
    """Root mean square of each item: B."""
    most = x.abs().flatten(1).amax(1).clamp_min(1e-30)  # the square of a 1e-30 gradient would vanish
    return (x / per_item(most, x)).flatten(1).square().mean(1).sqrt() * most


def warmed(warm_up: float, last: float) -> Schedule:
    """From nought up to 1 over the first share `warm_up` of a run, then by a cosine down to `last`."""

    def schedule(progress: float) -> float:
        if progress < warm_up:
            return (progress + 0.01) / (warm_up + 0.01)  # the very first step moves too
        past = (progress - warm_up) / max(1e-9, 1 - warm_up)
        return last + (1 - last) * 0.5 * (1 + math.cos(math.pi * past))

    return schedule


class Ascent:
    """x + step_size * gradient: the gradient's size counts. In units where the gradient is that of the variable."""

    uses_gradient = True

    def __init__(self, step_size: float, *, schedule: Schedule) -> None:
        self.step_size, self.schedule = step_size, schedule

    def reset(self) -> None:
        """Has no state."""

    def update(self, x: Tensor, gradient: Tensor, score: Tensor, budget: Budget, progress: float) -> Tensor:
        return x + self.step_size * self.schedule(progress) * budget.free(gradient)


class Averaged:
    """A rule with noise in every move, and an exponential moving average that the variable restarts from.

    Args:
        rule: how it moves; reset at a restart.
        decay: of the average (0: the average is the variable).
        restarts: after which moves (1 is the first) the variable becomes the average.
        noise: standard deviation of what is added to each move, in the variable's units; one draw for the batch.
        rng: CPU generator of the noise.
    Attribute: average, like the variable; None before the first move. Source: arXiv 2402.16305, where after a restart
    average and variable are one tensor, so that the average follows every step: here it is a copy.
    """

    uses_gradient = True

    def __init__(
        self, rule: Rule, *, decay: float, restarts: Collection[int] = (), noise: float = 0.0, rng: torch.Generator
    ) -> None:
        self.rule, self.decay, self.restarts, self.noise, self.rng = rule, decay, frozenset(restarts), noise, rng
        self.reset()

    def reset(self) -> None:
        self.rule.reset()
        self.average: Tensor | None = None
        self.moves = 0

    def update(self, x: Tensor, gradient: Tensor, score: Tensor, budget: Budget, progress: float) -> Tensor:
        moved = self.rule.update(x, gradient, score, budget, progress)
        if self.noise:
            moved = moved + self.noise * torch.randn(x.shape[1:], generator=self.rng).to(x)
        moved = budget.project(moved)
        before = x if self.average is None else self.average
        self.average = self.decay * before + (1 - self.decay) * moved
        self.moves += 1
        if self.moves in self.restarts:
            self.rule.reset()
            return self.average.clone()
        return moved


class Anywhere(L2):
    """No bound: a mask alone says what may change. The distance is the root mean square move of the free entries."""

    def __init__(self, center: Tensor, *, mask: Tensor | None = None) -> None:
        super().__init__(center, 1e6, box=None, mask=mask)
