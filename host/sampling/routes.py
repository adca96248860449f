"""How the gradient goes back through the sampler: all the way, or by a shorter path."""

from __future__ import annotations

from dataclasses import dataclass

from ...core.errors import ProvokeError


@dataclass(frozen=True)
class Exact:
    """Through every model evaluation. Costs 3 forwards an evaluation (2 where memory allows to keep the graph)."""


@dataclass(frozen=True)
class Residual:
    """Through the model evaluations of the last `steps` steps; the earlier ones are constants.

    The noise (or latent) reaches the late part along the sampler's own arithmetic alone, which scales it with each
    step's sigma: a residual connection from the start to the intermediate step, the derivative of the forward run with
    its early predictions frozen. Source: SAGE (arXiv 2306.00974), "approximate gradient"; the scaling is ours.

    Args:
        steps: at least 1.
        weight: share of the start that is taken as constant: the connection carries 1 - weight. Matters only next to
            another path (a mask, a conditioning), for a signed gradient not at all. 1 cuts it: see `LastSteps`.
    """

    steps: int
    weight: float = 0.0

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 <= self.weight <= 1:
            raise ProvokeError(
                f"The gradient route is {self.steps} steps with weight {self.weight:g}",
                "at least 1 step, and a weight from 0 to 1",
                "change the gradient route's settings",
            )


def LastSteps(steps: int) -> Residual:
    """Through the last `steps` steps and nothing else: for what enters in every step (conditioning, hints). The noise
    has no gradient by this route. Source: "last k" (ATM differentiates the final step alone)."""
    return Residual(steps, weight=1.0)


@dataclass(frozen=True)
class OneStep:
    """The x0 prediction of a single evaluation in place of the sampler's end: another, blurrier picture, for the cost
    of the steps before it and one gradient.

    Args:
        at: which step's evaluation, 0 = the first (nothing comes before it).
    Source: the shortcut gradient of DPO-Diff.
    """

    at: int = 0

    def __post_init__(self) -> None:
        if self.at < 0:
            raise ProvokeError(
                f"The one-step route starts at step {self.at}", "0 or more", "use a step of the schedule"
            )


Route = Exact | Residual | OneStep
EXACT = Exact()

CHOICES = ("auto", "exact", "residual", "last steps", "one-step")
"""What a `route` widget offers."""


def chosen(choice: str, number: int, *, steps: int) -> Route:
    """The route that a widget names.

    Args:
        choice: one of CHOICES.
        number: the last steps that the gradient goes through (residual, last steps); which step (from 1) the picture is
            predicted at (one-step).
        steps: of the schedule; the number is cut to it.
    """
    match choice:
        case "residual":
            return Residual(min(number, steps))
        case "last steps":
            return LastSteps(min(number, steps))
        case "one-step":
            return OneStep(min(number, steps) - 1)
        case _:  # exact, and auto: the one place where that is decided
            return EXACT


def cost(route: Route, steps: int, differentiated: float) -> tuple[float, float]:
    """What one run costs without and with its gradient, in plain runs of the sampler.

    Args:
        differentiated: forwards per evaluation with a gradient (2 to 4, see evaluations.COST).
    """
    match route:
        case OneStep(at=at):
            before = min(at, steps - 1)
            return (before + 1) / steps, (before + differentiated) / steps
        case Residual(steps=late):
            late = min(late, steps)
            return 1.0, (steps - late + differentiated * late) / steps
        case _:
            return 1.0, differentiated
