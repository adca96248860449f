"""VLM Inversion Sampler: a picture straight from what a vision-language model says of it, held natural by the model.

Both forms: one with a sampler node's sockets, and one that is a SAMPLER for the host's SamplerCustomAdvanced.
Source: "Referee Can Play" (arXiv 2402.16305).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from comfy_execution.graph_utils import ExecutionBlocker
from torch import Tensor

from ..core.errors import ProvokeError
from ..host.api import io, schema
from ..host.judges import passed
from ..host.live import charted, reported
from ..host.progress import drive
from ..host.sampling import graph
from ..host.sampling.graph import Graph, Latent
from ..host.sampling.handle import Sampling
from ..host.sampling.inside import empty_fixed
from ..host.sampling.inversion import InversionSampler
from ..host.stop import stoppable
from . import vlm_inversion_report, vlm_inversion_settings
from .objective import Parts, Scores, scored_one_by_one
from .sampler_search import decoded
from .vlm_inversion_search import Inverted, Moment, inverted, started
from .vlm_inversion_settings import InversionSettings

ALIASES = [
    "provoke", "referee can play", "model inversion", "BLIP-2", "SDS", "score distillation", "DDS", "prompt alignment",
    "compositional", "text-image alignment", "VLM",
]  # fmt: skip
WORDS = (
    "Moves a latent step by step to where a vision-language model says that the picture matches the prompt: what is "
    "what colour, and where. The diffusion model only keeps the picture natural (score distillation)."
)
# of the graph that is opened; nothing is sampled by it
SCHEDULE: dict[str, Any] = {"steps": 20, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}


class VlmInversionSampler(io.SearchNode):
    """With KSampler's sockets."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ProvokeVlmInversionSampler",
            display_name="VLM Inversion Sampler",
            category="Provoke/search",
            description=WORDS,
            search_aliases=ALIASES,
            inputs=[
                io.Model.Input("model", tooltip="The diffusion model whose pull keeps the picture natural."),
                io.Int.Input(
                    "noise_seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Seed of the noise to start from where the latent is empty, as KSampler draws it.",
                ),
                io.Float.Input(
                    "cfg",
                    default=30.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="Guidance scale of the model's pull (no unit). Score distillation takes far more than "
                    "sampling does: 30 as published.",
                ),
                io.Conditioning.Input(
                    "positive", tooltip="The prompt for the model. Published: 'A photo exactly contains', and then it."
                ),
                io.Conditioning.Input("negative", tooltip="What the model is to keep away from; often empty."),
                io.Latent.Input(
                    "latent_image",
                    tooltip="Empty: starts from noise. A picture (from a sampler, or VAE Encode): starts from it. Its "
                    "mask says what may change.",
                ),
                _vae(),
                *vlm_inversion_settings.first_inputs(),
                *vlm_inversion_settings.inputs(),
                *vlm_inversion_settings.range_inputs(),
                _source(),
            ],
            outputs=[
                io.Latent.Output("output", tooltip="The latent found, for VAE Decode; or to go on from in this node."),
                io.Custom("LOSS_MAP").Output("loss", tooltip="For Plot Loss Graph: the VLM's loss at every step."),
                io.String.Output("report", tooltip="What the VLM says before and after, and what it cost."),
            ],
        )

    @classmethod
    def execute(cls, model: Any, noise_seed: int, cfg: float, **inputs: Any) -> io.NodeOutput:
        began = time.monotonic()
        settings, rest = InversionSettings.taken(inputs)
        source = rest.pop("source", None)
        made = graph.ksampler(model, noise_seed, cfg=cfg, **SCHEDULE, **rest)
        if settings.steps == 0:
            report = "search     none: steps is 0, so this is the latent as it came"
            return io.NodeOutput(made.latent, ExecutionBlocker(None), report)
        parts = settings.parts
        _refuse_edit_of_nothing(source, made.latent["samples"])
        notes: list[str] = []
        found, start, samples = _run(made, settings, source, notes)
        fixed = empty_fixed(made.guider.model_patcher, made.latent)
        output = {key: value for key, value in fixed.items() if not key.startswith("downscale_ratio_")}
        output["samples"] = samples
        before, after = (_scores(made, parts, latent) for latent in ({**fixed, "samples": start}, output))
        report = vlm_inversion_report.describe(settings, found, before, after, notes, time.monotonic() - began)
        loss: object = {"loss": found.losses} if len(set(found.losses)) > 1 else ExecutionBlocker(None)
        return io.NodeOutput(output, loss, report)


