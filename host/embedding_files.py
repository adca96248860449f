"""Embeddings as the files that prompts name, `embedding:name`: safetensors in the host's folder, never overwritten."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import folder_paths
import safetensors.torch
import torch
from torch import Tensor

from ..core.errors import ProvokeError

# what the host's tokenizers read as one name: no white space, brackets, commas or colons
_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)*")
_TAKEN = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # by Windows


def checked(name: str) -> str:
    """The name of an embedding, with "/" between folders. Raises ProvokeError for one that a prompt cannot say or that
    leaves the folder."""
    found = name.strip().replace("\\", "/").removesuffix(".safetensors")
    if not _NAME.fullmatch(found) or len(found) > 150 or any(_TAKEN.fullmatch(part) for part in found.split("/")):
        raise ProvokeError(
            f"The embedding's name is {name!r}",
            "letters, digits, '-', '_' and '.' (not at the beginning), with '/' between folders: a prompt has to be "
            "able to say it",
            "choose another name",
        )
    return found


def is_taken(name: str) -> bool:
    """Whether a prompt's `embedding:name` finds a file already. name: as `checked` gives it."""
    return any(_known(Path(folder), name) for folder in folder_paths.get_folder_paths("embeddings"))


def save(vectors: Mapping[str, Tensor], name: str) -> tuple[Path, str]:
    """Writes NAME.safetensors into the host's embeddings folder; where there is an embedding of that name, NAME-2 and
    so on.

    Args:
        vectors: by the keys that the host's loader looks for ("clip_l", "clip_g", "t5xxl", ...), n D each.
    Returns: the file, and the name that a prompt calls it by.
    Raises: ProvokeError for a name that is none, or vectors that are not finite.
    """
    wanted = checked(name)
    if not vectors or not all(v.ndim == 2 and bool(v.isfinite().all()) for v in vectors.values()):
        raise ProvokeError(
            "The embedding is empty or not finite", "n vectors for each text encoder", "search the token again"
        )
    folders = folder_paths.get_folder_paths("embeddings")
    root = Path(folders[0]).resolve()
    data = safetensors.torch.save(
        {key: v.detach().to("cpu", torch.float32).contiguous().clone() for key, v in vectors.items()}
    )
    for number in range(1, 100_000):
        said = wanted if number == 1 else f"{wanted}-{number}"
        path = (root / f"{said}.safetensors").resolve()
        if root not in path.parents:  # a folder below may be a link to anywhere
            raise ProvokeError(
                f"The embedding's name {name!r} leaves the embeddings folder", "a name below it", "choose another name"
            )
        if is_taken(said):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("xb") as file:  # fails where there is one, also if another process was quicker
                file.write(data)
        except FileExistsError:
            continue
        return path, said
    raise ProvokeError("There are 99,999 embeddings of that name", "a free number", "choose another name")


def _known(folder: Path, said: str) -> bool:
    """Whether a prompt's name already finds something in a folder. (The host also looks into subfolders.)"""
    ends = ("", ".safetensors", ".pt", ".bin")
    return any((place / f"{said}{end}").is_file() for place in (folder, *_below(folder)) for end in ends)


def _below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_dir()] if folder.is_dir() else []
