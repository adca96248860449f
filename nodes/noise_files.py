"""Noise as a LATENT and back: a NOISE cannot be saved, a LATENT can."""

from __future__ import annotations

from typing import Any

from ..host.api import io, schema
from ..host.noise import Latent, noise_for, noise_of_latent


class NoiseFromLatent(io.ComfyNode):
    """A LATENT that holds noise, as the NOISE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ProvokeNoiseFromLatent",
            display_name="Noise from Latent",
            category="Provoke/search",
            description="Turns a latent that holds a noise (from Load Latent, or from Search Noise) into the NOISE for "
            "SamplerCustomAdvanced. So a found noise can be saved with Save Latent and shared.",
            search_aliases=["provoke", "load noise", "custom noise", "share noise", "initial noise"],
            inputs=[
                io.Latent.Input("latent", tooltip="The noise as a latent, in standard deviations (not a picture)."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="For stochastic samplers (ancestral, SDE) only, which draw more noise on their way: the "
                    "noise_seed of the run that found it.",
                ),
            ],
            outputs=[
                io.Noise.Output(
                    "noise", tooltip="For SamplerCustomAdvanced, with a latent image of the same size and batch."
                )
            ],
        )

    @classmethod
    def execute(cls, latent: Latent, seed: int) -> io.NodeOutput:
        return io.NodeOutput(noise_of_latent(latent, seed))


class LatentFromNoise(io.ComfyNode):
    """What a NOISE gives, as a LATENT."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ProvokeLatentFromNoise",
            display_name="Latent from Noise",
            category="Provoke/search",
            description="What a NOISE gives for a latent image, as a latent: to save it with Save Latent, or to look "
            "at it.",
            search_aliases=["provoke", "save noise", "export noise", "share noise", "noise to latent"],
            inputs=[
                io.Noise.Input("noise", tooltip="From RandomNoise, Search Noise, Best of Seeds, ..."),
                io.Latent.Input("latent_image", tooltip="For its size, channels and batch: what the sampler gets."),
            ],
            outputs=[io.Latent.Output("latent", tooltip="The noise; Noise from Latent turns it back.")],
        )

    @classmethod
    def execute(cls, noise: Any, latent_image: Latent) -> io.NodeOutput:
        return io.NodeOutput({"samples": noise_for(noise, latent_image)})
