"""A look at a model before anything is spent on it: does a gradient come through, and how much memory does it keep?"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..core.errors import GradientError, ProvokeError
from .chance import chance, put, same_chance, seeded
from .inplace import clone_on_write, is_overwritten
from .kinds import Kind
from .memory import bytes_kept, is_out_of_memory

CAUSES = (
    "parts under no_grad or inference_mode, detach(), rounding, or an attention or other kernel without a backward",
    "a model whose output follows its input smoothly",
    "choose another model; if ComfyUI runs with --use-sage-attention or --use-flash-attention, start it without",
)

WAYS, CUT = 6, 0.5  # random differences, and by how much real architectures (0.16 at most) do not disagree with them
STEPS = (1e-3, 8e-3)  # the second where the first disagrees: with TF32 that may be rounding


@dataclass
class Finding:
    """What the probe found: bytes kept for backward per input pixel of one image, and how the model must be run."""

    device: torch.device
    bytes_per_pixel: float = 0.0
    draws: bool = False  # it draws random numbers
    overwrites: bool = False  # it overwrites what its backward needs
    notes: list[str] = field(default_factory=list)

    def run(self, kind: Kind, x: Tensor, hole: Tensor | None) -> Tensor:
        """`kind.run`; a model that draws gets picture by picture the same random numbers. So what becomes of a picture
        or tile depends neither on its neighbours nor on whether it is computed for the first time or again."""
        if not self.draws:
            return kind.run(x, hole)
        outputs = []
        with self.own_chance():
            for i in range(len(x)):
                self._seed()
                outputs.append(kind.run(x[i : i + 1], part(hole, i, 1)))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def plain(self, kind: Kind, image: Tensor, hole: Tensor | None) -> Tensor:
        """`kind.plain`, with the random numbers that `run` has, also for each of the host's own tiles."""
        if not self.draws:
            return kind.plain(image, hole)
        results = []
        with self.own_chance():
            handle = kind.module.register_forward_pre_hook(lambda *_: self._seed())
            try:
                for i in range(len(image)):
                    self._seed()  # a VAE is not called as a module
                    results.append(kind.plain(image[i : i + 1], part(hole, i, 1)))
            finally:
                handle.remove()
        return torch.cat(results)

    def own_chance(self) -> same_chance:
        """What is drawn inside is not missing outside: the global generators are as they were afterwards."""
        return same_chance(chance([self.device]))

    def _seed(self) -> None:
        put(seeded([self.device]))

    def graph(self) -> AbstractContextManager[None]:
        """Around every run with a graph."""
        return clone_on_write() if self.overwrites else nullcontext()


def part(holes: Tensor | None, start: int, size: int) -> Tensor | None:
    """Some samples' masks."""
    return None if holes is None else holes[start : start + size]


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
        _refuse_silent(kind, finding, x, hole, output, "has no gradient" if found is None else "has a gradient of zero")
    elif not bool(found.isfinite().all()):
        raise GradientError(
            f"The gradient through {kind.name} is not finite",
            "numbers, not NaN or infinity",
            "use the model in float32 or bfloat16 instead of float16",
        )
    else:
        _compare(kind, finding, x, hole, direction, found)
    with finding.graph():
        kept = bytes_kept(lambda leaf: finding.run(kind, leaf, hole), x, kind.module)
    finding.bytes_per_pixel = kept / kind.padded(height, width)
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
        output = finding.run(kind, x, hole)
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
    except GradientError as error:
        if not is_overwritten(error.__cause__):
            raise
    finding.overwrites = True
    finding.notes.append("the model overwrites activations that its backward needs: copies are kept, which is slower")
    return _vjp(kind, finding, x, hole, direction)


def _vjp(kind: Kind, finding: Finding, x: Tensor, hole: Tensor | None, direction: Tensor) -> Tensor | None:
    try:
        with torch.enable_grad(), finding.graph():
            leaf = x.detach().requires_grad_(True)
            output = finding.run(kind, leaf, hole)
        if not output.requires_grad:
            return None
        return torch.autograd.grad(output, leaf, direction, allow_unused=True)[0]
    except RuntimeError as error:  # also NotImplementedError, of kernels without a backward
        if is_out_of_memory(error):
            raise
        causes, expected, change = CAUSES
        raise GradientError(
            f"{kind.name} runs, but not backwards ({error}); usual causes: {causes}", expected, change
        ) from error


@torch.no_grad()
def _compare(kind: Kind, finding: Finding, x: Tensor, hole: Tensor | None, direction: Tensor, found: Tensor) -> None:
    """Notes a gradient that is there but cut in part (attention weights from a detached branch), which only finite
    differences show. Source: ours."""
    weight = next(iter(kind.module.parameters()), x)
    if kind.half or weight.dtype not in (torch.float32, torch.float64):
        return  # steps this small drown in the rounding
    rng = torch.Generator().manual_seed(1)
    ways = [torch.randn(x.shape, generator=rng).to(x) for _ in range(WAYS)]
    claimed = torch.stack([(found.double() * way).sum() for way in ways])
    disagree = []
    for step in STEPS:
        change = [finding.run(kind, x + step * way, hole) - finding.run(kind, x - step * way, hole) for way in ways]
        measured = torch.stack([(difference.double() * direction).sum() for difference in change]) / (2 * step)
        disagree.append(float((claimed - measured).norm() / measured.norm()))
        if not disagree[-1] > CUT:
            return
    finding.notes.append(
        f"part of the gradient seems to be cut (finite differences disagree by {min(disagree):.0%}): "
        "results may be weaker"
    )


def _refuse_silent(kind: Kind, finding: Finding, x: Tensor, hole: Tensor | None, output: Tensor, found: str) -> None:
    """No gradient: because it is cut, or because there is nothing to find?"""
    with torch.no_grad():
        moved = finding.run(kind, 1 - x, hole)
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
