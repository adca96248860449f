"""Memory is asked for, not grabbed: how much a backward pass keeps, loading, and what to do when it was too much."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import comfy.model_management
import torch
from torch import Tensor, nn

from ..core.errors import ProvokeError
from .inplace import storage_of

MARGIN = 1.25  # what is not saved for backward is needed for a moment too: the widest activations, the workspace
CPU_WORDS = ("can't allocate memory", "DefaultCPUAllocator")
PROBE_BYTES = 256 * 1024 * 1024  # asked for before anything was measured


def is_out_of_memory(error: BaseException) -> bool:
    """The host's own judgement, and the two ways in which the CPU says it."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, RuntimeError) and any(words in str(error) for words in CPU_WORDS):
        return True
    if hasattr(comfy.model_management, "is_oom"):
        return bool(comfy.model_management.is_oom(error))
    return isinstance(error, comfy.model_management.OOM_EXCEPTION)


def bytes_kept(function: Callable[[Tensor], Tensor], x: Tensor, weights: nn.Module) -> int:
    """What autograd keeps alive for the backward of function(x), in bytes, without the weights and x itself."""
    storages = {0, *(storage_of(tensor) for tensor in (*weights.parameters(), *weights.buffers()))}
    kept = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal kept
        at = storage_of(tensor)
        if at not in storages:  # one storage is often saved several times
            storages.add(at)
            kept += tensor.untyped_storage().nbytes()
        return tensor.detach()  # not itself: a node that saves its own output would hold itself, and never go

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        leaf = x.detach().requires_grad_(True)
        storages.add(storage_of(leaf))
        function(leaf)
    return kept


def most_kept(function: Callable[[Tensor], Tensor], x: Tensor, weights: nn.Module) -> int:
    """The most that autograd keeps alive at one time for the gradient of function(x) by x, in bytes, without the
    weights and x itself: that of what checkpoints compute again included."""
    given = {0, *(storage_of(tensor) for tensor in (*weights.parameters(), *weights.buffers()))}
    alive, kept, most = Counter[int](), 0, 0

    class Saved:
        """Counted for as long as the graph holds it; one storage is often saved several times."""

        def __init__(self, tensor: Tensor) -> None:
            nonlocal kept, most
            self.tensor, self.at, self.size = tensor.detach(), storage_of(tensor), 0
            if self.at not in given:
                alive[self.at] += 1
                self.size = tensor.untyped_storage().nbytes()
                kept += self.size if alive[self.at] == 1 else 0
                most = max(most, kept)

        def __del__(self) -> None:
            nonlocal kept
            alive[self.at] -= 1
            kept -= self.size if alive[self.at] == 0 else 0

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
        leaf = x.detach().requires_grad_(True)
        given.add(storage_of(leaf))
        output = function(leaf)
        if output.requires_grad:
            torch.autograd.grad(output.sum(), leaf, allow_unused=True)
    return most


def without_dynamic_memory(patcher: Any, what: str) -> Any:
    """ModelPatcherDynamic keeps weights in memory that it may evict between forward and backward; a backward would then
    read what is not there. (Upscale models are safe: ModelPatcherDynamic.load copies modules without
    `comfy_cast_weights`.)

    Args:
        patcher: of the model; itself if it is not dynamic.
        what: the model, for the error ("VAE").

    Raises: ProvokeError where the host cannot load the model a second time.
    """
    if not patcher.is_dynamic():
        return patcher
    if getattr(patcher, "cached_patcher_init", None) is None:
        raise ProvokeError(
            f"The {what} is under dynamic VRAM and its loader does not say how to load it again",
            f"a {what} from one of the host's own loaders",
            f"load the {what} with the host's own loader node, or start ComfyUI with --disable-dynamic-vram",
        )
    return patcher.get_non_dynamic_delegate()


class Residence(Protocol):
    """Where a model lives, and how it gets onto the device where it computes."""

    device: torch.device

    def ask(self, required: float) -> None:
        """Loads the model completely and has `required` bytes made free beside it."""
        ...

    def free(self) -> float:
        """Bytes that a computation may still take."""
        ...

    def leave(self) -> None: ...


class Managed:
    """A model with a patcher: the host loads, counts and unloads it."""

    def __init__(self, *patchers: Any) -> None:
        self.patchers, self.device = list(patchers), patchers[0].load_device

    def ask(self, required: float) -> None:
        # One call with everybody: load_models_gpu may unload whatever is not in its list. force_full_load: otherwise a
        # large request offloads the model itself (MIN_WEIGHT_MEMORY_RATIO), and streamed weights cannot be saved for
        # backward.
        comfy.model_management.load_models_gpu(self.patchers, memory_required=required, force_full_load=True)

    def free(self) -> float:
        patcher = self.patchers[0]  # hosts with dynamic VRAM: it adds what that can evict
        ask = getattr(patcher, "get_free_memory", comfy.model_management.get_free_memory)
        return float(ask(self.device))

    def leave(self) -> None:
        """It stays loaded until the host wants the room."""