class VlmInversion(io.SearchNode):
    """The same as a SAMPLER."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ProvokeVlmInversion",
            display_name="VLM Inversion (SAMPLER)",
            category="Provoke/search",
            description=f"{WORDS} As a SAMPLER for SamplerCustomAdvanced: its guider gives the prompt and the guidance "
            "(cfg 30, say), its SIGMAS the noise levels of score distillation: the first is the highest, the last "
            "above 0 the lowest.",
            search_aliases=ALIASES,
            inputs=[
                _vae(),
                *vlm_inversion_settings.first_inputs(),
                *vlm_inversion_settings.inputs(),
                _source(),
            ],
            outputs=[io.Sampler.Output("sampler", tooltip="For SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(cls, vae: Any, **inputs: Any) -> io.NodeOutput:
        settings, rest = InversionSettings.taken(inputs)
        parts = settings.parts  # a text that the VLM cannot read is refused here, not in the sampler's node
        source = rest.get("source")

        def body(sampling: Sampling, show: Any) -> Tensor:
            began = time.monotonic()
            _refuse_edit_of_nothing(source, sampling.model_latent)

            def shown(moments: Iterator[Moment], total: int) -> Moment:
                for moment in charted(moments, total):
                    show(min(moment.step["i"], total - 1), moment.average, moment.step["variable"], total)
                return moment

            def scores(x: Tensor) -> Scores:
                with torch.no_grad():
                    images = torch.cat([decoded(sampling, sampling.latent_of(one)) for one in x.split(1)])
                return scored_one_by_one(parts, images, None, session=passed)

            with stoppable() as should_stop:
                found = inverted(sampling, settings, shown, should_stop, source, show.ratios)
                before, after = scores(started(sampling)), scores(found.selection.variable)
                seconds = time.monotonic() - began
                reported(vlm_inversion_report.describe(settings, found, before, after, sampling.notes, seconds))
            return found.selection.variable

        return io.NodeOutput(InversionSampler(body, vae, [settings.vlm], still=settings.steps == 0))


def _vae() -> io.Input:
    return io.Vae.Input("vae", tooltip="Decodes the latent: once a step, with its gradient.")


def _source() -> io.Input:
    return io.Conditioning.Input(
        "source",
        optional=True,
        tooltip="For edits: what the picture in the latent shows now. Then only the difference between the two prompts "
        "pulls (Delta Denoising), and the rest of the picture stays sharper.",
    )


def _refuse_edit_of_nothing(source: Any, samples: Tensor) -> None:
    if source is not None and not bool(samples.any()):
        raise ProvokeError(
            "source describes a picture, and the latent is empty",
            "a latent with a picture in it",
            "connect the picture's latent (VAE Encode), or disconnect source",
        )


def _run(made: Graph, settings: InversionSettings, source: Any, notes: list[str]) -> tuple[Inverted, Tensor, Tensor]:
    """The search, and the latents that it began at and found, as a LATENT has them: B C h w. What the mask keeps of a
    picture is bit for bit the input's; of an empty latent it is what the host's samplers make of it."""

    def shown(moments: Iterator[Moment], total: int) -> Moment:
        return drive(moments, total, lambda moment: moment.picture())

    with stoppable() as should_stop:

        def body(sampling: Sampling) -> tuple[Inverted, Tensor, Tensor]:
            found = inverted(sampling, settings, shown, should_stop, source)
            with torch.no_grad():
                start, samples = (sampling.latent_of(x) for x in (started(sampling), found.selection.variable))
            if bool(sampling.latent.any()):
                start = sampling.latent
                if sampling.mask is not None:
                    samples = torch.where(sampling.mask != 0, samples, start)
            return found, start.cpu(), samples.cpu()

        return made.inside(body, judges=[settings.vlm], notes=notes, gradient=False, looks=made.batch)


def _scores(made: Graph, parts: Parts, latent: Latent) -> Scores:
    """The VLM's scores of the host's own pictures."""
    return scored_one_by_one(parts, made.pictures(latent).movedim(-1, 1).float().clone(), None)
