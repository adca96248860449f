"""What the gradient costs in time beside a bare PyTorch loop that computes the same and knows nothing of the host.

The bare loop: Euler and CFG written out, the network called directly, one checkpoint per evaluation in the smallest
possible form. It can only be written for a plain graph, and of Flux it gives a wrong gradient (its version checks are
switched off, or it would raise): it is the lower bound on time. Both run in turns in one process on one core; time is
the process's own (other processes do not count), and the figure is the median of the ratios.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .scenes import CFG, Scene, build

SIZES = {"sd15": (4, 32), "flux": (8, 40)}  # width of the model, side of the latent
STEPS = 2
REPEATS = 5
BAR = 0.10  # the issue's, for the guard as it is


@dataclass(frozen=True)
class Overhead:
    """`ratios`: time over the bare loop's beside it, one for each repetition."""

    family: str
    way: str
    evaluation: float  # seconds, of one forward (CFG pair)
    ratios: list[float]
    apart: float  # relative L2 difference from the bare loop's gradient

    @property
    def median(self) -> float:
        return statistics.median(self.ratios)


class _Bare(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        ctx.function = function
        ctx.save_for_backward(x)
        with torch.no_grad():
            return function(x)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[None, Tensor]:
        leaf = ctx.saved_tensors[0].detach().requires_grad_(True)
        # hooks that do nothing: with them autograd does not look whether a saved tensor was overwritten
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
            out = ctx.function(leaf)
        return None, torch.autograd.grad(out, leaf, cotangents[0])[0]


def bare(handle: Any, noise: Tensor) -> Tensor:
    """The latent of a plain graph by Euler's method."""
    model = handle.evaluator.inner_model
    levels, network = model.model_sampling, model.diffusion_model
    sides = [handle.conditioning[name][0] for name in ("positive", "negative")]
    more: dict[str, Tensor] = {"context": torch.cat([side[0] for side in sides])}
    if "pooled_output" in sides[0][1]:
        more["y"] = torch.cat([side[1]["pooled_output"] for side in sides])
    if "guidance" in sides[0][1]:
        more["guidance"] = torch.tensor([side[1]["guidance"] for side in sides])

    def denoised(x: Tensor, sigma: Tensor) -> Tensor:
        both, sigmas = torch.cat([x, x]), sigma.expand(2 * len(x))
        out = network(levels.calculate_input(sigmas, both), levels.timestep(sigmas).float(), **more)
        positive, negative = levels.calculate_denoised(sigmas, out, both).chunk(2)
        return negative + (positive - negative) * CFG

    sigmas = handle.sigmas
    x = levels.noise_scaling(sigmas[0], noise, torch.zeros_like(noise), handle.whole(sigmas[0]))
    for now, then in itertools.pairwise(sigmas):
        function = lambda at, now=now: denoised(at, now)  # noqa: E731 (a step's own sigma)
        x0 = _Bare.apply(function, x) if torch.is_grad_enabled() else function(x)
        x = x + (x - x0) / now * (then - now)
    return model.process_latent_out(levels.inverse_noise_scaling(sigmas[-1], x))


def measure(family: str, *, repeats: int = REPEATS) -> list[Overhead]:
    """Ours with one checkpoint an evaluation, as it is and with every write watched, over the bare loop."""
    from ...host.sampling.inside import inside
    from ...tools import tiny

    width, side = SIZES[family]
    graph = build(Scene(family), "euler", STEPS, tokens=77, width=width)
    latent = tiny.empty_latent(family, height=side, width=side)

    def body(handle: Any) -> list[Overhead]:
        handle.evaluator.ladder.start(1)
        learned = handle.evaluator.guard

        def watched(noise: Tensor) -> Tensor:
            handle.evaluator.guard = type(learned)(always=True)
            return handle.sample(noise=noise)

        def as_it_is(noise: Tensor) -> Tensor:
            handle.evaluator.guard = learned
            return handle.sample(noise=noise)

        ways = {"as it is": as_it_is, "every write watched": watched}
        forward = _forward(handle)
        reference, _ = timed(lambda noise: bare(handle, noise), handle.noise)
        gradients = {name: timed(way, handle.noise)[0] for name, way in ways.items()}
        ratios: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(repeats):
            for name, way in ways.items():
                _, unit = timed(lambda noise: bare(handle, noise), handle.noise)
                _, ours = timed(way, handle.noise)
                ratios[name].append(ours / unit)
        handle.evaluator.guard = learned
        return [
            Overhead(family, name, forward, ratios[name], float((g - reference).norm() / g.norm()))
            for name, g in gradients.items()
        ]

    return inside(graph.guider, graph.noise, graph.sampler, graph.sigmas, latent, body)


def timed(function: Callable[[Tensor], Tensor], noise: Tensor) -> tuple[Tensor, float]:
    """Gradient of the sum of squares, and CPU seconds."""
    start = time.process_time()
    leaf = noise.clone().requires_grad_(True)
    (found,) = torch.autograd.grad(function(leaf).square().sum(), leaf)
    return found, time.process_time() - start


def _forward(handle: Any) -> float:
    with torch.no_grad():
        start = time.process_time()
        for _ in range(2):
            handle.denoised(handle.noise, handle.sigmas[0])
        return (time.process_time() - start) / 2
