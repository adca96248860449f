"""Whether a failing prompt is there to be found: every usual caption of two objects with a class in it, tried.

    python dev.py run benchmarks/world_prompt/ceiling.py -- [--quick] [--classes N] [--out FOLDER]

Writes ceiling.json, a class at a time, and the page of run.py anew. A class's captions: it and each of the other 23
objects, either first, in the four relations, the ground not named or one of them: 920 prompts in the words that the
model knows best. *Fails* as run.py has it: on at least 4 of 8 seeds a clean scene without the class. What no caption
does, no search over captions can find (but by synonyms and other openings, which mean the same to a reader).
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...demo.captions import canonical
from ...demo.world import BACKGROUNDS, COLOURS, RELATIONS, SHAPES, Facts
from ...tools.inprocess import open_pack
from ..painter import DemoPainter
from ..record import facts
from ..verdicts import shown
from .page import page
from .run import CLASSES, ENOUGH, HELD, HERE, VERDICT_SEED, Thing, classes

FILE = "ceiling.json"
QUICK = 8  # captions


def captions(thing: Thing) -> Iterator[str]:
    """Every usual caption of two objects with a class in it."""
    others = [(colour, shape) for colour in COLOURS for shape in SHAPES if (colour, shape) != thing]
    for other, relation, ground in itertools.product(others, RELATIONS, (None, *BACKGROUNDS)):
        for pair in ((thing, other), (other, thing)):
            yield canonical(Facts(pair, relation, ground), background=True)


def one_class(painter: DemoPainter, thing: Thing, most: int | None) -> dict[str, Any]:
    """How often the class is missing from a caption's clean pictures."""
    tried = list(captions(thing))[:most]
    missing = {}
    for prompt in tried:
        things = shown(painter.draw(prompt, VERDICT_SEED, HELD).movedim(1, -1))
        missing[prompt] = sum(seen is not None and thing not in seen for seen in things)
    failing = [prompt for prompt, count in missing.items() if count >= ENOUGH]
    most_missing = max(missing, key=lambda prompt: missing[prompt])
    return {
        "captions": len(tried), "failing": failing, "missing at most": missing[most_missing],
        "in": most_missing, "missing of all": round(sum(missing.values()) / (HELD * len(tried)), 5),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one class, a few captions, to see that it runs")
    parser.add_argument("--classes", type=int, default=CLASSES)
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    count, most = (1, QUICK) if options.quick else (options.classes, None)
    options.out.mkdir(parents=True, exist_ok=True)
    painter, found = DemoPainter(open_pack(), "4 steps", 4, 1.0), {}
    for thing in classes(count):
        found[" ".join(thing)] = one_class(painter, thing, most)
        print(thing, found[" ".join(thing)], flush=True)
        made = {**facts(__file__), "classes": found}
        (options.out / FILE).write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    whole = options.out / "results.json"
    if whole.exists():
        results = json.loads(whole.read_text(encoding="utf-8"))
        (options.out / "README.md").write_text(page(results, made), encoding="utf-8")


if __name__ == "__main__":
    main()
