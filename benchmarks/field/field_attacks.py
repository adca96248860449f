"""One attack of a library, and ours with the same start, steps and budget; both through the same counting classifier.

Radii are in the libraries' unit, the norm of the whole change. Ours are per entry: L2 / sqrt(entries), L1 / entries.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import field_pack  # noqa: F401  registers `provoke`
import foolbox
import torch
from field_model import cross_entropy
from torch import Tensor, nn

from provoke.core.budgets import L1, L2, Budget, LInf
from provoke.core.problem import Differentiable, ImageProblem
from provoke.core.search import sample_generators, search, select
from provoke.core.steps import APGD, Momentum, RandomDraws, Rule, Steepest, cosine

# Fixed before the comparison, on other pictures: about half of foolbox's PGD attacks succeed.
EPSILON = {"Linf": 8 / 255, "L2": 1.0, "L1": 16.0}
BUDGETS: dict[str, type[Budget]] = {"Linf": LInf, "L2": L2, "L1": L1}
BOX = (0.0, 1.0)


class Counted(nn.Module):
    """A frozen model that counts, per image, what passes through it, and remembers where gradients were asked for."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.eval()  # says so to foolbox, which warns otherwise
        self.forwards = self.backwards = 0
        self.asked: list[Tensor] = []

    def forward(self, image: Tensor) -> Tensor:
        self.forwards += len(image)
        logits = self.model(image)
        if logits.requires_grad:
            self.asked.append(image.detach().clone())
            logits.register_hook(self._backward)
        return logits

    def _backward(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)

    def cost(self, images: int) -> float:
        """Forward-equivalents per image: the backward of frozen weights costs one forward (run.py measures it)."""
        return (self.forwards + self.backwards) / images


@dataclass(frozen=True)
class Found:
    """What an attack returned. image: B 3 H W; loss, fooled: B; cost: forward-equivalents per image; path: iterates."""

    image: Tensor
    loss: Tensor
    fooled: Tensor
    cost: float
    path: list[Tensor] = field(default_factory=list)


Theirs = Callable[[nn.Module, Tensor, Tensor, float, bool], Tensor]
MakeRule = Callable[[float, float, int], Rule]  # epsilon, step size (both per entry), steps


@dataclass(frozen=True)
class Pair:
    """An attack of a library with its own default steps and step size (relative to epsilon), and our rule for it.

    same: the rule is the same function as ours. judged: the library itself evaluates the picture that it returns.
    """

    library: str
    attack: str
    norm: str
    steps: int
    relative: float
    theirs: Theirs
    rule: MakeRule
    starts: tuple[str, ...] = ("clean", "random")
    same: bool = True
    judged: bool = True

    @property
    def name(self) -> str:
        return f"{self.library} {self.attack}"


