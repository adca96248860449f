"""How long loading the demo's models takes, and how large they are.

    python dev.py run benchmarks/world_load/run.py -- [--out FOLDER]

Writes results.json and README.md. Everything is loaded as the pack's and the host's loader nodes do it, in one process
whose libraries are imported already; CPU seconds of this process, best of three.
"""

from __future__ import annotations

import argparse
import datetime
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ...demo import vlm_models
from ...tools.inprocess import open_pack, upscale_model
from ...tools.pack import ROOT

HERE = Path(__file__).resolve().parent
WEIGHTS = ROOT / "demo" / "weights"


def loaders(nodes: Any) -> dict[str, Callable[[], Any]]:
    """By name: what loads one model."""
    from nodes import VAELoader

    from ...host import judges

    found: dict[str, Callable[[], Any]] = {}
    for name in judges.entries(judges.CLIP_FOLDER):
        found[f"CLIP {name}"] = lambda name=name: nodes.LoadScorer.execute(name)
    for name in judges.entries(judges.CLASSIFIER_FOLDER):
        found[name] = lambda name=name: nodes.LoadClassifier.execute(name)
    for file in sorted((WEIGHTS / "upscale_models").glob("*.safetensors")):
        found[file.stem] = lambda name=file.name: upscale_model(name)
    found["provoke-demo-vae"] = lambda: VAELoader().load_vae("provoke-demo-vae.safetensors")
    for kind in ("20 steps", "4 steps"):
        found[f"{kind}: MODEL, CLIP and VAE"] = lambda kind=kind: nodes.LoadDemoModels.execute(kind)
    found["language model"] = vlm_models.load_language
    found["BLIP-2, matching"] = vlm_models.load_matching
    found["BLIP-2, captions"] = vlm_models.load_captioning
    return found


def seconds(load: Callable[[], Any]) -> float:
    """CPU seconds, the best of three after one that imports what it needs."""
    with torch.inference_mode():
        load()
        taken = []
        for _ in range(3):
            began = time.process_time()
            load()
            taken.append(time.process_time() - began)
    return min(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    nodes = open_pack()
    rows = {name: round(seconds(load), 3) for name, load in loaders(nodes).items()}
    size = sum(file.stat().st_size for file in WEIGHTS.rglob("*") if file.is_file())
    results = {"date": str(datetime.date.today()), "seconds": rows, "sum": round(sum(rows.values()), 2), "bytes": size}
    lines = [
        "# Loading the demo's models",
        "",
        f"`python dev.py run benchmarks/world_load/run.py`, {results['date']}. CPU seconds, libraries imported before.",
        f"All together {results['sum']} s; all files of `demo/weights` together {size / 1e6:.1f} MB.",
        "",
        "| model | seconds |",
        "|---|---|",
        *(f"| {name} | {taken:.3f} |" for name, taken in rows.items()),
        "",
    ]
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (options.out / "README.md").write_text("\n".join(lines), encoding="utf-8")
    print(results)


if __name__ == "__main__":
    main()
