"""The run that every search through a sampler shares: opened where the sampler runs, driven in the host, judged.

Batches are image-major everywhere: image 0's results first, then image 1's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from comfy_execution.graph_utils import ExecutionBlocker
from torch import Tensor

from ..core.augment import Augmentation
from ..core.batches import side_by_side
from ..core.budgets import Budget
from ..core.errors import ProvokeError
from ..core.objectives import Objective
from ..core.problem import ImageProblem, Problem
from ..core.search import Selection, Step, search, select
from ..core.steps import Rule
from ..host.judges import Held, passed
from ..host.progress import drive
from ..host.sampling.generator import SampledImages
from ..host.sampling.graph import Graph
from ..host.sampling.handle import Sampling
from ..host.sampling.routes import EXACT, Route
from ..host.stop import stoppable
from .sampler_sockets import SearchSettings

# a variable's rows (the graph's batch) and a route -> what Sampling.sample gives for it
Sample = Callable[[Tensor, Route], Tensor]


@dataclass(frozen=True)
class Plan:
    """What a method decides once it sees the opened sampling.

    budget: around the B * count rows of the variable. rule, start: where and how to move. sample: B rows of it ->
    latents B ..., by a route; called once per result. objective: of pictures, B * count 3 H W. group_size: results that
    an objective couples. levels: of the grid that a result has to lie on (255: 8 bit). candidates: more of them for the
    selector, by name, from the last step. around: what is put around the problem (a prior of the variable). problem:
    in place of sample and objective, with all that is around them (copies still says how many looks an evaluation is).
    seeds: the selector's. evaluations: of the objective, in a step with its gradient.
    """

    budget: Budget
    rule: Rule
    start: Tensor
    sample: Sample | None = None
    objective: Objective | None = None
    augment: Augmentation | None = None
    copies: int = 1
    group_size: int = 1
    levels: int | None = None
    candidates: Callable[[], dict[str, Tensor]] = field(default=dict)
    around: Callable[[Problem], Problem] = field(default=lambda problem: problem)
    problem: Callable[[Route], Problem] | None = None
    seeds: Sequence[int] = (0,)
    evaluations: int = 1


@dataclass(frozen=True)
class Found:
    """What a search leaves.

    selection: the best, detached. step: the last. losses: minus the mean score of every step that has one. runs: of the
    sampler, a result (a gradient counts with its backward). evaluations: of the model, in one run. looks: pictures that
    were decoded and judged, a result. notes: in words.
    """

    selection: Selection
    step: Step
    losses: list[float]
    runs: float
    evaluations: int
    looks: int
    notes: list[str]

    @property
    def cost(self) -> str:
        """For reports."""
        forwards = self.runs * self.evaluations
        return (
            f"{forwards:.0f} evaluations of the model a result to search (with their backward passes; one run of the "
            f"sampler is {self.evaluations}), {self.looks} looks of the judges"
        )

    @property
    def loss_map(self) -> object:
        """For the host's loss graph, which divides by the range of what it gets."""
        return {"loss": self.losses} if len(set(self.losses)) > 1 else ExecutionBlocker(None)


def run(
    graph: Graph,
    settings: SearchSettings,
    plan: Callable[[Sampling, Callable[[], Tensor]], Plan],
    *,
    judges: Sequence[Held] = (),
    clip: Any = None,
    looks: int | None = None,
) -> Found:
    """Searches.

    Args:
        plan: the opened sampling, and what gives its pictures unperturbed (B 3 H W; a run of the sampler) -> what to do
            there. Called once, where judges may be asked and gradients work.
        judges: what the objective computes with. clip: a CLIP that the variable goes through. looks: how many pictures
            they look at at once; the graph's batch if not given.
    """
    notes: list[str] = []
    route = settings.route_for(graph)

    def body(sampling: Sampling) -> Found:
        with passed(*judges):
            chosen = plan(sampling, lambda: plain_pictures(sampling))
            return _searched(sampling, settings, chosen, route, notes, should_stop)

    # around everything: a request while the model loads or is looked at counts too
    with stoppable() as should_stop:
        count = graph.batch if looks is None else looks
        return graph.inside(
            body, judges=judges, clip=clip, notes=notes, gradient=not settings.random,
            looks=0 if settings.random else count,
        )  # fmt: skip


@torch.no_grad()
def plain_pictures(sampling: Sampling) -> Tensor:
    """The unperturbed result, B 3 H W."""
    return decoded(sampling, sampling.sample())


def decoded(sampling: Sampling, latents: Tensor) -> Tensor:
    """Pictures B 3 H W, one a latent, differentiable. Raises ProvokeError for videos."""
    assert sampling.decode is not None
    pictures = sampling.decode(latents)
    if len(pictures) != len(latents):
        raise ProvokeError(
            f"The sampler gives videos: {len(pictures)} pictures for {len(latents)} latents",
            "pictures: the search judges one picture a latent",
            "sample a single frame (length 1)",
        )
    return pictures


def _searched(
    sampling: Sampling,
    s: SearchSettings,
    plan: Plan,
    route: Route,
    notes: list[str],
    should_stop: Callable[[], bool],
) -> Found:
    def problem(route: Route) -> Problem:
        if plan.problem is not None:
            return plan.problem(route)
        sample, objective = plan.sample, plan.objective
        assert sample is not None
        assert objective is not None
        generator = SampledImages(sampling, lambda rows: decoded(sampling, sample(rows, route)), route=route)
        return plan.around(ImageProblem(generator, objective, augment=plan.augment, copies=plan.copies))

    losses: list[float] = []

    def watched() -> Iterator[Step]:
        for step in search(
            # best of random draws needs no gradient: its scores are the sampler's own
            problem(EXACT if s.random else route),
            plan.budget,
            plan.rule,
            start=plan.start,
            steps=s.search_steps,
            rng=torch.Generator().manual_seed(s.search_seed % 2**63),
            group_size=plan.group_size,
            target=s.stop_at_score or None,
            time_limit=s.time_limit or None,
            should_stop=should_stop,
        ):
            scores = step["score"][step["score"].isfinite()]
            if len(scores):
                losses.append(-float(scores.mean()))
            yield step

    step = drive(watched(), s.search_steps + 1, lambda now: side_by_side(now["best_image"][:4]))
    candidates = {"best": step["best"], "last": step["variable"], **plan.candidates()}
    # by the sampler's own pictures, whatever stood in for them on the way
    selection = select(
        problem(EXACT), plan.budget, candidates, seeds=plan.seeds, group_size=plan.group_size, levels=plan.levels
    )
    looks = (step["i"] * (1 if s.random else plan.evaluations) + 1 + len(candidates) * len(plan.seeds)) * plan.copies
    return Found(
        selection, step, losses, step["cost"] + selection.cost, sampling.evaluations(), looks, list(notes)
    )  # fmt: skip
