"""The demo world's diffusion model, text encoder and VAE, as the host's own objects."""

from __future__ import annotations

import json

import folder_paths
from safetensors.torch import load_file

from ..host.api import io, schema
from .demo_access import demo, weights

KINDS = {"20 steps": None, "4 steps": "provoke-demo-few-step.safetensors"}
"""What *model* offers: the diffusion model, without or with a LoRA."""


class LoadDemoModels(io.ComfyNode):
    """What *Load Checkpoint* is for a real model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ProvokeLoadDemoModels",
            display_name="Load Demo Models",
            category="Provoke/demo",
            description="A tiny text-to-image model of the demo world (64 x 64 pixels, one or two coloured shapes), "
            "with its text encoder and VAE: genuine MODEL, CLIP and VAE, for every sampler and text node. Prompts are "
            "such as 'a red circle left of a blue square on white'.",
            search_aliases=["provoke", "load checkpoint", "tiny model", "toy diffusion", "demo model", "test model"],
            inputs=[
                io.Combo.Input(
                    "model",
                    options=list(KINDS),
                    tooltip="20 steps: in KSampler 20 steps, cfg 3, euler, simple. 4 steps: 4 steps, cfg 1; distilled, "
                    "and hardly reacting to the seed (the same model with the LoRA provoke-demo-few-step).",
                ),
            ],
            outputs=[
                io.Model.Output("MODEL", tooltip="A flow model with the host's UNet; a latent is 4 x 8 x 8."),
                io.Clip.Output("CLIP", tooltip="The first demo CLIP's text tower; knows the demo world's words."),
                io.Vae.Output("VAE", tooltip="8 times smaller, 4 channels."),
            ],
        )

    @classmethod
    def execute(cls, model: str) -> io.NodeOutput:
        from ..host import build

        generators, tower = demo("generators"), demo("text_tower")
        unet = load_file(weights("diffusion_models", "provoke-demo-diffusion.safetensors"))
        latent = build.PlainLatent(generators.LATENT_RGB)
        made = build.flow_unet(unet, generators.UNET, latent)
        lora = KINDS[model]
        if lora is not None:
            made = build.with_lora(made, load_file(weights("loras", lora)))
        config = json.loads(weights("provoke_clip", "first", "config.json").read_text(encoding="utf-8"))
        clip = build.clip_text_encoder(
            tower.host_text_weights(load_file(weights("provoke_clip", "first", "model.safetensors"))),
            tower.host_text_config(config),
            weights("provoke_clip", "tokenizer"),
            tower.special_tokens(config),
            embeddings=folder_paths.get_folder_paths("embeddings"),
        )
        vae = build.vae(load_file(weights("vae", "provoke-demo-vae.safetensors")))
        return io.NodeOutput(made, clip, vae)
