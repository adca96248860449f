"""The host and the pack in this very process, for benchmarks and pictures that need no server."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from .console import DevError


def open_pack(threads: int = 1) -> ModuleType:
    """Import ComfyUI (COMFYUI_PATH) on the CPU and the pack as `provoke`; the demo weights appear in the host's lists.

    Gives the package `provoke.nodes`. Raises DevError when there is no ComfyUI at that path.
    """
    path = os.environ.get("COMFYUI_PATH")
    if not path or not (Path(path) / "comfy").is_dir():
        raise DevError("This needs ComfyUI: start it as `python dev.py run SCRIPT`, or set COMFYUI_PATH to its folder.")
    sys.path.insert(0, str(Path(path).resolve()))
    logging.disable(logging.INFO)
    import comfy.cli_args

    comfy.cli_args.args.cpu = True  # before model_management is imported: that is when it looks for a device
    import torch

    torch.set_num_threads(threads)
    from .. import nodes
    from ..host.folders import register_model_folders

    register_model_folders()
    return nodes


def defaults(node: Any) -> dict[str, Any]:
    """What the page puts into a node's widgets: each one's default, the first option of a combo that has none."""
    found = {}
    for widget in node.define_schema().inputs:
        if hasattr(widget, "default"):
            first = widget.options[0] if getattr(widget, "options", None) else None
            found[widget.id] = first if widget.default is None else widget.default
    return found


def execute(node: Any, **inputs: Any) -> Any:
    """What a node gives for these inputs, its widgets' defaults otherwise.

    In inference mode, as the executor calls it.
    """
    import torch

    with torch.inference_mode():
        return node.execute(**{**defaults(node), **inputs}).args


def upscale_model(name: str) -> Any:
    """What the host's *Load Upscale Model* gives for a file of its list."""
    import torch
    from comfy_extras.nodes_upscale_model import UpscaleModelLoader

    with torch.inference_mode():
        return UpscaleModelLoader.execute(name).args[0]


def upscaled(model: Any, image: Any) -> Any:
    """What the host's *Upscale Image (using Model)* gives: B H W C -> B h w C."""
    import torch
    from comfy_extras.nodes_upscale_model import ImageUpscaleWithModel

    with torch.inference_mode():
        return ImageUpscaleWithModel.execute(model, image).args[0]
