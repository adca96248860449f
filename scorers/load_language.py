"""A causal language model from a folder of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from .files import read_json, words
from .language import LanguageModel
from .transformers_files import load_model, load_part, model_type

CAUSAL = ("ForCausalLM", "LMHeadModel")  # how the classes of such models end


def load_language(folder: Path, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """Loads a folder: config.json, model.safetensors (or shards and their index), and the tokenizer's files. On the
    CPU; never from the network, never a pickle, no code from the folder.

    Args:
        dtype: what it is read, stored and computes in: float32, or float16 or bfloat16 for an accelerator.
    Raises:
        FileNotFoundError, ValueError: what is there, what was expected, what to change.
    """
    import transformers

    kind = model_type(folder)
    named = [str(name) for name in read_json(folder / "config.json").get("architectures") or [""]]
    if not named[0].endswith(CAUSAL):
        raise ValueError(
            words(
                f"{folder / 'config.json'} is of the model_type {kind!r} and the class {named[0] or 'unknown'}",
                "a causal language model, which writes on (GPT2LMHeadModel, Qwen2ForCausalLM, LlamaForCausalLM, ...)",
                "choose a folder of such a model, converted to safetensors if need be",
            )
        )
    tokenizer: Any = load_part(transformers.AutoTokenizer, folder, "tokenizer_config.json")
    module = load_model(transformers.AutoModelForCausalLM, folder, dtype)
    return LanguageModel(module, tokenizer, folder.name, dtype)
