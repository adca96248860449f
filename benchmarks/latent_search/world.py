"""The demo world as the latent search's benchmark sees it: prompts, seeds, objectives, verdicts by the checker.

Everything goes through nodes: the host's own for drawing, the pack's for searching.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ...demo.captions import canonical, negatives
from ...demo.checker import Reading, read, relation_right
from ...demo.world import Scene
from ...tools.inprocess import execute
from ..painter import DemoPainter

STEPS, CFG = 6, 1.0  # KSampler's; without guidance, where the seed has most to say
NEAR, ALIKE = 4.0, 2.5  # pixels: how near a sketch's place and radius a drawing has to be


@dataclass(frozen=True)
class Drawn:
    """What a search or a draw gave: picture 1 3 64 64 from the host's sampler, noise 1 4 8 8, sampler runs spent."""

    picture: Tensor
    noise: Tensor
    runs: float


class Bench(DemoPainter):
    """The 20-step model in few steps; and what the search is asked for."""

    def __init__(self, nodes: Any) -> None:
        super().__init__(nodes, "20 steps", STEPS, CFG)

    def by_noise(self, prompt: str, noise: Any) -> Tensor:
        """SamplerCustomAdvanced and VAE Decode for a NOISE: 1 3 64 64."""
        from comfy_extras import nodes_custom_sampler as host

        s = self.sockets(prompt, 0)
        with torch.inference_mode():
            guider = host.CFGGuider.execute(s["model"], s["positive"], s["negative"], s["cfg"]).args[0]
            sampler = host.KSamplerSelect.execute(s["sampler_name"]).args[0]
            sigmas = host.BasicScheduler.execute(s["model"], s["scheduler"], s["steps"], s["denoise"]).args[0]
            drawn = host.SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, s["latent_image"]).args[0]
        return self.decoded(drawn)

    def objective(self, scene: Scene) -> Any:
        """By how much the first CLIP prefers the prompt to its hard negatives (margin, in logits)."""
        with torch.inference_mode():
            words = self.nodes.ZeroShotClassifier.execute(self.first, "\n".join(captions(scene)), "{}").args[0]
            return self.nodes.ClassObjective.execute(words, captions(scene)[0], "margin", 100.0).args[0]

    def sketch(self, target: Tensor) -> Any:
        """How far a picture is from a target, 1 3 64 64."""
        with torch.inference_mode():
            distance = self.nodes.DistanceObjective.define_schema().inputs[0].options[1]
            return self.nodes.DistanceObjective.execute(distance, picture=target.movedim(1, -1)).args[0]

    def search(self, prompt: str, seed: int, objective: Any, **choices: Any) -> Drawn:
        """Search Noise with its defaults otherwise; the picture is the host's, from the exported NOISE."""
        outputs = execute(self.nodes.LatentSearch, **self.sockets(prompt, seed), objective=objective, **choices)
        noise, _, latent, *_, report = outputs
        found = re.search(r"cost\s+([\d,]+) evaluations", report)
        runs = int(found.group(1).replace(",", "")) / STEPS if found else 0.0
        return Drawn(self.by_noise(prompt, noise), latent["samples"].clone(), runs)

    def second_says(self, picture: Tensor, scene: Scene) -> bool:
        """Whether the second CLIP, which nothing followed, prefers a hard negative to the prompt as well."""
        judge = self.second.judge
        with torch.no_grad():
            likeness = (judge.encode_images(picture) @ judge.encode_texts(captions(scene)).T)[0]
        return int(likeness.argmax()) != 0


def captions(scene: Scene) -> list[str]:
    """The prompt and its hard negatives (colour, shape, relation, swaps), without doubles."""
    rng = torch.Generator().manual_seed(0)
    wrong = [canonical(facts) for _ in range(3) for facts in negatives(scene, rng).values()]
    return list(dict.fromkeys([canonical(scene), *wrong]))


def looked_at_twice(pictures: Tensor) -> tuple[list[Reading], list[Reading]]:
    """Readings of 8-bit pictures, and of the same one pixel aside: a verdict has to hold for both."""
    levels = (pictures.clamp(0, 1) * 255).round() / 255
    aside = functional.pad(levels, (1, 0, 0, 0), mode="replicate")[..., :-1]
    return read(levels), read(aside)


def broken(pictures: Tensor, scenes: Sequence[Scene]) -> list[bool]:
    """Clean scenes, and not the prompt's."""
    views = looked_at_twice(pictures)
    wrong = [
        [r.clean and not right for r, right in zip(view, relation_right(view, scenes).tolist(), strict=True)]
        for view in views
    ]
    return [a and b for a, b in zip(*wrong, strict=True)]


def clean(pictures: Tensor) -> list[bool]:
    return [a.clean and b.clean for a, b in zip(*looked_at_twice(pictures), strict=True)]


def as_sketched(pictures: Tensor, scene: Scene) -> list[bool]:
    """Clean scenes with the sketch's object in its place and size, on its ground."""
    thing = scene.objects[0]

    def fits(r: Reading) -> bool:
        if not r.clean or r.facts.objects != scene.facts.objects or r.background != scene.background:
            return False
        seen = r.objects[0]
        off = max(abs(a - b) for a, b in zip(seen.centre, thing.centre, strict=True))
        return off <= NEAR and abs(seen.radius - thing.radius) <= ALIKE

    return [fits(a) and fits(b) for a, b in zip(*looked_at_twice(pictures), strict=True)]
