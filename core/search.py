"""The one search: a step generator over a problem, a budget and a step rule; whoever drives it sees every step.

for step in search(problem, budget, rule, start=budget.start(rngs, 0.5), steps=40, rng=rng):
    show(step["best_image"])                    # stop by breaking out: step["best"] is the best so far
found = select(problem, budget, {"best": step["best"]}, seeds=(0, 1))
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import torch
from torch import Tensor

from .budgets import Budget
from .errors import GradientError, ProvokeError
from .problem import Evaluation, Problem
from .steps import Rule


class Step(TypedDict):
    """What the driver of a search sees at each step. B items; all tensors detached."""

    i: int  # 0 for the start
    steps: int
    score: Tensor  # B, of the variable just evaluated; higher is better
    terms: dict[str, Tensor]  # named parts of the score, B each
    variable: Tensor  # B ..., just evaluated
    image: Tensor  # B C H W, what it generates
    best: Tensor  # B ..., the best variable so far, per item (or per group)
    best_score: Tensor  # B
    best_image: Tensor  # B C H W
    distance: Tensor  # B, of the variable, in the budget's unit
    limit: float  # the largest distance that the budget allows
    cost: float  # forward-equivalents per item so far
    skipped: Tensor  # B, steps without a usable gradient so far
    stopped: str  # why this is the last step ("" while it goes on)


def sample_generators(seed: int, images: int, count: int) -> list[torch.Generator]:
    """One CPU generator per item of an image-major batch (image 0's `count` variations first).

    The k-th variation draws the same numbers whichever image it belongs to and whoever else is in the batch.
    """
    return [
        torch.Generator().manual_seed((seed + 0x9E3779B97F4A7C15 * k) % 2**63)
        for _ in range(images)
        for k in range(count)
    ]


def search(
    problem: Problem,
    budget: Budget,
    rule: Rule,
    *,
    start: Tensor,
    steps: int,
    rng: torch.Generator,
    group_size: int = 1,
    target: float | None = None,
    time_limit: float | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[Step]:
    """Yield `steps` + 1 steps: the start, and the point after each move; fewer when something stops it.

    Args:
        start: B ..., where to begin; projected onto the budget.
        rng: CPU generator for whatever is random in the problem.
        group_size: neighbours in the batch whose best must come from the same step (their objective couples them).
        target: an item that scores this is done: it is left alone, and the search ends when all are.
        time_limit: seconds.
        should_stop: asked once a step (cooperative stop; the best so far is kept).
    Raises GradientError when a gradient is exactly zero or missing, or not finite in eight steps in a row or in all.
    """
    x = budget.project(start)
    best: _Best | None = None
    watch = _GradientWatch(len(x), x.device)
    began, cost = time.monotonic(), 0.0
    rule.reset()
    for i in range(steps + 1):
        moving = i < steps and rule.uses_gradient
        now = problem.evaluate(x, rng, gradient=moving)
        cost += now.cost
        usable = watch.check(now, budget) if moving else now.score.isfinite()
        is_open = (
            torch.ones_like(usable) if best is None or target is None else ~_reached(best.score, target, group_size)
        )
        best = _Best.of(x, now) if best is None else best.improved(x, now, usable & is_open, group_size)
        done = target is not None and bool(_reached(best.score, target, group_size).all())
        stopped = _reason(i == steps, done, time_limit, time.monotonic() - began, should_stop)
        yield Step(
            i=i,
            steps=steps,
            score=now.score,
            terms=now.terms,
            variable=x,
            image=now.image,
            best=best.x,
            best_score=best.score,
            best_image=best.image,
            distance=budget.measure(x),
            limit=budget.epsilon,
            cost=cost,
            skipped=watch.skipped.clone(),
            stopped=stopped,
        )
        if stopped:
            watch.close()
            return
        clean = torch.zeros_like(x) if now.gradient is None else _keep(usable, now.gradient, torch.zeros_like(x))
        # members of a group rise and stall together: their rule must see what the search judges them by
        score = _together(torch.where(usable, now.score, -torch.inf), group_size)
        moved = budget.project(rule.update(x, clean, score, budget, i / steps))
        # an unusable gradient: halfway back to the best point known (a deterministic model would fail again at x)
        x = _keep(usable, moved, budget.project((x + best.x) / 2))
        if target is not None:
            x = _keep(_reached(best.score, target, group_size), best.x, x)


def best_start(
    problem: Problem,
    starts: Iterable[Tensor],
    seed: int,
    *,
    group_size: int = 1,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[Tensor, float]:
    """The best of several points to start from, per item (or group), by their scores, and what looking cost in
    forward-equivalents. Where no score is finite it is the first.

    Args:
        starts: at least one, B ... each; taken one by one.
        seed: of the problem's chance, the same for every start.
        should_stop: asked before each but the first.
    Source: random restarts of PGD (Madry et al. 2018), told apart before the search.
    """
    best: _Best | None = None
    cost = 0.0
    for start in starts:
        if best is not None and should_stop():
            break
        now = problem.evaluate(start, torch.Generator().manual_seed(seed), gradient=False)
        usable = now.score.isfinite()
        best = _Best.of(start, now) if best is None else best.improved(start, now, usable, group_size)
        cost += now.cost
    assert best is not None
    return best.x, cost


def _together(score: Tensor, group_size: int) -> Tensor:
    """Each item's score replaced by the mean of its group: B."""
    return score.view(-1, group_size).mean(1).repeat_interleave(group_size)


def _reached(score: Tensor, target: float, group_size: int) -> Tensor:
    """Which items are done: B, bool."""
    return _together(score, group_size) >= target


def _keep(choose: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """a where `choose` (B, bool), else b."""
    return torch.where(choose.view(-1, *[1] * (a.ndim - 1)), a, b)


def _reason(last: bool, done: bool, time_limit: float | None, elapsed: float, should_stop: Callable[[], bool]) -> str:
    if done:
        return "every result reached the target score"
    if last:
        return "all steps done"
    if should_stop():
        return "stopped by request, best kept"
    if time_limit is not None and elapsed >= time_limit:
        return f"time limit of {time_limit:g} s reached"
    return ""


@dataclass(frozen=True)
class _Best:
    """The best so far, per item."""

    x: Tensor
    score: Tensor
    image: Tensor

    @classmethod
    def of(cls, x: Tensor, now: Evaluation) -> _Best:
        return cls(x, torch.where(now.score.isfinite(), now.score, -torch.inf), now.image)

    def improved(self, x: Tensor, now: Evaluation, usable: Tensor, group_size: int) -> _Best:
        """Members of a group change together, when their mean score rises."""
        score = torch.where(usable, now.score, -torch.inf)
        better = _together(score, group_size) > _together(self.score, group_size)
        return _Best(
            _keep(better, x, self.x), torch.where(better, score, self.score), _keep(better, now.image, self.image)
        )


class _GradientWatch:
    """Refuses gradients that cannot lead anywhere; skips and counts the odd one that is not finite."""

    LIMIT = 8  # steps in a row: each went halfway back to a point that worked, and neither that nor new chance helped

    def __init__(self, items: int, device: torch.device) -> None:
        self.skipped = torch.zeros(items, dtype=torch.long, device=device)
        self.in_a_row = torch.zeros_like(self.skipped)
        self.good = torch.zeros_like(self.skipped)

    def check(self, now: Evaluation, budget: Budget) -> Tensor:
        """Which items have a usable gradient: B, bool."""
        if now.gradient is None:
            raise GradientError(
                "The problem returned no gradient", "one gradient like the variable", "use method: random"
            )
        gradient = budget.free(now.gradient).flatten(1)
        finite = gradient.isfinite().all(1) & now.score.isfinite()
        zero = finite & (gradient == 0).all(1)
        if bool((zero & (self.good == 0)).any()):
            raise GradientError(
                f"The gradient of item {_first(zero)} is exactly zero everywhere it may change",
                "an objective that depends on the changeable part of the input, away from its optimum",
                "where the node has these: start from noise instead of the input itself (start_noise), enlarge "
                "perturb_mask. Check that the objective's region and the model's output overlap, and that a margin has "
                "not reached its confidence already. A model that rounds or thresholds has no gradient: use method: "
                "random",
            )
        usable = finite & ~zero
        self.good += usable
        self.skipped += ~usable
        self.in_a_row = torch.where(finite, torch.zeros_like(self.in_a_row), self.in_a_row + 1)
        lasting = self.in_a_row >= self.LIMIT
        if bool(lasting.any()):
            raise GradientError(
                f"The gradient of item {_first(lasting)} was not finite {self.LIMIT} times in a row",
                "finite gradients",
                "run the model in float32 or bfloat16 instead of float16, lower the step size, or check the input",
            )
        return usable

    def close(self) -> None:
        """At the end of a run: an item that never had a usable gradient has not been searched."""
        if bool((self.skipped > 0).any()) and bool((lost := (self.skipped > 0) & (self.good == 0)).any()):
            raise GradientError(
                f"No gradient of item {_first(lost)} was finite in the whole run",
                "finite gradients",
                "run the model in float32 or bfloat16 instead of float16, or check the input",
            )


def _first(flags: Tensor) -> int:
    return int(flags.nonzero()[0])


@dataclass(frozen=True)
class Selection:
    """The best candidate per item, re-scored and re-checked.

    variable: B ...; image: B C H W; score: B; terms: B each; distance: B, in the budget's unit; chosen: the candidate's
    name, per item; cost: forward-equivalents per item that selecting took.
    """

    variable: Tensor
    image: Tensor
    score: Tensor
    terms: dict[str, Tensor]
    distance: Tensor
    chosen: list[str]
    cost: float


def select(
    problem: Problem,
    budget: Budget,
    candidates: Mapping[str, Tensor],
    *,
    seeds: Sequence[int] = (0,),
    group_size: int = 1,
    levels: int | None = None,
) -> Selection:
    """Pick the best candidate per item by scores under fixed seeds, not by the noisy score it was found with.

    Every candidate passes through the budget here, in one place, so that no method can report what it may not: the
    result is inside, or this raises.

    Args:
        candidates: name -> variable (B ...): the best iterate, the last, an average of them.
        seeds: seeds of the problem's chance; the score is the mean over them.
        group_size: as in `search`.
        levels: put candidates on the grid k / levels first (255: what an 8-bit file holds), so that the score is
            the file's.
    """
    if not candidates:
        raise ProvokeError("No candidates to select from", "at least one", "run the search first")
    kept: Selection | None = None
    for name, candidate in candidates.items():
        x = budget.project(candidate) if levels is None else budget.quantise(budget.project(candidate), levels)
        one = _rescored(problem, x, seeds)
        distance = budget.measure(x)
        # a center off the grid may be half a level from its nearest grid point, whatever epsilon is
        if not bool(budget.contains(x, slack=0.0 if levels is None else 0.5 / levels).all()):
            raise ProvokeError(
                f"A result at distance {float(distance.max()):.6g}",
                f"at most epsilon = {budget.epsilon:.6g}",
                "report this bug",
            )
        new = Selection(x, one.image, one.score, one.terms, distance, [name] * len(x), one.cost)
        kept = new if kept is None else _better_of(kept, new, group_size)
    assert kept is not None
    return kept


def _rescored(problem: Problem, x: Tensor, seeds: Sequence[int]) -> Evaluation:
    rounds = [problem.evaluate(x, torch.Generator().manual_seed(seed), gradient=False) for seed in seeds]
    terms = {name: torch.stack([r.terms[name] for r in rounds]).mean(0) for name in rounds[0].terms}
    score = torch.stack([r.score for r in rounds]).mean(0)
    return Evaluation(score, rounds[0].image, None, terms, sum(r.cost for r in rounds))


def _better_of(old: Selection, new: Selection, group_size: int) -> Selection:
    better = _together(new.score, group_size) > _together(old.score, group_size)
    return Selection(
        _keep(better, new.variable, old.variable),
        _keep(better, new.image, old.image),
        torch.where(better, new.score, old.score),
        {name: torch.where(better, new.terms[name], old.terms[name]) for name in old.terms},
        torch.where(better, new.distance, old.distance),
        [n if b else o for o, n, b in zip(old.chosen, new.chosen, better.tolist(), strict=True)],
        old.cost + new.cost,
    )
