"""Checkpoints of our own: a piece of the forward that keeps its inputs only, and is computed again in the backward.

`torch.utils.checkpoint` cannot be used around the host's models: without re-entry its hooks switch autograd's version
check off, so that in-place updates give wrong gradients silently; with it they raise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .chance import chance, drawn_since, same_chance

Function = Callable[..., tuple[Tensor, ...]]
Gradients = list[Tensor | None]
Around = Callable[[Callable[[], Gradients]], Gradients]


def checkpoint(function: Function, *inputs: Tensor, around: Around, half: bool = False) -> tuple[Tensor, ...]:
    """function(*inputs), of which only the inputs are kept. Costs 3 forwards: forward, again, backward. Source: ours.

    Args:
        function: tensors to a tuple of tensors. Only `inputs` get gradients: what it reaches through its closure is
            constant. It may overwrite what it is given (it is given copies) and its own activations (see `around`), and
            may draw random numbers: it draws the same ones again.
        inputs: tensors of any shape; kept until the backward.
        around: runs the backward's piece (forward and gradient, without an argument; it may be called again): the `run`
            of a `Guard`, or something that also knows what to do when memory runs out.
        half: it computes in float16: the cotangent is scaled to 1 and the gradient back, or it would underflow.

    Raises: whatever `function` raises, in the forward or (cancel, out of memory) in the backward.
    """
    return _Checkpoint.apply(function, around, half, *inputs)


class _Checkpoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Function, around: Around, half: bool, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.function, ctx.around, ctx.half = function, around, half
        ctx.save_for_backward(*inputs)
        ctx.set_materialize_grads(False)  # an output that nobody used has no cotangent, not one of zeros
        before = chance(x.device for x in inputs)
        with torch.no_grad():
            outputs = function(*[x.clone() for x in inputs])
        # only functions that draw pay for drawing the same again
        ctx.chance = drawn_since(before)
        given = {id(x) for x in inputs}
        # a view that a custom Function returns may not be written to afterwards, and the host's samplers do
        return tuple(y.clone() if y._is_view() or id(y) in given else y for y in outputs)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        need = ctx.needs_input_grad[3:]
        kept = ctx.saved_tensors

        def piece() -> Gradients:
            leaves = [x.detach().requires_grad_(wanted) for x, wanted in zip(kept, need, strict=True)]
            with torch.enable_grad(), same_chance(ctx.chance):
                outputs = ctx.function(*[x.clone() for x in leaves])
            return _pull(outputs, cotangents, [x for x in leaves if x.requires_grad], ctx.half)

        gradients = iter(ctx.around(piece))
        return (None, None, None, *[next(gradients) if wanted else None for wanted in need])


def _pull(
    outputs: tuple[Tensor, ...], cotangents: tuple[Tensor | None, ...], leaves: list[Tensor], half: bool
) -> Gradients:
    """J^T cotangents. Linear in them, so their scale may be chosen."""
    pairs = [(y, c) for y, c in zip(outputs, cotangents, strict=True) if y.requires_grad and c is not None]
    if not pairs:
        return [None] * len(leaves)
    scale = max(float(c.abs().amax()) for _, c in pairs) if half else 1.0
    if scale == 0.0 or not scale < float("inf"):
        scale = 1.0
    given = [c if scale == 1.0 else c / scale for _, c in pairs]
    gradients = torch.autograd.grad([y for y, _ in pairs], leaves, given, allow_unused=True)
    return [g if g is None or scale == 1.0 else g * scale for g in gradients]
