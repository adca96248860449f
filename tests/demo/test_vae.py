"""The demo VAE: the host's shapes, the padding, and reconstructions that the checker reads."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from provoke.demo.checker import objects_right, read
from provoke.demo.training.vae import Taesd, full_size, padded
from provoke.demo.vision_models import VAE
from provoke.demo.world import render, sample


@pytest.fixture(scope="module")
def vae() -> Taesd:
    torch.set_num_threads(1)
    weights = {k: v.float() for k, v in load_file(VAE).items() if k.startswith("taesd")}
    net = full_size()
    net.load_state_dict(weights, assign=True)
    return net.eval().requires_grad_(False)


def test_a_padded_net_does_what_the_slim_one_did() -> None:
    torch.manual_seed(0)
    slim, wide = Taesd(), full_size()
    weights = padded(slim.state_dict())
    assert (float(weights.pop("vae_scale")), float(weights.pop("vae_shift"))) == (1, 0)
    wide.load_state_dict(weights, assign=True)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        latents = slim.encode(images)
        assert latents.shape == (2, 4, 8, 8)
        torch.testing.assert_close(wide.encode(images), latents, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(wide.decode(latents), slim.decode(latents), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("objects", "bar"), [(1, 0.95), (2, 0.90)])
def test_reconstructions_show_the_same_objects(vae: Taesd, objects: int, bar: float) -> None:
    scenes = sample(256, torch.Generator().manual_seed(77 + objects), part="held out", objects=objects)
    with torch.no_grad():
        images = vae.decode(vae.encode(render(scenes))).clamp(0, 1)
    assert float(objects_right(read(images), scenes).float().mean()) >= bar


def test_latents_have_about_unit_variance_and_near_ones_decode_alike(vae: Taesd) -> None:
    scenes = sample(128, torch.Generator().manual_seed(79), part="held out")
    with torch.no_grad():
        latents = vae.encode(render(scenes))
        moved = latents + 0.1 * torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))
        images = vae.decode(moved).clamp(0, 1)
    spread, middle = torch.std_mean(latents, (0, 2, 3))
    assert bool(((spread > 0.7) & (spread < 1.4) & (middle.abs() < 0.4)).all())
    assert float(objects_right(read(images), scenes).float().mean()) >= 0.85
