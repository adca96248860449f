"""Search Noise (Latent Search): an initial noise whose picture breaks or satisfies an objective, still a plausible one.

generator: the sampler, then the VAE's decoder. variable: the initial noise. objective: any. budget: what keeps the
noise a sample of N(0, I). step rule: the gradient's direction within it. Source: SAGE (arXiv 2306.00974), ReNO, DNO.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from comfy_execution.graph_utils import ExecutionBlocker
from torch import Tensor

from ..core.batches import joined, repeated, runs
from ..core.budgets import Budget
from ..core.search import sample_generators
from ..core.steps import RandomDraws
from ..host.api import io, schema
from ..host.noise import FoundNoise, found_for, refuse_constant
from ..host.sampling.graph import Graph, Latent, Rendered, image_major
from ..host.sampling.handle import Sampling
from ..host.sampling.inside import empty_fixed
from . import latent_search_report, latent_search_settings, sampler_search, sampler_sockets
from .latent_search_report import Scored
from .latent_search_settings import LatentSettings
from .objective import Parts, Situation, scored_one_by_one
from .sampler_search import Plan
from .sampler_sockets import SearchSettings
from .steering import views

ALIASES = [
    "provoke", "noise search", "noise optimisation", "noise optimization", "seed search", "SAGE", "ReNO", "DNO",
    "initial noise", "latent",
]  # fmt: skip
WORDS = (
    "Finds an initial noise (not a prompt, not a weight) whose picture breaks an objective or satisfies it, and tests "
    "whether it still looks like any other noise."
)


class LatentSearch(io.SearchNode):
    """The form of KSampler."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ProvokeLatentSearch",
            display_name="Search Noise (Latent Search)",
            category="Provoke/search",
            description=f"{WORDS} In KSampler's form.",
            search_aliases=ALIASES,
            inputs=[
                *sampler_sockets.ksampler_inputs(),
                *sampler_sockets.search_inputs(steps=20),
                *latent_search_settings.inputs(),
            ],
            outputs=[*_first_outputs(), *_last_outputs()],
        )

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        found = searched(inputs)
        return io.NodeOutput(found.noise, found.rendered.output, found.as_latent, *found.last)


