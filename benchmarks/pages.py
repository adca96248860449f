"""What benchmarks that measure one model after the other share: command line, files, curves over epsilon."""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Curve = Sequence[tuple[float, dict[str, Any]]]  # epsilon, and what `rates.rate` gives


def options(description: str | None, models: Sequence[str], folder: Path) -> argparse.Namespace:
    """--quick, --only MODEL ..., --out FOLDER."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="a few inputs, to see that it runs")
    parser.add_argument("--only", nargs="*", choices=list(models), default=list(models))
    parser.add_argument("--out", type=Path, default=folder)
    return parser.parse_args()


def write(
    folder: Path, measured: Mapping[str, Any], page: Callable[[dict[str, Any]], str], **facts: Any
) -> dict[str, Any]:
    """results.json and README.md. Models that were not measured this time stay as they were.

    page: README.md from the results, {"date", "models", ...}; each model has its own date.
    """
    file, today = folder / "results.json", str(datetime.date.today())
    known = json.loads(file.read_text(encoding="utf-8"))["models"] if file.exists() else {}
    dated = {name: {"date": today, **found} for name, found in measured.items()}
    results = {"date": today, **facts, "models": {**known, **dated}}
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(page(results), encoding="utf-8")
    return results


def curves(panels: Mapping[str, Mapping[str, Curve]], label: str, path: Path) -> None:
    """Rates over epsilon with their intervals: a panel for each model, a line for each way.

    label: what the rates are of, for the axis. Needs matplotlib, which the development environment does not bring.
    """
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(panels), figsize=(8, 3), sharey=True, layout="constrained", squeeze=False)
    ways = list(dict.fromkeys(way for lines in panels.values() for way in lines))  # a way has its colour in all panels
    for axis, (name, lines) in zip(axes[0], panels.items(), strict=True):
        for way, curve in lines.items():
            rates = [100 * rate["rate"] for _, rate in curve]
            ends = [[100 * abs(rate[end] - rate["rate"]) for _, rate in curve] for end in ("low", "high")]
            axis.errorbar(
                [epsilon for epsilon, _ in curve],
                rates,
                ends,
                label=way,
                capsize=3,
                marker="o",
                ms=3,
                color=f"C{ways.index(way)}",
            )
        ticks = sorted({epsilon for curve in lines.values() for epsilon, _ in curve})
        axis.set(title=name, xlabel="epsilon, of 255 levels", xscale="log", ylim=(-3, 103))
        axis.set_xticks(ticks, [f"{epsilon:g}" for epsilon in ticks])
        axis.minorticks_off()
        axis.legend(frameon=False, fontsize="small")
    axes[0, 0].set_ylabel(label)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
