"""The demo world's generators as the host's own objects: MODEL, CLIP and VAE.

    model, clip, vae = load_model(), load_text_encoder(), load_vae()

The UNet is `comfy.ldm.modules.diffusionmodules.openaimodel.UNetModel`, small, as a flow model in `BaseModel`; the text
encoder is the first demo CLIP's text tower in `SD1ClipModel`; the VAE is a TAESD. The host must be importable when a
function is called, not before.
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
