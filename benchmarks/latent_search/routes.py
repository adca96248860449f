"""How near the short routes' gradients are to the exact one, along a search's own way, and what they cost."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...demo.captions import canonical
from ...demo.world import sample
from .world import Bench, captions

STOPS = (0, 4, 12)  # steps of the search where the routes are compared


def cosines(bench: Bench, prompts: int) -> dict[str, Any]:
    """Cosines with the exact gradient of the node's own objective, by route: mean over prompts and points of the exact
    search's way; their spread; the cost of a gradient in sampler runs, counted as the node counts it."""
    from ...host.sampling.generator import SampledImages
    from ...host.sampling.routes import EXACT, OneStep, Residual

    kinds: dict[str, Any] = {
        "exact": EXACT,
        "residual, last 3 steps": Residual(3),
        "residual, last step": Residual(1),
        "one-step, the first": OneStep(0),
        "one-step, the second": OneStep(1),
        "one-step, the fourth": OneStep(3),
    }
    alike: dict[str, list[float]] = {name: [] for name in kinds}
    costs: dict[str, float] = {}
    scenes = list(sample(prompts, torch.Generator().manual_seed(63), part="held out", objects=2))
    for i, scene in enumerate(scenes):
        parts = bench.objective(captions(scene))

        def body(sampling: Any, parts: Any = parts) -> None:
            from ...core.problem import ImageProblem
            from ...nodes.objective import Situation

            objective = parts.build(Situation())

            def problem(route: Any) -> ImageProblem:
                made = SampledImages(
                    sampling, lambda rows: sampling.decode(sampling.sample(noise=rows, route=route)), route=route
                )
                return ImageProblem(made, objective)

            for x in _way(sampling, problem(EXACT)):
                found = {name: problem(route).evaluate(x, _rng(), gradient=True) for name, route in kinds.items()}
                exact = found["exact"].gradient
                for name, one in found.items():
                    alike[name].append(float(torch.cosine_similarity(one.gradient.flatten(), exact.flatten(), 0)))
                    costs[name] = one.cost

        opened(bench, canonical(scene), 300 + i, parts, body)
    dimensions = 4 * 8 * 8
    return {
        "prompts": len(scenes),
        "points": len(alike["exact"]),
        "null": round(dimensions**-0.5, 4),
        "routes": {
            name: {
                "cosine": round(sum(values) / len(values), 3),
                "lowest": round(min(values), 3),
                "highest": round(max(values), 3),
                "cost": round(costs[name], 2),
            }
            for name, values in alike.items()
        },
    }


def opened(bench: Bench, prompt: str, seed: int, parts: Any, body: Any) -> None:
    """The sampling of a prompt, opened for gradients, with the objective's judges."""
    from ...host.judges import passed
    from ...nodes.sampler_sockets import graph_of

    graph, _ = graph_of(bench.sockets(prompt, seed))

    def within(sampling: Any) -> None:
        with passed(*parts.held):
            body(sampling)

    with torch.inference_mode():
        graph.inside(within, judges=parts.held)


def _rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _way(sampling: Any, problem: Any) -> list[Tensor]:
    """Points of a search that breaks, by the exact gradient, each channel turned."""
    from ...core.gaussian import ChannelsRotated
    from ...core.search import search
    from ...core.steps import Momentum

    class Less:
        """The objective turned round."""

        def evaluate(self, variable: Tensor, rng: torch.Generator, *, gradient: bool) -> Any:
            from dataclasses import replace

            one = problem.evaluate(variable, rng, gradient=gradient)
            return replace(one, score=-one.score, gradient=None if one.gradient is None else -one.gradient)

    budget = ChannelsRotated(sampling.noise, 1.0)
    steps = search(Less(), budget, Momentum(0.1), start=sampling.noise, steps=max(STOPS), rng=_rng())
    return [step["variable"].clone() for step in steps if step["i"] in STOPS]
