"""A look at the user's model before anything is spent: is it a function, is its gradient right, what does it keep?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...core.errors import GradientError
from ..gradients import is_inference_refused
from ..memory import MARGIN, is_out_of_memory
from .lean import is_quantised

if TYPE_CHECKING:
    from .handle import Sampling

WAYS = 4  # random directions
CUT = 0.3  # by how much finite differences may disagree; a cut attention disagrees by more
STEPS = (3e-3, 3e-2)  # of the latent's RMS; the second where the first disagrees: with TF32 that may be rounding
ROUGH_STEPS = (3e-2, 0.2)
STATE = 1e-3  # by how much (of its RMS) an evaluation that is run again may differ: kernels on a GPU are not exact


def look(handle: Sampling, *, check: bool) -> None:
    """Runs one model evaluation in the middle of the schedule a few times, learns what its backward needs, and chooses
    how much of the graph is kept.

    Args:
        check: also compare with an earlier run and with finite differences: costs some 13 forwards, once.

    Raises:
        GradientError: an evaluation that depends on what was evaluated before; a gradient that is missing, not finite,
            or another one than finite differences give.
    """
    x, sigma = _point(handle, handle.steps // 2)
    try:
        if check:
            _refuse_memory(handle, x, sigma)
            _refuse_wrong(handle, x, sigma)
        _choose(handle, x, sigma)
    finally:
        handle.evaluator.keyframes.start()


def _point(handle: Sampling, step: int) -> tuple[Tensor, Tensor]:
    """A noisy latent in the model's space and its sigma, as the sampler would meet them."""
    sigma = handle.sigmas[min(step, handle.steps - 1)]
    x = handle.evaluator.inner_model.model_sampling.noise_scaling(
        sigma, handle.noise, handle.model_latent, handle.whole(sigma)
    )
    return x, sigma


@torch.no_grad()
def _refuse_memory(handle: Sampling, x: Tensor, sigma: Tensor) -> None:
    """Caches, running means (APG's momentum) and the like: computed again in the backward, in another order, they would
    be something else than in the forward."""
    keyframes = handle.evaluator.keyframes  # the host's own schedules are put back in every backward: not what is meant
    keyframes.start()
    first = handle.denoised(x, sigma)
    handle.denoised(*_point(handle, handle.steps - 1))
    keyframes.start()
    again = handle.denoised(x, sigma)
    if not _rms(first - again) <= STATE * _rms(first):
        raise GradientError(
            "The model gives another result when the same evaluation is run again: a patch on it keeps something from "
            f"one step to the next ({patches_of(handle)})",
            "a model whose result depends on its input alone",
            "bypass the nodes that patch the model with a cache or with momentum (APG: set momentum to 0)",
        )


def _refuse_wrong(handle: Sampling, x: Tensor, sigma: Tensor) -> None:
    rng = torch.Generator().manual_seed(0)
    weight = torch.randn(x.shape, generator=rng).to(x)
    found = _vjp(handle, x, sigma, weight)
    if found is None:
        raise _wrong(handle, "carries no gradient")
    if not bool(found.isfinite().all()):
        raise GradientError(
            "The gradient through the model is not finite",
            "numbers, not NaN or infinity",
            "load the model in bfloat16 or float32 instead of float16 (weight_dtype, or the start option --bf16-unet)",
        )
    rough = _is_rough(handle)
    disagree = _disagreement(handle, x, sigma, weight, found, rng, rough)
    if not disagree <= (1 if rough else CUT):
        raise _wrong(handle, f"has a wrong gradient (finite differences disagree by {disagree:.0%})")
    if disagree > CUT:
        handle.notes.append(
            f"the gradient could not be checked well: the model rounds so much that differences are {disagree:.0%} off"
        )


def _is_rough(handle: Sampling) -> bool:
    """Whether the model computes in less than float32: a small change then drowns in the rounding."""
    model = handle.evaluator.inner_model
    return model.get_dtype_inference() not in (torch.float32, torch.float64) or any(
        is_quantised(module) for module in model.diffusion_model.modules()
    )


