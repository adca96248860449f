"""Every sampler of the host on a real tiny model: its gradient against differences, its latent against the KSampler's.

samplers.py has the same for a toy network in float64, where nothing but the sampler can be at fault.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .cases import BAR, STEP, Variable, differences, directions, distance, gradient, weight
from .cases import variables as variables_of
from .scenes import CFG, Scene, build

FAMILIES = {"eps": "sd15", "v": "sd2v", "flow": "sd3"}
STEPS = 4
RANDOM = 4
FACTORS = (1, 10)  # on the step of the differences


@dataclass(frozen=True)
class Sampled:
    """`parity`: largest difference from what the host's KSampler gives; `same`: not a bit of difference."""

    sampler: str
    family: str
    errors: dict[str, float]
    parity: float
    same: bool


def names() -> tuple[str, ...]:
    from ...host.sampling.samplers import right

    return right()


def by_ksampler(family: str, sampler: str, steps: int = STEPS) -> Tensor:
    """The latent of the host's KSampler node."""
    import nodes

    from ...tools import tiny

    model = tiny.model(family)
    positive, negative = (tiny.conditioning(family, seed=seed) for seed in (1, 2))
    with torch.inference_mode():
        (out,) = nodes.common_ksampler(
            model, 5, steps, CFG, sampler, "normal", positive, negative, tiny.empty_latent(family)
        )
    return out["samples"].clone()


def levels(model: Any, sampler: str, steps: int) -> Tensor:
    """KSampler.calculate_sigmas: for some samplers it leaves a step out."""
    import comfy.samplers

    return comfy.samplers.KSampler(
        model, steps, torch.device("cpu"), sampler, "normal", 1.0, model_options=model.model_options
    ).sigmas


def measure(sampler: str, family: str, *, random: int = RANDOM) -> Sampled:
    from ...host.sampling.inside import inside

    scene = Scene(family)
    theirs, graph = by_ksampler(family, sampler), build(scene, sampler, STEPS)

    def body(handle: Any) -> Sampled:
        handle.evaluator.ladder.start(1)
        with torch.no_grad():
            w = weight(handle.noise)
        errors = {
            v.name: _error(handle, v, w, random)
            for v in variables_of(handle, graph, scene)
            if v.name in ("noise", "conditioning")
        }
        mine = handle.sample(noise=handle.noise.clone().requires_grad_(True)).detach()
        return Sampled(sampler, family, errors, float((mine - theirs).abs().max()), torch.equal(mine, theirs))

    sigmas = levels(graph.guider.model_patcher, sampler, STEPS)
    return inside(graph.guider, graph.noise, graph.sampler, sigmas, graph.latent, body, check=False)


def _error(handle: Any, variable: Variable, w: Tensor, random: int) -> float:
    """The second step is for where the first drowns in rounding: by seeds_2 and dpmpp_sde a flow model's image hardly
    depends on the noise at all (they replace it on the way)."""
    along, _ = directions(variable.value, random)
    given = gradient(handle, variable.function, variable.value.float(), w)
    claimed = torch.stack([(given.double() * d.double()).sum() for d in along])
    error = float("inf")
    for factor in FACTORS:
        error = min(error, distance(claimed, differences(variable, along, factor * STEP[variable.name])))
        if error <= BAR:
            break
    return error
