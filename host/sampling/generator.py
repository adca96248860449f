"""The sampling as what core searches: a frozen generator with a vector-Jacobian product, in what memory there is."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...core.batches import joined, runs
from ...core.errors import ProvokeError
from ..gradients import normal
from ..inplace import is_overwritten
from ..memory import is_out_of_memory
from .evaluations import COST, KEPT
from .handle import Sampling
from .routes import EXACT, Route, cost

Pullback = Callable[[Tensor], Tensor]


class SampledImages:
    """A function of one variable, made of a `Sampling`'s parts, as a `core.problem.Generator`.

    When memory runs out it steps down (every graph kept, one checkpoint an evaluation, checkpoints inside the model)
    and computes the same gradient again; the notes say so.

    Args:
        sampling: what the body of `inside` got.
        function: variable (`rows` ...) -> pictures or latents (rows * m ...), differentiable, from `sampling.sample`,
            `sampling.decode` and torch. It is called once for every `rows` of a larger batch, so that each run has the
            batch of the user's graph: its conditionings, masks and hints fit, and no result depends on its neighbours.
        rows: how many rows of the variable one run takes; the graph's batch if not given.
        route: the one that the function takes: what its costs are counted by.
    """

    def __init__(
        self,
        sampling: Sampling,
        function: Callable[[Tensor], Tensor],
        *,
        rows: int | None = None,
        route: Route = EXACT,
    ) -> None:
        self._function, self._rows = function, len(sampling.noise) if rows is None else rows
        self._ladder, self._notes = sampling.evaluator.ladder, sampling.notes
        self._route, self._steps = route, sampling.steps

    @property
    def forward_cost(self) -> float:
        """Of one call, in runs of the sampler."""
        return cost(self._route, self._steps, COST[self._ladder.rung])[0]

    @property
    def vjp_cost(self) -> float:
        """Of `vjp` and its pullback, in runs of the sampler."""
        return cost(self._route, self._steps, COST[self._ladder.rung])[1]

    def __call__(self, variable: Tensor) -> Tensor:
        """The result without a graph; a batch in image-major order: variable row s belongs to image s // samples (a
        video's rows are its frames)."""
        with torch.no_grad():
            return joined([self._function(part) for part in self._parts(normal(variable))])

    def vjp(self, variable: Tensor) -> tuple[Tensor, Pullback]:
        """The result without a graph; and a function, callable once, d score / d result -> d score / d variable."""
        x = normal(variable)
        graph = self._graph(x)
        result = joined([out.detach() for _, out in graph])

        def pullback(cotangent: Tensor) -> Tensor:
            kept = list(graph)
            graph.clear()
            parts = runs(normal(cotangent), len(kept))
            gradient = self._pulled(kept, parts)
            while gradient is None:  # less is kept now; the ladder's end is an error
                gradient = self._pulled(self._graph(x), parts)
            return gradient

        return result, pullback

    def _graph(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(leaf, result) of every run."""
        if len(x) > self._rows and self._ladder.rung is KEPT:
            self._ladder.start(1)  # one run's graphs were counted, not several
        while True:
            try:
                with torch.enable_grad():
                    leaves = [part.detach().requires_grad_(True) for part in self._parts(x)]
                    return [(leaf, self._function(leaf)) for leaf in leaves]
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            self._ladder.step_down()

    def _pulled(self, graph: list[tuple[Tensor, Tensor]], cotangents: list[Tensor]) -> Tensor | None:
        """The gradient through graphs, which are freed; None where it did not work and less is kept from now on."""
        why = ""
        try:
            gradients = []
            for cotangent in cotangents:
                leaf, out = graph.pop(0)
                (gradient,) = torch.autograd.grad(out, leaf, cotangent, allow_unused=True)
                gradients.append(torch.zeros_like(leaf) if gradient is None else gradient)
            return joined(gradients)
        except Exception as error:
            if self._ladder.rung is KEPT and is_overwritten(error):
                why = "a kept activation was overwritten by a later evaluation"
            elif not is_out_of_memory(error):
                raise
        graph.clear()
        if why:
            self._ladder.start(1)
            self._notes.append(f"{why}: {self._ladder.rung.words}")
        else:
            self._ladder.step_down()
        return None

    def _parts(self, x: Tensor) -> list[Tensor]:
        if len(x) % self._rows:
            raise ProvokeError(
                f"{len(x)} rows cannot be shared out to runs of {self._rows}",
                "the same number of samples for every image of the graph's batch",
                "make the batch a multiple of it",
            )
        return runs(x, len(x) // self._rows)
