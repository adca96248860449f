"""How often a single classifier is fooled, and how much less often several that must agree, one of them by edges alone.

    python dev.py run benchmarks/world_robust/run.py -- [--quick] [--only PART] [--out FOLDER]

Writes results.json and README.md; with --only the other part stays as it is. *Pictures*: the picture itself is changed
by at most epsilon, led to another class by *Objective: Robust Class* with one classifier or several; held-out scenes of
one object, drawn independently: the first so many that the learning-free checker reads as they are. Every second target
is the same shape in another colour, the others are another shape; all drawn at random. *Coloriser*: the same objectives
lead *Vary Result* on the world's coloriser, to another colour than its usual answer, where a failure can be real.
*Hardest*: the single classifier that *Pictures* fooled least, beside the ensemble, on other and more scenes, as the
first could not tell. *Break*: away from the picture's own class instead (breaking.py), and the
same on the coloriser.

A judge *claims* the target where it says so of the 8-bit result. *Fooled*: all judges of the search claim it, and what
the checker reads (8 bits, also moved by a pixel) is what it was. *Real*: they claim it, and the checker reads the
target. Same budget, steps and step rule for every objective. n and the seeds are fixed before the run; Wilson 95 %
intervals.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...tools.inprocess import execute, open_pack, upscale_model
from ..pages import options, write
from ..rates import percent, rate
from ..verdicts import Things, shown
from ..world_attack.run import sign_noise
from ..world_steer.run import Inputs, Thing, ask
from . import breaking
from .ways import (
    ALONE,
    ENSEMBLES,
    MAIN_EPSILON,
    OURS,
    SEED,
    STEPS,
    Judges,
    Pictures,
    attacked,
    grouped,
    least_fooled,
    pictures,
    said_of_bar,
)

HERE = Path(__file__).resolve().parent
PARTS = ("pictures", "hardest", "coloriser", "break", "break_coloriser")
EPSILONS = (4.0, 8.0, 16.0)
DRAWN, INPUTS, FEW = 160, 120, 40  # scenes; inputs at epsilon 8; at the others and of the coloriser
OTHERS, MORE_DRAWN, MORE = 291, 520, 400  # of the part `hardest`: seed, scenes, inputs
ELSEWHERE = (ALONE[0], "three", OURS)  # the rows at the other epsilons


def verdict(
    judges: Judges,
    results: Tensor,
    before: Sequence[Things | None],
    wanted: Sequence[Thing],
    ensemble: dict[str, Any],
) -> dict[str, Any]:
    """What became of the pictures, by the judges of the search, by the checker, and by the judge held out."""
    claimed, believed = judges.claims(results, wanted, ensemble), judges.held_out(results, wanted)
    after = shown(results)
    fooled = [c and a == b and a != (w,) for c, a, b, w in zip(claimed, after, before, wanted, strict=True)]
    real = [c and a == (w,) for c, a, w in zip(claimed, after, wanted, strict=True)]
    transferred = [f and b for f, b in zip(fooled, believed, strict=True)]
    shares = {"claimed": claimed, "fooled": fooled, "real": real, "fooled, and the held-out judge too": transferred}
    return {name: rate(sum(all_), len(all_)) for name, all_ in shares.items()} | {
        "fooled by another colour": rate(sum(fooled[::2]), len(fooled[::2])),
        "fooled by another shape": rate(sum(fooled[1::2]), len(fooled[1::2])),
    }


def row_of(judges: Judges, some: Pictures, name: str, epsilon: float, steps: int) -> dict[str, Any]:
    """What one way of judging comes to at one epsilon."""
    ensemble = ENSEMBLES[name]
    before: list[Things | None] = [(thing,) for thing in some.shows]
    results = attacked(judges, some, epsilon, ensemble, steps)
    row = {"way": name, "epsilon": epsilon, **verdict(judges, results, before, some.wanted, ensemble)}
    noisy = sign_noise(some.images, epsilon, torch.ones_like(some.images), SEED)
    row["fooled by sign noise"] = verdict(judges, noisy, before, some.wanted, ensemble)["fooled"]
    print({key: row[key] for key in ("way", "epsilon", "claimed", "fooled", "real")}, flush=True)
    return row


def on_pictures(judges: Judges, drawn: int, inputs: int, few: int, steps: int) -> dict[str, Any]:
    """Figures of the changed pictures."""
    whole = pictures(drawn, inputs)
    rows = []
    for epsilon in EPSILONS:
        n = len(whole.shows) if epsilon == MAIN_EPSILON else min(few, len(whole.shows))
        some = Pictures(whole.images[:n], whole.shows[:n], whole.wanted[:n])
        names = ENSEMBLES if epsilon == MAIN_EPSILON else ELSEWHERE
        rows += [row_of(judges, some, name, epsilon, steps) for name in names]
    return {"drawn": drawn, "steps": steps, "rows": rows}


def on_the_hardest(
    judges: Judges, among: Sequence[dict[str, Any]], drawn: int, inputs: int, steps: int
) -> dict[str, Any]:
    """The bar's two rows, on scenes of their own. among: the rows of `on_pictures`."""
    some, hardest = pictures(drawn, inputs, OTHERS), least_fooled(among)
    rows = [row_of(judges, some, name, MAIN_EPSILON, steps) for name in (hardest, OURS)]
    return {"drawn": drawn, "steps": steps, "rows": rows}


