"""Prompts of one object that benchmarks share. (Those of two come from `demo.world.sample`, held out by themselves.)"""

from __future__ import annotations

import torch

from ..demo.captions import canonical
from ..demo.world import Scene, sample

HELD_OUT = 24  # of `one_object`: one for each object, on the ground that no training showed it on


def one_object() -> list[Scene]:
    """One object on a named ground, each such prompt once: first the 24 that the models' trainings held out, then the
    others. An object is held out together with its ground only, so these prompts have to name it (`with_ground`)."""
    rng = torch.Generator().manual_seed(63)
    scenes = [*sample(2000, rng, part="held out", objects=1), *sample(4000, rng, part="train", objects=1)]
    return list({with_ground(scene): scene for scene in scenes}.values())


def with_ground(scene: Scene) -> str:
    """The prompt: "a red circle on a white background"."""
    return canonical(scene, background=True)
