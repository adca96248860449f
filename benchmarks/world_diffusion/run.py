"""What the demo's two text-to-image models draw, on prompts whose combinations no training saw.

    python dev.py run benchmarks/world_diffusion/run.py -- [--quick] [--out FOLDER]

Writes results.json and README.md. Everything goes through the host: *Load Demo Models*, *CLIP Text Encode*, *KSampler*
(20 steps and cfg 3, or 4 steps and cfg 1; euler, simple), *VAE Decode*. The checker says what a picture shows. Prompts
and seeds are drawn independently, both models get the same: Wilson 95 % intervals. Diversity: the mean absolute
difference between the pictures of two seeds of one prompt, in levels of 255.
"""

from __future__ import annotations

import argparse
import datetime
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from ...demo.captions import canonical
from ...demo.checker import objects_right, read, relation_right
from ...demo.world import sample
from ...tools.inprocess import open_pack
from ..painter import DemoPainter
from ..rates import percent, rate

HERE = Path(__file__).resolve().parent
MODELS = {"20 steps": (20, 3.0), "4 steps": (4, 1.0)}  # steps and cfg
PROMPTS, SEEDS, VARIED = 200, 8, 16  # prompts of each kind; seeds of a prompt for diversity, and of how many prompts


class Painter(DemoPainter):
    """As each of the models is meant to be sampled. seconds: that loading took."""

    def __init__(self, nodes: Any, model: str) -> None:
        began = time.perf_counter()
        super().__init__(nodes, model, *MODELS[model])
        self.seconds = time.perf_counter() - began


def measured(nodes: Any, model: str, prompts: int, varied: int) -> dict[str, Any]:
    """All figures of one model."""
    painter, found = Painter(nodes, model), {}
    for objects, name in ((1, "one"), (2, "two")):
        scenes = sample(prompts, torch.Generator().manual_seed(50 + objects), part="held out", objects=objects)
        texts = [canonical(scene) for scene in scenes]
        readings = read(torch.cat([painter.draw(text, 1000 * objects + i) for i, text in enumerate(texts)]))
        right = objects_right(readings, scenes)
        found[name] = {
            "objects right": rate(int(right.sum()), prompts),
            "clean scenes": rate(sum(reading.clean for reading in readings), prompts),
            "what else": Counter(reading.reason for reading in readings if not reading.clean).most_common(4),
        }
        if objects == 2:
            found[name]["relation right too"] = rate(int(relation_right(readings, scenes).sum()), prompts)
        apart = []
        for i, text in enumerate(texts[:varied]):
            pictures = painter.draw(text, 9000 + i, SEEDS)
            gaps = (pictures[:, None] - pictures[None]).abs().mean((2, 3, 4))
            apart.append(float(gaps.sum() / (SEEDS * (SEEDS - 1))) * 255)
        found[name]["diversity"] = {"mean": round(sum(apart) / len(apart), 2), "prompts": len(apart), "seeds": SEEDS}
        print(model, name, found[name], flush=True)
    return {"seconds to load": round(painter.seconds, 2), **found}


def page(results: dict[str, Any]) -> str:
    """README.md from results.json."""
    lines = [
        "# What the demo's text-to-image models draw",
        "",
        f"`python dev.py run benchmarks/world_diffusion/run.py`, {results['date']}. Held-out prompts (the checker;",
        "percent with Wilson 95 % intervals), one seed each, through the host's own nodes: 20 steps at cfg 3, and the",
        "few-step model's 4 steps at cfg 1. Diversity: mean absolute difference between two seeds' pictures of one",
        "prompt, levels of 255.",
        "",
        "| model | objects | n | objects right | relation right too | clean scenes | diversity |",
        "|---|---|---|---|---|---|---|",
    ]
    for model, found in results["models"].items():
        for name in ("one", "two"):
            row = found[name]
            relation = percent(row["relation right too"]) if name == "two" else ""
            lines.append(
                f"| {model} | {name} | {row['objects right']['n']} | {percent(row['objects right'])} | {relation} "
                f"| {percent(row['clean scenes'])} | {row['diversity']['mean']:.1f} |"
            )
    loads = ", ".join(f"{found['seconds to load']:.2f} s ({model})" for model, found in results["models"].items())
    return "\n".join([*lines, "", f"Loading MODEL, CLIP and VAE: {loads}.", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few prompts, to see that it runs")
    parser.add_argument("--only", nargs="*", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    prompts, varied = (10, 2) if options.quick else (PROMPTS, VARIED)
    nodes = open_pack()
    file = options.out / "results.json"
    known = json.loads(file.read_text(encoding="utf-8"))["models"] if file.exists() else {}
    new = {model: measured(nodes, model, prompts, varied) for model in options.only}
    results = {"date": str(datetime.date.today()), "models": {**known, **new}}
    options.out.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (options.out / "README.md").write_text(page(results), encoding="utf-8")


if __name__ == "__main__":
    main()
