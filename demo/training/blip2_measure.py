"""What the demo's BLIP-2 is worth, on combinations that its training never saw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import captions
from ..checker import wilson
from ..vision_models import normalise
from ..vlm_models import match, written
from ..world import Facts, render, sample

Change = Callable[[Tensor], Tensor]
Score = Callable[[Any, Tensor, Sequence[str]], Tensor]


def _same(images: Tensor) -> Tensor:
    return images


def lowest(found: dict[str, tuple[int, int]]) -> float:
    """The lowest of the Wilson lower ends."""
    return min(wilson(*counts)[0] for counts in found.values())


@torch.no_grad()
def preferred(
    net: Any, pixels: Tensor, true: Sequence[Facts], rng: torch.Generator, score: Score = match
) -> dict[str, list[bool]]:
    """By kind of wrong caption: whether the true one has the higher score, for normalised pictures B 3 64 64 and what
    they show. Both captions in random words. `alone`: whether the sign of the log-odds is right, over true and wrong
    captions alike (half of each).
    """
    found: dict[str, list[bool]] = {}
    wrong = [captions.negatives(f, rng) for f in true]
    fit = score(net, pixels, captions.captions(true, rng)).tolist()
    for kind in sorted({kind for each in wrong for kind in each}):
        which = [i for i, each in enumerate(wrong) if kind in each]
        other = score(net, pixels[which], captions.captions([wrong[i][kind] for i in which], rng)).tolist()
        found[kind] = [fit[i] > o for i, o in zip(which, other, strict=True)]
        signs = [right for i, o in zip(which, other, strict=True) for right in (fit[i] > 0, o < 0)]
        found["alone"] = found.get("alone", []) + signs
    return found


def counted(parts: Sequence[dict[str, list[bool]]]) -> dict[str, tuple[int, int]]:
    """By kind: how many are right, of how many, over all parts."""
    kinds = dict.fromkeys(kind for part in parts for kind in part)
    joined = {kind: [right for part in parts for right in part.get(kind, [])] for kind in kinds}
    return {kind: (sum(rights), len(rights)) for kind, rights in joined.items()}


def choices(
    net: Any, rng: torch.Generator, count: int, change: Change = _same, score: Score = match
) -> dict[str, tuple[int, int]]:
    """`preferred`, counted on `count` scenes of two objects and a third as many of one, held out."""
    parts = []
    for objects, many in ((2, count), (1, count // 3)):
        scenes = sample(many, rng, part="held out", objects=objects)
        pixels = normalise(change(render(scenes))).to(net.device)
        parts.append(preferred(net, pixels, [Facts(s.facts.objects, s.facts.relation) for s in scenes], rng, score))
    return counted(parts)


@torch.no_grad()
def captioned(
    net: Any, rng: torch.Generator, count: int, change: Change = _same, **how: Any
) -> dict[str, tuple[int, int]]:
    """How many greedy captions (or as `how` says) of held-out pictures can be read, have every object right (colour and
    shape), and also the relation and, where they name one, the ground; of how many."""
    scenes = sample(count, rng, part="held out")
    said = written(net, normalise(change(render(scenes))).to(net.device), **how)
    rights: dict[str, list[bool]] = {"read": [], "objects": [], "all": []}
    for scene, text in zip(scenes, said, strict=True):
        wanted = scene.facts.ordered()
        try:
            facts = captions.parse(text).ordered()
        except ValueError:
            facts = Facts(())
        objects = sorted(facts.objects) == sorted(wanted.objects)
        rights["read"].append(bool(facts.objects))
        rights["objects"].append(objects)
        same = (facts.objects, facts.relation) == (wanted.objects, wanted.relation)
        rights["all"].append(same and facts.background in (None, wanted.background))
    return {kind: (sum(each), len(each)) for kind, each in rights.items()}
