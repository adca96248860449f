"""The demo world as the latent search's benchmark sees it: prompts, seeds, objectives, verdicts by the checker.

Everything goes through nodes: the host's own for drawing, the pack's for searching.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...demo.captions import canonical, negatives
from ...demo.checker import Reading
from ...demo.world import BACKGROUNDS, COLOURS, SHAPES, Facts, Scene
from ...tools.inprocess import execute
from ..painter import DemoPainter
from ..verdicts import grounded, looked_at_twice

STEPS, CFG = 6, 1.0  # KSampler's; without guidance, where the seed has most to say
# of a search towards a near miss: as far as any noise, by large steps that settle
TOWARDS: dict[str, Any] = {
    "budget": "move phases", "epsilon": 2.0, "step_size": 0.3, "schedule": "cosine", "search_steps": 60, "copies": 0,
}  # fmt: skip
DRAWN = 8  # pictures that are drawn together
NEAR, ALIKE = 4.0, 2.5  # pixels: how near a sketch's place and radius a drawing has to be


@dataclass(frozen=True)
class Drawn:
    """What a search or a draw gave: picture 1 3 64 64 from the host's sampler, noise 1 4 8 8, sampler runs spent."""

    picture: Tensor
    noise: Tensor
    runs: float


class Bench(DemoPainter):
    """The 20-step model in few steps; and what the search is asked for."""

    def __init__(self, nodes: Any, cfg: float = CFG) -> None:
        super().__init__(nodes, "20 steps", STEPS, cfg)

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

    def objective(self, said: list[str]) -> Any:
        """By how much the first CLIP prefers the prompt, the first text, to the wrong ones (margin, in logits)."""
        with torch.inference_mode():
            words = self.nodes.ZeroShotClassifier.execute(self.first, "\n".join(said), "{}").args[0]
            return self.nodes.ClassObjective.execute(words, said[0], "margin", 100.0).args[0]

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

    def near_misses(self, scene: Scene, seed: int, count: int) -> list[Tensor]:
        """What the model draws with the same seed for prompts that differ in one word: the `count` pictures that are
        nearest to the prompt's own. Nobody looks whether they are right."""
        usual, *others = (self.draw(text, seed, 1) for text in one_word_away(scene))
        return sorted(others, key=lambda one: float((one - usual).square().mean()))[:count]

    def towards(self, scene: Scene, seed: int, count: int, **choices: Any) -> Drawn:
        """Search Noise sent to `count` near misses, one after the other; the one that came nearest to its own."""
        prompt, *others = one_word_away(scene)
        found: list[tuple[float, Drawn]] = []
        for target in self.near_misses(scene, seed, count):
            one = self.search(prompt, seed, self.sketch(target), direction="break", **choices)
            found.append((float((one.picture - target).square().mean()), one))
        best = min(found, key=lambda pair: pair[0])[1]
        return Drawn(best.picture, best.noise, sum(one.runs for _, one in found) + 1 + len(others))

    def best_of(self, scene: Scene, seed: int, count: int, runs: int) -> Drawn:
        """The same without a search: of `runs` seeds the one whose picture is nearest to one of the near misses."""
        targets, best = torch.cat(self.near_misses(scene, seed, count)), (float("inf"), 0)
        kept = torch.empty(0)
        for k in range(0, runs, DRAWN):
            drawn = self.draw(one_word_away(scene)[0], 30_000 + 1000 * seed + k, DRAWN)
            away = (drawn[:, None] - targets).square().flatten(2).mean(2).amin(1)
            if float(away.min()) < best[0]:
                best, kept = (float(away.min()), k), drawn[int(away.argmin())][None]
        return Drawn(kept, torch.empty(0), float(runs))

    def pool(self, prompt: str, seed: int, count: int) -> Tensor:
        """Pictures of `count` seeds."""
        return torch.cat([self.draw(prompt, seed + k, DRAWN) for k in range(0, count, DRAWN)])

    @torch.no_grad()
    def margins(self, pictures: Tensor, said: list[str]) -> Tensor:
        """By how much the first CLIP prefers the first text to the nearest of the others: B."""
        judge = self.first.judge
        likeness = judge.encode_images(pictures) @ judge.encode_texts(said).T
        return likeness[:, 0] - likeness[:, 1:].amax(1)

    def second_says(self, picture: Tensor, said: list[str]) -> bool:
        """Whether the second CLIP, which nothing followed, prefers one of the wrong texts to the prompt (the first)."""
        judge = self.second.judge
        with torch.no_grad():
            likeness = (judge.encode_images(picture) @ judge.encode_texts(said).T)[0]
        return int(likeness.argmax()) != 0


def captions(scene: Scene) -> list[str]:
    """The prompt and its hard negatives (colour, shape, relation, swaps), without doubles."""
    rng = torch.Generator().manual_seed(0)
    wrong = [canonical(facts) for _ in range(3) for facts in negatives(scene, rng).values()]
    return list(dict.fromkeys([canonical(scene), *wrong]))


def one_word_away(scene: Scene) -> list[str]:
    """The prompt of a scene of one object (on its ground, where that is said), and all texts with another colour or
    shape."""
    ((colour, shape),) = scene.facts.objects
    others = [(c, shape) for c in COLOURS if c != colour] + [(colour, s) for s in SHAPES if s != shape]
    facts = [Facts((one,), None, scene.background) for one in ((colour, shape), *others)]
    return [canonical(one, background=True) for one in facts]


def other_grounds(scene: Scene) -> list[str]:
    """The text with the scene's ground, and those with another one."""
    grounds = [scene.background, *(ground for ground in BACKGROUNDS if ground != scene.background)]
    return [canonical(Facts(scene.facts.objects, None, ground), background=True) for ground in grounds]


def as_sketched(pictures: Tensor, scene: Scene) -> list[bool]:
    """Clean scenes with the sketch's object in its place and size, on its ground."""
    thing = scene.objects[0]

    def fits(r: Reading) -> bool:
        if not grounded(r, scene):
            return False
        seen = r.objects[0]
        off = max(abs(a - b) for a, b in zip(seen.centre, thing.centre, strict=True))
        return off <= NEAR and abs(seen.radius - thing.radius) <= ALIKE

    return [fits(a) and fits(b) for a, b in zip(*looked_at_twice(pictures), strict=True)]
