"""The same gradients by what one would write first: no checkpoint, and both kinds of torch.utils.checkpoint.

They get a fair chance: they run inside of our session, where weights and inputs are ordinary tensors, nothing has
`torch.no_grad` around it and rotary embeddings have a backward; without all that, none of them would run at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch.utils.checkpoint
from torch import Tensor

from .cases import Function, Method, ours

NOTES = {
    "unroll": "the host's calls under autograd, every graph kept, nothing guarded",
    "checkpoint": "torch.utils.checkpoint(use_reentrant=False) around CFGGuider.predict_noise",
    "trainer": "the same around the blocks of the model, placed by the host's own trainer (nodes_train.patch)",
    "re-entrant": "torch.utils.checkpoint(use_reentrant=True) around CFGGuider.predict_noise",
}


def plainly(function: Callable[..., Any], *inputs: Tensor) -> Any:
    return function(*inputs)


def _checkpoint(function: Callable[..., Any], *inputs: Tensor) -> Any:
    return torch.utils.checkpoint.checkpoint(function, *inputs, use_reentrant=False)


def _reentrant(function: Callable[..., Any], *inputs: Tensor) -> Any:
    return torch.utils.checkpoint.checkpoint(function, *inputs, use_reentrant=True)


def rivals(handle: Any) -> dict[str, Method]:
    """Methods for `cases.measure`."""
    return {
        "unroll": _method(plainly),
        "checkpoint": _method(_checkpoint),
        "trainer": _method(plainly, around=_as_trainer),
        "re-entrant": _method(_reentrant),
    }


def all_methods(handle: Any) -> dict[str, Method]:
    return ours(handle) | rivals(handle)


def _method(way: Callable[..., Any], around: Callable[[Any], Any] = lambda handle: nullcontext()) -> Method:
    def method(handle: Any, function: Function, value: Tensor, w: Tensor) -> Tensor:
        leaf = value.detach().clone().requires_grad_(True)
        with in_place_of_ours(handle, way), around(handle):
            (function(leaf) * w).sum().backward()  # re-entrant checkpoints do not work with torch.autograd.grad
        if leaf.grad is None:
            raise RuntimeError("no gradient arrives")
        return leaf.grad

    return method


@contextmanager
def in_place_of_ours(handle: Any, way: Callable[..., Any]) -> Iterator[None]:
    """Within: another way from the inputs of a model evaluation to its outputs."""
    from ...host.sampling.evaluations import Evaluator

    class Rival(Evaluator):
        def _with_gradient(self, function: Callable[..., tuple[Tensor, ...]], given: list[Tensor]) -> Any:
            return way(function, *given)

    mine = handle.evaluator
    handle.evaluator = Rival(mine.guider, mine.ladder)
    try:
        yield
    finally:
        handle.evaluator = mine


@contextmanager
def _as_trainer(handle: Any) -> Iterator[None]:
    """What TrainLoraNode does for its option gradient_checkpointing, at its default depth."""
    from comfy_extras.nodes_train import find_modules_at_depth, patch

    modules = find_modules_at_depth(handle.evaluator.inner_model.diffusion_model, depth=1)
    try:
        for module in modules:
            patch(module)
        yield
    finally:
        for module in modules:  # the host's `unpatch` takes away what it added, and leaves the attribute `forward`
            vars(module).pop("forward", None)
            vars(module).pop("org_forward", None)
