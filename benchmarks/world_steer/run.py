"""How often the CLIP-targeted attack leads the world's inpainter and coloriser to what a text says.

    python dev.py run benchmarks/world_steer/run.py [--quick] [--only MODEL] [--out FOLDER]

Writes results.json, README.md and curve.png; with --only the other model stays as it is. Inputs are held-out scenes of
one object, drawn independently: Wilson 95 % intervals. The target differs from the default answer in the colour
(coloriser) or in colour and shape (inpainter). A result is *there* when the learning-free checker reads a clean scene
with the target, and *believed* when the second CLIP, which nothing followed, finds the target's caption likelier than
those of all 24 others. Best of n: the same node with method random, at as many runs of the model.
"""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...demo.world import COLOURS, SHAPES
from ...tools.inprocess import execute, open_pack, upscale_model, upscaled
from ..rates import rate
from ..world_attack.run import LEVELS, MODELS, percent, readings, sign_noise

HERE = Path(__file__).resolve().parent
EPSILONS = (2.0, 4.0, 8.0)
INPUTS, FEW = 100, 40  # of the main row, and of the others
STEPS = 40
MAIN = {"epsilon": 8.0, "truncation": "clip", "guidance": "auto", "copies": 4, "source": True}
VARIANTS: dict[str, dict[str, Any]] = {
    "direction (dot product), 4 copies, clip, epsilon 8": {},
    "epsilon 4": {"epsilon": 4.0},
    "epsilon 2": {"epsilon": 2.0},
    "truncate": {"truncation": "truncate"},
    "cosine": {"guidance": "direction (cosine)"},
    "similarity": {"source": False},
    "no copies": {"copies": 0},
    "best of n random changes": {"method": "random", "steps": 2 * STEPS},
}


def steer(nodes: Any, scorer: Any, model: Any, image: Tensor, mask: Tensor | None, **choices: Any) -> Tensor:
    """The node's results, with its defaults otherwise."""
    fixed = {"model": model, "image": image, "mask": mask, "scorer": scorer, "count": 1, "steps": STEPS}
    return execute(nodes.ClipTargetedAttack, **{**fixed, **choices})[0]


def caption(thing: tuple[str, str]) -> str:
    return f"a {thing[0]} {thing[1]}"


def targets(defaults: Sequence[tuple[str, str]], shapes: bool, seed: int) -> list[tuple[str, str]]:
    """For each default answer another colour (and shape), at random."""
    rng = torch.Generator().manual_seed(seed)
    found = []
    for colour, shape in defaults:
        colours = [name for name in COLOURS if name != colour]
        kinds = [name for name in SHAPES if name != shape] if shapes else [shape]
        pick = torch.randint(60, (2,), generator=rng).tolist()
        found.append((colours[pick[0] % len(colours)], kinds[pick[1] % len(kinds)]))
    return found


def believed(judge: Any, results: Tensor, wanted: list[tuple[str, str]]) -> list[bool]:
    """Whether the judge finds the target's caption likelier than all others."""
    things = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    with torch.no_grad():
        texts = judge.encode_texts([caption(thing) for thing in things])
        best = (judge.encode_images(results.movedim(-1, 1)) @ texts.T).argmax(1).tolist()
    return [things[index] == thing for index, thing in zip(best, wanted, strict=True)]


def there(results: Tensor, wanted: list[tuple[str, str]]) -> list[bool]:
    """Whether the checker reads exactly the target."""
    read = readings(results)
    return [r.clean and r.facts.objects == (thing,) for r, thing in zip(read, wanted, strict=True)]


