"""A look at a model before anything is spent on it: does a gradient come through, and how much memory does it keep?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..core.errors import GradientError, ProvokeError
from .inplace import clone_on_write, is_overwritten
from .kinds import Kind
from .memory import bytes_kept

CAUSES = (
    "parts under no_grad or inference_mode, detach(), rounding, or an attention or other kernel without a backward",
    "a model whose output follows its input smoothly",
    "choose another model; if ComfyUI runs with --use-sage-attention or --use-flash-attention, start it without",
)


@dataclass
class Finding:
    """What the probe found: bytes kept for backward per input pixel of one image, and how the model must be run."""

    device: torch.device
    bytes_per_pixel: float = 0.0
    draws: bool = False  # it draws random numbers
    overwrites: bool = False  # it overwrites what its backward needs
    notes: list[str] = field(default_factory=list)

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Around every run: the same random numbers each time, or a recomputed piece would be another function. The
        global generators are as they were afterwards."""
        if not self.draws:
            yield
            return
        with self.own_chance():
            torch.manual_seed(0)
            yield

    def own_chance(self) -> AbstractContextManager[None]:
        """What is drawn inside is not missing outside."""
        return torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else [])

    @contextmanager
    def graph(self) -> Iterator[None]:
        """Around every run with a graph."""
        with self.forward(), clone_on_write() if self.overwrites else nullcontext():
            yield


def probe(kind: Kind, height: int, width: int, *, gradient: bool = True) -> Finding:
    """Runs the model forward and backward on a little noise (not on the picture: a black one may saturate the model).

    Args:
        gradient: False looks at the picture only, for whoever will ask for no gradient.

    Raises:
        GradientError: no gradient, an exactly zero one, or one that is not finite: with the cause.
        ProvokeError: an output of an unexpected shape, or one that does not depend on the input.
    """
    finding = Finding(kind.residence.device)
    height, width = kind.probe_size(height, width)
    x, hole, direction = _noise(kind, height, width)
    output = _draws(kind, finding, x, hole)
    _check_shape(kind, output, height, width)
    if not gradient:
        return finding
    found = _gradient(kind, finding, x, hole, direction)
    if found is None or not bool(found.any()):
        _refuse_silent(
            kind, finding, x, hole, output, "has no gradient" if found is None else "has a gradient of zero"
        )
    elif not bool(found.isfinite().all()):
        raise GradientError(
            f"The gradient through {kind.name} is not finite",
            "numbers, not NaN or infinity",
            "use the model in float32 or bfloat16 instead of float16",
        )
    with finding.graph():
        finding.bytes_per_pixel = bytes_kept(lambda leaf: kind.run(leaf, hole), x, kind.module) / (height * width)
    return finding


def _noise(kind: Kind, height: int, width: int) -> tuple[Tensor, Tensor | None, Tensor]:
    """A picture of mid-grey noise, a hole in its middle, and a random direction for the output."""
    rng, device = torch.Generator().manual_seed(0), kind.residence.device
    x = (0.25 + 0.5 * torch.rand(1, 3, height, width, generator=rng)).to(device)
    direction = torch.randn(1, 3, height * kind.scale, width * kind.scale, generator=rng).to(device)
    if not kind.masked:
        return x, None, direction
    hole = torch.zeros(1, 1, height, width, device=device)
    hole[..., height // 4 : height - height // 4, width // 4 : width - width // 4] = 1
    return x, hole, direction


@torch.no_grad()
def _draws(kind: Kind, finding: Finding, x: Tensor, hole: Tensor | None) -> Tensor:
    """Runs it twice. (Dropout that stays on, as in MAT; noise inputs, as in GFPGAN.)"""
    with finding.own_chance():
        output = kind.run(x, hole)
        finding.draws = not torch.equal(output, kind.run(x, hole))
    if finding.draws:
        finding.notes.append("the model draws random numbers: they are held fixed")
        with finding.forward():
            output = kind.run(x, hole)
    return output


def _check_shape(kind: Kind, output: Tensor, height: int, width: int) -> None:
    expected = (1, 3, height * kind.scale, width * kind.scale)
    if tuple(output.shape) != expected:
        raise ProvokeError(
            f"{kind.name} gives pictures of {tuple(output.shape)} for an input of 1x3x{height}x{width}",
            f"{expected} (B C H W)",
            "choose another model: its output does not have the size that its file promises",
        )


def _gradient(kind: Kind, finding: Finding, x: Tensor, hole: Tensor | None, direction: Tensor) -> Tensor | None:
    """J^T direction, or None where the output carries no graph. Turns the guard on when the model needs it."""
    try:
        return _vjp(kind, finding, x, hole, direction)
    except RuntimeError as error:
        if not is_overwritten(error):
            raise
    finding.overwrites = True
    finding.notes.append("the model overwrites activations that its backward needs: copies are kept, which is slower")
    return _vjp(kind, finding, x, hole, direction)


def _vjp(kind: Kind, finding: Finding, x: Tensor, hole: Tensor | None, direction: Tensor) -> Tensor | None:
    with torch.enable_grad(), finding.graph():
        leaf = x.detach().requires_grad_(True)
        output = kind.run(leaf, hole)
    if not output.requires_grad:
        return None
    return torch.autograd.grad(output, leaf, direction, allow_unused=True)[0]


def _refuse_silent(kind: Kind, finding: Finding, x: Tensor, hole: Tensor | None, output: Tensor, found: str) -> None:
    """No gradient: because it is cut, or because there is nothing to find?"""
    with torch.no_grad(), finding.forward():
        moved = kind.run(1 - x, hole)
    if torch.equal(moved, output):
        raise ProvokeError(
            f"The output of {kind.name} does not depend on its input",
            "a model that makes something of the picture",
            "choose another model in the loader node",
        )
    if bool(((output == 0) | (output == 1)).all()):
        found += " because all of its output is cut off at black or white"
    causes, expected, change = CAUSES
    raise GradientError(
        f"{kind.name} {found}, although its output follows its input; usual causes: {causes}", expected, change
    )
