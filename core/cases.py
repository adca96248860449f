"""One variable for many cases (a universal one): the mean of many problems, a few drawn for each evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from .budgets import Budget
from .problem import Evaluation, Problem
from .steps import Rule

Case = Callable[[int, torch.Generator], Problem]


class MeanOfCases:
    """The mean over cases (prompts, seeds), drawn anew in each evaluation: stochastic gradient ascent on the whole.

    One case after the other: memory does not grow with them. Each may give several scores and pictures; they count
    alike. Whatever a selector asks with a fixed seed sees the same cases every time.

    Args:
        case: its number, and a generator for whatever else is drawn of it (a seed) -> its problem, of one variable.
        count: how many cases there are.
        draw: how many are drawn in an evaluation: all equally often but for one (shuffled passes).
    """

    def __init__(self, case: Case, count: int, draw: int) -> None:
        self.case, self.count, self.draw = case, count, draw

    def evaluate(self, variable: Tensor, rng: torch.Generator, *, gradient: bool) -> Evaluation:
        passes = -(-self.draw // self.count)
        order = torch.cat([torch.randperm(self.count, generator=rng) for _ in range(passes)])[: self.draw]
        found: list[Evaluation] = []
        for number in order.tolist():
            one = self.case(number, rng).evaluate(variable, rng, gradient=gradient)
            found.append(_alone(one))
        share = 1 / len(found)
        gradients = [one.gradient for one in found if one.gradient is not None]
        return Evaluation(
            torch.stack([one.score for one in found]).mean(0),
            torch.cat([one.image for one in found], -1),
            torch.stack(gradients).sum(0) * share if gradients else None,
            {name: torch.stack([one.terms[name] for one in found]).mean(0) for name in found[0].terms},
            sum(one.cost for one in found),
        )


def _alone(one: Evaluation) -> Evaluation:
    """Several pictures of one variable as one: the mean score, the pictures side by side (1 C H (k W))."""
    share = 1 / len(one.score)
    return replace(
        one,
        score=one.score.mean(0, keepdim=True),
        image=torch.cat(one.image.split(1), -1),
        gradient=None if one.gradient is None else one.gradient * share,
        terms={name: value.mean(0, keepdim=True) for name, value in one.terms.items()},
    )


class Averaged:
    """A step rule that also keeps the average of where it has been: what a noisy gradient circles around.

    Args:
        rule: the rule. decay: of the exponential average, corrected for its start (as Adam's).
    """

    def __init__(self, rule: Rule, decay: float = 0.9) -> None:
        self.rule, self.decay = rule, decay
        self.uses_gradient = rule.uses_gradient
        self.reset()

    def reset(self) -> None:
        self.rule.reset()
        self.sum: Tensor | None = None
        self.weight = 0.0

    def update(self, x: Tensor, gradient: Tensor, score: Tensor, budget: Budget, progress: float) -> Tensor:
        self.sum = (1 - self.decay) * x + (0 if self.sum is None else self.decay * self.sum)
        self.weight = (1 - self.decay) + self.decay * self.weight
        return self.rule.update(x, gradient, score, budget, progress)

    def mean(self) -> dict[str, Tensor]:
        """By the name "average"; nothing where no step was made."""
        return {} if self.sum is None else {"average": self.sum / self.weight}
