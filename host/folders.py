"""Model folders that the pack adds to the host's own lists."""

from __future__ import annotations

from pathlib import Path

import folder_paths

_WEIGHTS = Path(__file__).resolve().parent.parent / "demo" / "weights"


def register_model_folders() -> None:
    """Makes the demo weights appear in *Load Upscale Model* and *Load VAE*.

    Harmless when called twice or when the folder is missing.

    Appended, never the default: the host writes and looks first in its own folder
    (`folder_paths.add_model_folder_path`).
    """
    for kind in ("upscale_models", "vae"):
        folder_paths.add_model_folder_path(kind, str(_WEIGHTS / kind))
