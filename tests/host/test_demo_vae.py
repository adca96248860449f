"""The host's own Load VAE reads a file made as the demo VAE is, and encodes and decodes as the trained net does."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import torch
from safetensors.torch import save_file

from provoke.demo.training.vae import Taesd, padded
from provoke.demo.world import render, sample


@torch.no_grad()
def test_the_host_encodes_and_decodes_the_same(comfy: ModuleType, tmp_path: Path) -> None:
    import folder_paths
    from comfy.taesd.taesd import TAESD

    from nodes import VAELoader

    torch.manual_seed(0)
    net = Taesd()
    save_file({name: value.half() for name, value in padded(net.state_dict()).items()}, tmp_path / "slim.safetensors")
    folder_paths.add_model_folder_path("vae", str(tmp_path))
    vae = VAELoader().load_vae("slim.safetensors")[0]
    assert isinstance(vae.first_stage_model, TAESD)
    assert (vae.latent_channels, vae.downscale_ratio) == (4, 8)

    images = render(sample(4, torch.Generator().manual_seed(5), part="held out"))
    wanted = net.encode(images)
    latents = vae.encode(images.movedim(1, -1))
    assert latents.shape == (4, 4, 8, 8)
    assert float((latents - wanted).abs().max()) < 0.06  # the weights are fp16, the host may work in bfloat16
    decoded = vae.decode(wanted).movedim(-1, 1)
    assert float((decoded - net.decode(wanted).clamp(0, 1)).abs().max()) < 0.03
