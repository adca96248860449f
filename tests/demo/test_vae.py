"""The demo VAE's slim net fits the host's shapes."""

from __future__ import annotations

import torch

from provoke.demo.training.vae import Taesd, full_size, padded


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
