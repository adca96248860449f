"""A report of failures on disk: the JSON, its contact sheet and the noise that made them, side by side in output."""

from __future__ import annotations

import datetime
import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.utils
import folder_paths
import torch
from comfy.cli_args import args
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ..core.errors import ProvokeError
from .output_files import below_output, discard, reserved
from .versions import versions

FORMAT = "provoke failure report 1"


def save(
    make: Callable[[dict[str, Any]], dict[str, Any]],
    sheet: Image.Image,
    noise: Tensor | None,
    prefix: str,
    graph: dict[str, Any],
) -> tuple[str, Path]:
    """Writes output/PREFIX_00001_.json, .png and (of a noise) .latent, as the host's Save Latent does.

    Args:
        make: the report from the facts that only the files know: format, date, versions, files (with SHA-256).
        noise: B C h w or B C T h w.
        graph: what the host gives a node about its workflow: put into the JSON and the PNG, unless the host runs with
            --disable-metadata.
    Returns: the JSON's text, and the sheet's file.
    Raises: ProvokeError for a name that leads out of the output folder.
    """
    paths = reserved(prefix, [".json", ".png", *([".latent"] if noise is not None else [])])
    told = {} if args.disable_metadata else {key: value for key, value in graph.items() if value is not None}
    try:
        files = {"report": below_output(paths[0]), "sheet": below_output(paths[1])}
        if noise is not None:
            kept = {"latent_tensor": noise.detach().cpu().contiguous(), "latent_format_version_0": torch.tensor([])}
            comfy.utils.save_torch_file(kept, str(paths[2]))
            files |= {"noise": below_output(paths[2]), "noise_sha256": sha256(paths[2])}
        facts = {
            "format": FORMAT,
            "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            "versions": versions(),
            "files": files,
        }
        text = json.dumps(plain({**make(facts), "graph": told}), indent=1, allow_nan=False)
        metadata = PngInfo()
        for key, value in told.items():
            metadata.add_text(key, json.dumps(value))
        sheet.save(paths[1], pnginfo=metadata)
        paths[0].write_text(text + "\n", encoding="utf-8")
    except BaseException:  # a cancel too: half a report is none
        discard(paths)
        raise
    return text, paths[1]


def plain(value: Any) -> Any:
    """A value as strict JSON has it: numbers that are none become null."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def sha256(path: Path) -> str:
    """Of a file's bytes, in hex."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            found.update(chunk)
    return found.hexdigest()


def embedding(name: str) -> dict[str, str]:
    """The file of an embedding by its name in a prompt, with SHA-256. Looked up in the host's list, never as a path.

    Raises: ProvokeError where there is none such.
    """
    wanted = name.strip().removeprefix("embedding:").replace("\\", "/")
    names = folder_paths.get_filename_list("embeddings")
    for listed in names:
        known = listed.replace("\\", "/")
        if wanted in (known, known.rpartition(".")[0]):
            path = folder_paths.get_full_path("embeddings", listed)
            if path is not None:
                return {"name": known, "sha256": sha256(Path(path))}
    raise ProvokeError(
        f"There is no embedding {name[:80]!r}",
        f"one of the {len(names)} in models/embeddings, as a prompt writes it",
        "save it first (a report that names a file which is not there could not be reproduced), or leave it empty",
    )
