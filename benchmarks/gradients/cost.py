"""What a gradient costs: counted in floating-point operations, in units of one forward model evaluation.

A model evaluation is one call of the guider (with CFG: both sides). Attention is computed by matrix products here,
because PyTorch's counter does not know the fused kernel of the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from .cases import RUNGS
from .scenes import Scene, build

FAMILIES = ("sd15", "sdxl", "flux", "wan")
SAMPLERS = ("euler", "heun")
BARS = {"kept": 2.2, "once": 3.2, "nested": 4.2}  # the issue's
STEPS = 6


@dataclass(frozen=True)
class Cost:
    """`forwards`: of the run and its backward, per model evaluation of the run; both variables at once. `first`: the
    same for the very first such run, in which the guard may have to learn what the model overwrites."""

    scene: Scene
    sampler: str
    route: str
    way: str  # of RUNGS
    evaluations: int
    forwards: float
    first: float

    @property
    def name(self) -> str:
        return f"{self.scene.name}-{self.sampler}-{self.route}-{self.way}"


def routes() -> dict[str, Any]:
    from ...host.sampling.routes import EXACT, LastSteps, OneStep, Residual

    return {
        "exact": EXACT, "residual, last step": Residual(1), "residual, last 2": Residual(2), "last step": LastSteps(1),
        "last 2": LastSteps(2), "one step": OneStep(0),
    }  # fmt: skip


def flops(work: Callable[[], Any]) -> int:
    """Of one call, with what its backward does."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def measure(scene: Scene, sampler: str = "euler", only: tuple[str, ...] | None = None) -> list[Cost]:
    """A scene's costs by every route (or `only` some) and way: of the gradient by noise and conditioning together."""
    from ...host.sampling.inside import inside

    graph = build(scene, sampler, STEPS)

    def body(handle: Any) -> list[Cost]:
        with torch.no_grad():
            one = flops(lambda: handle.denoised(handle.noise, handle.sigmas[STEPS // 2]))
        found = []
        for route, way in routes().items():
            for position, rung in enumerate(RUNGS):
                if (only is not None and route not in only) or (position == 0 and handle.evaluator.guard.always):
                    continue
                handle.evaluator.ladder.start(position)
                handle.evaluator.count = 0
                first = flops(partial(_gradient, handle, way))
                count = handle.evaluator.count
                work = flops(partial(_gradient, handle, way))
                found.append(Cost(scene, sampler, route, rung, count, work / one / count, first / one / count))
        return found

    return inside(graph.guider, graph.noise, graph.sampler, graph.sigmas, graph.latent, body, vae=graph.vae)


def _gradient(handle: Any, route: Any) -> None:
    noise = handle.noise.detach().clone().requires_grad_(True)
    entry = handle.conditioning["positive"][0]
    text = entry[0].detach().clone().requires_grad_(True)
    out = handle.sample(noise=noise, conditioning={"positive": [[text, entry[1]]]}, route=route)
    torch.autograd.grad(out.square().sum(), (noise, text), allow_unused=True)