def verdict(model: nn.Module, image: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Loss and success of a picture: B each."""
    with torch.no_grad():
        logits = model(image)
    return cross_entropy(logits, labels), logits.argmax(1) != labels


def run_theirs(pair: Pair, model: nn.Module, x: Tensor, y: Tensor, *, random: bool, seed: int) -> Found:
    """Their attack. `path` holds the points at which it asked for a gradient, then its result; path[0] is its start."""
    counted = Counted(model)
    torch.manual_seed(seed)  # both libraries draw their random start from the global generator
    image = pair.theirs(counted, x, y, EPSILON[pair.norm], random).detach()
    loss, fooled = verdict(model, image, y)
    return Found(image, loss, fooled, counted.cost(len(x)), [*counted.asked, image])


def run_ours(
    pair: Pair,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    start: Tensor,
    steps: int,
    box: tuple[float, float] = BOX,
    selected: bool = True,
) -> Found:
    """Our search from `start`: its best iterate, re-scored by `select` if `selected`. `path` holds all iterates."""
    counted = Counted(model)
    problem = ImageProblem(Differentiable(counted), lambda logits: cross_entropy(logits, y))
    budget = budget_of(pair.norm, x, box)
    rule = pair.rule(budget.epsilon, pair.relative * budget.epsilon, steps)
    path, reported = [], 0.0
    for step in search(problem, budget, rule, start=start, steps=steps, rng=torch.Generator()):
        path.append(step["variable"])
        image, reported = step["best"], step["cost"]
    if selected:
        chosen = select(problem, budget, {"best": image})
        image, reported = chosen.variable, reported + chosen.cost
    loss, fooled = verdict(model, image, y)
    cost = counted.cost(len(x))
    if reported != cost:
        raise AssertionError(f"core reports {reported} forward-equivalents, {cost} were counted")
    return Found(image, loss, fooled, cost, path)


def run_random(norm: str, model: nn.Module, x: Tensor, y: Tensor, *, draws: int, seed: int) -> Found:
    """The baseline: the best of `draws` random points on the budget's surface."""
    counted = Counted(model)
    problem = ImageProblem(Differentiable(counted), lambda logits: cross_entropy(logits, y))
    budget = budget_of(norm, x)
    rule = RandomDraws(sample_generators(seed, 1, len(x)))
    *_, last = search(problem, budget, rule, start=x, steps=draws, rng=torch.Generator())
    loss, fooled = verdict(model, last["best"], y)
    return Found(last["best"], loss, fooled, counted.cost(len(x)))


def budget_of(norm: str, x: Tensor, box: tuple[float, float] = BOX) -> Budget:
    """Our budget for a library's radius."""
    entries = x[0].numel()
    per_entry = {"Linf": 1.0, "L2": math.sqrt(entries), "L1": float(entries)}[norm]
    return BUDGETS[norm](x, EPSILON[norm] / per_entry, box=box)


def size(norm: str, change: Tensor) -> Tensor:
    """Norm of a change as the libraries measure it: B."""
    return torch.linalg.vector_norm(change.flatten(1).double(), {"Linf": math.inf, "L2": 2, "L1": 1}[norm], dim=1)


def _steepest(epsilon: float, step: float, steps: int) -> Rule:
    return Steepest(step)


def _momentum(epsilon: float, step: float, steps: int) -> Rule:
    return Momentum(step)


def _apgd(epsilon: float, step: float, steps: int) -> Rule:
    return APGD(epsilon, steps)


def ours_best(pair: Pair) -> Pair:
    """The pair with what we would use: steps from 2 epsilon (across the whole ball) down to a twentieth of that.

    No step size to tune. With momentum for L1, plain otherwise: chosen on pictures of other seeds.
    """

    def rule(epsilon: float, step: float, steps: int) -> Rule:
        return (Momentum if pair.norm == "L1" else Steepest)(2 * epsilon, schedule=cosine)

    return replace(pair, rule=rule)


def torchattacks_apgd(pair: Pair) -> Pair:
    """An APGD pair with our APGD looking back when theirs does: nothing else is different."""
    return replace(
        pair,
        attack=f"APGD, {pair.steps} steps, its checkpoints",
        rule=lambda epsilon, step, steps: TorchattacksAPGD(epsilon, steps),
        same=True,
    )


class TorchattacksAPGD(APGD):
    """Our APGD looking back when torchattacks does: shares of the steps rounded down, at least one step apart.

    Its condition is "at most" where the paper has "less than", and its first window takes the score before it for 0.
    """

    def __init__(self, epsilon: float, steps: int) -> None:
        super().__init__(epsilon, steps, rho=0.75 + 1e-6)  # rises are whole numbers: "less than" becomes "at most"
        at, window = 0, max(int(0.22 * steps), 1)
        checkpoints = []
        while at + window <= steps:
            at += window
            checkpoints.append(at)
            window = max(window - max(int(0.03 * steps), 1), max(int(0.06 * steps), 1))
        self.checkpoints = tuple(checkpoints)

    def update(self, x: Tensor, gradient: Tensor, score: Tensor, budget: Budget, progress: float) -> Tensor:
        if self.count == 1:
            self.last_score = torch.zeros_like(score)
        return super().update(x, gradient, score, budget, progress)


def _foolbox(attack: str, steps: int, relative: float, bounds: tuple[float, float] = BOX, **options: Any) -> Theirs:
    def run(model: nn.Module, x: Tensor, y: Tensor, epsilon: float, random: bool) -> Tensor:
        made = getattr(foolbox.attacks, attack)(
            steps=steps, abs_stepsize=relative * epsilon, random_start=random, **options
        )
        _, clipped, _ = made(foolbox.PyTorchModel(model, bounds=bounds, device=x.device), x, y, epsilons=epsilon)
        return clipped

    return run


def foolbox_pairs(bounds: tuple[float, float] = BOX) -> list[Pair]:
    """foolbox with its defaults. Its MI accumulates gradients normalised by the attack's own norm (signs for L-inf)."""
    listed: list[tuple[str, str, int, float, MakeRule, bool]] = [
        ("LinfPGD", "Linf", 40, 0.01 / 0.3, _steepest, True),
        ("L2PGD", "L2", 50, 0.025, _steepest, True),
        ("SparseL1DescentAttack", "L1", 10, 0.2, _steepest, True),
        ("LinfMomentumIterativeFastGradientMethod", "Linf", 10, 0.2, _momentum, False),
        ("L2MomentumIterativeFastGradientMethod", "L2", 10, 0.2, _momentum, False),
        ("L1MomentumIterativeFastGradientMethod", "L1", 10, 0.2, _momentum, False),
    ]
    return [
        Pair("foolbox", short(attack), norm, steps, step, _foolbox(attack, steps, step, bounds), rule, same=same)
        for attack, norm, steps, step, rule, same in listed
    ]


def short(attack: str) -> str:
    return attack.replace("MomentumIterativeFastGradientMethod", "MI").replace("DescentAttack", "Descent")


APGD_RUNS = ((10, "as called"), (10, "best loss"), (50, "best loss"))


def torchattacks_pairs(library: Any, apgd_runs: Sequence[tuple[int, str]] = APGD_RUNS) -> list[Pair]:
    """torchattacks (handed in: it lives in an environment of its own) with its defaults; APGD as (steps, way) say.

    As called, its APGD returns the clean picture where it fails; asked for the best loss, its best point.
    """

    def pgd(model: nn.Module, x: Tensor, y: Tensor, epsilon: float, random: bool) -> Tensor:
        return library.PGD(model, eps=epsilon, alpha=epsilon / 4, steps=10, random_start=random)(x, y)

    def pgd_l2(model: nn.Module, x: Tensor, y: Tensor, epsilon: float, random: bool) -> Tensor:
        return library.PGDL2(model, eps=epsilon, alpha=epsilon / 5, steps=10, random_start=random)(x, y)

    def mi_fgsm(model: nn.Module, x: Tensor, y: Tensor, epsilon: float, random: bool) -> Tensor:
        return library.MIFGSM(model, eps=epsilon, alpha=epsilon / 4, steps=10)(x, y)

    def apgd(norm: str, steps: int, way: str) -> Theirs:
        def run(model: nn.Module, x: Tensor, y: Tensor, epsilon: float, random: bool) -> Tensor:
            made = library.APGD(model, norm=norm, eps=epsilon, steps=steps)
            return made(x, y) if way == "as called" else made.perturb(x, y, best_loss=True)[1]

        return run

    name = "torchattacks"
    pairs = [
        Pair(name, "PGD", "Linf", 10, 0.25, pgd, _steepest, judged=False),
        Pair(name, "MIFGSM", "Linf", 10, 0.25, mi_fgsm, _momentum, starts=("clean",), judged=False),
        Pair(name, "PGDL2", "L2", 10, 0.2, pgd_l2, _steepest, judged=False),
    ]
    for norm in ("Linf", "L2"):
        for steps, way in apgd_runs:
            run, attack = apgd(norm, steps, way), f"APGD, {steps} steps, {way}"
            pairs.append(Pair(name, attack, norm, steps, 2.0, run, _apgd, starts=("random",), same=False))
    return pairs