def _vjp(handle: Sampling, x: Tensor, sigma: Tensor, weight: Tensor) -> Tensor | None:
    """J^T weight of one evaluation, the way in which the run will compute it."""
    handle.evaluator.ladder.start(1)  # with a checkpoint: that is where the guard learns
    try:
        return _pulled(handle, x, sigma, weight)
    except RuntimeError as error:  # also NotImplementedError, of kernels without a backward
        if is_out_of_memory(error):
            raise
        if handle.evaluator.hidden or not is_inference_refused(error):
            raise _wrong(handle, f"runs, but not backwards ({error})") from error
    handle.evaluator.hidden = True
    return _vjp(handle, x, sigma, weight)


def _pulled(handle: Sampling, x: Tensor, sigma: Tensor, weight: Tensor) -> Tensor | None:
    with torch.enable_grad():
        leaf = x.detach().requires_grad_(True)
        out = handle.denoised(leaf, sigma)
    return torch.autograd.grad(out, leaf, weight, allow_unused=True)[0] if out.requires_grad else None


@torch.no_grad()
def _disagreement(
    handle: Sampling, x: Tensor, sigma: Tensor, weight: Tensor, found: Tensor, rng: torch.Generator, rough: bool
) -> float:
    """Relative L2 error of the vector of directional derivatives; for a rough model of the one along the gradient, with
    larger steps."""
    ways = [found / _rms(found)] if rough else [torch.randn(x.shape, generator=rng).to(x) for _ in range(WAYS)]
    claimed = torch.stack([(found.double() * way).sum() for way in ways])
    disagree = float("inf")
    for step in ROUGH_STEPS if rough else STEPS:
        size = step * max(_rms(x), 1e-6)
        change = [handle.denoised(x + size * way, sigma) - handle.denoised(x - size * way, sigma) for way in ways]
        measured = torch.stack([(one.double() * weight).sum() for one in change]) / (2 * size)
        disagree = min(disagree, float((claimed - measured).norm() / measured.norm().clamp_min(1e-30)))
        if disagree <= CUT:
            break
    return disagree


def _choose(handle: Sampling, x: Tensor, sigma: Tensor) -> None:
    """How much of the graph is kept: everything, one evaluation's, or one block's."""
    evaluator, count = handle.evaluator, handle.evaluations()
    evaluator.ladder.start(0)
    try:
        kept = handle.bytes_kept(x, sigma)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        kept = -1
    free = float(evaluator.model_patcher.get_free_memory(handle.device))
    if kept < 0 or kept * MARGIN > free:
        evaluator.ladder.start(2)
    elif evaluator.needs_checkpoints or kept * count * MARGIN > 0.5 * free:
        evaluator.ladder.start(1)
    size = "more than there is" if kept < 0 else f"{kept / 2**20:,.1f} MiB"
    handle.notes.append(
        f"gradient of the sampling: {evaluator.ladder.rung.words} ({count} evaluations, {size} each, "
        f"{free / 2**20:,.0f} MiB free)"
    )


def _wrong(handle: Sampling, what: str) -> GradientError:
    return GradientError(
        f"The model {what}. Usual causes: an attention or other kernel without a backward, a patch that computes "
        f"without a graph. Patches on this model: {patches_of(handle)}",
        "a model whose gradient agrees with finite differences",
        "bypass the nodes that patch the model; start ComfyUI without --use-sage-attention and --use-flash-attention",
    )


def patches_of(handle: Sampling) -> str:
    """What is on the model besides its weights, in words."""
    options = handle.evaluator.guider.model_options
    transformer: dict[str, Any] = options.get("transformer_options", {})
    found = {str(key) for table in transformer.get("wrappers", {}).values() for key in table if key != "provoke"}
    found |= {key for key, value in options.items() if key.startswith(("sampler_", "model_")) and value}
    found |= {f"{kind} of {key}" for kind in ("patches", "patches_replace") for key in transformer.get(kind, {})}
    return ", ".join(sorted(found)) or "none"


def _rms(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt())
