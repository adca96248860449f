"""Finer checkpoints: one for every repeated block inside a model, for when one evaluation's graph is too large."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from .checkpoint import checkpoint
from .inplace import Guard
from .trees import floating, put_together, replaced, taken_apart


def repeated_blocks(module: nn.Module) -> list[nn.Module]:
    """The blocks that the model repeats: members of its `ModuleList`s, the innermost where these nest.

    The host runs the members of a UNet's `TimestepEmbedSequential` itself (`forward_timestep_embed`), so a `Sequential`
    is looked into and not taken as a whole. All families of the host keep their blocks in such lists.
    """
    found: list[nn.Module] = []
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            for member in child:
                found.extend(_innermost(member))
        else:
            found.extend(repeated_blocks(child))
    return found


def _innermost(member: nn.Module) -> list[nn.Module]:
    if isinstance(member, (nn.Sequential, nn.ModuleList)):
        return [block for part in member for block in _innermost(part)]
    inner = repeated_blocks(member)
    if inner:
        return inner
    return [member] if next(member.parameters(), None) is not None else []


Guards = defaultdict[int, Guard]  # by id(block)
Remember = Callable[[], Callable[[], AbstractContextManager[None]]]


@contextmanager
def checkpointed(blocks: Sequence[nn.Module], guards: Guards, remember: Remember | None = None) -> Iterator[None]:
    """Within: each block keeps its inputs only and is computed again in the backward, wherever a graph is recorded.

    Every tensor among a block's arguments gets its gradient, also within lists and dictionaries. These are remembered,
    so that `transformer_options`, which the host's UNet rewrites while it runs, is in the second run what it was in the
    first.

    Args:
        blocks: from `repeated_blocks`, say. Those that another pack has patched are left alone.
        guards: what has been learned about each block; the same one every time, empty at first (`defaultdict(Guard)`).
        remember: called when a block runs first; what it returns is entered around the block's second run (the weights
            of LoRA hooks are others by then).

    Not for blocks that give results away through an argument (the Wan VAE's feature cache).
    """
    patched: list[nn.Module] = []
    try:
        for block in blocks:
            if "forward" not in vars(block):  # the pack that patched it knows why
                block.forward = _Checkpointed(block, guards[id(block)], remember)  # type: ignore[method-assign]
                patched.append(block)
        yield
    finally:
        for block in patched:
            del block.forward


class _Checkpointed:
    """The forward of one block."""

    def __init__(self, block: nn.Module, guard: Guard, remember: Remember | None) -> None:
        self._forward, self._guard, self._remember = block.forward, guard, remember

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self._forward(*args, **kwargs)
        # constants too: blocks write into their arguments (Flux into the text's stream), so that each run needs its own
        given = floating((args, kwargs))
        if not any(tensor.requires_grad for tensor in given):
            return self._forward(*args, **kwargs)
        leaves, shape = tree_flatten((args, kwargs))  # containers as they are now: the host writes to some later
        outline: list[Any] = []
        again = nullcontext if self._remember is None else self._remember()

        def function(*tensors: Tensor) -> tuple[Tensor, ...]:
            table = {id(before): now for before, now in zip(given, tensors, strict=True)}
            first = not outline  # the first run sees the caller's own containers, and may write to them
            now_args, now_kwargs = replaced((args, kwargs) if first else tree_unflatten(leaves, shape), table)
            with nullcontext() if first else again():
                outputs, outline[:] = taken_apart(self._forward(*now_args, **now_kwargs))
            return outputs

        return put_together(checkpoint(function, *given, around=self._guard.run), outline)
