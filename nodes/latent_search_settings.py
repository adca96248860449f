"""What a latent search is asked to do: the widgets that follow those of every search through a sampler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from ..core import objectives, priors
from ..core import steps as rules
from ..core.budgets import Budget
from ..core.errors import ProvokeError
from ..core.gaussian import ChannelsRotated, Clamped, Free, PhasesMoved, Rotated
from ..core.problem import Problem
from ..host.api import io
from .attack_settings import SCHEDULES
from .objective import ObjectiveSocket, Parts, Situation, Term

DIRECTIONS = {"break": -1.0, "satisfy": 1.0}

# what a noise may do; and what its own probability adds to the score
BUDGETS: dict[str, tuple[type[Budget], priors.Prior | None]] = {
    "turn each channel": (ChannelsRotated, None),
    "turn": (Rotated, None),
    "move phases": (PhasesMoved, None),
    "clamp (SAGE)": (Clamped, None),
    "ball and chi prior (ReNO)": (Free, priors.chi),
    "ball and regulariser (DNO)": (Free, priors.dno),
    "ball": (Free, None),
}
RULES: dict[str, Callable[..., rules.Rule]] = {
    "momentum": rules.Momentum,
    "steepest": rules.Steepest,
    "Adam": rules.Adam,
    "signed (SAGE)": rules.Signed,
    "clipped SGD (ReNO)": rules.ClippedAscent,
}


@dataclass(frozen=True)
class LatentSettings:
    """The widgets of `inputs`, which say the units."""

    direction: str
    count: int
    keep: int
    epsilon: float
    budget: str
    step_rule: str
    step_size: float
    schedule: str
    prior_weight: float
    copies: int
    objective: Parts | None = None

    def __post_init__(self) -> None:
        if self.objective is None and self.direction == "satisfy":
            raise ProvokeError(
                "direction is 'satisfy' and no objective is connected",
                "an objective: what the picture is to have more of",
                "connect one of the Objective nodes, or set direction to break (away from the usual picture)",
            )
        if self.keep > self.count:
            raise ProvokeError(
                f"{self.keep} noises are to be kept of {self.count}",
                "at most as many as are searched",
                "lower keep, or raise count",
            )

    @classmethod
    def taken(cls, inputs: dict[str, Any]) -> LatentSettings:
        """From what is left of a node's inputs. Raises ProvokeError for what does not go together."""
        return cls(**{name: inputs.get(name) for name in cls.__dataclass_fields__})  # type: ignore[arg-type]

    @property
    def wanted(self) -> Parts:
        """The objective; without one, how like the usual picture a result is (its distance, turned round)."""
        if self.objective is not None:
            return self.objective

        def likeness(situation: Situation) -> Any:
            distance = objectives.l1_distance(situation.needs_default("likeness"), situation.region)
            return lambda image: -distance(image)

        return Parts((Term("likeness to the usual picture (minus the mean absolute difference)", likeness),))

    @property
    def climbed(self) -> Parts:
        """What the search has more of: the objective, or less of it."""
        return self.wanted.times(DIRECTIONS[self.direction])

    def around(self, center: Tensor) -> Budget:
        """The budget around noises, B ...."""
        return BUDGETS[self.budget][0](center, self.epsilon)

    @property
    def rule(self) -> rules.Rule:
        return RULES[self.step_rule](self.step_size, schedule=SCHEDULES[self.schedule])

    def judged(self, problem: Problem) -> Problem:
        """The problem with the noise's own probability, where the budget has such a term."""
        prior = BUDGETS[self.budget][1]
        if prior is None or self.prior_weight == 0:
            return problem
        return priors.WithPrior(problem, prior, self.prior_weight)


def inputs() -> list[io.Input]:
    """In the order of `LatentSettings`."""
    number = partial(io.Float.Input, advanced=True)
    return [
        io.Combo.Input(
            "direction",
            options=list(DIRECTIONS),
            tooltip="break: a noise whose picture has less of the objective than this prompt usually gives. satisfy: "
            "more of it. Without an objective break moves away from the usual picture.",
        ),
        io.Int.Input(
            "count",
            default=1,
            min=1,
            max=64,
            tooltip="How many seeds are searched for each latent: noise_seed, noise_seed + 1, and so on.",
        ),
        io.Int.Input(
            "keep", default=1, min=1, max=64, tooltip="How many of them are kept for each latent, the best first."
        ),
        io.Float.Input(
            "epsilon",
            default=0.5,
            min=0.0,
            max=3.0,
            step=0.05,
            tooltip="How far the noise may go from its seed's own, in standard deviations, root mean square (clamp: "
            "each number). An independent noise is 1.41 away. 0 gives the sampler's own result.",
        ),
        io.Combo.Input(
            "budget",
            options=list(BUDGETS),
            default="move phases",  # chosen by benchmarks/latent_search: the most broken of what still looks like noise
            advanced=True,
            tooltip="What keeps the noise a plausible one. turn each channel: every channel keeps its mean and "
            "deviation. turn: the whole keeps its length. move phases: every channel keeps its spectrum. clamp: each "
            "number within epsilon. ball: nothing but the distance, and a prior or regulariser in the score.",
        ),
        io.Combo.Input("step_rule", options=list(RULES), advanced=True, tooltip="How the noise follows the gradient."),
        number(
            "step_size",
            default=0.1,
            min=0.001,
            max=2.0,
            step=0.01,
            tooltip="How far one step goes, in standard deviations, root mean square.",
        ),
        io.Combo.Input(
            "schedule",
            options=list(SCHEDULES),
            advanced=True,
            tooltip="Whether the steps stay the same size or shrink to a twentieth (cosine).",
        ),
        number(
            "prior_weight",
            default=0.01,
            min=0.0,
            max=100.0,
            step=0.01,
            tooltip="For the budgets with a prior or regulariser: what one unit of the noise's log probability counts "
            "beside the objective.",
        ),
        io.Int.Input(
            "copies",
            default=1,
            min=0,
            max=64,
            advanced=True,
            tooltip="How many randomly changed copies of a picture the judges see in each step (a little shift, turn, "
            "zoom, light, noise), so that the picture changes and not a judge's blind spot. 0: the picture itself. "
            "They cost runs of the judges, not of the model.",
        ),
        ObjectiveSocket.Input(
            "objective",
            optional=True,
            tooltip="What the picture is to have less or more of: from one of the Objective nodes.",
        ),
    ]
