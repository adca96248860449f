"""What an attack on an image model is asked to do, and its result so far: what its run and its report share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..core import steps as rules
from ..core.budgets import L1, L2, Budget, LInf, TruncatedNoise
from ..core.errors import ProvokeError

LEVELS = 255  # epsilon, and every figure of a report, is in 8-bit levels

NORMS: dict[str, type[Budget]] = {"L-inf": LInf, "L2": L2, "L1": L1}
TRUNCATIONS = ["truncate", "clip"]
METHODS = ["gradient", "random"]
SCHEDULES: dict[str, rules.Schedule] = {"constant": rules.constant, "cosine": rules.cosine}
STEP_RULES = ["APGD", "PGD", "MI-FGSM", "Adam", "FGSM"]


def budget_kind(norm: str, truncation: str) -> type[Budget]:
    """What these two widgets choose."""
    return TruncatedNoise if norm == "L-inf" and truncation == "truncate" else NORMS[norm]


def rule_of(step_rule: str, step_size: float, schedule: str, budget: Budget, steps: int) -> rules.Rule:
    """The step rule that these widgets choose; step sizes are shares of the budget's radius."""
    size, over_time = step_size * budget.epsilon, SCHEDULES[schedule]
    match step_rule:
        case "APGD":
            return rules.APGD(budget.epsilon, steps)
        case "PGD":
            return rules.Steepest(size, schedule=over_time)
        case "MI-FGSM":
            return rules.Momentum(size, schedule=over_time)
        case "Adam":
            return rules.Adam(size, schedule=over_time)
        case _:
            return rules.Steepest(budget.epsilon)


@dataclass(frozen=True)
class AttackSettings:
    """What came in on the sockets and widgets; `image_attack_sockets` says the units."""

    model: Any
    image: Tensor  # B H W 3
    epsilon: float
    steps: int
    count: int
    seed: int
    method: str
    norm: str
    truncation: str
    step_rule: str
    step_size: float
    schedule: str
    start_noise: float
    stop_at_score: float
    time_limit: float
    mask: Tensor | None = None  # B H W, 1 = hole
    perturb_mask: Tensor | None = None  # B H W, 1 = may change

    def __post_init__(self) -> None:
        if self.norm == "L-inf" and 0 < self.epsilon < 1:
            raise ProvokeError(
                f"An epsilon of {self.epsilon:g} levels, and an 8-bit picture changes by whole levels",
                "1 or more, or 0 for the model's own result",
                "raise epsilon, or set norm to L2 or L1, which bound the average",
            )

    @property
    def idle(self) -> bool:
        """Whether there is nothing to search: then the host's own result goes out, bit for bit."""
        return self.epsilon == 0 or self.steps == 0

    @property
    def climbs(self) -> bool:
        """Whether the run asks the model for gradients."""
        return self.method == "gradient" and not self.idle

    @property
    def moves(self) -> int:
        """How many moves the search makes: FGSM is a single one."""
        return 1 if self.method == "gradient" and self.step_rule == "FGSM" else self.steps

    def budget(self, center: Tensor, allowed: Tensor | None) -> Budget:
        """Around center (B 3 H W in [0, 1]), where `allowed` (B 1 H W) is 1."""
        kind = budget_kind(self.norm, self.truncation)
        return kind(center, self.epsilon / LEVELS, mask=allowed)

    def rule(self, budget: Budget) -> rules.Rule:
        """The step rule of the gradient method."""
        return rule_of(self.step_rule, self.step_size, self.schedule, budget, self.steps)