class Unmanaged:
    """A model without a patcher: upscale models before host 0.30, INPAINT_MODEL objects. Loaded as their own nodes do
    it.

    (Not wrapped into a ModelPatcher: that would write its bookkeeping onto the module, and hosts before 0.30 move the
    same module with `.to` in ImageUpscaleWithModel.execute, behind the patcher's back.)
    """

    def __init__(self, module: nn.Module) -> None:
        self.module, self.device = module, comfy.model_management.get_torch_device()
        self.home = next((p.device for p in module.parameters()), self.device)

    def ask(self, required: float) -> None:
        comfy.model_management.free_memory(required + comfy.model_management.module_size(self.module), self.device)
        self.module.to(self.device)

    def free(self) -> float:
        return float(comfy.model_management.get_free_memory(self.device))

    def leave(self) -> None:
        self.module.to(self.home)


class Beside:
    """A model without a patcher and models with one, which compute at the same time."""

    def __init__(self, model: Unmanaged, others: Managed) -> None:
        self.model, self.others, self.device = model, others, model.device

    def ask(self, required: float) -> None:
        self.others.ask(required)  # first: it frees room, and nothing here counts the model without a patcher
        self.model.ask(required)

    def free(self) -> float:
        return self.model.free()

    def leave(self) -> None:
        self.model.leave()
        self.others.leave()


def together(residence: Residence, patchers: Sequence[Any]) -> Residence:
    """A model's residence with further models in it, by their patchers."""
    if not patchers:
        return residence
    if isinstance(residence, Managed):
        return Managed(*residence.patchers, *patchers)
    assert isinstance(residence, Unmanaged)
    return Beside(residence, Managed(*patchers))


@contextmanager
def resident(residence: Residence) -> Iterator[Residence]:
    """Loads a model, and lets go of it afterwards."""
    try:
        with (
            torch.inference_mode()
        ):  # as the host loads: outside, comfy.utils.set_attr_param copies every inference tensor
            residence.ask(PROBE_BYTES)
        yield residence
    finally:
        with torch.inference_mode():
            residence.leave()


@dataclass(frozen=True)
class Rung:
    """One way to do the same computation in less memory."""

    words: str
    single: bool = True  # one image at a time
    tile: int | None = None  # input pixels


RUNGS = (
    Rung("all images in one graph", single=False),
    Rung("one image at a time"),
    Rung("512 px tiles", tile=512),
    Rung("256 px tiles", tile=256),
    Rung("128 px tiles", tile=128),
)


class Ladder:
    """Which rung a computation stands on; it only ever goes down.

    Args:
        what: what is computed, for the notes ("gradient").
        rungs: the rungs that make sense for this model and picture size.
        notes: where each step down is written, in words.
    """

    def __init__(self, what: str, rungs: list[Rung], notes: list[str]) -> None:
        self._what, self._rungs, self._notes = what, rungs, notes
        self._position = 0

    @property
    def rung(self) -> Rung:
        return self._rungs[self._position]

    def start(self, position: int) -> None:
        """Chooses a rung, up or down, before anything is computed."""
        self._position = position

    def fit(self, needed: Callable[[Rung], float], free: float) -> None:
        """Goes down, before anything fails, to the first rung that fits into `free` bytes (or the last)."""
        before = self._position
        while self._position + 1 < len(self._rungs) and needed(self.rung) * MARGIN > free:
            self._position += 1
        if self._position != before:
            self._note("memory is short")

    def step_down(self) -> None:
        """Goes down after something failed. Call it outside the `except` that caught it: the exception holds the
        frames, and they hold the graph (the comment in `comfy.sd.VAE.decode` says the same)."""
        comfy.model_management.soft_empty_cache()
        if self._position + 1 == len(self._rungs):
            raise ProvokeError(
                f"Out of memory: the {self._what} does not fit even with {self.rung.words}",
                "room for what the model keeps for the backward pass of the smallest piece",
                "make the picture smaller, use a smaller model, or close what else uses the memory",
            )
        self._position += 1
        self._note("out of memory")

    def _note(self, why: str) -> None:
        note = f"{why}: {self._what} with {self.rung.words}"
        if self.rung.tile is not None:
            note += " (approximate for models that look further than the tiles' overlap)"
        if note not in self._notes:
            self._notes.append(note)
