"""What each committed figure keeps beside itself: when, by which command, with which versions."""

from __future__ import annotations

import datetime
import platform
import sys
from pathlib import Path
from typing import Any

import torch

from ..tools.pack import ROOT


def facts(script: str, arguments: list[str] | None = None, **more: Any) -> dict[str, Any]:
    """Date, command line and versions of this run, as results.json keeps them.

    Args:
        script: the benchmark's `__file__`.
        arguments: of the command line; None takes this process's own, without the folder that it writes into.
        more: what else this benchmark keeps, such as its sizes.
    """
    given = _without_folder(sys.argv[1:]) if arguments is None else arguments
    path = Path(script).resolve().relative_to(ROOT).as_posix()
    host = sys.modules.get("comfyui_version")
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "ComfyUI": getattr(host, "__version__", "unknown"),
    }
    command = " ".join([f"python dev.py run {path}", *(["--", *given] if given else [])])
    return {"date": str(datetime.date.today()), "command": command, "versions": versions, **more}


def _without_folder(words: list[str]) -> list[str]:
    """Without --out and its folder: a place of one machine."""
    if "--out" not in words:
        return words
    at = words.index("--out")
    return words[:at] + words[at + 2 :]
