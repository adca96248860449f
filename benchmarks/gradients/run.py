"""Gradients through a whole sampling: are they right, what do they cost, what do they keep, how long do they take?

    python dev.py run benchmarks/gradients/run.py -- [--only PART ...] [--graphs WORDS] [--out FOLDER]

Writes results.json, and from it README.md and errors.png. With --only the other parts of results.json stay as they are,
with --graphs also the part `right` but for the graphs with these words in their names ("flux-hook").
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ...core.errors import ProvokeError
from ...tools.inprocess import open_pack

HERE = Path(__file__).resolve().parent


def right(words: str = "") -> list[dict[str, Any]]:
    from . import cases, rivals, scenes

    rows = []
    for scene in scenes.scenes():
        if words not in scene.name:
            continue
        try:
            measured = cases.measure(scene, methods=rivals.all_methods)
        except ProvokeError as error:  # ours refuses: a failure, to be seen in the table
            measured = [cases.Measured(scene, "noise", refused=dict.fromkeys(cases.RUNGS, str(error)))]
        for found in measured:
            rows.append(_plain(asdict(found)))
            print(found.name, {way: f"{error:.1e}" for way, error in found.errors.items()}, flush=True)
    return rows


def merged(before: list[dict[str, Any]], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with those of the same graphs replaced."""
    new = [row["scene"] for row in rows]
    return [row for row in before if row["scene"] not in new] + rows


def cost() -> list[dict[str, Any]]:
    from . import cost, scenes

    found = [
        one
        for family in cost.FAMILIES
        for sampler in cost.SAMPLERS
        for one in cost.measure(scenes.Scene(family), sampler, None if sampler == "euler" else ("exact",))
    ]
    return [_plain(asdict(one)) for one in found]


def memory() -> list[dict[str, Any]]:
    from . import memory, scenes

    found = [
        one
        for family in memory.FAMILIES
        for steps in memory.STEPS
        for one in memory.measure(scenes.Scene(family), steps)
    ]
    return [_plain(asdict(one)) for one in found]


def overhead() -> list[dict[str, Any]]:
    from . import overhead

    found = [one for family in overhead.SIZES for one in overhead.measure(family)]
    return [_plain({**asdict(one), "median": one.median}) for one in found]


def shortcuts() -> list[dict[str, Any]]:
    from . import shortcuts

    found = [
        one
        for family in shortcuts.FAMILIES
        for sampler in shortcuts.SAMPLERS
        for one in shortcuts.measure(family, sampler)
    ]
    return [_plain(asdict(one)) for one in found]


def samplers() -> list[dict[str, Any]]:
    from . import samplers_real as real

    rows = []
    for name in real.names():
        for kind, family in real.FAMILIES.items():
            rows.append(_plain({**asdict(real.measure(name, family)), "kind": kind}))
        print(name, [row["errors"] for row in rows[-3:]], flush=True)
    return rows


PARTS: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "cost": cost, "memory": memory, "overhead": overhead, "shortcuts": shortcuts, "samplers": samplers,
    "right": right,
}  # fmt: skip


def _plain(row: Any) -> Any:
    """For a JSON file: figures with three digits, scenes as their fields."""
    if isinstance(row, dict):
        return {key: _plain(value) for key, value in row.items() if not key.startswith("_")}
    if isinstance(row, list):
        return [_plain(value) for value in row]
    return float(f"{row:.4g}") if isinstance(row, float) else row


def main() -> None:
    parser = argparse.ArgumentParser(description="Gradients through a whole sampling, on tiny models of the host.")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--graphs", default="", help="of the part `right`: only these, the others stay")
    parser.add_argument("--out", type=Path, default=HERE)
    arguments = parser.parse_args()
    open_pack()
    import comfyui_version

    from . import report

    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "results.json"
    result = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for name in arguments.only:
        start = time.perf_counter()
        rows = right(arguments.graphs) if name == "right" else PARTS[name]()
        seconds = time.perf_counter() - start
        if name == "right" and arguments.graphs:
            rows, seconds = merged(result[name]["rows"], rows), result[name]["seconds"]
        result[name] = {
            "date": datetime.date.today().isoformat(),
            "command": "python dev.py run benchmarks/gradients/run.py",
            "comfyui": comfyui_version.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "threads": torch.get_num_threads(),
            "seconds": round(seconds),
            "rows": rows,
        }
        path.write_text(report.json_text(result), encoding="utf-8")
    if set(PARTS) <= result.keys():
        (arguments.out / "README.md").write_text(report.page(result), encoding="utf-8")
        report.picture(result["right"]["rows"], arguments.out / "errors.png")


if __name__ == "__main__":
    main()
