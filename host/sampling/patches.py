"""The user's MODEL made fit for gradients: a clone in which what cuts or lies is replaced, or refused and why."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import comfy.cli_args
import comfy.ldm.modules.attention
import comfy.model_management
import comfy.model_patcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ...core.errors import GradientError, ProvokeError
from ..memory import without_dynamic_memory

KEY = "provoke"
COMPILE_KEY = "torch.compile"  # comfy_api.torch_helpers.torch_compile.COMPILE_KEY
CACHES = {"easycache": "EasyCache", "lazycache": "LazyCache"}  # comfy_extras.nodes_easycache
# What a backward needs of one evaluation, in units of the host's own estimate for a forward: 9 (SD1.5) to 33 (Wan),
# counted on the real configurations.
BACKWARD_FACTOR = 25
FORWARD_FACTOR = 1


def prepared(model: Any, also: Sequence[Any], notes: list[str], *, backward: bool = True, beside: float = 0.0) -> Any:
    """A clone of a MODEL for one run with gradients; the user's own is not touched.

    Args:
        model: from a MODEL socket, or a GUIDER's `model_patcher`.
        also: patchers (VAE, CLIP, a second MODEL) to be loaded in the same request, so that none of them is unloaded
            while a graph through it is alive.
        notes: receives in words what was replaced.
        backward: whether gradients go through the model itself. beside: bytes that what is loaded with it needs at
            the same time (a decoder's backward, a judge's): both are asked for with the model.

    Raises:
        GradientError: a speed cache, whose result is no function of its input.
        ProvokeError: a model under dynamic VRAM that cannot be loaded in the ordinary way.
    """
    _refuse_caches(model)
    clone = without_dynamic_memory(model, "MODEL").clone()
    _remove_compile(clone, notes)
    if clone.get_additional_models_with_key("multigpu"):
        # samplers._calc_cond_batch_multigpu runs its worker threads under torch.no_grad
        clone.remove_additional_models("multigpu")
        notes.append("one GPU: the host's multi-GPU sampling carries no gradient")
    if _remove_attention(clone.model_options):
        notes.append("PyTorch attention instead of the attention that a node put into the model")
    clone.set_additional_models(KEY, list(also))
    ask = partial(_ask_for_more, BACKWARD_FACTOR if backward else FORWARD_FACTOR, beside)
    clone.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, KEY, ask)
    return clone


def options_of(guider: Any, patcher: Any) -> dict[str, Any]:
    """The model_options that a guider is to sample with: the prepared patcher's, or what the guider made of its own."""
    if guider.model_options is guider.model_patcher.model_options:
        return patcher.model_options
    options = comfy.model_patcher.create_model_options_clone(guider.model_options)
    _remove_attention(options)
    return options


def _remove_attention(options: dict[str, Any]) -> bool:
    """attention.wrap_attn calls an override instead of the chosen attention. In practice it is a SageAttention node's,
    which returns tensors without a graph: the gradient would silently lack what goes through attention."""
    transformer = options.setdefault("transformer_options", {})
    return transformer.pop("optimized_attention_override", None) is not None


def _refuse_caches(model: Any) -> None:
    keys = {key for table in model.wrappers.values() for key in table}
    found = [name for key, name in CACHES.items() if key in keys]
    if found:
        raise GradientError(
            f"The model goes through {found[0]}, which skips evaluations when it thinks that little has changed",
            "a model whose result depends on its input alone, and smoothly",
            f"bypass the {found[0]} node for this run",
        )


def _remove_compile(clone: Any, notes: list[str]) -> None:
    """The same function without torch.compile: whose wrapper swaps modules in every call."""
    compiled = [
        kind for kind, table in clone.wrappers.items() for key in table if isinstance(key, str) and COMPILE_KEY in key
    ]
    for kind in compiled:
        clone.remove_wrappers_with_key(kind, COMPILE_KEY)
    for name, patch in list(clone.object_patches.items()):  # as other packs do it
        if hasattr(patch, "_orig_mod"):
            clone.object_patches[name] = patch._orig_mod
            compiled.append(name)
    if compiled:
        notes.append("the model without torch.compile")


