"""What the demo world's two CLIPs are worth, on combinations that their training never saw.

    python dev.py run benchmarks/world_clip/run.py -- [--quick] [--out FOLDER]

Writes results.json and README.md. Rates have Wilson 95 % intervals; scenes are drawn independently.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ...demo.captions import canonical, captions
from ...demo.clip_models import NAMES, encode_pictures, load_clip
from ...demo.training import clip_measure as measure
from ...demo.world import Facts, render, sample
from ..rates import rate

HERE = Path(__file__).resolve().parent
SCENES, ROUNDS = 1024, 8


def changes(rng: torch.Generator) -> dict[str, Callable[[Tensor], Tensor]]:
    """What may befall a picture on its way to a CLIP."""

    def blurred(images: Tensor) -> Tensor:
        padded = functional.pad(images, (1, 1, 1, 1), mode="replicate")
        return functional.avg_pool2d(padded, 3, 1)

    return {
        "clean": lambda images: images,
        "shifted one pixel, 8 bits": lambda images: (images.roll((1, 1), (2, 3)) * 255).round() / 255,
        "blurred, 3 x 3 mean": blurred,
        "noise, sigma 0.04": lambda images: (images + 0.04 * torch.randn(images.shape, generator=rng)).clamp(0, 1),
    }


def measured(model: Any, seed: int, scenes: int, rounds: int) -> dict[str, Any]:
    """All figures of one model."""
    rng = torch.Generator().manual_seed(seed)
    found, back = measure.retrieval(model, rng, rounds)
    free, _ = measure.retrieval(model, rng, rounds, random=True)
    rows = {
        "picture to caption, 1 of 256": rate(*found),
        "caption to picture, 1 of 256": rate(*back),
        "picture to random caption, 1 of 256": rate(*free),
    }
    disturbed = {}
    for name, change in changes(rng).items():
        disturbed[name] = {
            "pair": rate(*measure.pair(model, rng, scenes, change=change)),
            "relation": rate(*measure.relation(model, rng, scenes, change=change)),
        }
    wrong = {kind: rate(*counts) for kind, counts in measure.against_wrong(model, rng, scenes).items()}
    words = {word: round(value, 3) for word, value in measure.words_moved(model, rng, 64).items()}
    return {"retrieval": rows, "zero-shot": disturbed, "true against wrong caption": wrong, "words": words}


def agreement(models: dict[str, Any], scenes: int) -> float:
    """Spearman's rank correlation between what the two think of random pairs of picture and caption."""
    rng = torch.Generator().manual_seed(11)
    pictures = sample(scenes, rng)
    told = captions(sample(scenes, rng), rng)
    ranks = []
    for model in models.values():
        alike = (measure.seen(model, render(pictures)) * measure.heard(model, told)).sum(1)
        ranks.append(alike.argsort().argsort().double())
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


def speed(name: str) -> dict[str, float]:
    """Seconds to load, milliseconds for a picture and for its gradient (alone, one thread)."""
    start = time.perf_counter()
    model = load_clip(name)
    load = time.perf_counter() - start
    image = render(sample(1, torch.Generator().manual_seed(0))).requires_grad_(True)
    words = measure.heard(model, [canonical(Facts((("red", "circle"),)))])
    forward, both = [], []
    for _ in range(12):
        start = time.perf_counter()
        alike = (encode_pictures(model, image) * words).sum()
        middle = time.perf_counter()
        torch.autograd.grad(alike, image)
        forward.append(middle - start)
        both.append(time.perf_counter() - start)
    milliseconds = [1000 * sorted(times)[len(times) // 2] for times in (forward, both)]
    return {
        "load s": round(load, 3),
        "picture ms": round(milliseconds[0], 2),
        "with gradient ms": round(milliseconds[1], 2),
    }


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def percent(entry: dict[str, Any]) -> str:
    return f"{100 * entry['rate']:.1f} ({100 * entry['low']:.1f}-{100 * entry['high']:.1f})"


def report(results: dict[str, Any]) -> str:
    models = results["models"]
    first = next(iter(models.values()))
    tables = [
        table(
            ["choice", *models],
            [[kind, *(percent(models[m]["retrieval"][kind]) for m in models)] for kind in first["retrieval"]],
        ),
        table(
            ["zero-shot", *(f"{m}: {kind}" for m, kind in itertools.product(models, ("pair", "relation")))],
            [
                [
                    name,
                    *(
                        percent(models[m]["zero-shot"][name][kind])
                        for m, kind in itertools.product(models, ("pair", "relation"))
                    ),
                ]
                for name in first["zero-shot"]
            ],
        ),
        table(
            ["true against a wrong caption", *models],
            [
                [kind, *(percent(models[m]["true against wrong caption"][kind]) for m in models)]
                for kind in first["true against wrong caption"]
            ],
        ),
        table(
            ["word", *models], [[word, *(f"{models[m]['words'][word]:.2f}" for m in models)] for word in first["words"]]
        ),
    ]
    n = {entry["n"] for model in models.values() for entry in model["retrieval"].values()}
    m = {entry["n"] for model in models.values() for row in model["zero-shot"].values() for entry in row.values()}
    speeds = "; ".join(
        f"{name}: " + ", ".join(f"{k} {v}" for k, v in model["speed"].items()) for name, model in models.items()
    )
    made = f"Made by `python dev.py run benchmarks/world_clip/run.py` on {results['date']}"
    made += f" (torch {results['torch']}, one thread)"
    blocks = [
        "# The demo world's two CLIPs",
        f"{made}; all figures are in [results.json](results.json). Percent, with Wilson 95 % intervals. "
        "All pictures show combinations that no training saw.",
        tables[0],
        f"n = {max(n)}. The 256 pictures of a round all show something different; their captions name the background, "
        "so that one is true.",
        tables[1],
        f"n = {max(m)}. *Pair*: one object, on the background on which training never showed its colour and shape; "
        "which of the 24 captions. *Relation*: two objects, which of the four relations.",
        tables[2],
        "Two objects, the usual caption against one that differs in one thing.",
        tables[3],
        "How far the text tower's state at the end moves when another word of the same kind takes this one's place: "
        "the nearest other word, over the mean distance between random captions of one fact (synonyms, openings, the "
        "relation turned round).",
        f"Speed: {speeds}.",
    ]
    if "agreement" in results:
        blocks.append(
            "Spearman's rank correlation between the two models on random pairs of a picture and a caption: "
            f"{results['agreement']}."
        )
    return "\n\n".join(blocks) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few scenes, to see that it runs")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--only", choices=NAMES, nargs="*", default=NAMES, help="these models (default: both)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    scenes, rounds = (128, 1) if options.quick else (SCENES, ROUNDS)
    models = {name: load_clip(name) for name in options.only}
    results: dict[str, Any] = {"date": str(datetime.date.today()), "torch": torch.__version__, "models": {}}
    for name, model in models.items():
        results["models"][name] = {**measured(model, 100, scenes, rounds), "speed": speed(name)}
        print(name, results["models"][name]["retrieval"], flush=True)
    if len(models) > 1:
        results["agreement"] = round(agreement(models, scenes), 3)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (options.out / "README.md").write_text(report(results), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
