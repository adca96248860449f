"""Weights that are cast or streamed in every forward, without keeping the copies for the backward."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import comfy.ops
import torch
import torch.nn.grad as nn_grad
from torch import Tensor, nn

OPS = comfy.ops.disable_weight_init
INPUT_GRADIENT: dict[type, Callable[..., Tensor]] = {
    OPS.Conv1d: nn_grad.conv1d_input,
    OPS.Conv2d: nn_grad.conv2d_input,
    OPS.Conv3d: nn_grad.conv3d_input,
}


@contextmanager
def lean_casts(roots: Iterable[nn.Module], swapped: nn.Module | None = None) -> Iterator[None]:
    """Within: layers whose stored weight is not the one they compute with cast it again in the backward.

    The host's `cast_bias_weight` makes a copy of each weight in every forward (manual cast, fp8 storage, LoRA applied
    on the fly, weights streamed from the CPU), and autograd would keep all of them: a second model, in the compute
    type. Streamed ones share one buffer besides and would be overwritten. A linear layer's gradient by its input needs
    the weight and nothing else, so it can be had again. Source: ours.

    Args:
        roots: the models.
        swapped: one of them whose weights change within an evaluation (LoRA hooks on one side): it has to keep copies.
    """
    patched: list[tuple[nn.Module, str]] = []
    changing = set() if swapped is None else {id(module) for module in swapped.modules()}
    try:
        for module in {id(m): m for root in roots for m in root.modules()}.values():
            if _is_plain(module) and id(module) not in changing:
                module.forward_comfy_cast_weights = _Cast(module)  # type: ignore[assignment]
                patched.append((module, "forward_comfy_cast_weights"))
            elif is_quantised(module) and "forward" not in vars(module):
                module.forward = _OwnOutput(module)  # type: ignore[method-assign]
                patched.append((module, "forward"))
        yield
    finally:
        for module, name in patched:
            delattr(module, name)


def _is_plain(module: nn.Module) -> bool:
    """The host's own linear layers and convolutions: not those of quantised models, which cast in their own way."""
    own = getattr(type(module), "forward_comfy_cast_weights", None)
    kinds = (OPS.Linear, *INPUT_GRADIENT)
    if "forward_comfy_cast_weights" in vars(module) or all(own is not k.forward_comfy_cast_weights for k in kinds):
        return False
    return getattr(module, "padding_mode", "zeros") == "zeros"


def is_quantised(module: nn.Module) -> bool:
    """Whether it is a layer of comfy.ops.mixed_precision_ops: its weight is a QuantizedTensor, a wrapper subclass."""
    return hasattr(getattr(module, "weight", None), "__tensor_flatten__")


class _OwnOutput:
    """The forward of a quantised layer. `QuantLinearFunc` returns a view of what it computed, and autograd refuses to
    have a custom Function's view written to, as Flux does with the query's."""

    def __init__(self, module: nn.Module) -> None:
        self._forward = module.forward

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        out = self._forward(*args, **kwargs)
        return out.clone() if out.requires_grad and out._is_view() else out


class _Cast:
    """The casting forward of one layer."""

    def __init__(self, module: Any) -> None:
        self._module, self._forward = module, module.forward_comfy_cast_weights

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        module = self._module
        wanted = torch.is_grad_enabled() and x.requires_grad and not args and not any(kwargs.values())
        same = module.weight.dtype == x.dtype and module.weight.device == x.device and not module.weight_function
        if not wanted or same:
            return self._forward(x, *args, **kwargs)
        return _CastAgain.apply(module, self._forward, x)


class _CastAgain(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, module: Any, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        ctx.module, ctx.shape = module, x.shape
        out = function(x)
        return out.clone() if out._is_view() else out  # the host writes to some, and a view may not be written to

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        module, (cotangent,) = ctx.module, cotangents
        weight, bias, stream = comfy.ops.cast_bias_weight(module, cotangent, offloadable=True)
        kind = next((kind for kind in INPUT_GRADIENT if isinstance(module, kind)), None)
        if kind is None:
            gradient = cotangent @ weight
        else:
            gradient = INPUT_GRADIENT[kind](
                ctx.shape, weight, cotangent, module.stride, module.padding, module.dilation, module.groups
            )
        comfy.ops.uncast_bias_weight(module, weight, bias, stream)
        return None, None, gradient
