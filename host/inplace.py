"""Guards for models that overwrite activations which their own backward still needs.

ComfyUI's models update activations in place after a norm (`x += attn(norm(x))` in CLIP, Flux, SD3), and swap the
weights of LoRA hooks in place between two halves of one prediction. Plain autograd refuses the first (its version
counters see it) and does not see the second (`copy_to_param` writes through `.data`).
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

T = TypeVar("T")


class _Saved:
    """A tensor saved for backward; becomes a copy of its own the moment its memory is about to be overwritten."""

    __slots__ = ("__weakref__", "place", "tensor")

    def __init__(self, tensor: Tensor, place: int) -> None:
        self.tensor, self.place = tensor, place


class _CloneOnWrite(TorchDispatchMode):
    def __init__(self, saved: dict[int, list[weakref.ref[_Saved]]], victims: set[int]) -> None:
        super().__init__()
        self._saved, self._victims = saved, victims

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
        for reference in self._saved.pop(storage_of(tensor), ()):
            saved = reference()
            if saved is not None:
                saved.tensor = saved.tensor.clone()
                self._victims.add(saved.place)


def storage_of(tensor: Tensor) -> int:
    """Which memory a tensor is on; 0 for wrapper subclasses (quantised weights), which nobody writes to."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):
        return 0


@contextmanager
def clone_on_write(victims: set[int] | None = None) -> Iterator[None]:
    """Within: tensors saved for backward are copied when their memory is written, through whichever view. Source: ours.

    `torch.autograd.graph.allow_mutation_on_saved_tensors` misses writes through a view at another offset; this is keyed
    by storage. It costs about half again as much time: only for models that need it. Run the forward inside.

    Args:
        victims: receives the numbers (in the order of saving) of the tensors that had to be copied.
    """
    saved: dict[int, list[weakref.ref[_Saved]]] = defaultdict(list)
    count = 0

    def pack(tensor: Tensor) -> _Saved:
        nonlocal count
        # detached, or a node of the graph would hold itself: its output, the holder, the node
        holder = _Saved(tensor.detach(), count)
        count += 1
        at = storage_of(tensor)
        if at:
            saved[at].append(weakref.ref(holder))
        return holder

    unpack: Callable[[_Saved], Tensor] = lambda holder: holder.tensor  # noqa: E731
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, unpack),
        _CloneOnWrite(saved, set() if victims is None else victims),
    ):
        yield


class Listed:
    """What `clone_listed` yields."""

    def __init__(self) -> None:
        self.saved: list[tuple[Tensor, int]] = []

    def stale(self) -> bool:
        """Whether a saved tensor has been overwritten by now. Forgets them: only the graph holds them from here on."""
        found = any(tensor._version != version for tensor, version in self.saved)
        self.saved.clear()
        return found


@contextmanager
def clone_listed(victims: set[int], *, remember: bool = False) -> Iterator[Listed]:
    """Within: the tensors with these numbers are copied when they are saved; any other that is overwritten is noticed
    when it is used. Run the forward inside. One call a saved tensor, not one an operation.

    Args:
        victims: their numbers, in the order of saving.
        remember: so that `stale` can tell before the backward; holds what is saved until then.

    Raises:
        RuntimeError (see `is_overwritten`): in the backward, where a tensor that is not listed was overwritten.
    """
    listed = Listed()
    count = 0

    def pack(tensor: Tensor) -> tuple[Tensor, int]:
        nonlocal count
        kept = tensor.detach()  # shares the version counter
        if count in victims:
            kept = kept.clone()
        count += 1
        if remember:
            listed.saved.append((kept, kept._version))
        return kept, kept._version

    def unpack(packed: tuple[Tensor, int]) -> Tensor:
        tensor, version = packed
        if tensor._version != version:
            raise RuntimeError("a saved tensor has been modified by an inplace operation")
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield listed


def is_overwritten(error: BaseException | None) -> bool:
    """Whether autograd refused because something it needs was overwritten."""
    return isinstance(error, RuntimeError) and "modified by an inplace operation" in str(error)


class Guard:
    """Runs forward-and-backward pieces of one model right under in-place updates, and pays for that only where needed.

    The first piece runs with its saved tensors' versions checked when they are used. Only where one was overwritten it
    runs again with every write watched, which also tells *which* saved tensors are the victims; from then on just these
    are copied as they are saved. A piece in which the check finds something new (a ControlNet that sets in, another
    batch) is watched again. Source: ours.

    Never without hooks: a graph of Flux's that autograd itself has refused, or that is dropped, is not freed (torch
    2.14, seen without this pack too); one whose saved tensors are detached is.

    Args:
        always: watch every write of every piece: for writes that version counters do not see (hook weights).
    """

    def __init__(self, *, always: bool = False) -> None:
        self.always = always
        self.victims: set[int] = set()
        self.watched = 0  # how often every write was watched, for tests and notes

    def run(self, piece: Callable[[], T]) -> T:
        """The piece's result; it may be called twice, so it must not change anything by being called."""
        if not self.always:
            try:
                with clone_listed(self.victims):
                    return piece()
            except RuntimeError as error:
                if not is_overwritten(error):
                    raise
            # outside of `except`: the exception holds the frames, and they hold the graph
        self.watched += 1
        with clone_on_write(self.victims):
            return piece()

    def kept(self, forward: Callable[[], T]) -> T:
        """The same for a forward whose graph is kept, and whose backward comes later and elsewhere. Not where `always`
        is set: what overwrites then comes later, too."""
        with clone_listed(self.victims, remember=True) as listed:
            result = forward()
            if not listed.stale():
                return result
        del result
        self.watched += 1
        with clone_on_write(self.victims):
            return forward()
