"""Tiny genuine text encoders, one of every kind that takes embeddings, with the host's own tokenizers."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch

from .tiny_weights import fill

KINDS = ("sd15", "sd2", "sdxl", "sd3", "flux", "z-image", "qwen-image")
"""CLIP-L; OpenCLIP H; CLIP-L and G; the same without the T5; CLIP-L and T5; a language model; one that reads none."""

_CLIP = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
_T5 = {"d_model": 32, "d_ff": 64, "d_kv": 16, "num_heads": 2, "num_layers": 2}
_QWEN = {**_CLIP, "num_key_value_heads": 1}
_SIZES = {
    **{f"{name}_model_config": _CLIP for name in ("clip_l", "clip_g", "clip_h")},
    "t5xxl_model_config": _T5,
    **{f"{name}_model_config": _QWEN for name in ("qwen3_4b", "qwen25_7b")},
}


@torch.inference_mode()
def text_encoder(kind: str, *, seed: int = 0, embeddings: Sequence[str] = ()) -> Any:
    """A CLIP of one of KINDS. embeddings: folders in which its prompts' `embedding:name` are looked up.

    SD 3's T5 is left out: the host fixes its width to 4096. Qwen-Image has its own tokenizer and Z-Image's language
    model, because its own holds a picture encoder that is not tiny.
    """
    import comfy.sd
    import comfy.text_encoders.flux as flux
    import comfy.text_encoders.qwen_image as qwen_image
    import comfy.text_encoders.sd2_clip as sd2
    import comfy.text_encoders.sd3_clip as sd3
    import comfy.text_encoders.z_image as z_image
    from comfy.sd1_clip import SD1ClipModel, SD1Tokenizer
    from comfy.sdxl_clip import SDXLClipModel, SDXLTokenizer
    from comfy.supported_models_base import ClipTarget

    model, tokenizer = {
        "sd15": (SD1ClipModel, SD1Tokenizer),
        "sd2": (sd2.SD2ClipModel, sd2.SD2Tokenizer),
        "sdxl": (SDXLClipModel, SDXLTokenizer),
        "sd3": (functools.partial(sd3.SD3ClipModel, t5=False), sd3.SD3Tokenizer),
        "flux": (flux.FluxClipModel, flux.FluxTokenizer),
        "z-image": (z_image.ZImageTEModel, z_image.ZImageTokenizer),
        "qwen-image": (
            functools.partial(SD1ClipModel, name="qwen25_7b", clip_model=z_image.Qwen3_4BModel),
            qwen_image.QwenImageTokenizer,
        ),
    }[kind]
    options = {"dtype": torch.float32, **{name: dict(sizes) for name, sizes in _SIZES.items()}}
    made = comfy.sd.CLIP(
        ClipTarget(tokenizer, model), embedding_directory=list(embeddings) or None, model_options=options
    )
    fill(made.cond_stage_model, seed=seed)
    return made
