"""A vision-language model from a folder of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from .blip2 import Blip2Captioning, Blip2Matching
from .files import read_json, words
from .llava import Llava
from .preprocess import for_transformers
from .transformers_files import load_model, load_part, model_type
from .vlm import FrozenVlm

CLASSES: dict[tuple[str, str], type[FrozenVlm]] = {
    ("blip-2", "Blip2ForImageTextRetrieval"): Blip2Matching,
    ("blip-2", "Blip2ForConditionalGeneration"): Blip2Captioning,
    ("llava", "LlavaForConditionalGeneration"): Llava,
}
"""By model_type and class, as config.json has them."""


def load_vlm(folder: Path, dtype: torch.dtype = torch.float32) -> FrozenVlm:
    """Loads a folder: config.json, model.safetensors (or shards and their index), preprocessor_config.json, and the
    tokenizer's files. On the CPU; never from the network, never a pickle, no code from the folder.

    Args:
        dtype: what it is read, stored and computes in: float32, or float16 or bfloat16 for an accelerator.
    Raises:
        FileNotFoundError, ValueError: what is there, what was expected, what to change.
    """
    import transformers

    kind = model_type(folder)
    named = read_json(folder / "config.json").get("architectures") or [""]
    judge = CLASSES.get((kind, str(named[0])))
    if judge is None:
        raise ValueError(
            words(
                f"{folder / 'config.json'} is of the model_type {kind!r} and the class {str(named[0]) or 'unknown'}",
                " or ".join(f"{name} ({of})" for of, name in CLASSES),
                "choose a folder of one of these; CLIP and SigLIP belong into models/provoke_clip",
            )
        )
    preprocess = for_transformers(load_part(transformers.AutoImageProcessor, folder, "preprocessor_config.json"))
    tokenizer: Any = load_part(transformers.AutoTokenizer, folder, "tokenizer_config.json")
    module = load_model(getattr(transformers, str(named[0])), folder, dtype)
    return judge(module, tokenizer, preprocess, folder.name, dtype)
