"""What the learning-free checker sees in pictures, as a verdict that has to last (MEASURE: 8 bits, one pixel)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from ..demo.checker import Reading, read, relation_right
from ..demo.world import Scene

Things = tuple[tuple[str, str], ...]  # (colour, shape) of each object, sorted
LEVELS = 255


def readings(images: Tensor) -> list[Reading]:
    """B H W 3 in [0,1]."""
    return read(images.movedim(-1, 1))


def looked_at_twice(pictures: Tensor, *, down: bool = False) -> tuple[list[Reading], list[Reading]]:
    """Readings of 8-bit pictures, B 3 H W, and of the same one pixel to the right: a verdict has to hold for both.
    down: and one pixel down, which is the stricter."""
    levels = (pictures.clamp(0, 1) * LEVELS).round() / LEVELS
    aside = functional.pad(levels, (1, 0, int(down), 0), mode="replicate")[..., :-1]
    return read(levels), read(aside[..., : pictures.shape[-2], :])


def shown(images: Tensor) -> list[Things | None]:
    """Colours and shapes of what each picture, B H W 3, shows; None where it is no clean scene."""
    pairs = zip(*looked_at_twice(images.movedim(-1, 1), down=True), strict=True)
    things = [[tuple(sorted(r.facts.objects)) if r.clean else None for r in pair] for pair in pairs]
    return [one if one == other else None for one, other in things]


def clean(pictures: Tensor) -> list[bool]:
    """Whether pictures, B 3 H W, are scenes of the world at all."""
    return [a.clean and b.clean for a, b in zip(*looked_at_twice(pictures), strict=True)]


def broken(pictures: Tensor, scenes: Sequence[Scene]) -> list[bool]:
    """Pictures, B 3 H W, that are clean scenes, and not their own prompt's."""
    views = looked_at_twice(pictures)
    wrong = [
        [r.clean and not right for r, right in zip(view, relation_right(view, scenes).tolist(), strict=True)]
        for view in views
    ]
    return [a and b for a, b in zip(*wrong, strict=True)]


def grounded(r: Reading, scene: Scene) -> bool:
    """A clean scene with the scene's objects on its ground."""
    return r.clean and r.facts.objects == scene.facts.objects and r.background == scene.background


def on_its_ground(pictures: Tensor, scene: Scene) -> list[bool]:
    """Pictures, B 3 H W, that are clean scenes with the scene's one object anywhere on its ground."""
    return [grounded(a, scene) and grounded(b, scene) for a, b in zip(*looked_at_twice(pictures), strict=True)]