def _ask_for_more(
    factor: float, beside: float, executor: Any, model: Any, noise_shape: Any, conds: Any, *args: Any, **kwargs: Any
) -> Any:
    """Wraps sampler_helpers.prepare_sampling, whose request is sized for a forward, by scaling the batch that it sees.

    factor: of what the host reckons with. beside: bytes that are needed besides.

    `force_full_load`: a large request would otherwise offload the model itself (MIN_WEIGHT_MEMORY_RATIO), and weights
    streamed through one buffer cannot be saved for backward. Only a model that could not be loaded at all is streamed.
    """
    management = comfy.model_management
    total = management.get_total_memory(model.load_device)
    weights = model.model_size() + sum(one.model_size() for one in model.get_nested_additional_models())
    estimate = max(1.0, float(model.model.memory_required([2 * noise_shape[0], *noise_shape[1:]])))
    wanted = math.ceil(max(1.0, min(factor + beside / estimate, (0.85 * total - weights) / estimate)))
    kwargs["force_full_load"] = weights < 0.75 * total
    return executor(model, [noise_shape[0] * wanted, *noise_shape[1:]], conds, *args, **kwargs)


@contextmanager
def attention_with_backward(notes: list[str]) -> Iterator[None]:
    """Within: `--use-sage-attention` and `--use-flash-attention` compute with PyTorch's attention, in every model.

    SageAttention's kernel returns tensors without a graph (a silently wrong gradient), FlashAttention's custom op has
    no backward. Half of the host's call sites pass no transformer_options, so an override does not reach them; the
    kernels are module globals of comfy.ldm.modules.attention, and these are what is swapped.
    """
    module: Any = comfy.ldm.modules.attention
    arguments = comfy.cli_args.args
    stand_ins: dict[str, Any] = {}
    if getattr(arguments, "use_sage_attention", False):
        stand_ins |= {"sageattn": _sage, "sageattn3_blackwell": _sage3}
    if getattr(arguments, "use_flash_attention", False):
        stand_ins["flash_attn_wrapper"] = _flash
    before = {name: getattr(module, name) for name in stand_ins if hasattr(module, name)}
    try:
        for name in before:
            setattr(module, name, stand_ins[name])
        if before:
            notes.append("PyTorch attention instead of the kernel that ComfyUI was started with: that has no backward")
        yield
    finally:
        for name, kernel in before.items():
            setattr(module, name, kernel)


def _sage(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    tensor_layout: str = "HND",
    is_causal: bool = False,
    sm_scale: float | None = None,
    attn_mask: Tensor | None = None,
    **_: Any,
) -> Tensor:
    """sageattention.sageattn by PyTorch: "NHD" is B N H D, "HND" is B H N D."""
    if tensor_layout == "NHD":
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    out = scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, is_causal=is_causal, scale=sm_scale)
    return out.transpose(1, 2) if tensor_layout == "NHD" else out


def _sage3(q: Tensor, k: Tensor, v: Tensor, *, is_causal: bool = False, **_: Any) -> Tensor:
    """sageattn3.sageattn3_blackwell by PyTorch: B H N D."""
    return scaled_dot_product_attention(q, k, v, is_causal=is_causal)


def _flash(
    q: Tensor, k: Tensor, v: Tensor, dropout_p: float = 0.0, causal: bool = False, softmax_scale: float | None = -1.0
) -> Tensor:
    """attention.flash_attn_wrapper by PyTorch: B N H D; -1 is its word for the usual scale."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    scale = None if softmax_scale == -1.0 else softmax_scale
    return scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale).transpose(1, 2)


def refuse_nested(samples: Any) -> None:
    """Latents of several shapes in one (picture and sound)."""
    if getattr(samples, "is_nested", False):
        raise ProvokeError(
            "The latent holds several tensors in one (a video with its sound)",
            "one latent of pictures or video",
            "separate picture and sound before this node",
        )
