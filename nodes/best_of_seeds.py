"""Best of Seeds: many seeds through the sampler, the best by an objective. What a search has to beat."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..host.api import io, schema
from ..host.judges import judging
from ..host.noise import FoundNoise, noise_for
from ..host.progress import drive
from ..host.sampling.graph import Graph, Latent, SeedNoise, image_major
from ..host.sampling.inside import empty_fixed
from ..host.stop import stoppable
from . import sampler_sockets
from .objective import ObjectiveSocket, Parts, Situation
from .sampler_search import side_by_side

BEST = {"highest": 1.0, "lowest": -1.0}


class BestOfSeeds(io.ComfyNode):
    """The form of KSampler."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ProvokeBestOfSeeds",
            display_name="Best of Seeds",
            category="Provoke/search",
            description="Samples a prompt with many seeds, as KSampler does, and keeps the best by an objective. No "
            "gradient: works with any model and sampler, and is what a search has to beat.",
            search_aliases=["provoke", "best of n", "seed search", "cherry pick", "batch seeds", "random search"],
            inputs=[
                *sampler_sockets.ksampler_inputs(),
                ObjectiveSocket.Input("objective", tooltip="What decides: from one of the Objective nodes."),
                io.Int.Input(
                    "seeds",
                    default=16,
                    min=1,
                    max=10_000,
                    tooltip="How many seeds are tried: noise_seed, noise_seed + 1, and so on. Each costs a run of the "
                    "sampler.",
                ),
                io.Int.Input("keep", default=1, min=1, max=64, tooltip="How many are kept for each latent."),
                io.Combo.Input("best", options=list(BEST), tooltip="Which scores are the best."),
            ],
            outputs=[
                io.Latent.Output("output", tooltip="The best results, the best first: `keep` for each latent."),
                io.Noise.Output("noise", tooltip="Their noise, for SamplerCustomAdvanced."),
                io.Int.Output("seeds", is_output_list=True, tooltip="Their seeds, for KSampler."),
                io.Float.Output("scores", is_output_list=True, tooltip="Their scores."),
                io.String.Output("report", tooltip="All seeds' scores in figures, and which ones were kept."),
            ],
        )

    @classmethod
    def execute(cls, objective: Parts, seeds: int, keep: int, best: str, **inputs: Any) -> io.NodeOutput:
        graph, _ = sampler_sockets.graph_of(inputs)
        with stoppable() as should_stop:
            tried = drive(_tried(graph, objective, seeds, should_stop), seeds, lambda now: now.best_picture(BEST[best]))
        scores = torch.stack(tried.scores)  # seeds B
        order = (BEST[best] * scores).nan_to_num(-torch.inf).argsort(dim=0, descending=True, stable=True)[:keep]
        latents = [_gathered(tried.latents, row) for row in order]
        noises = [_gathered_noise(graph, tried.seeds, row) for row in order]
        chosen = [tried.seeds[place] for place in order.T.flatten().tolist()]
        kept = scores.gather(0, order).T.flatten().tolist()
        numbers = graph.latent.get("batch_index") if len(order) == 1 else None
        noise = FoundNoise(torch.stack(noises, 1).flatten(0, 1), chosen[0], numbers)
        return io.NodeOutput(image_major(latents), noise, chosen, kept, _report(objective, scores, chosen, kept))


@dataclass
class Tried:
    """What is known so far: seeds, their LATENTs, pictures of the last and scores (B each)."""

    seeds: list[int]
    latents: list[Latent]
    pictures: list[Tensor]  # B H W C
    scores: list[Tensor]

    def best_picture(self, sign: float) -> Tensor:
        """The best picture of the first latent so far."""
        first = torch.stack([score[0] for score in self.scores])
        return side_by_side(self.pictures[int((sign * first).nan_to_num(-torch.inf).argmax())][:1].movedim(-1, 1))


def _tried(graph: Graph, objective: Parts, seeds: int, should_stop: Any) -> Iterator[Tried]:
    """One seed after another, as KSampler gives them; the first is what others are compared with."""
    so_far = Tried([], [], [], [])
    first = graph.noise.seed
    for k in range(seeds):
        seed = (first + k) % 2**64
        latent = graph.with_noise(SeedNoise(seed)).rendered().output
        pictures = graph.pictures(latent)
        so_far.seeds.append(seed)
        so_far.latents.append(latent)
        so_far.pictures.append(pictures)
        with judging(*objective.held), torch.no_grad():
            batch, usual = (images.movedim(-1, 1).float().clone() for images in (pictures, so_far.pictures[0]))
            parts = [
                objective.build(Situation(usual[i : i + 1]))(batch[i : i + 1]).float().cpu() for i in range(len(batch))
            ]
        so_far.scores.append(torch.cat(parts))
        yield so_far
        if should_stop():
            return


def _gathered(latents: list[Latent], places: Tensor) -> Latent:
    """For every image of the batch that of its own seed."""
    rows = [latents[place]["samples"][i] for i, place in enumerate(places.tolist())]
    return {**latents[0], "samples": torch.stack(rows)}


def _gathered_noise(graph: Graph, seeds: list[int], places: Tensor) -> Tensor:
    fixed = empty_fixed(graph.guider.model_patcher, graph.latent)
    drawn = {place: noise_for(SeedNoise(seeds[place]), fixed) for place in set(places.tolist())}
    return torch.stack([drawn[place][i] for i, place in enumerate(places.tolist())])


def _report(objective: Parts, scores: Tensor, chosen: list[int], kept: list[float]) -> str:
    flat = scores.flatten()
    pairs = "\n".join(f"seed {seed}: {score:.4g}" for seed, score in zip(chosen, kept, strict=True))
    spread = f"mean {float(flat.mean()):.4g}, from {float(flat.min()):.4g} to {float(flat.max()):.4g}"
    return f"{objective.name} of {len(scores)} seeds: {spread}\n{pairs}"
