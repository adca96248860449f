"""What the nodes in sampler form share: the two forms' sockets, the search's widgets, the outputs.

Nothing may be added to these lists: workflows store widget values by position. A new one is appended to every node
after its own (the schema snapshot test holds this).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.samplers

from ..core.errors import ProvokeError
from ..host.api import io
from ..host.sampling import graph, routes
from ..host.sampling.graph import Graph
from .attack_settings import METHODS
from .attack_sockets import time_limit_input

KSAMPLER = (
    "model", "noise_seed", "steps", "cfg", "sampler_name", "scheduler", "positive", "negative", "latent_image",
    "denoise", "vae",
)  # fmt: skip
CUSTOM = ("noise", "guider", "sampler", "sigmas", "latent_image", "vae")


def _vae() -> io.Input:
    return io.Vae.Input("vae", tooltip="Decodes what the sampler gives: the search looks at pictures.")


def ksampler_inputs() -> list[io.Input]:
    """The form of KSampler, in its words."""
    return [
        io.Model.Input("model", tooltip="The model that denoises, with whatever the graph has put on it."),
        io.Int.Input(
            "noise_seed",
            default=0,
            min=0,
            max=0xFFFFFFFFFFFFFFFF,
            control_after_generate=True,
            tooltip="KSampler's seed: without a search the picture is the one that KSampler gives for it.",
        ),
        io.Int.Input("steps", default=20, min=1, max=10_000, tooltip="KSampler's steps of denoising."),
        io.Float.Input(
            "cfg",
            default=8.0,
            min=0.0,
            max=100.0,
            step=0.1,
            round=0.01,
            tooltip="KSampler's guidance scale (no unit). 1 leaves the negative out, and halves the cost.",
        ),
        io.Combo.Input(
            "sampler_name",
            options=list(comfy.samplers.KSampler.SAMPLERS),
            tooltip="KSampler's algorithm. One without a right gradient is refused, with those that have one.",
        ),
        io.Combo.Input(
            "scheduler",
            options=list(comfy.samplers.KSampler.SCHEDULERS),
            tooltip="KSampler's schedule of noise levels.",
        ),
        io.Conditioning.Input("positive", tooltip="What the picture is to show."),
        io.Conditioning.Input("negative", tooltip="What it is not to show."),
        io.Latent.Input("latent_image", tooltip="Where sampling starts: empty, or a picture; its mask is honoured."),
        io.Float.Input(
            "denoise",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="KSampler's share of the schedule that is sampled: below 1 the latent image shows through.",
        ),
        _vae(),
    ]


def custom_inputs() -> list[io.Input]:
    """The form of SamplerCustomAdvanced."""
    return [
        io.Noise.Input("noise", tooltip="From RandomNoise, or any other NOISE."),
        io.Guider.Input("guider", tooltip="Any guider with one model: CFGGuider, BasicGuider, DualCFGGuider, ..."),
        io.Sampler.Input(
            "sampler", tooltip="From KSamplerSelect or a sampler's own node. One without a right gradient is refused."
        ),
        io.Sigmas.Input("sigmas", tooltip="The schedule of noise levels, from a scheduler node."),
        io.Latent.Input("latent_image", tooltip="Where sampling starts: empty, or a picture; its mask is honoured."),
        _vae(),
    ]


def graph_of(inputs: dict[str, Any]) -> tuple[Graph, dict[str, Any]]:
    """The graph of either form, and the inputs that are left."""
    names = KSAMPLER if "model" in inputs else CUSTOM
    taken = {name: inputs[name] for name in names}
    made = graph.ksampler(**taken) if names is KSAMPLER else graph.custom(**taken)
    return made, {name: value for name, value in inputs.items() if name not in names}


@dataclass(frozen=True)
class SearchSettings:
    """The widgets of `search_inputs`."""

    search_steps: int
    search_seed: int
    method: str
    route: str
    route_steps: int
    stop_at_score: float
    time_limit: float

    @classmethod
    def taken(cls, inputs: dict[str, Any]) -> tuple[SearchSettings, dict[str, Any]]:
        """These widgets' values, and the inputs that are left."""
        names = cls.__dataclass_fields__
        return cls(**{name: inputs[name] for name in names}), {k: v for k, v in inputs.items() if k not in names}

    @property
    def random(self) -> bool:
        return self.method == "random"

    def route_for(self, of: Graph) -> routes.Route:
        """The gradient route. Raises ProvokeError for a schedule without a step."""
        if of.steps < 1:
            raise ProvokeError(
                "The schedule has no step, so there is nothing to search", "at least one step", "raise steps or denoise"
            )
        return routes.chosen(self.route, self.route_steps, steps=of.steps)


def search_inputs(*, steps: int = 20) -> list[io.Input]:
    """What every search through a sampler has, in the order of `SearchSettings`."""
    return [
        io.Int.Input(
            "search_steps",
            default=steps,
            min=0,
            max=10_000,
            tooltip="Steps of the search. Each costs two to four runs of the sampler a result (random: one). 0 gives "
            "the sampler's own result.",
        ),
        io.Int.Input(
            "search_seed",
            default=0,
            min=0,
            max=0xFFFFFFFFFFFFFFFF,
            control_after_generate=io.ControlAfterGenerate.fixed,
            tooltip="Seed of the search's own chance: where it starts, and which copies the judges see. The picture's "
            "own seed is noise_seed (or NOISE).",
        ),
        io.Combo.Input(
            "method",
            options=METHODS,
            advanced=True,
            tooltip="gradient searches. random keeps the best of search_steps + 1 random changes: needs no "
            "gradient of model or sampler, and is the baseline that the gradient has to beat.",
        ),
        io.Combo.Input(
            "route",
            options=list(routes.CHOICES),
            advanced=True,
            tooltip="How the gradient goes back through the sampler. exact: through every step. last steps: through "
            "the last ones only. residual: the same, and the start straight through. one-step: of a predicted "
            "picture; cheap and rough. auto: exact.",
        ),
        io.Int.Input(
            "route_steps",
            default=1,
            min=1,
            max=10_000,
            advanced=True,
            tooltip="For residual and last steps: how many of the last steps. For one-step: at which step the picture "
            "is predicted (1 is the first: the cheapest).",
        ),
        io.Float.Input(
            "stop_at_score",
            default=0.0,
            min=-1000.0,
            max=1000.0,
            step=0.01,
            advanced=True,
            tooltip="Stop the results of an image as soon as their score reaches this: what the search climbs, which "
            "is minus the loss curve. Where it breaks or goes away that is minus the objective: -0.5 stops at an "
            "objective of 0.5. 0 uses all steps.",
        ),
        time_limit_input(),
    ]
