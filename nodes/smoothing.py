"""A gradient averaged over random changes of the input: the widgets, and what they put around a problem."""

from __future__ import annotations

from dataclasses import dataclass

from ..core.budgets import Budget
from ..core.problem import Problem, Smoothed
from ..host.api import io


@dataclass(frozen=True)
class Smoothing:
    """The widgets of `inputs`.

    share: the changes' standard deviation, as a share of epsilon. copies, cells: as in
    core.problem.Smoothed.
    """

    share: float
    copies: int
    cells: int | None

    def around(self, problem: Problem, budget: Budget, epsilon: float) -> Problem:
        """The problem, smoothed within the variable's domain (not within the budget: an answer may change further
        off). epsilon: the widget's, in the variable's units."""
        if self.share == 0:
            return problem
        return Smoothed(
            problem,
            sigma=self.share * epsilon,
            copies=self.copies,
            cells=self.cells,
            within=budget.anywhere,
        )


def inputs(default: float) -> list[io.Input]:
    """What came to every steering node later, after its other widgets. Nothing may be added here."""
    return [
        io.Float.Input(
            "smoothing",
            default=default,
            min=0.0,
            max=10.0,
            step=0.05,
            advanced=True,
            tooltip="Averages the gradient over random changes of the input, so that an answer that only ever jumps "
            "can be led over the jump: their standard deviation, as a share of epsilon. Pictures and latents change in "
            "tint and light, a conditioning in every number. The result itself is never changed by them. 0 turns it "
            "off.",
        ),
        io.Int.Input(
            "smoothing_copies",
            default=4,
            min=1,
            max=64,
            advanced=True,
            tooltip="Over how many such changes each gradient is averaged. Each costs a run of the model and its "
            "backward pass.",
        ),
    ]