def on_coloriser(judges: Judges, drawn: int, few: int, steps: int) -> dict[str, Any]:
    """Figures of the coloriser's results."""
    nodes, model = judges.nodes, upscale_model("provoke-demo-world-coloriser.safetensors")
    asked: Inputs = ask(nodes, model, "coloriser", drawn, few, SEED)
    before: list[Things | None] = [(thing,) for thing in asked.answers]
    rows = []
    for name, ensemble in ENSEMBLES.items():
        results = torch.zeros_like(asked.image)
        for thing, places in grouped(asked.wanted).items():
            fixed = {"epsilon": MAIN_EPSILON, "truncation": "clip", "count": 1, "steps": steps}
            objective = judges.objective(thing, **ensemble)
            results[places] = execute(
                nodes.UntargetedAttack, model=model, image=asked.image[places], objective=objective, **fixed
            )[0]
        row = {"way": name, "epsilon": MAIN_EPSILON, **verdict(judges, results, before, asked.wanted, ensemble)}
        rows.append({key: value for key, value in row.items() if not key.startswith("fooled by")})
        print("coloriser", {key: row[key] for key in ("way", "claimed", "fooled", "real")}, flush=True)
    return {"drawn": drawn, "steps": steps, "rows": rows}


def changed(title: str, found: dict[str, Any], *about: str) -> list[str]:
    """A part with changed pictures: what it is about, the bar, the table."""
    first, *rest = about
    return [
        f"## {title}",
        "",
        f"{found['date']}; {first}",
        *rest,
        said_of_bar(found["rows"]),
        "",
        *table(found["rows"]),
    ]


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Of changed pictures."""
    return [
        "| epsilon, of 255 | judges in the search | n | fooled | by another colour | by another shape | real "
        "| held out too | fooled by sign noise |",
        "|---|---|---|---|---|---|---|---|---|",
        *(
            f"| {row['epsilon']:g} | {row['way']} | {row['fooled']['n']} | {percent(row['fooled'])} "
            f"| {percent(row['fooled by another colour'])} | {percent(row['fooled by another shape'])} "
            f"| {percent(row['real'])} | {percent(row['fooled, and the held-out judge too'])} "
            f"| {percent(row['fooled by sign noise'])} |"
            for row in rows
        ),
        "",
    ]


def page(results: dict[str, Any]) -> str:
    """README.md from results.json."""
    parts = results["models"]
    lines = [
        "# Several judges that must agree, on the demo world",
        "",
        "`python dev.py run benchmarks/world_robust/run.py`.",
        "",
        "Percent with Wilson 95 % intervals. *Claimed*: every judge of the search says the target of the 8-bit",
        "result. *Fooled*: claimed, and the learning-free checker reads what the picture showed before (also moved by",
        "a pixel). *Real*: claimed, and the checker reads the target. *Held out too*: fooled, and a ConvNeXt that was",
        "in no search says the target. Same budget, steps and step rule in every row. Of several judges the weakest",
        f"counts (a soft minimum of their margins), of one its margin; *{OURS}* adds a judge of shapes that sees the",
        "Canny edges alone.",
        "",
    ]
    if "pictures" in parts:
        found = parts["pictures"]
        lines += changed(
            "Pictures",
            found,
            f"held-out scenes of one object, the picture itself is changed, {found['steps']} steps of",
            "APGD. Nothing here can be real but by a change of the picture itself, which these epsilons do not allow.",
        )
    if "hardest" in parts:
        lines += changed(
            "Beside the judge that is hardest to fool",
            parts["hardest"],
            "n was too small above to tell: other scenes, n fixed before this run, and the single",
            "judge that the table above fooled least.",
        )
    if "coloriser" in parts:
        found = parts["coloriser"]
        lines += [
            "## Coloriser",
            "",
            f"{found['date']}; *Vary Result* on the world's coloriser, led by the objective to its usual answer in",
            f"another colour, epsilon {MAIN_EPSILON:g}, {found['steps']} steps. Here a failure can be real, and it has",
            "to be found: an objective that never claims anything would not be fooled either.",
            "",
            "| judges in the search | n | claimed | real | fooled | held out too |",
            "|---|---|---|---|---|---|",
            *(
                f"| {row['way']} | {row['fooled']['n']} | {percent(row['claimed'])} | {percent(row['real'])} "
                f"| {percent(row['fooled'])} | {percent(row['fooled, and the held-out judge too'])} |"
                for row in found["rows"]
            ),
            "",
        ]
    if "break" in parts:
        lines += breaking.told(parts["break"])
    if "break_coloriser" in parts:
        lines += breaking.told_of_coloriser(parts["break_coloriser"])
    return "\n".join(lines)


def main() -> None:
    chosen = options(__doc__, PARTS, HERE)
    drawn, inputs, few, steps = (24, 8, 4, 6) if chosen.quick else (DRAWN, INPUTS, FEW, STEPS)
    more = (24, 8) if chosen.quick else (MORE_DRAWN, MORE)
    judges, measured = Judges(open_pack()), {}
    if "pictures" in chosen.only:
        measured["pictures"] = on_pictures(judges, drawn, inputs, few, steps)
    if "hardest" in chosen.only:
        known = (
            measured.get("pictures")
            or json.loads((HERE / "results.json").read_text(encoding="utf-8"))["models"]["pictures"]
        )
        measured["hardest"] = on_the_hardest(judges, known["rows"], *more, steps)
    if "coloriser" in chosen.only:
        measured["coloriser"] = on_coloriser(judges, drawn, few, steps)
    if "break" in chosen.only:
        scenes = (24, 8) if chosen.quick else (breaking.DRAWN, breaking.INPUTS)
        measured["break"] = breaking.on_breaks(judges, breaking.recognised(judges, *scenes), steps)
    if "break_coloriser" in chosen.only:
        some = (24, 4) if chosen.quick else (DRAWN, breaking.FEW)
        measured["break_coloriser"] = breaking.on_coloriser(judges, *some, steps)
    write(chosen.out, measured, page)


if __name__ == "__main__":
    main()
