"""Best of Seeds: many seeds through the sampler, the best by an objective. What a search has to beat."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..core.batches import joined, side_by_side
from ..core.errors import ProvokeError
from ..host.api import io, schema
from ..host.noise import found_for, noise_for
from ..host.progress import drive
from ..host.sampling.graph import Graph, Latent, SeedNoise, image_major
from ..host.sampling.inside import empty_fixed
from ..host.stop import stoppable
from . import sampler_sockets
from .objective import ObjectiveSocket, Parts, scored_one_by_one

BEST = {"highest": 1.0, "lowest": -1.0}


class BestOfSeeds(io.SearchNode):
    """The form of KSampler."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ProvokeBestOfSeeds",
            display_name="Best of Seeds",
            category="Provoke/search",
            description="Samples a prompt with many seeds, as KSampler does, and keeps the best by an objective. No "
            "gradient: works with any model and sampler, and is what a search has to beat.",
            search_aliases=["provoke", "best of n", "seed", "seed search", "cherry pick", "random search"],
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
                io.Noise.Output(
                    "noise",
                    tooltip="Their noise, for SamplerCustomAdvanced. A NOISE has one seed for all its rows: with "
                    "a sampler that draws on its way (ancestral, SDE) only a single result comes out again; for "
                    "several use KSampler with `seeds`.",
                ),
                io.Int.Output("seeds", is_output_list=True, tooltip="Their seeds, for KSampler."),
                io.Float.Output("scores", is_output_list=True, tooltip="Their scores."),
                io.String.Output("report", tooltip="All seeds' scores in figures, and which ones were kept."),
            ],
        )

    @classmethod
    def execute(cls, objective: Parts, seeds: int, keep: int, best: str, **inputs: Any) -> io.NodeOutput:
        if keep > seeds:
            raise ProvokeError(
                f"{keep} results are to be kept of {seeds} seeds",
                "at most as many as are tried",
                "lower keep, or raise seeds",
            )
        graph, _ = sampler_sockets.graph_of(inputs)
        with stoppable() as should_stop:
            steps = _tried(graph, objective, seeds, Tried(BEST[best], keep), should_stop)
            tried = drive(steps, seeds, lambda now: side_by_side(now.best.movedim(-1, 1)))
        scores, order = torch.stack(tried.scores), tried.order()  # seeds B, keep B
        latents = [tried.latent(row) for row in order]
        noises = [_gathered_noise(graph, tried.seeds, row) for row in order]
        chosen = [tried.seeds[place] for place in order.T.flatten().tolist()]
        kept = scores.gather(0, order).T.flatten().tolist()
        noise = found_for(graph.latent, joined(noises), chosen[0])
        return io.NodeOutput(image_major(latents), noise, chosen, kept, _report(objective, scores, chosen, kept))


@dataclass
class Tried:
    """What is known so far, and of the results only those that are among the best `keep` of their latent.

    sign: 1 where high scores are the best, -1 where low ones are. scores: B for each seed. samples: by latent and place
    of the seed. usual: B H W C, the first seed's pictures; best: 1 H W C, the first latent's best picture.
    """

    sign: float
    keep: int
    seeds: list[int] = field(default_factory=list)
    scores: list[Tensor] = field(default_factory=list)
    samples: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    rest: Latent = field(default_factory=dict)
    usual: Tensor = field(default_factory=lambda: torch.empty(0))
    best: Tensor = field(default_factory=lambda: torch.empty(0))

    @property
    def step(self) -> dict[str, Any]:
        """For the curve on the node: the last seed's scores, as something of which more is better."""
        return {"score": self.sign * self.scores[-1], "cost": float(len(self.seeds))}

    def order(self) -> Tensor:
        """The places of the best seeds, the best first: keep B."""
        signed = (self.sign * torch.stack(self.scores)).nan_to_num(-torch.inf)
        return signed.argsort(dim=0, descending=True, stable=True)[: self.keep]

    def take(self, seed: int, latent: Latent, pictures: Tensor, scores: Tensor) -> None:
        """One seed more: LATENT of B, B H W C, B."""
        place = len(self.seeds)
        self.seeds.append(seed)
        self.scores.append(scores)
        if not place:
            self.rest = {key: value for key, value in latent.items() if key != "samples"}
        order = self.order()
        new = {(i, place): sample for i, sample in enumerate(latent["samples"])}
        both = self.samples | new
        best = {(i, k) for i, column in enumerate(order.T.tolist()) for k in column}
        # a row of its own: a view would hold the whole batch
        self.samples = {key: both[key].clone() if key in new else both[key] for key in best}
        if int(order[0, 0]) == place:
            self.best = pictures[:1].clone()

    def latent(self, places: Tensor) -> Latent:
        """For every image of the batch that of its own seed."""
        return {**self.rest, "samples": torch.stack([self.samples[at] for at in enumerate(places.tolist())])}


def _tried(graph: Graph, objective: Parts, seeds: int, so_far: Tried, should_stop: Any) -> Iterator[Tried]:
    """One seed after another, as KSampler gives them; the first is what others are compared with."""
    first = graph.noise.seed
    for k in range(seeds):
        seed = (first + k) % 2**64
        latent = graph.with_noise(SeedNoise(seed)).rendered().output
        pictures = graph.pictures(latent)
        if len(pictures) != graph.batch:
            raise ProvokeError(
                f"{graph.batch} latents give {len(pictures)} pictures: they are videos",
                "one picture for each latent",
                "use a latent of a single frame",
            )
        if not k:
            so_far.usual = pictures
        batch, usual = (images.movedim(-1, 1).float().clone() for images in (pictures, so_far.usual))
        so_far.take(seed, latent, pictures, scored_one_by_one(objective, batch, usual).total)
        yield so_far
        if should_stop():
            return


def _gathered_noise(graph: Graph, seeds: list[int], places: Tensor) -> Tensor:
    fixed = empty_fixed(graph.guider.model_patcher, graph.latent)
    drawn = {place: noise_for(SeedNoise(seeds[place]), fixed) for place in set(places.tolist())}
    return torch.stack([drawn[place][i] for i, place in enumerate(places.tolist())])


def _report(objective: Parts, scores: Tensor, chosen: list[int], kept: list[float]) -> str:
    flat = scores.flatten()
    pairs = "\n".join(f"seed {seed}: {score:.4g}" for seed, score in zip(chosen, kept, strict=True))
    spread = f"mean {float(flat.mean()):.4g}, from {float(flat.min()):.4g} to {float(flat.max()):.4g}"
    return f"{objective.name} of {len(scores)} seeds: {spread}\n{pairs}"
