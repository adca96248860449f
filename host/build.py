"""Genuine objects of the host from weights that it could not recognise by itself: a small flow UNet, a small CLIP text
encoder, a VAE. The demo world's models are such.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models_base
import comfy.utils
from comfy.sd1_clip import SD1ClipModel, SD1Tokenizer, SDClipModel, SDTokenizer
from torch import Tensor


class PlainLatent(comfy.latent_formats.LatentFormat):
    """Four channels of unit variance, neither scaled nor shifted. `rgb` (4 x 3) makes the host's live preview."""

    def __init__(self, rgb: Sequence[Sequence[float]] | None = None) -> None:
        self.latent_channels = 4
        self.latent_rgb_factors = rgb


class _FlowUNet(comfy.supported_models_base.BASE):
    """What the host wants to know of a flow model with its UNet: rectified flow, times evenly spread."""

    unet_extra_config: dict[str, Any] = {}  # BASE's would overwrite the number of heads  # noqa: RUF012
    sampling_settings = {"shift": 1.0}  # noqa: RUF012
    latent_format = PlainLatent
    memory_usage_factor = 1.0

    def model_type(self, state_dict: Mapping[str, Tensor], prefix: str = "") -> comfy.model_base.ModelType:
        return comfy.model_base.ModelType.FLOW


def flow_unet(
    weights: Mapping[str, Tensor], sizes: Mapping[str, Any], latent: PlainLatent, *, disable_dynamic: bool = False
) -> Any:
    """A MODEL: the host's UNetModel of these `sizes`, predicting noise minus latent.

    Raises RuntimeError (torch's, naming the entries) where the weights do not fit.
    """
    management = comfy.model_management
    config = _FlowUNet(dict(sizes))
    config.latent_format = latent
    number = sum(weight.numel() for weight in weights.values())
    device = management.get_torch_device()
    kinds = config.supported_inference_dtypes
    dtype = management.unet_dtype(model_params=number, supported_dtypes=kinds)
    config.set_inference_dtype(dtype, management.unet_manual_cast(dtype, device, kinds))
    made = config.get_model({}, device=management.unet_offload_device())
    made.diffusion_model.load_state_dict(dict(weights), strict=True)
    patcher = comfy.model_patcher.ModelPatcher if disable_dynamic else comfy.model_patcher.CoreModelPatcher
    model = patcher(made, load_device=device, offload_device=management.unet_offload_device())
    # what clone(disable_dynamic=True) builds a model without dynamic VRAM from
    model.cached_patcher_init = (flow_unet, (weights, sizes, latent))
    return model


def with_lora(model: Any, lora: Mapping[str, Tensor], strength: float = 1.0) -> Any:
    """A MODEL with a LoRA on it, as *Load LoRA (Model Only)* makes it; `model` stays as it is."""
    return comfy.sd.load_lora_for_models(model, None, dict(lora), strength, 0.0)[0]


def clip_text_encoder(
    weights: Mapping[str, Tensor],
    sizes: Mapping[str, Any],
    tokenizer: Path,
    special_tokens: Mapping[str, int],
    *,
    embeddings: Sequence[str] | None = None,
    disable_dynamic: bool = False,
) -> Any:
    """A CLIP: the host's SD1 text encoder with another vocabulary and other sizes.

    Args:
        sizes: the host's `clip_l_model_config`, the keys of its sd1_clip_config.json.
        tokenizer: a folder with vocab.json and merges.txt.
        special_tokens: ids of "start", "end" and "pad". SDClipModel has CLIP's own as a default argument.
        embeddings: folders in which the prompt's `embedding:name` are looked up.
    """

    class Tower(SDClipModel):
        def __init__(self, device: str = "cpu", dtype: Any = None, model_options: Any = None) -> None:
            options = model_options or {}
            super().__init__(device=device, dtype=dtype, special_tokens=dict(special_tokens), model_options=options)

    class Model(SD1ClipModel):
        def __init__(self, device: str = "cpu", dtype: Any = None, model_options: Any = None) -> None:
            super().__init__(device=device, dtype=dtype, model_options=model_options or {}, clip_model=Tower)

    part = functools.partial(SDTokenizer, tokenizer_path=str(tokenizer), embedding_size=sizes["hidden_size"])
    made = comfy.sd.CLIP(
        comfy.supported_models_base.ClipTarget(SD1Tokenizer, Model),
        embedding_directory=list(embeddings or []),
        tokenizer_data={"clip_l_tokenizer_class": part},
        parameters=sum(weight.numel() for weight in weights.values()),
        state_dict=[dict(weights)],
        model_options={"clip_l_model_config": dict(sizes)},
        disable_dynamic=disable_dynamic,
    )
    made.patcher.cached_patcher_init = (
        _clip_patcher,
        (weights, sizes, tokenizer, special_tokens, embeddings),
    )
    return made


def _clip_patcher(*arguments: Any, disable_dynamic: bool = False) -> Any:
    *first, embeddings = arguments
    return clip_text_encoder(*first, embeddings=embeddings, disable_dynamic=disable_dynamic).patcher


def vae(weights: Mapping[str, Tensor]) -> Any:
    """A VAE, its architecture found by the host in the weights' names."""
    return comfy.sd.VAE(sd=dict(weights))
