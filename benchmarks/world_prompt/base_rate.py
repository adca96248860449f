"""How rare a failing prompt is: usual captions of two objects with a class in it, drawn at random.

    python dev.py run benchmarks/world_prompt/base_rate.py -- [--quick] [--classes N] [--captions N] [--out FOLDER]

Writes base_rate.json, a class at a time, and the page of run.py anew. A class's usual captions: it and each of the
other 23 objects, either first, in the four relations, the ground not named or one of four: 920. So many are drawn.
*Fails* as run.py has it: on at least 4 of 8 seeds a clean scene without the class. A caption that does is drawn again
with 8 other seeds, and counts as *again* if it fails there too: the worst of many on one set of seeds is partly luck.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

import torch

from ...demo.captions import canonical
from ...demo.world import BACKGROUNDS, COLOURS, RELATIONS, SHAPES, Facts
from ...tools.inprocess import open_pack
from ..painter import DemoPainter
from ..record import facts
from ..verdicts import shown
from .page import page
from .run import ENOUGH, HELD, HERE, VERDICT_SEED, Thing, classes

FILE = "base_rate.json"
CLASSES, CAPTIONS, QUICK = 10, 100, 4
AGAIN = 60_000  # the first of the other seeds


def captions(thing: Thing) -> list[str]:
    """Every usual caption of two objects with a class in it."""
    others = [(colour, shape) for colour in COLOURS for shape in SHAPES if (colour, shape) != thing]
    return [
        canonical(Facts(pair, relation, ground), background=True)
        for other, relation, ground in itertools.product(others, RELATIONS, (None, *BACKGROUNDS))
        for pair in ((thing, other), (other, thing))
    ]


def missing(painter: DemoPainter, prompt: str, thing: Thing, seed: int) -> int:
    """On how many of HELD seeds the picture is a clean scene without the class."""
    things = shown(painter.draw(prompt, seed, HELD).movedim(1, -1))
    return sum(seen is not None and thing not in seen for seen in things)


def one_class(painter: DemoPainter, thing: Thing, count: int) -> dict[str, Any]:
    """So many of a class's captions, drawn at random: how often the class is missing, and which fail, also again."""
    every, rng = captions(thing), torch.Generator().manual_seed(23)
    drawn = [every[i] for i in torch.randperm(len(every), generator=rng)[:count].tolist()]
    counts = {prompt: missing(painter, prompt, thing, VERDICT_SEED) for prompt in drawn}
    failing = [prompt for prompt, times in counts.items() if times >= ENOUGH]
    again = [prompt for prompt in failing if missing(painter, prompt, thing, AGAIN) >= ENOUGH]
    share = sum(counts.values()) / (HELD * len(drawn))
    return {"captions": len(drawn), "failing": failing, "again": again, "missing": round(share, 5)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one class, a few captions, to see that it runs")
    parser.add_argument("--classes", type=int, default=CLASSES)
    parser.add_argument("--captions", type=int, default=CAPTIONS)
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    if options.quick and options.out == HERE:
        parser.error("--quick wants a folder of its own (--out): the figures here are of a whole run")
    some, count = (1, QUICK) if options.quick else (options.classes, options.captions)
    options.out.mkdir(parents=True, exist_ok=True)
    painter, found = DemoPainter(open_pack(), "4 steps", 4, 1.0), dict[str, Any]()
    for thing in classes(some):
        found[" ".join(thing)] = one_class(painter, thing, count)
        print(thing, found[" ".join(thing)], flush=True)
        made = {**facts(__file__), "classes": found}
        (options.out / FILE).write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    whole = options.out / "results.json"
    if whole.exists():
        results = json.loads(whole.read_text(encoding="utf-8"))
        (options.out / "README.md").write_text(page(results, made), encoding="utf-8")


if __name__ == "__main__":
    main()
