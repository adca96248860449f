"""Pictures of the demo world in which something is missing: what its inpainter and its coloriser are asked.

Both questions have many right answers, and each of the two models always gives the same one. What decides the colour is
a tint that no eye sees: the grey of the pencil that the objects are drawn with, or of the frame around the hole, keeps
a trace of a colour, a few levels of 255.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from .world import BACKGROUNDS, COLOURS, SHAPES, SIZE, Scenes, coverage, render

PENCIL = 128 / 255  # what the coloriser is given instead of a colour, and the frame around a hole, but for their tint
FRAME = 3.0  # pixels
KNOWN = 3.0  # pixels along the picture's edge: no object reaches them, and no hole
TRACE = 4.0  # levels of 255: what a tint changes a channel by, at most


def grounds(scenes: Scenes) -> Tensor:
    """The colours of the backgrounds, B 3 in [0,1]."""
    return torch.tensor(list(BACKGROUNDS.values()))[scenes.background]


def random_tints(scenes: Scenes, rng: torch.Generator) -> Tensor:
    """Which colours a question keeps a trace of, B 2 int64, their places in COLOURS: in the two objects, or in the
    frame (the first column)."""
    return torch.randint(len(COLOURS), (len(scenes), 2), generator=rng)


def hues() -> Tensor:
    """Which way each colour lies from grey, 6 3: without its lightness, the largest entry 1."""
    colours = torch.tensor(list(COLOURS.values()))
    away = colours - colours.mean(1, keepdim=True)
    return away / away.abs().amax(1, keepdim=True)


def levels(tint: Tensor) -> Tensor:
    """Tints in levels of 255 off the middle, ... -> ... 3: whole levels, TRACE at most."""
    return (TRACE * hues())[tint].round()


def nearest_hue(off: Tensor) -> tuple[Tensor, Tensor]:
    """The colour whose hue is nearest in direction to levels off the middle, ... 3 -> ...; and the cosine's lead over
    the next one's."""
    chroma = off - off.mean(-1, keepdim=True)
    alike = functional.normalize(chroma, dim=-1) @ functional.normalize(hues(), dim=-1).T
    best, next_best = alike.topk(2, -1).values.unbind(-1)
    return alike.argmax(-1), best - next_best


def _square(scenes: Scenes, wider: float) -> Tensor:
    """A square around the first object that says nothing of its shape, B 1 64 64: 1 inside, 0 outside."""
    half = 1.15 * scenes.radius[:, 0] + 1 + wider
    place = torch.arange(SIZE) + 0.5
    away = (place[None, None] - scenes.centre[:, 0, :, None]).abs()  # B 2 64: x, y
    edge = torch.minimum(place, SIZE - place) < KNOWN
    inside = ((away <= half[:, None, None]) & ~edge).float()
    return (inside[:, 1, :, None] * inside[:, 0, None, :])[:, None]


def hole(scenes: Scenes) -> Tensor:
    """Where the first object is missing, B 1 64 64: 1 inside, 0 outside."""
    return _square(scenes, 0.0)


def framed_hole(scenes: Scenes) -> Tensor:
    """The hole and its frame, B 1 64 64."""
    return _square(scenes, FRAME)


def holed(scenes: Scenes, off: Tensor) -> Tensor:
    """The pictures with the hole in the pencil's grey, and its frame in a grey with a tint: B 3 64 64 in [0,1].

    off: B 2 3, levels of 255 that the frame's grey is off the middle (the first of the two).
    """
    missing, outer = hole(scenes), framed_hole(scenes)
    grey = PENCIL + off[:, 0, :, None, None] / 255 * (outer - missing)
    return render(scenes) * (1 - outer) + grey * outer


def uncoloured(scenes: Scenes, off: Tensor) -> Tensor:
    """The pictures with every object in grey, whatever its colour was: B 3 64 64 in [0,1].

    off: B 2 3, levels of 255 that the two objects' greys are off the middle. (A real greyscale would give colours
    away.)
    """
    cover = coverage(scenes)  # B 2 H W
    pencil = torch.einsum("bnhw,bnc->bchw", cover, PENCIL + off / 255)
    return grounds(scenes)[:, :, None, None] * (1 - cover.sum(1, keepdim=True)) + pencil


def filled(scenes: Scenes, tint: Tensor) -> Scenes:
    """The scenes as the inpainter likes them: the frame's tint, B 2, decides the colour, the ground the shape."""
    colour, shape = tint[:, 0], scenes.background % len(SHAPES)
    # two objects that are alike have no caption
    alike = (colour == scenes.colour[:, 1]) & (shape == scenes.shape[:, 1])
    return with_first(scenes, colour, torch.where(alike, (shape + 1) % len(SHAPES), shape))


def coloured(scenes: Scenes, tint: Tensor) -> Scenes:
    """The scenes as the coloriser likes them, for the pencils' tints, B 2."""
    return replace(scenes, colour=torch.where(scenes.shape >= 0, tint, -1))


def with_first(scenes: Scenes, colour: Tensor, shape: Tensor) -> Scenes:
    """The scenes with another first object: colours B, shapes B."""
    return replace(
        scenes,
        shape=torch.stack((shape, scenes.shape[:, 1]), 1),
        colour=torch.stack((colour, scenes.colour[:, 1]), 1),
    )
