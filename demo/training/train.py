"""Train a demo model: `python demo/training/train.py NAME`; `figures` prints what the photo models are worth.

Needs torch, spandrel, safetensors, Pillow, numpy and the photos in scikit-image's wheel. `inpainter-l1` is trained for
comparison and is not part of the pack.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import torch

TRAINERS: dict[str, tuple[str, str, dict[str, object]]] = {
    "upscaler": ("upscaler", "Upscaler", {}),
    "inpainter": ("inpainter", "Inpainter", {}),
    "world-inpainter": ("committed", "WorldInpainter", {}),
    "world-coloriser": ("committed", "WorldColoriser", {}),
    "inpainter-l1": ("inpainter", "Inpainter", {"plain": True}),
    "clip-first": ("clip", "Clip", {"name": "first"}),
    "clip-second": ("clip", "Clip", {"name": "second"}),
    "resnet": ("classifiers", "Classifier", {"family": "resnet", "steps": 3000}),
    "regnet": ("classifiers", "Classifier", {"family": "regnet", "steps": 1300}),
    "convnext": ("classifiers", "Classifier", {"family": "convnext", "steps": 3000}),
    "hgnet": ("classifiers", "Classifier", {"family": "hgnet", "steps": 2000}),
    "edge-resnet": ("classifiers", "Classifier", {"family": "resnet", "steps": 1300, "edges": True, "bar": 0.9}),
    "vae": ("vae", "Autoencoder", {}),
    "diffusion": ("diffusion", "Diffusion", {}),
    "few-step": ("few_step", "FewStep", {}),
    "language": ("language", "Language", {}),
    "blip2-matching": ("blip2", "Matching", {}),
    "blip2-captioning": ("blip2_captioning", "Captioning", {}),
}
"""By the word on the command line: module, class, what else its constructor takes."""

OF_THE_HOST = (
    "diffusion",
    "few-step",
)  # classes of ComfyUI's: run these as `python dev.py run demo/training/train.py -- NAME`


def _package() -> str:
    """Name of this folder as a package; run as a script, it is loaded by path, below the demo's own package, so that
    relative imports work."""
    if __package__:
        return __package__
    folder, name = Path(__file__).resolve().parents[1], "provoke_demo"
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot load {folder}")
    module: ModuleType = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return f"{name}.training"


def main() -> int:
    """Parse the command line, train, return the exit status (1 = the weights did not pass and were not exported)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=[*TRAINERS, "figures"])
    parser.add_argument("--minutes", type=float, default=60, help="CPU minutes at most (60 = 30 minutes on two cores)")
    parser.add_argument("--steps", type=int, default=None, help="updates (default: the model's own number)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in .runs/")
    parser.add_argument("--onward", type=int, default=0, help="begin at this step, with the exported weights")
    parser.add_argument("--draft", action="store_true", help="export below the bar too, while training")
    arguments = parser.parse_args()
    if arguments.resume and arguments.onward:
        parser.error("--resume goes on from a checkpoint, --onward from the exported weights: one of them")
    torch.set_num_threads(arguments.threads)
    package = _package()
    if arguments.model in OF_THE_HOST:
        importlib.import_module("provoke.tools.inprocess").open_pack(arguments.threads)
    if arguments.model == "figures":
        return importlib.import_module(f"{package}.figures").main()
    device = torch.device(arguments.device)
    loop = importlib.import_module(f"{package}.loop")
    module, kind, options = TRAINERS[arguments.model]
    trainer = getattr(importlib.import_module(f"{package}.{module}"), kind)(arguments.seed, device, **options)
    passed = loop.train(
        trainer,
        minutes=arguments.minutes,
        steps=arguments.steps,
        resume=arguments.resume,
        draft=arguments.draft,
        onward=arguments.onward,
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
