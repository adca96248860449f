"""What the learning-free checker sees in pictures, as a verdict that has to last (MEASURE: 8 bits, one pixel)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from ..demo.checker import Reading, read

Things = tuple[tuple[str, str], ...]  # (colour, shape) of each object, sorted
LEVELS = 255


def readings(images: Tensor) -> list[Reading]:
    """B H W 3 in [0,1]."""
    return read(images.movedim(-1, 1))


def shown(images: Tensor) -> list[Things | None]:
    """Colours and shapes of what each picture, B H W 3, shows; None where it is no clean scene. Only what is read from
    8-bit levels, and again when all moves by one pixel, counts."""
    saved = (images * LEVELS).round() / LEVELS
    moved = functional.pad(saved.movedim(-1, 1), (1, 0, 1, 0), mode="replicate")[..., :-1, :-1].movedim(1, -1)
    pairs = zip(readings(saved), readings(moved), strict=True)
    things = [[tuple(sorted(r.facts.objects)) if r.clean else None for r in pair] for pair in pairs]
    return [one if one == other else None for one, other in things]
