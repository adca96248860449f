"""A CLIP scorer from whatever kind of folder or file it lies in."""

from __future__ import annotations

from pathlib import Path

import torch

from .files import DOWNLOAD, existing_folder, words
from .judge import Scorer
from .open_clip_scorer import CONFIGS, WEIGHTS, load_open_clip, open_clip_config
from .transformers_scorer import load_transformers_scorer


def load_scorer(path: Path, dtype: torch.dtype = torch.float32) -> Scorer:
    """An open_clip or transformers scorer, on the CPU; never from the network, never a pickle, no code from the folder.

    Args:
        path: a folder, or an open_clip .safetensors file beside a .json of the same name. Folders of the hub may hold
            both kinds of settings: the weights' names decide then.
        dtype: float32, or float16 or bfloat16 for an accelerator.
    Raises:
        FileNotFoundError, ValueError: what is there, what was expected, what to change.
    """
    if path.is_file():
        if path.suffix != ".safetensors":
            raise ValueError(
                words(
                    f"{path} is not a .safetensors file",
                    "a .safetensors file beside an open_clip .json of the same name, or a folder",
                    "choose another one; .bin, .pt and .pth are pickle files, which can run any code",
                )
            )
        return load_open_clip(path, dtype=dtype)
    existing_folder(path)
    settings, named = path / CONFIGS[1], any((path / name).is_file() for name in WEIGHTS[:2])
    ours = open_clip_config(path)
    if ours is None and not settings.is_file():
        found = ", ".join(sorted(entry.name for entry in path.iterdir())[:12])
        raise FileNotFoundError(
            words(f"{path} holds {found or 'nothing'}", f"{CONFIGS[1]} or {CONFIGS[0]}, and the weights", DOWNLOAD)
        )
    if settings.is_file() and ours != settings and not named:
        return load_transformers_scorer(path, dtype)
    return load_open_clip(path, dtype=dtype)
