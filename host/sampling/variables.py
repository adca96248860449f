"""What an attack may move in a sampling: its conditioning, its latent, its control image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...core.budgets import per_item
from ...core.errors import ProvokeError
from ...core.objectives import region_at
from .graph import Graph
from .handle import Conditioning, Sampling


class Variable(ABC):
    """A part of the sampling as the variable of a search, a row for each latent of the graph's batch.

    center: B ..., float32, the rows that change nothing. box: their domain, or None. mask: like center, where they may
    change (1), or None. levels: of the grid that a result lies on, or None. words: for reports.
    """

    center: Tensor
    box: tuple[float, float] | None = None
    mask: Tensor | None = None
    levels: int | None = None
    words: str

    @abstractmethod
    def arguments(self, rows: Tensor) -> dict[str, Any]:
        """B rows -> keyword arguments of `Sampling.sample`, differentiable."""

    @abstractmethod
    def put(self, graph: Graph, rows: Tensor) -> Graph:
        """The graph with B rows in it, by its sockets: for the host's own path."""


@dataclass(frozen=True)
class _Part:
    """A tensor of a conditioning: B ... (float32), each row's RMS, and its place in the flat row."""

    entry: int
    key: str | None  # in the entry's dictionary; None: what is attended to
    base: Tensor
    size: Tensor
    start: int

    @property
    def end(self) -> int:
        return self.start + self.base[0].numel()


class ConditioningVariable(Variable):
    """What the model attends to and the pooled vector, of every entry of one conditioning.

    A row is flat: the change of each tensor in units of its own RMS.

    Raises: ProvokeError where the guider has no such conditioning, or it is all zero.
    """

    def __init__(self, sampling: Sampling, name: str = "positive") -> None:
        if name not in sampling.conditioning:
            raise ProvokeError(
                f"The guider has no conditioning of the name {name!r}",
                "one of: " + ", ".join(sampling.conditioning),
                "use a guider with that input (CFGGuider, BasicGuider)",
            )
        self.name, self._entries = name, sampling.conditioning[name]
        self._parts: list[_Part] = []
        batch, start = len(sampling.noise), 0
        for place, (tensor, extra) in enumerate(self._entries):
            for key, value in ((None, tensor), ("pooled_output", extra.get("pooled_output"))):
                if isinstance(value, Tensor):
                    base = _rows(value.to(sampling.device, torch.float32), batch)
                    self._parts.append(_Part(place, key, base, _rms(base), start))
                    start += base[0].numel()
        if not any(bool(part.size.any()) for part in self._parts):
            raise ProvokeError(
                f"The {name} conditioning is all zero",
                "a conditioning with something in it",
                "connect CLIP Text Encode, or perturb the latent",
            )
        self.center = torch.zeros(batch, start, device=sampling.device)
        shapes = ", ".join("x".join(map(str, part.base.shape[1:])) for part in self._parts)
        self.words = f"the {name} conditioning ({shapes} numbers)"

    def arguments(self, rows: Tensor) -> dict[str, Any]:
        return {"conditioning": {self.name: self.conditioning(rows)}}

    def conditioning(self, rows: Tensor) -> Conditioning:
        """B rows -> a CONDITIONING of batch B; of batch 1 for a single row, where the graph's batch is 1."""
        entries = [[tensor, dict(extra)] for tensor, extra in self._entries]
        for part in self._parts:
            change = rows[:, part.start : part.end].view_as(part.base)
            value = (part.base + per_item(part.size, change) * change).to(_of(self._entries, part).dtype)
            if part.key is None:
                entries[part.entry][0] = value
            else:
                entries[part.entry][1][part.key] = value
        return entries

    def put(self, graph: Graph, rows: Tensor) -> Graph:
        return graph.with_conditioning({self.name: self._there(self.conditioning(rows.detach()))})

    def exported(self, rows: Tensor) -> list[Conditioning]:
        """B rows -> B CONDITIONINGs of batch 1. (Entries of one mean *combine*; a batch is silently tiled or cut.)"""
        whole = self._there(self.conditioning(rows.detach()))
        return [self._one(whole, at) for at in range(len(rows))]

    def _there(self, changed: Conditioning) -> Conditioning:
        """On the devices where the graph's own tensors are."""
        for part in self._parts:
            where = _of(self._entries, part).device
            if part.key is None:
                changed[part.entry][0] = changed[part.entry][0].to(where)
            else:
                changed[part.entry][1][part.key] = changed[part.entry][1][part.key].to(where)
        return changed

    def _one(self, whole: Conditioning, at: int) -> Conditioning:
        """Row `at` of a CONDITIONING of a whole batch."""
        entries = [[tensor, dict(extra)] for tensor, extra in whole]
        for part in self._parts:
            if part.key is None:
                entries[part.entry][0] = entries[part.entry][0][at : at + 1].clone()
            else:
                entries[part.entry][1][part.key] = entries[part.entry][1][part.key][at : at + 1].clone()
        return entries


