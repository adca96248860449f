"""The host's own Load VAE reads the demo VAE, and encodes and decodes as the trained net does."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from provoke.demo.checker import objects_right, read
from provoke.demo.training.vae import full_size
from provoke.demo.vision_models import VAE
from provoke.demo.world import render, sample


@pytest.fixture(scope="module")
def vae(comfy: ModuleType) -> Any:
    import folder_paths

    from nodes import VAELoader

    folder_paths.add_model_folder_path("vae", str(VAE.parent))
    return VAELoader().load_vae(VAE.name)[0]


@torch.no_grad()
def test_the_host_encodes_and_decodes_the_same(vae: Any) -> None:
    from comfy.taesd.taesd import TAESD

    assert isinstance(vae.first_stage_model, TAESD)
    assert (vae.latent_channels, vae.downscale_ratio) == (4, 8)
    net = full_size()
    net.load_state_dict({k: v.float() for k, v in load_file(VAE).items() if k.startswith("taesd")}, assign=True)
    images = render(sample(4, torch.Generator().manual_seed(5), part="held out"))
    wanted = net.encode(images)
    picture = net.decode(wanted).clamp(0, 1)
    latents = vae.encode(images.movedim(1, -1))
    assert latents.shape == (4, 4, 8, 8)
    assert float((latents - wanted).abs().max()) < 0.06  # the host may work in bfloat16
    assert float((vae.decode(wanted).movedim(-1, 1) - picture).abs().max()) < 0.03


@torch.no_grad()
def test_the_host_s_reconstructions_show_the_same_objects(vae: Any) -> None:
    scenes = sample(64, torch.Generator().manual_seed(6), part="held out", objects=1)
    images = vae.decode(vae.encode(render(scenes).movedim(1, -1))).movedim(-1, 1)
    assert float(objects_right(read(images), scenes).float().mean()) >= 0.9
