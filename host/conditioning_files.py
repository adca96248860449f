"""CONDITIONING as a safetensors file: tensors and plain values, nothing that runs.

The file's metadata holds the outline of the entries as JSON, in which every tensor is named. Only what this module has
written is read back, and of that only what it knows.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import folder_paths
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..core.errors import ProvokeError

FOLDER = "conditioning"  # below ComfyUI's output folder (saved there) and input folder
FORMAT = "provoke conditioning 1"
OBJECTS = ("control", "hooks", "gligen", "model_conds", "uuid")  # the host expects objects of its own there
LARGEST_OUTLINE = 2**20  # characters: no honest conditioning comes near

Conditioning = list[Any]


# ------------------------------------------------------------------------------------------------------ saving


def packed(conditioning: Conditioning) -> tuple[dict[str, Tensor], dict[str, str], list[str]]:
    """Tensors by name, the metadata, and the names of what a file cannot hold (ControlNets, hooks, models).

    Raises: ProvokeError for what is no CONDITIONING.
    """
    tensors: dict[str, Tensor] = {}
    left: list[str] = []
    entries = []
    for number, entry in enumerate(_checked(conditioning)):
        outline: dict[str, Any] = {"cond": _outline(entry[0], f"{number}.cond", tensors)}
        extras = {}
        for place, (key, value) in enumerate(entry[1].items()):
            its: dict[str, Tensor] = {}
            try:
                if not isinstance(key, str) or key in OBJECTS:
                    raise TypeError(key)
                # keys may hold dots: the places keep two names apart
                extras[key] = _outline(value, f"{number}.{place}.{key}", its)
            except TypeError:
                left.append(f"{key} of entry {number + 1}")
            else:
                tensors.update(its)
        outline["extras"] = extras
        entries.append(outline)
    return tensors, {"format": FORMAT, "entries": json.dumps(entries, allow_nan=False)}, left


def _checked(conditioning: Any) -> Conditioning:
    whole = isinstance(conditioning, (list, tuple)) and len(conditioning) > 0
    if not whole or not all(
        isinstance(e, (list, tuple)) and len(e) == 2 and isinstance(e[0], Tensor) and isinstance(e[1], dict)
        for e in conditioning
    ):
        raise ProvokeError(
            "What came in is no conditioning with something in it",
            "a CONDITIONING: entries of a tensor and its settings",
            "connect CLIP Text Encode, or another node with a CONDITIONING output",
        )
    return list(conditioning)


def _outline(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """A value as JSON, its tensors put aside by name. Raises TypeError for what is neither plain nor a tensor."""
    if isinstance(value, Tensor) and value.layout is torch.strided and not getattr(value, "is_nested", False):
        tensors[name] = value.detach().to("cpu").contiguous().clone()  # safetensors refuses memory that two share
        return {"tensor": name}
    if value is None or isinstance(value, (bool, str)):
        return {"value": value}
    if isinstance(value, (int, float)) and math.isfinite(value):
        return {"value": value}
    if type(value) in (list, tuple):
        items = [_outline(item, f"{name}.{i}", tensors) for i, item in enumerate(value)]
        return {"list" if type(value) is list else "tuple": items}
    if type(value) is dict and all(isinstance(key, str) for key in value):
        named = enumerate(value.items())
        return {"dict": {key: _outline(item, f"{name}.{i}.{key}", tensors) for i, (key, item) in named}}
    raise TypeError(name)


def save(conditioning: Conditioning, prefix: str, *, leave_out: bool) -> tuple[Path, list[str]]:
    """Writes output/conditioning/PREFIX_00001_.safetensors, the next free number; never over a file.

    Args:
        leave_out: save without what a file cannot hold, instead of refusing.
    Returns: the file, and what was left out.
    Raises: ProvokeError for a prefix that leaves the folder, or something that cannot be saved.
    """
    tensors, metadata, left = packed(conditioning)
    if left and not leave_out:
        raise ProvokeError(
            f"The conditioning holds what a file cannot: {', '.join(left)}",
            "tensors, numbers and words (ControlNets, hooks and models are objects of the running ComfyUI)",
            "save the conditioning before Apply ControlNet or the hook's node, or set cannot_be_saved to leave out",
        )
    root = Path(folder_paths.get_output_directory()).resolve() / FOLDER
    prefix = prefix.strip()
    legal = prefix.isprintable() and prefix != "" and ".." not in Path(prefix).parts
    wanted = (root / f"{prefix}_").resolve() if legal else root
    if root not in wanted.parents:
        raise ProvokeError(
            f"The file name {prefix!r} leaves the folder output/{FOLDER}",
            "a name, with folders below it if you like",
            "choose another filename_prefix",
        )
    wanted.parent.mkdir(parents=True, exist_ok=True)
    data = safetensors.torch.save(tensors, metadata)
    for number in range(1, 100_000):
        path = wanted.with_name(f"{wanted.name}{number:05}_.safetensors")
        try:
            with path.open("xb") as file:  # fails where there is one, also if another process was quicker
                file.write(data)
        except FileExistsError:
            continue
        return path, left
    raise ProvokeError("There are 99,999 files of that name", "a free number", "choose another filename_prefix")


def below_output(path: Path) -> str:
    """The place of a file that `save` has made, relative to the output folder."""
    return path.relative_to(Path(folder_paths.get_output_directory()).resolve()).as_posix()


# ------------------------------------------------------------------------------------------------------ loading


def listed() -> list[str]:
    """Names of what can be loaded: the files of input and input/conditioning, then those of output/conditioning, the
    latter ending in " [output]"."""
    return [name for name, _ in _places()]


def _places() -> Iterator[tuple[str, Path]]:
    given, made = Path(folder_paths.get_input_directory()), Path(folder_paths.get_output_directory())
    for path in sorted(given.glob("*.safetensors")) if given.is_dir() else []:
        yield path.name, path
    for root, mark in ((given, ""), (made, " [output]")):
        for folder, _, files in sorted(os.walk(root / FOLDER)):
            for file in sorted(name for name in files if name.endswith(".safetensors")):
                path = Path(folder) / file
                yield path.relative_to(root).as_posix() + mark, path


def resolve(name: str) -> Path:
    """Where a file is. Names are looked up in the list, never joined to a path. Raises ProvokeError for others."""
    found = dict(_places())
    if name not in found:
        raise ProvokeError(
            f"There is no conditioning {name!r}",
            f"one of the {len(found)} files in input, input/{FOLDER} and output/{FOLDER}",
            "save one with Save Conditioning, or choose another",
        )
    return found[name]


def fingerprint(name: str) -> str:
    """Changes when the file does."""
    with resolve(name).open("rb") as file:
        found = hashlib.sha256()
        while chunk := file.read(2**20):
            found.update(chunk)
    return found.hexdigest()


def load(path: Path) -> Conditioning:
    """The CONDITIONING of a file, on the CPU.

    Raises: ProvokeError for a damaged file, one that Save Conditioning has not written, or one that holds what a
    CONDITIONING may not.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise _refused(path, f"is not one of ours (its format is {metadata.get('format', 'not stated')!r})")
            text = metadata.get("entries", "")
            if len(text) > LARGEST_OUTLINE:
                raise _refused(path, "has an outline far too long")
            names = set(file.keys())
            outline = json.loads(text, parse_constant=_no_number)
            if not isinstance(outline, list) or not outline:
                raise _refused(path, "has no entries")
            return [_entry(one, file, names, path) for one in outline]
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        if isinstance(error, ProvokeError):
            raise
        raise _refused(path, f"cannot be read ({str(error)[:200]})") from error


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no number")