class LatentVariable(Variable):
    """The latent that sampling starts from (img2img), or keeps around a hole (inpainting), which never changes.

    A row is the change, in units of the latent's own RMS where it may change.

    Raises: ProvokeError for an empty latent, and where sampling leaves nothing of it.
    """

    words = "the latent"

    def __init__(self, sampling: Sampling) -> None:
        self._base = sampling.latent
        known = None if sampling.mask is None else (sampling.mask < 0.5).expand_as(self._base)
        self.mask = None if known is None or not bool(known.any()) else known
        if self.mask is None and sampling.whole(sampling.sigmas[0]):
            raise ProvokeError(
                "The whole schedule is sampled, and nothing of the latent image is left in the result",
                "denoise below 1 (SIGMAS that begin lower), or a latent with a mask",
                "lower denoise, use Set Latent Noise Mask, or perturb the conditioning",
            )
        free = self._base if self.mask is None else torch.where(self.mask, self._base, 0)
        share = 1.0 if self.mask is None else self.mask.flatten(1).float().mean(1).clamp_min(1e-9)
        self._size = _rms(free) / share**0.5
        if not bool((self._size > 0).all()):
            raise ProvokeError(
                "The latent image is empty", "a picture in it", "connect VAE Encode, or perturb the conditioning"
            )
        if self.mask is not None:
            self.words = "the latent outside the hole"
        self.center = torch.zeros_like(self._base)

    def arguments(self, rows: Tensor) -> dict[str, Any]:
        return {"latent": self.latent(rows)}

    def latent(self, rows: Tensor) -> Tensor:
        """B rows -> like the samples of the LATENT."""
        return self._base + per_item(self._size, rows) * rows

    def put(self, graph: Graph, rows: Tensor) -> Graph:
        return graph.with_samples(self.latent(rows.detach()).to(graph.latent["samples"]))


class HintVariable(Variable):
    """The picture of the first ControlNet (the last one that was applied), on the 8-bit grid.

    Raises: ProvokeError where the conditioning has none.
    """

    words, box, levels = "the control image", (0.0, 1.0), 255
    position = 0  # among Sampling.controls

    def __init__(self, sampling: Sampling) -> None:
        if not sampling.controls:
            raise ProvokeError(
                "The conditioning has no ControlNet, so there is no control image",
                "a conditioning that went through Apply ControlNet",
                "add one, or perturb the conditioning or the latent",
            )
        hint = sampling.controls[self.position].cond_hint_original
        on_grid = (hint.to(sampling.device, torch.float32).clamp(0, 1) * 255).round() / 255
        if not torch.equal(on_grid, hint.to(on_grid)):
            sampling.notes.append("the control image was rounded to 8-bit levels in [0, 1] first")
        self.center = _rows(on_grid, len(sampling.noise))

    def arguments(self, rows: Tensor) -> dict[str, Any]:
        return {"hints": {self.position: rows}}

    def put(self, graph: Graph, rows: Tensor) -> Graph:
        known = graph.controls()[self.position].cond_hint_original
        return graph.with_hint(self.position, rows.detach().to(known.device))


VARIABLES: dict[str, Callable[[Sampling], Variable]] = {
    "conditioning": ConditioningVariable,
    "latent": LatentVariable,
    "control image": HintVariable,
}


def sampled_region(sampling: Sampling, pictures: Tensor) -> Tensor | None:
    """Where a mask has pictures (B 3 H W) sampled: B 1 H W in [0, 1], or None for everywhere."""
    if sampling.mask is None:
        return None
    return region_at(sampling.mask.float().mean(1, keepdim=True).expand(len(pictures), -1, -1, -1), pictures)


def _of(entries: Conditioning, part: _Part) -> Tensor:
    tensor, extra = entries[part.entry]
    return tensor if part.key is None else extra[part.key]


def _rows(tensor: Tensor, batch: int) -> Tensor:
    """b ... -> B ..., as the host does it (repeat_to_batch_size): one after the other, the rest cut."""
    return tensor.repeat(-(-batch // len(tensor)), *[1] * (tensor.ndim - 1))[:batch]


def _rms(rows: Tensor) -> Tensor:
    """B ... -> B."""
    return rows.flatten(1).square().mean(1).sqrt()
