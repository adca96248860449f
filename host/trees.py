"""Walking what the host passes around: containers and conditioning objects with tensors in them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import comfy.conds
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten


def mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """The value with every tensor t in it replaced by function(t); what holds none that changes is the same object.

    Looks into dictionaries, lists, tuples and the host's `comfy.conds` objects, and into nothing else: models and
    ControlNets are shared, not copied.
    """
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        items = {key: mapped(item, function) for key, item in value.items()}
        return value if all(items[key] is item for key, item in value.items()) else _like(value, items)
    if isinstance(value, (list, tuple)):
        parts = [mapped(item, function) for item in value]
        if all(new is old for new, old in zip(parts, value, strict=True)):
            return value
        if isinstance(value, list):
            return parts
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if isinstance(value, comfy.conds.CONDRegular):  # and its kin, of other packs too: tensor, list or number in `cond`
        inner = mapped(value.cond, function)
        if inner is value.cond:
            return value
        other = copy.copy(value)
        other.cond = inner
        return other
    return value


def _like(value: dict[Any, Any], items: dict[Any, Any]) -> dict[Any, Any]:
    if type(value) is dict:
        return items
    other = copy.copy(value)
    other.update(items)
    return other


def replaced(value: Any, table: dict[int, Tensor]) -> Any:
    """The value with the tensors whose `id` is in the table replaced."""
    return mapped(value, lambda tensor: table.get(id(tensor), tensor))


def floating(value: Any) -> list[Tensor]:
    """The floating-point tensors in a value, each once, in the order in which they are met."""
    found: dict[int, Tensor] = {}

    def look(tensor: Tensor) -> Tensor:
        if tensor.is_floating_point():
            found.setdefault(id(tensor), tensor)
        return tensor

    mapped(value, look)
    return list(found.values())


def taken_apart(value: Any) -> tuple[tuple[Tensor, ...], list[Any]]:
    """The floating-point tensors in a result, and what `put_together` needs to put them back."""
    leaves, shape = tree_flatten(value)
    at = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    rest = [None if i in at else leaf for i, leaf in enumerate(leaves)]
    return tuple(leaves[i] for i in at), [rest, at, shape]


def put_together(tensors: tuple[Tensor, ...], outline: list[Any]) -> Any:
    """The result with other tensors in it."""
    rest, at, shape = outline
    leaves = list(rest)
    for i, tensor in zip(at, tensors, strict=True):
        leaves[i] = tensor
    return tree_unflatten(leaves, shape)