def one_model(nodes: Any, name: str, inputs: int, few: int) -> dict[str, Any]:
    """All figures of one model."""
    from ...nodes.demo_scene import QUESTIONS
    from ...nodes.load_judges import LoadScorer

    model = upscale_model(f"provoke-demo-world-{name}.safetensors")
    scorer, second = (LoadScorer.execute(which).args[0] for which in ("first", "second"))
    images, masks, *_ = nodes.DemoScene.execute(77, inputs, "one", QUESTIONS[MODELS[name]]).args
    defaults = readings(upscaled(model, images))
    usable = [i for i, reading in enumerate(defaults) if reading.clean and len(reading.objects) == 1]
    before = [defaults[i].facts.objects[0] for i in usable]
    wanted = targets(before, name == "inpainter", 5)
    rows = []
    for variant, change in VARIANTS.items():
        choice = {**MAIN, **change}
        source = choice.pop("source")
        hits: list[bool] = []
        trusts: list[bool] = []
        for place in range(len(usable) if not change else min(few, len(usable))):
            image, mask = images[usable[place]][None], masks[usable[place]][None]
            result = steer(
                nodes, scorer, model, image, mask if name == "inpainter" else None,
                target_text=caption(wanted[place]), source_text=caption(before[place]) if source else "",
                seed=place, **choice,
            )  # fmt: skip
            hits += there(result, [wanted[place]])
            trusts += believed(second.judge, result, [wanted[place]])
        rows.append(_row(variant, choice["epsilon"], hits, trusts))
        print(name, rows[-1], flush=True)
    for epsilon in EPSILONS:
        some = images[usable]
        free = 1 - masks[usable] if name == "inpainter" else torch.ones_like(masks[usable])
        noisy = upscaled(model, sign_noise(some, epsilon, free[..., None], 9))
        hits, trusts = there(noisy, wanted), believed(second.judge, noisy, wanted)
        rows.append(_row(f"sign noise, epsilon {epsilon:g}", epsilon, hits, trusts))
    return {"inputs": len(usable), "left out": inputs - len(usable), "rows": rows}


def _row(variant: str, epsilon: float, hits: list[bool], trusts: list[bool]) -> dict[str, Any]:
    both = sum(a and b for a, b in zip(hits, trusts, strict=True))
    return {
        "variant": variant,
        "epsilon": epsilon,
        "there": rate(sum(hits), len(hits)),
        "believed": rate(sum(trusts), len(trusts)),
        "both": rate(both, len(hits)),
    }


def page(results: dict[str, Any]) -> str:
    """README.md from results.json."""
    lines = [
        "# The CLIP-targeted attack on the demo world",
        "",
        f"`python dev.py run benchmarks/world_steer/run.py`, {results['date']}.",
        "",
        "Percent of held-out inputs with Wilson 95 % intervals. *There*: the checker reads a clean scene with the",
        "target's colour and shape. *Believed*: the second CLIP, which nothing followed, finds the target's caption",
        "the likeliest of 24. The target is another colour than the default answer's (inpainter: and another shape).",
        "Rows below the first differ from it in what they name; fewer inputs. Inputs whose default answer is no clean",
        f"scene are left out. {STEPS} steps; best of n has as many runs of the model as the gradient.",
        "",
    ]
    for name, found in results["models"].items():
        lines += [
            f"## {name}",
            "",
            f"{found['inputs']} inputs ({found['left out']} left out).",
            "",
            "| way | n | there | believed | both |",
            "|---|---|---|---|---|",
            *(
                f"| {row['variant']} | {row['there']['n']} | {percent(row['there'])} | {percent(row['believed'])} "
                f"| {percent(row['both'])} |"
                for row in found["rows"]
            ),
            "",
        ]
    return "\n".join([*lines, "![success over epsilon](curve.png)", ""])


def plot(results: dict[str, Any], path: Path) -> None:
    """Success over epsilon, with the intervals."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, len(results["models"]), figsize=(8, 3), sharey=True, layout="constrained", squeeze=False
    )
    for axis, (name, found) in zip(axes[0], results["models"].items(), strict=True):
        rows = {row["variant"]: row for row in found["rows"]}
        lines = {
            "steered": [rows["epsilon 2"], rows["epsilon 4"], rows[next(iter(VARIANTS))]],
            "sign noise": [rows[f"sign noise, epsilon {e:g}"] for e in EPSILONS],
        }
        for label, some in lines.items():
            rates = [100 * row["both"]["rate"] for row in some]
            ends = [[100 * abs(row["both"][end] - row["both"]["rate"]) for row in some] for end in ("low", "high")]
            axis.errorbar(EPSILONS, rates, ends, label=label, capsize=3, marker="o", ms=3)
        axis.set(title=name, xlabel=f"epsilon, of {LEVELS} levels", ylim=(-3, 103))
        axis.set_xticks(EPSILONS)
    axes[0, 0].set_ylabel("target there and believed, %")
    axes[0, 0].legend(frameon=False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few inputs, to see that it runs")
    parser.add_argument("--only", nargs="*", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    inputs, few = (6, 3) if options.quick else (INPUTS, FEW)
    nodes = open_pack()
    file = options.out / "results.json"
    known = json.loads(file.read_text(encoding="utf-8"))["models"] if file.exists() else {}
    measured = {name: one_model(nodes, name, inputs, few) for name in options.only}
    results = {"date": str(datetime.date.today()), "models": {**known, **measured}}
    options.out.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (options.out / "README.md").write_text(page(results), encoding="utf-8")
    plot(results, options.out / "curve.png")


if __name__ == "__main__":
    main()