class LatentSearchCustom(io.SearchNode):
    """The form of SamplerCustomAdvanced."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ProvokeLatentSearchCustom",
            display_name="Search Noise (Latent Search, Custom)",
            category="Provoke/search",
            description=f"{WORDS} In SamplerCustomAdvanced's form.",
            search_aliases=ALIASES,
            inputs=[
                *sampler_sockets.custom_inputs(),
                *sampler_sockets.search_inputs(steps=20),
                *latent_search_settings.inputs(),
            ],
            outputs=[
                *_first_outputs(),
                io.Latent.Output("denoised_output", tooltip="SamplerCustomAdvanced's second output, of the results."),
                *_last_outputs(),
            ],
        )

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        found = searched(inputs)
        return io.NodeOutput(found.noise, found.rendered.output, found.as_latent, found.rendered.denoised, *found.last)


def _first_outputs() -> list[io.Output]:
    return [
        io.Noise.Output(
            "noise",
            tooltip="The noise found, for SamplerCustomAdvanced: with the same model, prompt and settings it gives the "
            "result again. `keep` for each latent, the best first.",
        ),
        io.Latent.Output("output", tooltip="What the sampler itself gives for that noise."),
        io.Latent.Output(
            "noise_latent", tooltip="The same noise as a LATENT, for Save Latent; Noise from Latent turns it back."
        ),
    ]


def _last_outputs() -> list[io.Output]:
    return [
        io.Latent.Output("unperturbed", tooltip="What the sampler gives for the noise of the seed itself."),
        io.Float.Output(
            "scores", is_output_list=True, tooltip="The objective's score of each result (higher is more of it)."
        ),
        io.Custom("LOSS_MAP").Output("loss", tooltip="For Plot Loss Graph: minus the score at every step."),
        io.String.Output(
            "report", tooltip="How far the noise went, what it did, whether it looks Gaussian, and what it cost."
        ),
    ]


@dataclass(frozen=True)
class LatentFound:
    """What both forms put out. last: unperturbed LATENT, scores, LOSS_MAP, report."""

    noise: FoundNoise
    rendered: Rendered
    as_latent: Latent
    last: tuple[Any, ...]


def searched(inputs: dict[str, Any]) -> LatentFound:
    """The whole run of a node of either form."""
    began = time.monotonic()
    graph, rest = sampler_sockets.graph_of(inputs)
    search, rest = SearchSettings.taken(rest)
    settings = LatentSettings.taken(rest)
    unperturbed = graph.rendered()
    if settings.epsilon == 0 or search.search_steps == 0:
        return _untouched(graph, unperturbed, settings)
    refuse_constant(graph.noise, empty_fixed(graph.guider.model_patcher, graph.latent))
    start: list[Budget] = []

    def plan(sampling: Sampling, plain: Callable[[], Tensor]) -> Plan:
        made = make_plan(sampling, plain(), settings, search)
        start.append(made.budget)
        return made

    looks = graph.batch * settings.count
    found = sampler_search.run(graph, search, plan, judges=settings.wanted.held, looks=looks)
    best = _best(found.selection.score, settings)
    noise = found.selection.variable[best]
    rendered = _rendered(graph, noise, settings.keep)
    drawn = start[0].random(sample_generators(search.search_seed + 1, graph.batch, settings.count))
    by_chance = _rendered(graph, drawn[best], settings.keep).output
    mine, chance, usual = (
        _scores(graph, settings.wanted, latent, unperturbed.output)
        for latent in (rendered.output, by_chance, unperturbed.output)
    )
    scored = Scored(mine, chance, usual)
    report = latent_search_report.describe(
        search, settings, found, noise, found.selection.distance[best], scored, time.monotonic() - began
    )
    return LatentFound(
        _noise(graph, noise),
        rendered,
        {"samples": noise.cpu()},
        (unperturbed.output, scored.found.tolist(), found.loss_map, report),
    )


def make_plan(sampling: Sampling, default: Tensor, settings: LatentSettings, search: SearchSettings) -> Plan:
    """The search of noises: `count` for each latent of the batch, each around a seed of its own."""
    count = settings.count
    seeds = [sampling.noise, *(sampling.noise_of((sampling.seed + k) % 2**64) for k in range(1, count))]
    center = joined(seeds)
    budget = settings.around(center)
    rngs = sample_generators(search.search_seed, len(sampling.noise), count)
    # without a judge the usual picture itself is where the likeness peaks, and a distance's gradient is zero there
    judged = bool(settings.wanted.held)
    return Plan(
        sample=lambda rows, route: sampling.sample(noise=rows, route=route),
        budget=budget,
        rule=RandomDraws(rngs) if search.random else settings.rule,
        start=budget.random(rngs) if search.random else center if judged else budget.start(rngs, 0.1),
        objective=settings.climbed.build(Situation(repeated(default, count))),
        augment=views() if judged and settings.copies else None,  # they are for a judge's blind spots
        copies=max(1, settings.copies) if judged else 1,
        around=settings.judged,
    )


def _best(score: Tensor, settings: LatentSettings) -> Tensor:
    """The places of the `keep` best of each latent's `count`, the best first."""
    rows = score.view(-1, settings.count).argsort(dim=1, descending=True, stable=True)[:, : settings.keep]
    return (rows + settings.count * torch.arange(len(rows), device=rows.device)[:, None]).flatten()


def _rendered(graph: Graph, noise: Tensor, keep: int) -> Rendered:
    """What the host's own sampler gives for noises (B * keep, image-major), one run of the graph's batch after another,
    as in the search."""
    found = [graph.with_noise(_noise(graph, rows)).rendered() for rows in runs(noise, keep)]
    return Rendered(image_major([one.output for one in found]), image_major([one.denoised for one in found]))


def _noise(graph: Graph, noise: Tensor) -> FoundNoise:
    return found_for(graph.latent, noise, graph.noise.seed)


def _scores(graph: Graph, wanted: Parts, latent: Latent, default: Latent) -> Tensor:
    """The objective on the host's own pictures: of the usual ones B, of the others B * k (image-major)."""
    images, usual = (graph.pictures(one).movedim(-1, 1).float().clone() for one in (latent, default))
    return scored_one_by_one(wanted, images, usual).total


def _untouched(graph: Graph, unperturbed: Rendered, settings: LatentSettings) -> LatentFound:
    """Zero effect is zero: the host's own output, bit for bit."""
    fixed = empty_fixed(graph.guider.model_patcher, graph.latent)
    noise = graph.noise.generate_noise(fixed)
    scores = _scores(graph, settings.wanted, unperturbed.output, unperturbed.output)
    why = "epsilon is 0" if settings.epsilon == 0 else "search_steps is 0"
    report = f"search     none: {why}, so this is the sampler's own result for its own noise"
    last = (unperturbed.output, scores.tolist(), ExecutionBlocker(None), report)
    return LatentFound(_noise(graph, noise), unperturbed, {"samples": noise}, last)
