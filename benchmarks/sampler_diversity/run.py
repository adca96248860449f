"""How different the pictures of one seed become on the demo's few-step model, and how well they still match the prompt.

    python dev.py run benchmarks/sampler_diversity/run.py -- [--quick] [--model KIND] [--prompts N] [--out FOLDER]

Writes results.json, README.md and curve.png. *Vary Sampling* on the conditioning (L2: every result spends the whole
norm) next to Gaussian noise of exactly the same norm on the same conditioning, and to plain seeds. Prompts: one object
on the ground that no training showed it on, each once. Diversity: mean absolute difference between two results of one
prompt (levels of 255), and one minus the cosine of their vectors by the second CLIP, which no search followed.
Adherence: the share of results that the learning-free checker reads as the prompt's object on its ground, in 8-bit
levels and again one pixel aside. All results are the host's own KSampler's; intervals take a prompt as the unit.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...demo.world import Scene
from ...tools.inprocess import execute, open_pack
from ..painter import DemoPainter
from ..prompts import HELD_OUT, one_object, with_ground
from ..rates import bootstrap, percent, shared
from ..record import facts
from ..verdicts import on_its_ground

HERE = Path(__file__).resolve().parent
MODEL, STEPS, CFG, SEED = "4 steps", 4, 1.0, 7
PROMPTS, COUNT, DRAWS = 16, 4, 16
NORMS = (0.03, 0.06, 0.1, 0.15, 0.25, 0.4)  # root mean square of the change, of the conditioning's own RMS
MORE_NOISE = (0.6, 0.8, 1.0, 1.4)  # noise needs more to lose as much adherence
CHOICES: dict[str, Any] = {"norm": "L2", "search_steps": 10, "keep": 20.0}
NOTHING = 1e-4  # a diversity that is none: what one would divide by is rounding
BAR = 1.5  # of issue 7: our diversity over noise's, at equal adherence


class Painter(DemoPainter):
    """Few steps; and the ways that are compared."""

    def __init__(self, nodes: Any, model: str) -> None:
        super().__init__(nodes, model, STEPS, CFG)

    def noisy(
        self, text: str, norm: float, seed: int, draws: int = DRAWS, noise_seed: int = SEED, *, sign: bool = False
    ) -> Tensor:
        """Pictures with Gaussian noise of exactly this norm on the conditioning, or with its sign (on L-inf's ball)."""
        ((cross, extra),) = self.conditioning(text)
        rng = torch.Generator().manual_seed(seed)
        noise = torch.randn((draws, *cross.shape[1:]), generator=rng)
        noise = noise.sign() if sign else noise
        unit = noise / noise.square().mean((1, 2), keepdim=True).sqrt()
        moved = [[cross + norm * cross.square().mean().sqrt() * unit, extra]]
        return self.draw(moved, noise_seed, draws, same_noise=True)

    def varied(self, text: str, norm: float, **choices: Any) -> Tensor:
        """The node's pictures."""
        node, sockets = self.nodes.UntargetedAttackSampler, self.sockets(text, SEED)
        kept = {"scorer": self.first, "keep_text": text}
        return self.decoded(execute(node, **sockets, epsilon=norm, **kept, **{"count": COUNT, **CHOICES, **choices})[0])


class Tally:
    """What is known of one way at one norm."""

    def __init__(self, painter: Painter) -> None:
        self.judge = painter.second.judge
        self.levels: list[float] = []
        self.features: list[float] = []
        self.right: list[float] = []

    def add(self, pictures: Tensor, scene: Scene) -> None:
        """One prompt's results."""
        count = len(pictures)
        pairs = ~torch.eye(count, dtype=torch.bool)
        self.levels.append(float((pictures[:, None] - pictures[None]).abs().mean((2, 3, 4))[pairs].mean()) * 255)
        with torch.no_grad():
            vectors = self.judge.encode_images(pictures)
        self.features.append(float((1 - vectors @ vectors.T)[pairs].mean()))
        self.right.append(sum(on_its_ground(pictures, scene)) / count)

    def row(self) -> dict[str, Any]:
        return {
            "levels": round(_mean(self.levels), 3),
            "features": round(_mean(self.features), 5),
            "right": shared(self.right),
            "by prompt": {
                "levels": [round(v, 3) for v in self.levels],
                "features": [round(v, 5) for v in self.features],
                "right": [round(v, 4) for v in self.right],
            },
        }


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def as_right(ours: dict[str, Any], noise: list[dict[str, Any]], what: str) -> dict[str, Any] | None:
    """Of the noise, of whatever norm, that does not keep significantly fewer results right than ours (bootstrap over
    prompts, the same for both: 95 %), the most diverse. It may well keep fewer: that speaks for the noise."""
    kept = torch.tensor(ours["by prompt"]["right"])
    pick = bootstrap(len(kept))
    fair = []
    for row in noise:
        lost = (kept - torch.tensor(row["by prompt"]["right"]))[pick].mean(1)
        if float(lost.quantile(0.025)) <= 0:
            fair.append(row)
    return max(fair, key=lambda row: row[what], default=None)


def ratio(ours: dict[str, Any], noise: dict[str, Any], what: str) -> dict[str, float] | None:
    """Of the means, with a bootstrap 95 % interval over prompts; None where noise changes nothing to divide by."""
    a, b = (torch.tensor(row["by prompt"][what]) for row in (ours, noise))
    if float(b.mean()) < NOTHING:
        return None
    pick = bootstrap(len(a))
    ends = (a[pick].mean(1) / b[pick].mean(1).clamp_min(NOTHING)).quantile(torch.tensor([0.025, 0.975]))
    return {
        "rate": round(float(a.mean() / b.mean()), 3),
        "low": round(float(ends[0]), 3),
        "high": round(float(ends[1]), 3),
    }


def compared(ours: list[dict[str, Any]], noise: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Our rows, with their ratios to noise of the same norm and to noise that keeps as many right."""
    rows = []
    for plain in ours:
        row = dict(plain)
        same = next(other for other in noise if other["norm"] == row["norm"])
        for what in ("levels", "features"):
            row[f"{what}, same norm"] = ratio(row, same, what)
            fair = as_right(row, noise, what)
            row[f"{what}, as right"] = (
                None if fair is None else {"norm": fair["norm"], **(ratio(row, fair, what) or {})}
            )
        rows.append(row)
    return rows


def measured(nodes: Any, model: str, prompts: int, norms: tuple[float, ...]) -> dict[str, Any]:
    """All figures."""
    painter = Painter(nodes, model)
    scenes = one_object()[: min(prompts, HELD_OUT)]
    seeds = Tally(painter)
    noise = {norm: Tally(painter) for norm in (*norms, *MORE_NOISE)}
    ours = {norm: Tally(painter) for norm in norms}
    began = time.process_time()
    for at, scene in enumerate(scenes):
        text = with_ground(scene)
        seeds.add(painter.draw(text, 1000 + at, DRAWS), scene)
        for norm, tally in noise.items():
            tally.add(painter.noisy(text, norm, at), scene)
        for norm, tally in ours.items():
            tally.add(painter.varied(text, norm, search_seed=at), scene)
        print(f"{at + 1} of {len(scenes)} prompts, {time.process_time() - began:.0f} s", flush=True)
    noise_rows = [{"norm": norm, **tally.row()} for norm, tally in noise.items()]
    rows = compared([{"norm": norm, **tally.row()} for norm, tally in ours.items()], noise_rows)
    return {"prompts": len(scenes), "count": COUNT, "seconds": round(time.process_time() - began), "seeds": seeds.row(),
            "noise": noise_rows, "ours": rows}  # fmt: skip


def page(results: dict[str, Any]) -> str:
    """README.md from results.json."""
    found = results["found"]
    choices = ", ".join(f"{name} {value}" for name, value in CHOICES.items())

    def times(row: dict[str, Any], what: str) -> str:
        same, fair = row[f"{what}, same norm"], row[f"{what}, as right"]
        return f"{_times(same)} | " + ("-" if fair is None else f"{_times(fair)}, norm {fair['norm']:g}")

    lines = [
        "# Diversity of a few-step model, at what loss of adherence",
        "",
        f"`{results['command']}`, {results['date']}; {found['seconds']} CPU seconds.",
        "",
        f"Model: *Load Demo Models*, {results['model']}, {STEPS} steps at cfg {CFG:g}. {found['prompts']} prompts of",
        "one object, each once, on the ground that no training showed it on.",
        f"{COUNT} results of each by *Vary Sampling* ({choices}), {DRAWS} with noise.",
        "Norm: root mean square of the change over that of the conditioning. *Right*: percent of the results that the",
        "checker reads as the prompt's object on its ground, from 8 bits and again one pixel aside (Wilson 95 %, the",
        "unit is the prompt). *Levels*: mean difference of two results; *features*: 1 - cosine by the second CLIP,",
        "which nothing followed. *Same norm*: our diversity over that of noise of the same norm. *As right*: over that",
        "of the most diverse noise, of whatever norm, that does not keep significantly fewer results right (bootstrap",
        "over prompts; all of these intervals are).",
        "",
        *_bars(found["ours"]),
        "",
        "| norm | right | levels | same norm | as right | features | same norm | as right |",
        "|---|---|---|---|---|---|---|---|",
        *(
            f"| {row['norm']:g} | {percent(row['right'])} | {row['levels']:.1f} | {times(row, 'levels')} "
            f"| {row['features']:.3f} | {times(row, 'features')} |"
            for row in found["ours"]
        ),
        "",
        "Noise alone, and plain seeds without any change:",
        "",
        "| norm | right | levels | features |",
        "|---|---|---|---|",
        *(
            f"| {row['norm']:g} | {percent(row['right'])} | {row['levels']:.1f} | {row['features']:.3f} |"
            for row in found["noise"]
        ),
        f"| seeds | {percent(found['seeds']['right'])} | {found['seeds']['levels']:.1f} "
        f"| {found['seeds']['features']:.3f} |",
        "",
        "![diversity over adherence](curve.png)",
        "",
    ]
    return "\n".join(lines)


def _times(found: dict[str, Any] | None) -> str:
    return f"{found['rate']:.1f} ({found['low']:.1f} to {found['high']:.1f})" if found and "rate" in found else "-"


def _bars(rows: list[dict[str, Any]]) -> list[str]:
    """At how many norms the bar holds, by either measure."""
    lines = []
    for what, name in (("levels", "levels"), ("features", "the second CLIP")):
        ratios = [row[f"{what}, as right"] for row in rows]
        sure = sum(found is not None and found.get("low", 0.0) >= BAR for found in ratios)
        reached = sum(found is not None and found.get("rate", 0.0) >= BAR for found in ratios)
        lines.append(
            f"Bar: as right, {BAR:g} times noise's, by {name}: held at {sure} of {len(ratios)} norms by the interval's "
            f"lower end, reached at {reached}."
        )
    return lines


def plot(results: dict[str, Any], path: Path) -> None:
    """Diversity over adherence, a point a norm."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    found = results["found"]
    figure, axes = pyplot.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    for axis, what, label in zip(
        axes, ("levels", "features"), ("levels between two results", "1 - cosine, second CLIP"), strict=True
    ):
        for name, rows, mark in (("Vary Sampling", found["ours"], "o"), ("noise", found["noise"], "s")):
            axis.plot(
                [100 * row["right"]["rate"] for row in rows], [row[what] for row in rows], marker=mark, label=name
            )
            for row in rows:
                axis.annotate(f"{row['norm']:g}", (100 * row["right"]["rate"], row[what]), fontsize=7)
        axis.plot(100 * found["seeds"]["right"]["rate"], found["seeds"][what], "k*", label="seeds")
        axis.set(xlabel="results that show the prompt's object, %", ylabel=label)
        axis.invert_xaxis()
    axes[0].legend(frameon=False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two prompts and norms, to see that it runs")
    parser.add_argument("--model", default=MODEL, help="of Load Demo Models")
    parser.add_argument("--prompts", type=int, default=PROMPTS)
    parser.add_argument("--norms", type=float, nargs="*", default=NORMS)
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    nodes = open_pack()
    prompts, norms = (2, NORMS[1::2][:2]) if options.quick else (options.prompts, tuple(options.norms))
    found = measured(nodes, options.model, prompts, norms)
    results = {**facts(__file__), "model": options.model, "found": found}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (options.out / "README.md").write_text(page(results), encoding="utf-8")
    plot(results, options.out / "curve.png")


if __name__ == "__main__":
    main()
