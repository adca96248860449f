"""What a judge's folder holds, read with suspicion: it may be incomplete, foreign, or made by a stranger.

Nothing here runs code from a folder or unpickles: weights are safetensors, settings are JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

INDEX = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".msgpack", ".h5")
LARGEST_JSON = 64 * 1024 * 1024  # a tokenizer.json of 250 000 words has 35 MB
# what makes a library load something that is not in the folder, or run it
REMOTE_KEYS = ("auto_map", "custom_pipelines", "quantization_config", "transformers_weights")
REMOTE_VALUE = re.compile(r"^(hf[-_]hub|local-dir)\s*:", re.IGNORECASE)  # names of models, to timm and open_clip
DOWNLOAD = "download the whole model again, with its .safetensors and .json files"


def words(came: str, expected: str, change: str) -> str:
    """An error's text: what came in, what was expected, what to change."""
    return f"{came}. Expected: {expected}. To fix it: {change}."


def read_json(path: Path) -> dict[str, Any]:
    """A settings file. FileNotFoundError: there is none. ValueError: not a JSON object, or one that asks for code or
    files from elsewhere."""
    if not path.is_file():
        raise FileNotFoundError(words(f"{path} does not exist", f"{path.name} beside the weights", DOWNLOAD))
    if path.stat().st_size > LARGEST_JSON:
        raise ValueError(words(f"{path} has {path.stat().st_size} bytes", "a file of settings", DOWNLOAD))
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(words(f"{path} is not JSON ({error})", "a file of settings", DOWNLOAD)) from error
    if not isinstance(found, dict):
        raise ValueError(words(f"{path} holds a {type(found).__name__}", "a JSON object of settings", DOWNLOAD))
    for where, value in _leaves(found):
        key = where.rpartition(".")[2]
        attention = key.strip("_").startswith("attn_implementation") and "/" in str(value)
        if key in REMOTE_KEYS or attention or (isinstance(value, str) and REMOTE_VALUE.match(value)):
            raise ValueError(
                words(
                    f"{path} asks for code or files from elsewhere: {where} = {str(value)[:80]}",
                    "settings of a class that the installed library has; the pack runs no code from model folders",
                    "choose a model of an ordinary architecture, stored without quantisation",
                )
            )
    return found


def _leaves(tree: object, where: str = "") -> Iterator[tuple[str, object]]:
    """Every entry of nested settings with its path; refused keys as a whole, whatever is below them."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            name = f"{where}.{key}" if where else str(key)
            if key in REMOTE_KEYS:
                if value:
                    yield name, value
            else:
                yield from _leaves(value, name)
    elif isinstance(tree, list):
        for value in tree:
            yield from _leaves(value, where)
    else:
        yield where, tree


def existing_folder(path: Path) -> Path:
    """The folder itself. FileNotFoundError: there is none."""
    if not path.is_dir():
        raise FileNotFoundError(
            words(
                f"There is no folder {path}",
                "a folder with the model's .safetensors and .json files",
                "put the model there, or choose another one",
            )
        )
    return path


def weight_files(folder: Path, *names: str) -> list[Path]:
    """The weights in a folder: the first of these names that is there, or the shards that its index lists.

    FileNotFoundError: none. ValueError: only pickle files, or an index that points out of the folder.
    """
    for name in names:
        if (folder / name).is_file():
            return shards(folder) if name == INDEX else [folder / name]
    found = sorted(entry.name for entry in folder.iterdir())
    pickles = [name for name in found if name.lower().endswith(PICKLES)]
    wanted = " or ".join(name for name in names if name != INDEX)
    if pickles:
        raise ValueError(
            words(
                f"{folder} has weights only as {', '.join(pickles[:3])}, which are pickle files: they can run any code",
                f"{wanted} (safetensors holds numbers and nothing else)",
                "download the model's .safetensors file, or a copy of the model that has one",
            )
        )
    raise FileNotFoundError(words(f"{folder} holds {', '.join(found[:12]) or 'nothing'}", wanted, DOWNLOAD))


def shards(folder: Path) -> list[Path]:
    """The files that an index lists, in the folder and nowhere else."""
    table = read_json(folder / INDEX).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise ValueError(words(f"{folder / INDEX} has no weight_map", "the list of the model's files", DOWNLOAD))
    files = []
    for name in sorted({str(name) for name in table.values()}):
        if not re.fullmatch(r"[\w.-]+\.safetensors", name) or name.startswith("."):
            raise ValueError(
                words(
                    f"{folder / INDEX} names the file {name!r}",
                    "names of .safetensors files in the same folder, without a path",
                    "do not use this folder; download the model from its author",
                )
            )
        if not (folder / name).is_file():
            raise FileNotFoundError(words(f"{folder} lacks {name}, which its index lists", "every shard", DOWNLOAD))
        files.append(folder / name)
    return files


def check_safetensors(files: list[Path]) -> None:
    """ValueError: a file that is truncated, or is not safetensors at all."""
    from safetensors import SafetensorError, safe_open

    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                opened.keys()
        except (SafetensorError, OSError) as error:
            raise ValueError(
                words(
                    f"{file} cannot be read as safetensors ({error}); it has {file.stat().st_size} bytes",
                    "a complete .safetensors file (a download that broke off, or a Git LFS pointer, is not one)",
                    "download the file again",
                )
            ) from error


def load_weights(files: list[Path]) -> dict[str, Tensor]:
    """All tensors of checked files, on the CPU, as stored."""
    from safetensors.torch import load_file

    check_safetensors(files)
    weights: dict[str, Tensor] = {}
    for file in files:
        weights.update(load_file(file))
    return weights


def no_adapter(folder: Path) -> None:
    """ValueError: an adapter, which would make transformers load another model that the folder only names."""
    if (folder / "adapter_config.json").exists():
        raise ValueError(
            words(
                f"{folder} holds an adapter (adapter_config.json), not a model",
                "a complete model",
                "merge the adapter into its model and save that, or choose another folder",
            )
        )
