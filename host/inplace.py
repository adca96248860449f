"""A guard for models that overwrite activations which their own backward still needs."""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class _Saved:
    """A tensor saved for backward; becomes a copy of its own the moment its memory is about to be overwritten."""

    __slots__ = ("__weakref__", "tensor")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class _CloneOnWrite(TorchDispatchMode):
    def __init__(self, saved: dict[int, list[weakref.ref[_Saved]]]) -> None:
        super().__init__()
        self._saved = saved

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func._schema.is_mutable:
            for position, argument in enumerate(func._schema.arguments):
                if argument.alias_info is not None and argument.alias_info.is_write:
                    value = kwargs.get(argument.name, args[position] if position < len(args) else None)
                    for tensor in value if isinstance(value, (list, tuple)) else (value,):
                        if isinstance(tensor, Tensor):
                            self._before_write(tensor)
        return func(*args, **kwargs)

    def _before_write(self, tensor: Tensor) -> None:
        for reference in self._saved.pop(tensor.untyped_storage().data_ptr(), ()):
            saved = reference()
            if saved is not None:
                saved.tensor = saved.tensor.clone()


@contextmanager
def clone_on_write() -> Iterator[None]:
    """Within: tensors saved for backward are copied when their memory is written, through whichever view. Source: ours.

    `torch.autograd.graph.allow_mutation_on_saved_tensors` misses writes through a view at another offset; this is keyed
    by storage. It costs about half again as much time: only for models that need it. Run the forward inside.
    """
    saved: dict[int, list[weakref.ref[_Saved]]] = defaultdict(list)

    def pack(tensor: Tensor) -> _Saved:
        holder = _Saved(tensor)
        saved[tensor.untyped_storage().data_ptr()].append(weakref.ref(holder))
        return holder

    unpack: Callable[[_Saved], Tensor] = lambda holder: holder.tensor  # noqa: E731
    with torch.autograd.graph.saved_tensors_hooks(pack, unpack), _CloneOnWrite(saved):
        yield


def is_overwritten(error: BaseException | None) -> bool:
    """Whether autograd refused because something it needs was overwritten."""
    return isinstance(error, RuntimeError) and "modified by an inplace operation" in str(error)
