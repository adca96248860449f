"""A gradient averaged over random changes of the input: the widgets, and what they put around a problem."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.budgets import Budget
from ..core.problem import Problem, Smoothed
from ..host.api import io

TRIED = 16  # smooth starts: a run of the model each, where a gradient costs two


@dataclass(frozen=True)
class Smoothing:
    """The widgets of `inputs`.

    share: the changes' standard deviation, as a share of epsilon. copies, shift: as in
    core.problem.Smoothed.
    """

    share: float
    copies: int
    shift: bool

    @property
    def evaluations(self) -> int:
        """Of the objective, in a step with its gradient."""
        return 1 + self.copies if self.share > 0 else 1

    @property
    def words(self) -> list[str]:
        """For the report of an image model's search."""
        if self.share == 0:
            return []
        return [f"gradients averaged over {self.copies} shifts ({self.share:g} epsilon); {TRIED} tried as starts"]

    def around(self, problem: Problem, budget: Budget, epsilon: float) -> Problem:
        """The problem, smoothed within the variable's domain (not within the budget: an answer may change further
        off). epsilon: the widget's, in the variable's units."""
        if self.share == 0:
            return problem
        return Smoothed(
            problem,
            sigma=self.share * epsilon,
            copies=self.copies,
            shift=self.shift,
            within=budget.anywhere,
        )

    def starts(self, budget: Budget, rngs: Sequence[torch.Generator], epsilon: float) -> Iterator[Tensor]:
        """Where a search may start as well: smooth changes of the same size, TRIED of them."""
        if self.share > 0:
            for _ in range(TRIED):
                yield budget.start(rngs, self.share * epsilon / budget.epsilon, self.shift)


def taken(inputs: dict[str, Any], shift: bool) -> tuple[Smoothing, dict[str, Any]]:
    """These widgets' values, and the inputs that are left."""
    names = ("smoothing", "smoothing_copies")
    rest = {name: value for name, value in inputs.items() if name not in names}
    return Smoothing(inputs.get(names[0], 0.0), inputs.get(names[1], 4), shift), rest


def inputs(default: float) -> list[io.Input]:
    """What came to every steering node later, after its other widgets. Nothing may be added here."""
    return [
        io.Float.Input(
            "smoothing",
            default=default,
            min=0.0,
            max=10.0,
            step=0.05,
            optional=True,  # appended: API prompts saved before it lack it, and run as they did
            advanced=True,
            tooltip="Averages the gradient over random changes of the input, so that an answer that only ever jumps "
            "can be led over the jump: their standard deviation, as a share of epsilon. Of pictures and latents each "
            "channel is shifted, of a conditioning every number changes. For an image model 16 such shifts are tried "
            "as starts as well. 0 turns both off.",
        ),
        io.Int.Input(
            "smoothing_copies",
            default=4,
            min=1,
            max=64,
            optional=True,
            advanced=True,
            tooltip="Over how many such changes each gradient is averaged. Each costs a run of the model and its "
            "backward pass.",
        ),
    ]
