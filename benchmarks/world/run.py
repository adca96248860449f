"""How well the demo world's checker reads pictures, what it refuses, and how fast the world is made.

    python dev.py run benchmarks/world/run.py -- [--quick] [--out FOLDER]

Writes results.json, README.md and scenes.png. Rates have Wilson 95 % intervals; scenes are drawn independently.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ...demo.captions import WORDS, captions, parse
from ...demo.checker import objects_right, read, relation_right
from ...demo.world import Scene, batch, render, sample, split
from ...tools.sheet import wrap
from ..rates import rate
from .fakes import NEAR, NO_SCENES, OTHER_SHAPES, disturbances, harder, other_shape, soft

HERE = Path(__file__).resolve().parent
SCENES, FAKES = 4096, 1000
COLUMNS, ENLARGED, LINE = 8, 128, 12  # of the contact sheet


def reading_rates(pictures: dict[str, Tensor], scenes: list[Scene]) -> dict[str, Any]:
    """For each disturbance: objects, relation and background right, and clean yet wrong."""
    rows = {}
    for name, changed in pictures.items():
        readings = read(changed)
        right, placed = objects_right(readings, scenes), relation_right(readings, scenes)
        grounds = [r.background == scene.background for r, scene in zip(readings, scenes, strict=True)]
        wrong = sum(r.clean and not bool(good) for r, good in zip(readings, placed, strict=True))
        rows[name] = {
            "objects": rate(int(right.sum()), len(scenes)),
            "relation": rate(int(placed.sum()), len(scenes)),
            "background": rate(sum(grounds), len(scenes)),
            "clean but wrong": rate(wrong, len(scenes)),
            "refused": dict(Counter(r.reason for r in readings if not r.clean).most_common(3)),
        }
        print(name, rows[name]["relation"], flush=True)
    return rows


def accepted(pictures: Tensor) -> tuple[int, dict[str, int], dict[str, int]]:
    """How many read as clean, what was seen in them, and why the others were refused."""
    readings = read(pictures)
    seen = Counter(f"{len(r.objects)}: {r.objects[0].shape}" for r in readings if r.clean)
    reasons = Counter(r.reason for r in readings if not r.clean)
    return sum(r.clean for r in readings), dict(seen.most_common(3)), dict(reasons.most_common(3))


def refusal_rates(count: int, rng: torch.Generator) -> dict[str, Any]:
    """For each kind of picture that is no scene, sharp and soft: how often it passes for one."""
    rows = {}
    for name in (*NO_SCENES, *OTHER_SHAPES):
        sharp = NO_SCENES[name](count, rng) if name in NO_SCENES else other_shape(name, count, rng)
        rows[name] = {"demanded": name not in NEAR}
        for kind, pictures in (("sharp", sharp), ("soft", soft(sharp, rng))):
            passed, seen, reasons = accepted(pictures)
            rows[name][kind] = {**rate(passed, count), "seen": seen, "refused": reasons}
        print(name, rows[name]["sharp"]["rate"], rows[name]["soft"]["rate"], flush=True)
    return rows


def places(scenes: list[Scene], pictures: Tensor) -> dict[str, float]:
    """Pixels between where an object is and where it is read, and between radii."""
    far, off = [], []
    for reading, scene in zip(read(pictures), scenes, strict=True):
        for seen in reading.objects:
            thing = next(t for t in scene.objects if (t.colour, t.shape) == (seen.colour, seen.shape))
            far.append(((thing.centre[0] - seen.centre[0]) ** 2 + (thing.centre[1] - seen.centre[1]) ** 2) ** 0.5)
            off.append(abs(thing.radius - seen.radius))
    return {
        "centre, median": round(float(torch.tensor(far).median()), 4),
        "centre, largest": round(max(far), 4),
        "radius, largest": round(max(off), 4),
    }


def speed(rng: torch.Generator) -> dict[str, int]:
    """Per second on one thread, batches of 256."""

    def per_second(work: Any, size: int) -> int:
        work()
        began, rounds = time.monotonic(), 0
        while time.monotonic() - began < 2:
            work()
            rounds += 1
        return round(size * rounds / (time.monotonic() - began))

    scenes = sample(256, rng)
    pictures, listed = render(scenes), list(scenes)
    return {
        "scenes drawn and painted": per_second(lambda: render(sample(256, rng)), 256),
        "captions": per_second(lambda: captions(listed, rng), 256),
        "pictures read": per_second(lambda: read(pictures), 256),
    }


def sheet(rng: torch.Generator, target: Path) -> None:
    """Scenes with a caption each (two rows of training, one held out), then pictures that are refused, with why."""
    scenes = [*sample(2 * COLUMNS, rng, part="train"), *sample(COLUMNS, rng, part="held out")]
    cells = list(zip(render(batch(scenes)), captions(scenes, rng), strict=True))
    for name in list(NO_SCENES)[-2 * COLUMNS :]:
        picture = NO_SCENES[name](1, rng)
        cells.append((picture[0], f"{name}: {read(picture)[0].reason or 'ACCEPTED'}"))
    font, width, height = ImageFont.load_default(10), ENLARGED + 8, ENLARGED + 4 * LINE + 8
    page = Image.new("RGB", (COLUMNS * width + 8, len(cells) // COLUMNS * height + 8), "#ffffff")
    pen = ImageDraw.Draw(page)
    for index, (picture, words) in enumerate(cells):
        left, top = 8 + index % COLUMNS * width, 8 + index // COLUMNS * height
        pixels = (picture.movedim(0, -1) * 255).round().byte().numpy()
        page.paste(Image.fromarray(pixels).resize((ENLARGED, ENLARGED), Image.Resampling.NEAREST), (left, top))
        said = "\n".join(wrap(words, font, ENLARGED))
        pen.multiline_text((left, top + ENLARGED + 2), said, fill="#333333", font=font, spacing=2)
    page.save(target, optimize=True)


def _percent(row: dict[str, Any]) -> str:
    return f"{100 * row['rate']:.2f} ({100 * row['low']:.2f}-{100 * row['high']:.2f})"


def page(result: dict[str, Any]) -> str:
    """README.md."""
    lines = [
        "# The demo world and its checker",
        "",
        f"Made by `{result['command']}` on {result['date']} (torch {result['versions']['torch']}, one thread); all"
        " figures are in [results.json](results.json). Percent, with Wilson 95 % intervals.",
        "",
        "![scenes with captions, and pictures that are refused](scenes.png)",
        "",
        "Two rows of training scenes, one of held-out ones, and pictures that the checker refuses, with its reason.",
        "",
        "## Reading scenes",
        "",
        f"{result['scenes']} random scenes, one or two objects. *Relation*: objects and how they lie are both right."
        " *Clean but wrong*: read as a clean scene, but not as the true one.",
        "",
        "| picture | objects | relation | background | clean but wrong |",
        "|---|---|---|---|---|",
    ]
    for group, rows in (("", result["disturbed"]), ("*beyond what is demanded:* ", result["harder"])):
        for name, row in rows.items():
            figures = " | ".join(_percent(row[key]) for key in ("objects", "relation", "background", "clean but wrong"))
            lines.append(f"| {group}{name} | {figures} |")
    away = result["places"]
    lines += [
        "",
        f"On clean pictures a centre is read {away['centre, median']} pixels from the truth (median; at most"
        f" {away['centre, largest']}), a radius at most {away['radius, largest']}.",
        "",
        "## Refusing what is no scene",
        "",
        f"{result['fakes']} pictures of each kind; the share that passes for a clean scene, as made and made soft"
        " (blurred by 1 pixel, contrast 0.9, noise 0.02). Over all kinds that are demanded:"
        f" {_percent(result['accepted of all demanded'])}.",
        "",
        "| picture | sharp | soft |",
        "|---|---|---|",
    ]
    for name, row in result["no scenes"].items():
        group = "" if row["demanded"] else "*not demanded:* "
        lines.append(f"| {group}{name} | {_percent(row['sharp'])} | {_percent(row['soft'])} |")
    quick = result["speed, per second"]
    lines += [
        "",
        "An outline within a tenth of one of ours passes for it: a pentagon or a hexagon for a circle, a square with"
        " round corners for a square. A triangle without its lower half is a smaller triangle, and is read as one.",
        "",
        "## Speed and size",
        "",
        f"A second, on one thread: {quick['scenes drawn and painted']} scenes drawn and painted,"
        f" {quick['captions']} captions, {quick['pictures read']} pictures read. Captions use {result['words']} words;"
        f" the longest has {result['longest caption']}.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few pictures: to see that it runs")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    torch.set_num_threads(1)
    count, fakes = (256, 50) if options.quick else (SCENES, FAKES)
    rng = torch.Generator().manual_seed(2026)
    drawn = sample(count, rng)
    scenes, pictures = list(drawn), render(drawn)
    repeated = [scene for scene in scenes for _ in range(4)]
    said = captions(repeated, rng)
    understood = sum(
        (found.objects, found.relation) == (true.objects, true.relation)
        for found, true in ((parse(w).ordered(), s.facts.ordered()) for w, s in zip(said, repeated, strict=True))
    )
    refused = refusal_rates(fakes, rng)
    demanded = [row[kind] for row in refused.values() if row["demanded"] for kind in ("sharp", "soft")]
    result = {
        "date": datetime.date.today().isoformat(),
        "command": "python dev.py run benchmarks/world/run.py",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "seed": 2026,
        "scenes": count,
        "fakes": fakes,
        "held out": rate(sum(split(scene) == "held out" for scene in scenes), count),
        "captions understood": rate(understood, len(said)),
        "words": len(WORDS),
        "longest caption": max(len(words.split()) for words in said),
        "disturbed": reading_rates(disturbances(pictures, rng), scenes),
        "harder": reading_rates(harder(pictures, rng), scenes),
        "places": places(scenes, pictures),
        "accepted of all demanded": rate(
            round(sum(row["rate"] * row["n"] for row in demanded)), sum(row["n"] for row in demanded)
        ),
        "no scenes": refused,
        "speed, per second": speed(rng),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "results.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (options.out / "README.md").write_text(page(result), encoding="utf-8")
    sheet(rng, options.out / "scenes.png")


if __name__ == "__main__":
    main()
