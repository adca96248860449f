"""Model folders that the pack adds to the host's own lists."""

from __future__ import annotations

import os
from pathlib import Path

import folder_paths

_WEIGHTS = Path(__file__).resolve().parent.parent / "demo" / "weights"

JUDGES = ("provoke_clip", "provoke_classifiers", "provoke_vlm", "provoke_language")


def register_model_folders() -> None:
    """Makes the demo weights appear in *Load Upscale Model*, *Load VAE* and *Load LoRA*, and the pack's own folders of
    judges, models/provoke_clip, models/provoke_classifiers, models/provoke_vlm and models/provoke_language, known to
    the host.

    Harmless when called twice or when the folder is missing. The demo's folders are appended, never the default: the
    host writes and looks first in its own (`folder_paths.add_model_folder_path`).
    """
    for kind in JUDGES:
        folder_paths.add_model_folder_path(kind, os.path.join(folder_paths.models_dir, kind))
        folder_paths.folder_names_and_paths[kind][1].add(".safetensors")
    for kind in ("upscale_models", "vae", "loras", *JUDGES):
        folder_paths.add_model_folder_path(kind, str(_WEIGHTS / kind))
