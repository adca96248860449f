"""Tiny but genuine models of the host, for tests and benchmarks: its own classes, small sizes, random weights.

Everything is built inside `torch.inference_mode()`, as the host's executor does (execution.py), so all weights are
inference tensors. Equal seeds give equal weights. The host must be importable when a function is called, not before.
The other objects (CLIP, VAE, ControlNet, hooks) are in tiny_parts.py and reachable from here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .tiny_parts import (
    clip,
    clip_for,
    controlnet,
    hint,
    hooked,
    lora,
    lora_hook,
    regional,
    taesd,
    vae,
    video_vae,
    with_control,
)
from .tiny_weights import CARRIED, fill, write

__all__ = [
    "FAMILIES",
    "clip",
    "clip_for",
    "conditioning",
    "controlnet",
    "empty_latent",
    "hint",
    "hooked",
    "lora",
    "lora_hook",
    "model",
    "picture_latent",
    "regional",
    "taesd",
    "vae",
    "video_vae",
    "with_control",
]


@dataclass(frozen=True)
class _Family:
    """How the host builds one, and what it takes."""

    config: str  # class in comfy.supported_models
    sizes: Callable[[int], dict[str, Any]]  # unet_config by width
    context: int  # width of the cross-attention input; the same for every model width, as is pooled
    pooled: int = 0
    guidance: float | None = None
    channels: int = 4  # of the latent
    video: bool = False
    eps: bool = False  # predicts the noise


def _unet(width: int, **other: Any) -> dict[str, Any]:
    """Two levels, one residual block each, a transformer block in every place."""
    sizes = {
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32 * width,
        "num_res_blocks": [1, 1], "channel_mult": [1, 2], "transformer_depth": [1, 1], "transformer_depth_middle": 1,
        "transformer_depth_output": [1, 1, 1, 1], "context_dim": 32, "use_spatial_transformer": True,
        "use_linear_in_transformer": False, "adm_in_channels": None, "use_temporal_attention": False, "legacy": False,
    }  # fmt: skip
    return sizes | other


def _sd15(width: int) -> dict[str, Any]:
    return _unet(width, num_heads=4, num_head_channels=-1)


def _sd2v(width: int) -> dict[str, Any]:
    return _unet(width, num_heads=-1, num_head_channels=16, use_linear_in_transformer=True)


def _sdxl(width: int) -> dict[str, Any]:
    # model_base.SDXL.encode_adm appends six Fourier features of 256 to the pooled output
    heads = {"num_heads": -1, "num_head_channels": 16, "use_linear_in_transformer": True}
    return _unet(width, context_dim=64, num_classes="sequential", adm_in_channels=32 + 6 * 256, **heads)


def _sd3(width: int) -> dict[str, Any]:
    hidden = 64 * 2 * width  # MMDiT: 64 and one head for each unit of depth; num_blocks is the real depth
    return {
        "in_channels": 16, "out_channels": 16, "depth": 2 * width, "num_blocks": 2, "patch_size": 2,
        "input_size": None, "pos_embed_max_size": 16, "num_patches": 256, "adm_in_channels": 24, "context_size": 32,
        "context_embedder_config": {
            "target": "torch.nn.Linear", "params": {"in_features": 32, "out_features": hidden},
        },
        "qk_norm": "rms",
    }  # fmt: skip


def _flux(width: int) -> dict[str, Any]:
    return {
        "image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": 24, "context_in_dim": 32,
        "hidden_size": 64 * width, "mlp_ratio": 2.0, "num_heads": 4 * width, "depth": 2, "depth_single_blocks": 2,
        "axes_dim": [4, 6, 6], "theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": True,
        "txt_ids_dims": [],
    }  # fmt: skip


def _wan(width: int) -> dict[str, Any]:
    return {
        "image_model": "wan2.1", "model_type": "t2v", "in_dim": 16, "out_dim": 16, "dim": 96 * width,
        "ffn_dim": 128 * width, "freq_dim": 64, "text_dim": 32, "num_heads": 4 * width, "num_layers": 2, "text_len": 16,
    }  # fmt: skip


_FAMILIES = {
    "sd15": _Family("SD15", _sd15, 32, eps=True),
    "sd2v": _Family("SD20", _sd2v, 32),
    "sdxl": _Family("SDXL", _sdxl, 64, pooled=32, eps=True),
    "sd3": _Family("SD3", _sd3, 32, pooled=24, channels=16),
    "flux": _Family("Flux", _flux, 32, pooled=24, guidance=3.5, channels=16),
    "wan": _Family("WAN21_T2V", _wan, 32, channels=16, video=True),
}
FAMILIES = tuple(_FAMILIES)


def _predict_noise(net: Any, voice: float = 0.2) -> None:
    """Wire a UNet so that its output is its own input, normalised, plus `voice` times what its random weights say.

    A noise predictor's input is mostly noise; one that ignores it leaves the first sigma (14.6) in the result, which
    hides what the network does and saturates a VAE. The CARRIED channels bring +x and -x through the first skip
    connection, and no block adds to them there: silu(x) - silu(-x) = x.
    """
    first, last, norm = net.input_blocks[0][0], net.out[-1], net.out[0]
    block, transformer = net.output_blocks[-1][:2]
    eye = torch.cat([torch.eye(4), -torch.eye(4)])
    into = torch.zeros(8, 4, 3, 3)
    into[:, :, 1, 1] = eye
    skip = block.skip_connection.weight
    select = torch.zeros(8, *skip.shape[1:])
    select[:, skip.shape[1] // 2 :][:, :8] = torch.eye(8)[:, :, None, None]  # the block's input is [h, skip]
    write(first.weight, CARRIED, into)
    write(skip, CARRIED, select)
    for layer in (block.out_layers[-1], transformer.proj_out):
        write(layer.weight, CARRIED, 0.0)
    for layer in (first, block.skip_connection, block.out_layers[-1], transformer.proj_out, norm):
        write(layer.bias, CARRIED, 0.0)
    write(norm.weight, CARRIED, 1.0)
    write(last.weight, ..., voice * last.weight.float())
    write(last.weight, (slice(None), CARRIED), into.movedim(0, 1))


@torch.inference_mode()
def model(
    family: str,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    manual_cast: torch.dtype | None = None,
    width: int = 1,
) -> Any:
    """A MODEL of one of FAMILIES (sd15: noise prediction; sd2v: v-prediction; sd3, flux, wan: flow).

    dtype: of the stored weights; manual_cast: of the computation, where it is another one (the host's manual cast).
    width: multiplies the hidden sizes; 1 is about a million parameters. The text widths do not change with it.
    """
    import comfy.model_management as management
    import comfy.model_patcher
    import comfy.supported_models

    spec = _FAMILIES[family]
    sizes = spec.sizes(width)
    config = getattr(comfy.supported_models, spec.config)(sizes)
    config.unet_config.update(sizes)  # BASE.__init__ lets the class's own unet_extra_config (head sizes) win
    config.set_inference_dtype(dtype, manual_cast)
    # SD20.model_type tells v-prediction from noise prediction by the spread of this bias in the file
    sign = {"output_blocks.11.1.transformer_blocks.0.norm1.bias": torch.tensor([-1.0, 1.0])}
    made = config.get_model(sign if family == "sd2v" else {}, device=torch.device("cpu"))
    fill(made.diffusion_model, seed=seed)
    if spec.eps:
        _predict_noise(made.diffusion_model)
    return comfy.model_patcher.CoreModelPatcher(
        made, load_device=management.get_torch_device(), offload_device=management.unet_offload_device()
    )


@torch.inference_mode()
def conditioning(family: str, *, seed: int = 0, tokens: int = 7, batch: int = 1) -> list[list[Any]]:
    """A random CONDITIONING: one entry of [batch, tokens, width], with what else the family's text encoders give."""
    spec, rng = _FAMILIES[family], torch.Generator().manual_seed(seed)
    embedding = torch.randn(batch, tokens, spec.context, generator=rng)
    extra: dict[str, Any] = {}
    if spec.pooled:
        extra["pooled_output"] = torch.randn(batch, spec.pooled, generator=rng)
    if spec.guidance is not None:
        extra["guidance"] = spec.guidance
    return [[embedding, extra]]


def _latent(samples: Tensor, mask: Tensor | None) -> dict[str, Any]:
    import nodes

    latent = {"samples": samples}
    return latent if mask is None else nodes.SetLatentNoiseMask().set_mask(latent, mask)[0]


def _shape(family: str, height: int, width: int, batch: int, frames: int) -> tuple[int, ...]:
    spec = _FAMILIES[family]
    return (batch, spec.channels, *((frames,) if spec.video else ()), height, width)


@torch.inference_mode()
def empty_latent(
    family: str, *, height: int = 8, width: int = 8, batch: int = 1, frames: int = 2, mask: Tensor | None = None
) -> dict[str, Any]:
    """A LATENT of zeros, B C H W or B C T H W; sizes are of the latent. mask: B H W, 1 is where to sample."""
    return _latent(torch.zeros(_shape(family, height, width, batch, frames)), mask)


@torch.inference_mode()
def picture_latent(
    family: str,
    *,
    seed: int = 0,
    height: int = 8,
    width: int = 8,
    batch: int = 1,
    frames: int = 2,
    mask: Tensor | None = None,
) -> dict[str, Any]:
    """As empty_latent(), but standard normal: what a LATENT that came from a picture is to the sampler."""
    shape = _shape(family, height, width, batch, frames)
    return _latent(torch.randn(shape, generator=torch.Generator().manual_seed(seed)), mask)
