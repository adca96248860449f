"""Loading a folder of transformers: local files, safetensors, no code from the folder, nothing missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from .files import (
    DOWNLOAD,
    INDEX,
    check_safetensors,
    existing_folder,
    no_adapter,
    read_json,
    weight_files,
    words,
)
from .judge import normal_mode

LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
_TROUBLE = (OSError, ValueError, TypeError, RuntimeError, KeyError, AttributeError, ImportError, AssertionError)


def model_type(folder: Path) -> str:
    """`model_type` of config.json. FileNotFoundError, ValueError: there is none."""
    found = read_json(existing_folder(folder) / "config.json")
    if not isinstance(found.get("model_type"), str):
        raise ValueError(
            words(
                f"{folder / 'config.json'} has no model_type; its keys are {', '.join(sorted(found)[:12])}",
                "the config.json of a transformers model",
                DOWNLOAD,
            )
        )
    return found["model_type"]


def load_model(kind: Any, folder: Path, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A model of this class (or Auto class) of transformers, on the CPU.

    Args:
        dtype: what its weights are read as: half of a large model need not be held in float32 first.
    Raises:
        FileNotFoundError, ValueError: weights that are missing, truncated, pickled, of another model or of another
            shape; settings that transformers does not know.
    """
    no_adapter(folder)
    files = weight_files(folder, "model.safetensors", INDEX)
    check_safetensors(files)
    try:
        with normal_mode(), torch.random.fork_rng(devices=[]):
            model, report = kind.from_pretrained(
                folder, use_safetensors=True, dtype=dtype, output_loading_info=True, **LOCAL
            )
    except _TROUBLE as error:
        raise ValueError(
            words(
                f"{folder} does not load as {kind.__name__} ({_short(error)})",
                "weights and config.json of the same model, of an architecture that the installed transformers has",
                f"{DOWNLOAD}, or update transformers",
            )
        ) from error
    missing = sorted(map(str, report["missing_keys"]))
    other = sorted(map(str, report["mismatched_keys"]))
    if missing or other:  # transformers would fill them with random numbers
        name = (other or missing)[0]
        raise ValueError(
            words(
                f"{files[0]} is not the model of its config: {len(missing)} tensors are missing and {len(other)} have "
                f"another shape; for example {name}",
                f"every tensor of {type(model).__name__}",
                "put the weights and the config of the same model together",
            )
        )
    return model


def load_part(kind: Any, folder: Path, file: str, **settings: Any) -> Any:
    """An image processor or a tokenizer from the folder's files.

    Args:
        kind: AutoImageProcessor or AutoTokenizer.
        file: its settings, which must be there ("preprocessor_config.json").
    Raises:
        FileNotFoundError, ValueError: as above.
    """
    read_json(folder / file)
    try:
        return kind.from_pretrained(folder, **settings, **LOCAL)
    except _TROUBLE as error:
        raise ValueError(
            words(f"{folder}: its {file} does not load ({_short(error)})", f"a complete {file} and its files", DOWNLOAD)
        ) from error


def _short(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:300] or type(error).__name__
