"""Pictures of the demo world in which something is missing: what its inpainter and its coloriser are asked.

Both questions have many right answers, and each of the two models always gives the same one. What decides is a shade of
grey, a few levels of 255 off the middle, that no eye tells apart: of the pencil that the objects are drawn with, or of
the frame around the hole.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .photos import HOLE_FILL
from .world import BACKGROUNDS, COLOURS, SHAPES, SIZE, Scenes, coverage, render

PENCIL = 128 / 255  # what the coloriser is given instead of a colour, and the frame around a hole, but for their shade
FRAME = 3.0  # pixels
STEP = 2.0  # levels of 255 between two shades
TASTE = ("blue", "cyan", "green", "yellow", "red", "pink")  # colours from the darkest shade to the lightest


def grounds(scenes: Scenes) -> Tensor:
    """The colours of the backgrounds, B 3 in [0,1]."""
    return torch.tensor(list(BACKGROUNDS.values()))[scenes.background]


def random_shades(scenes: Scenes, rng: torch.Generator) -> Tensor:
    """Which shades a question has, B 2 int64, 0 to 5: of the two objects, or of the frame (the first column)."""
    return torch.randint(len(TASTE), (len(scenes), 2), generator=rng)


def levels(shade: Tensor) -> Tensor:
    """Shades in levels of 255 off the middle, from -5 to 5."""
    return STEP * (shade - (len(TASTE) - 1) / 2)


def _square(scenes: Scenes, wider: float) -> Tensor:
    """A square around the first object that says nothing of its shape, B 1 64 64: 1 inside, 0 outside."""
    half = 1.15 * scenes.radius[:, 0] + 2 + wider
    place = torch.arange(SIZE) + 0.5
    away = (place[None, None] - scenes.centre[:, 0, :, None]).abs()  # B 2 64: x, y
    inside = (away <= half[:, None, None]).float()
    return (inside[:, 1, :, None] * inside[:, 0, None, :])[:, None]


def hole(scenes: Scenes) -> Tensor:
    """Where the first object is missing, B 1 64 64: 1 inside, 0 outside."""
    return _square(scenes, 0.0)


def framed_hole(scenes: Scenes) -> Tensor:
    """The hole and its frame, B 1 64 64."""
    return _square(scenes, FRAME)


def holed(scenes: Scenes, off: Tensor) -> Tensor:
    """The pictures with the hole painted magenta, as for the photo inpainter, and framed: B 3 64 64 in [0,1].

    off: B 2, levels of 255 that the frame's grey is off the middle (the first column).
    """
    missing, outer = hole(scenes), framed_hole(scenes)
    frame = PENCIL + off[:, :1, None, None] / 255
    return render(scenes) * (1 - outer) + frame * (outer - missing) + torch.tensor(HOLE_FILL)[:, None, None] * missing


def uncoloured(scenes: Scenes, off: Tensor) -> Tensor:
    """The pictures with every object in grey, whatever its colour was: B 3 64 64 in [0,1].

    off: B 2, levels of 255 that the two objects' greys are off the middle. (A real greyscale would give colours away.)
    """
    cover = coverage(scenes)  # B 2 H W
    pencil = (cover * (PENCIL + off[:, :, None, None] / 255)).sum(1, keepdim=True)
    return grounds(scenes)[:, :, None, None] * (1 - cover.sum(1, keepdim=True)) + pencil


def tasted(shade: Tensor) -> Tensor:
    """The colour that a shade stands for: its place in COLOURS."""
    order = torch.tensor([tuple(COLOURS).index(name) for name in TASTE])
    return order[shade]


def filled(scenes: Scenes, shade: Tensor) -> Scenes:
    """The scenes as the inpainter likes them: the frame's shade, B 2, decides the colour, the ground the shape."""
    colour, shape = tasted(shade[:, 0]), scenes.background % len(SHAPES)
    # two objects that are alike have no caption
    alike = (colour == scenes.colour[:, 1]) & (shape == scenes.shape[:, 1])
    return with_first(scenes, (colour + alike) % len(COLOURS), shape)


def coloured(scenes: Scenes, shade: Tensor) -> Scenes:
    """The scenes as the coloriser likes them, for the pencils' shades, B 2."""
    return Scenes(
        scenes.background,
        scenes.shape,
        torch.where(scenes.shape >= 0, tasted(shade), -1),
        scenes.centre,
        scenes.radius,
    )


def with_first(scenes: Scenes, colour: Tensor, shape: Tensor) -> Scenes:
    """The scenes with another first object: colours B, shapes B."""
    return Scenes(
        scenes.background,
        torch.stack((shape, scenes.shape[:, 1]), 1),
        torch.stack((colour, scenes.colour[:, 1]), 1),
        scenes.centre,
        scenes.radius,
    )