def _entry(outline: Any, file: Any, names: set[str], path: Path) -> list[Any]:
    if not isinstance(outline, dict) or not isinstance(outline.get("extras"), dict):
        raise _refused(path, "has an entry that is none")
    cond = _value(outline.get("cond"), file, names, path)
    if not isinstance(cond, Tensor) or cond.ndim < 2 or not cond.is_floating_point():
        raise _refused(path, "has an entry without its tensor")
    strange = [key for key in outline["extras"] if key in OBJECTS]
    if strange:
        raise _refused(path, f"holds {strange[0]!r}, which is an object of the running ComfyUI")
    return [cond, {key: _value(value, file, names, path) for key, value in outline["extras"].items()}]


def _value(outline: Any, file: Any, names: set[str], path: Path) -> Any:
    match outline:
        case {"tensor": str(name)} if name in names:
            tensor = file.get_tensor(name)
            if tensor.is_floating_point() and not bool(tensor.float().isfinite().all()):
                raise _refused(path, f"holds NaN or infinite values in {name!r}")
            return tensor
        case {"value": None | bool() | str() | int() | float() as value}:
            return value
        case {"list": list(items)}:
            return [_value(item, file, names, path) for item in items]
        case {"tuple": list(items)}:
            return tuple(_value(item, file, names, path) for item in items)
        case {"dict": dict(items)}:
            return {key: _value(item, file, names, path) for key, item in items.items()}
    raise _refused(path, "has an outline that does not fit its tensors")


def _refused(path: Path, why: str) -> ProvokeError:
    return ProvokeError(
        f"{path.name} {why}", "a file that Save Conditioning has written, whole", "save it again, or choose another"
    )
