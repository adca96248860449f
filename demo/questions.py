"""Pictures of the demo world in which something is missing: what its inpainter and its coloriser are asked."""

from __future__ import annotations

import torch
from torch import Tensor

from .photos import HOLE_FILL
from .world import BACKGROUNDS, SIZE, Scenes, coverage, render

PENCIL = 0.5  # what the coloriser is given instead of a colour, R = G = B: on no ground


def grounds(scenes: Scenes) -> Tensor:
    """The colours of the backgrounds, B 3 in [0,1]."""
    return torch.tensor(list(BACKGROUNDS.values()))[scenes.background]


def hole(scenes: Scenes) -> Tensor:
    """A square around the first object that says nothing of its shape, B 1 64 64: 1 inside, 0 outside."""
    half = 1.15 * scenes.radius[:, 0] + 2
    place = torch.arange(SIZE) + 0.5
    away = (place[None, None] - scenes.centre[:, 0, :, None]).abs()  # B 2 64: x, y
    inside = (away <= half[:, None, None]).float()
    return (inside[:, 1, :, None] * inside[:, 0, None, :])[:, None]


def holed(scenes: Scenes) -> Tensor:
    """The pictures with the hole painted magenta, as for the photo inpainter: B 3 64 64 in [0,1]."""
    missing = hole(scenes)
    return render(scenes) * (1 - missing) + torch.tensor(HOLE_FILL)[:, None, None] * missing


def uncoloured(scenes: Scenes) -> Tensor:
    """The pictures with every object in one grey, whatever its colour was: B 3 64 64 in [0,1].

    A real greyscale would give the colour away.
    """
    cover = coverage(scenes).sum(1, keepdim=True)
    return grounds(scenes)[:, :, None, None] * (1 - cover) + PENCIL * cover
