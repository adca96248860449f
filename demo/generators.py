"""What the demo world's generators are built from; `host/build.py` makes the host's own objects of it.

The UNet is ComfyUI's `comfy.ldm.modules.diffusionmodules.openaimodel.UNetModel`, small, as a flow model in the demo
VAE's latents (noise minus latent is predicted; sigma runs from 1 to 0). The text encoder: the first demo CLIP's.
"""

from __future__ import annotations

from typing import Any

UNET: dict[str, Any] = {
    "image_size": 8, "in_channels": 4, "out_channels": 4, "model_channels": 64, "num_res_blocks": [1, 1],
    "channel_mult": [1, 2], "transformer_depth": [1, 1], "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1], "context_dim": 128, "use_spatial_transformer": True,
    "use_linear_in_transformer": True, "adm_in_channels": None, "use_temporal_attention": False, "legacy": False,
    "num_heads": -1, "num_head_channels": 32,
}  # fmt: skip
"""What the host's UNetModel is built from."""

LATENT_RGB = ((0.01, -0.30, -0.15), (0.11, -0.03, -0.16), (-0.33, -0.15, -0.26), (0.31, 0.15, 0.22))
"""Latent channels to R, G, B in [-1,1]: least squares over 400 scenes, 71 % of the variance. For live previews."""
