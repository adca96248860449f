"""The ways to a picture that this benchmark compares, all through nodes, and their cost in counted operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ...demo.world import render, sample
from ...tools.inprocess import execute

SAMPLER = {"steps": 20, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
# what the demo's model wants of the node, and what two cores have time for, where that is not its default
DEMO: dict[str, Any] = {"cfg": 3.0, "steps": 100, "copies": 3}
ABLATIONS: dict[str, dict[str, Any]] = {
    "no augmentation": {"views": "none", "copies": 0},
    "noise as the only augmentation": {"views": "noise only"},
    "flips on": {"views": "published, with flips"},
    "no EMA restart": {"ema_restarts": ""},
    "no SDS": {"sds": 0.0},
    "SDS alone": {"balance": 0.0},
    "no norm balance": {"norms": "as they are"},
    "hardest 1 of the copies": {"hardest": 1},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "SDS alone": ABLATIONS["SDS alone"],
    "balance 0.25": {"balance": 0.25},
    "polish 0.5": {"polish": 0.5},
}
NEIGHBOURS, WORLD = 5, 2048  # of the fidelity: nearest pictures of the world, and how many there are

Way = Callable[[str, int], Tensor]  # prompt, seed -> 1 3 64 64


class Bench:
    """The models, loaded once."""

    def __init__(self, nodes: Any) -> None:
        from nodes import CLIPTextEncode, EmptyLatentImage

        self.nodes = nodes
        with torch.inference_mode():
            self.model, self.clip, self.vae = nodes.LoadDemoModels.execute("20 steps").args
            matching = nodes.LoadVlm.execute("provoke-demo-blip2-itm").args[0]
            self.vlm = nodes.LoadVlm.execute("provoke-demo-blip2-opt", matching).args[0]
            self.second = nodes.LoadScorer.execute("second").args[0]
            self.negative = CLIPTextEncode().encode(self.clip, "")[0]
            self.latent = EmptyLatentImage().generate(64, 64, 1)[0]
        world = render(sample(WORLD, torch.Generator().manual_seed(77), objects=2))
        self.world = torch.cat([self._features(part) for part in world.split(128)])

    # ------------------------------------------------------------------------------------------------ ways

    def ways(self, inversion: dict[str, Any], equal: dict[str, int]) -> dict[str, Way]:
        """By name. inversion: the node's settings; equal: seeds and search steps that cost as much as it does."""
        ways: dict[str, Way] = {
            "plain sampler": self.plain,
            "plain sampler without guidance": lambda p, s: self._decoded(self._sampled(p, s, cfg=1.0)),
            f"best of {equal['seeds']} by the same VLM": lambda p, s: self.best(p, s, equal["seeds"]),
            f"latent search, {equal['search']} steps, same objective": lambda p, s: self.search(p, s, equal["search"]),
            "VLM inversion from noise": lambda p, s: self.inverted(p, s, **inversion),
            "VLM inversion from the sampler's latent": lambda p, s: self.inverted(p, s, sampled=3.0, **inversion),
            "VLM inversion from the unguided sampler's latent": lambda p, s: self.inverted(
                p, s, sampled=1.0, **inversion
            ),
        }
        return ways

    def plain(self, prompt: str, seed: int) -> Tensor:
        """KSampler's."""
        return self._decoded(self._sampled(prompt, seed))

    def best(self, prompt: str, seed: int, seeds: int) -> Tensor:
        """Best of Seeds, seeds far from the other prompts'."""
        sockets = {**self._sockets(prompt), **SAMPLER, "noise_seed": 1000 * seed}
        return self._decoded(execute(self.nodes.BestOfSeeds, **sockets, objective=self._says(prompt), seeds=seeds)[0])

    def search(self, prompt: str, seed: int, steps: int) -> Tensor:
        """Search Noise towards the same losses."""
        sockets = {**self._sockets(prompt), **SAMPLER, "noise_seed": seed}
        choices = {"direction": "satisfy", "search_steps": steps, "epsilon": 1.0, "copies": 2}
        found = execute(self.nodes.LatentSearch, **sockets, objective=self._says(prompt), **choices)
        return self._decoded(found[1])

    def inverted(self, prompt: str, seed: int, *, sampled: float | None = None, **choices: Any) -> Tensor:
        """VLM Inversion Sampler; sampled: from KSampler's latent at this cfg instead of from noise."""
        sockets = self._sockets(prompt)
        if sampled is not None:
            sockets["latent_image"] = self._sampled(prompt, seed, cfg=sampled)
        chosen = {**DEMO, **choices}
        found = execute(
            self.nodes.VlmInversionSampler, **sockets, vlm=self.vlm, prompt=prompt, noise_seed=seed, search_seed=seed,
            **chosen,
        )  # fmt: skip
        return self._decoded(found[0])

    def equal(self, choices: dict[str, Any]) -> tuple[dict[str, int], dict[str, float]]:
        """Seeds and search steps that cost as many operations as an inversion; and the costs, in plain sampler runs."""
        prompt = "a red circle left of a blue square"
        # each way is linear in its length: two short runs say what it costs
        few, more = (flops(lambda n=n: self.inverted(prompt, 1, **{**choices, "steps": n})) for n in (4, 8))
        steps = {**DEMO, **choices}["steps"]
        inversion = few + (more - few) / 4 * (steps - 4)
        one, two = (flops(lambda n=n: self.best(prompt, 1, n)) for n in (1, 2))
        short, long = (flops(lambda n=n: self.search(prompt, 1, n)) for n in (1, 2))
        plain = flops(lambda: self.plain(prompt, 1))
        seeds = max(1, round((inversion - one) / (two - one) + 1))
        search = max(1, round((inversion - short) / (long - short) + 1))
        costs = {"inversion": inversion / plain, "a seed": (two - one) / plain, "a search step": (long - short) / plain}
        return {"seeds": seeds, "search": search}, {name: round(cost, 3) for name, cost in costs.items()}

    # ------------------------------------------------------------------------------------------------ parts

    def distance(self, pictures: Tensor) -> Tensor:
        """How far each picture is from its nearest ones of the world, 1 - cosine, in the second CLIP's features: B."""
        alike = self._features(pictures) @ self.world.T
        return 1 - alike.topk(NEIGHBOURS, dim=1).values.mean(1)

    @torch.no_grad()
    def _features(self, pictures: Tensor) -> Tensor:
        return self.second.judge.encode_images(pictures)

    def _sockets(self, prompt: str) -> dict[str, Any]:
        from nodes import CLIPTextEncode

        with torch.inference_mode():
            positive = CLIPTextEncode().encode(self.clip, prompt)[0]
        sockets = {"model": self.model, "vae": self.vae, "latent_image": self.latent}
        return {**sockets, "positive": positive, "negative": self.negative}

    def _says(self, prompt: str) -> Any:
        return execute(self.nodes.VlmObjective, vlm=self.vlm, text=prompt)[0]

    def _sampled(self, prompt: str, seed: int, **changes: Any) -> dict[str, Any]:
        from nodes import KSampler

        s, k = self._sockets(prompt), {**SAMPLER, **changes}
        with torch.inference_mode():
            return KSampler().sample(
                s["model"], seed, k["steps"], k["cfg"], k["sampler_name"], k["scheduler"], s["positive"], s["negative"],
                s["latent_image"],
            )[0]  # fmt: skip

    def _decoded(self, latent: dict[str, Any]) -> Tensor:
        from nodes import VAEDecode

        with torch.inference_mode():
            return VAEDecode().decode(self.vae, latent)[0].movedim(-1, 1).clone()


def flops(work: Callable[[], Any]) -> float:
    """Of one call, with what its backward does. (The counter does not know the CPU's fused attention.)"""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())
