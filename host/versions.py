"""Which versions computed a result: recipes and reports say so, for whoever gets another one and wonders why."""

from __future__ import annotations

import platform
import re
from functools import cache
from pathlib import Path

import comfy.model_management
import torch
from comfyui_version import __version__ as host_version

_PROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


@cache
def pack_version() -> str:
    """The pack's own, from its pyproject.toml: it is a folder, not an installed package. (tomllib is in 3.11 first.)"""
    found = re.search(r'^version = "([^"]+)"$', _PROJECT.read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"{_PROJECT} names no version")
    return found[1]


def versions() -> dict[str, str]:
    """Of the pack, of ComfyUI, of torch and of Python."""
    return {
        "provoke": pack_version(),
        "comfyui": host_version,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def device() -> str:
    """What computes, as the host names it. (Signed gradients differ from one kind of GPU to another.)"""
    return str(comfy.model_management.get_torch_device_name(comfy.model_management.get_torch_device()))
