"""The part *pictures*: textual inversion by the same search, of an object that is shown and never named.

Learned from pictures of the object alone on two grounds, in prompts like "a <token> on a white background", and from
the word of its shape; the verdict is on prompts with another object beside it, on any ground, and on other seeds.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...demo.world import render, sample

TOKEN = "<token>"  # the node's own placeholder
GROUNDS = ("white", "black")  # of the pictures
SHOWN = 8  # pictures
# Tried out on another object than the targets.
INVERTED: dict[str, Any] = {"vectors": 2, "epsilon": 20.0, "step_size": 0.5, "pairs": 4}
Thing = tuple[str, str]


def references(target: Thing, count: int = SHOWN, seed: int = 17) -> Tensor:
    """Pictures of the object alone on GROUNDS: count 64 64 3, on 8-bit levels."""
    colour, shape = target
    drawn = sample(4000, torch.Generator().manual_seed(seed), objects=1)
    kept = [
        i for i, scene in enumerate(drawn) if scene.facts.objects == ((colour, shape),) and scene.background in GROUNDS
    ][:count]
    return (render(drawn)[kept] * 255).round().movedim(1, -1) / 255


def prompts() -> list[str]:
    """To learn with."""
    return [f"a {TOKEN}", *(f"a {TOKEN} on a {ground} background" for ground in GROUNDS)]
