"""The part *break* of world_robust: pictures are led away from their own class, by one judge or by several.

A judge *denies* where it no longer says the class of the 8-bit result. *Fooled*: all judges of the search deny it, and
what the checker reads is what it was. *Real*: they deny it, and the checker reads something else, or no clean scene.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...demo.vision_models import JUDGE
from ...tools.inprocess import execute, upscale_model, upscaled
from ..rates import percent, rate
from ..verdicts import Things, shown
from ..world_attack.run import sign_noise
from ..world_steer.run import Thing, ask
from .ways import ALONE, ENSEMBLES, MAIN_EPSILON, OURS, Judges, Pictures, attacked, grouped, pictures, said_of_bar

# scenes of their own; the first so many that the checker and all judges read; and of the coloriser
SCENES_SEED, DRAWN, INPUTS, FEW = 491, 260, 200, 40


def recognised(judges: Judges, drawn: int, inputs: int) -> Pictures:
    """The first `inputs` of `drawn` scenes that the checker reads as they are and every judge says the class of."""
    some = pictures(drawn, drawn, SCENES_SEED)
    known = judges.claims(some.images, some.shows, ENSEMBLES[OURS])
    kept = [i for i, right in enumerate(known) if right][:inputs]
    shows = [some.shows[i] for i in kept]
    return Pictures(some.images[kept].contiguous(), shows, shows)


def on_breaks(judges: Judges, some: Pictures, steps: int) -> dict[str, Any]:
    """A row for each way of judging."""
    before: list[Things | None] = [(thing,) for thing in some.shows]
    noisy, rows = sign_noise(some.images, MAIN_EPSILON, torch.ones_like(some.images), SCENES_SEED), []
    for name, ensemble in ENSEMBLES.items():
        results = attacked(judges, some, MAIN_EPSILON, ensemble, steps, less=True)
        row = {"way": name, "epsilon": MAIN_EPSILON, **verdict(judges, results, before, some.shows, ensemble)}
        row["fooled by sign noise"] = verdict(judges, noisy, before, some.shows, ensemble)["fooled"]
        print("break", {key: row[key] for key in ("way", "denied", "fooled", "real")}, flush=True)
        rows.append(row)
    return {"steps": steps, "rows": rows}


def on_coloriser(judges: Judges, drawn: int, few: int, steps: int) -> dict[str, Any]:
    """Where a failure can be real: *Vary Result* on the world's coloriser, away from its usual answer, which all judges
    recognise."""
    nodes, model = judges.nodes, upscale_model("provoke-demo-world-coloriser.safetensors")
    asked = ask(nodes, model, "coloriser", drawn, drawn, SCENES_SEED)
    usual = upscaled(model, asked.image)
    kept = [i for i, yes in enumerate(judges.claims(usual, asked.answers, ENSEMBLES[OURS])) if yes][:few]
    image, shows = asked.image[kept], [asked.answers[i] for i in kept]
    before: list[Things | None] = [(thing,) for thing in shows]
    rows = []
    for name in (*ALONE, "three", OURS):
        results = torch.zeros_like(image)
        for thing, places in grouped(shows).items():
            fixed = {"epsilon": MAIN_EPSILON, "truncation": "clip", "count": 1, "steps": steps}
            objective = judges.objective(thing, **ENSEMBLES[name])
            sockets = {"model": model, "image": image[places], "objective": objective, "direction": "away"}
            results[places] = execute(nodes.UntargetedAttack, **sockets, **fixed)[0]
        row = {"way": name, "epsilon": MAIN_EPSILON, **verdict(judges, results, before, shows, ENSEMBLES[name])}
        print("break, coloriser", {key: row[key] for key in ("way", "denied", "fooled", "real")}, flush=True)
        rows.append(row)
    return {"drawn": drawn, "steps": steps, "rows": rows}


def verdict(
    judges: Judges, results: Tensor, before: Sequence[Things | None], shows: Sequence[Thing], ensemble: dict[str, Any]
) -> dict[str, Any]:
    """What became of the pictures, by the judges of the search, by the checker, and by the judge held out."""
    held_out = {"members": (JUDGE,), "edges": False}
    denied, others = (judges.claims(results, shows, one, less=True) for one in (ensemble, held_out))
    after = shown(results)
    same = [a == b for a, b in zip(after, before, strict=True)]
    fooled = [d and s for d, s in zip(denied, same, strict=True)]
    shares = {
        "denied": denied,
        "fooled": fooled,
        "real": [d and not s for d, s in zip(denied, same, strict=True)],
        "real, and a clean scene": [d and not s and a is not None for d, s, a in zip(denied, same, after, strict=True)],
        "fooled, and the held-out judge too": [f and o for f, o in zip(fooled, others, strict=True)],
    }
    return {name: rate(sum(all_), len(all_)) for name, all_ in shares.items()}


def told_of_coloriser(found: dict[str, Any]) -> list[str]:
    """Its part of the page."""
    return [
        "## Break on the coloriser",
        "",
        f"{found['date']}; *Vary Result* on the world's coloriser, away from its usual answer, which all judges",
        f"recognise, epsilon {MAIN_EPSILON:g}, {found['steps']} steps. Here a failure can be real; *clean*: and a",
        "clean scene of something else. The edge judge sees shapes alone and has to miss the shape as well: what has",
        "another colour only does not count where it is asked.",
        "",
        "| judges in the search | n | denied | real | real, and clean | fooled |",
        "|---|---|---|---|---|---|",
        *(
            f"| {row['way']} | {row['fooled']['n']} | {percent(row['denied'])} | {percent(row['real'])} "
            f"| {percent(row['real, and a clean scene'])} | {percent(row['fooled'])} |"
            for row in found["rows"]
        ),
        "",
    ]


def told(found: dict[str, Any]) -> list[str]:
    """The part of the page."""
    return [
        "## Break",
        "",
        f"{found['date']}; other scenes, n fixed before this run, {found['steps']} steps away from the picture's own",
        f"class at epsilon {MAIN_EPSILON:g} (the objective weighed by -1: of several judges the one that still says",
        "the class most counts), of those that all judges recognise to begin with. *Denied*: no judge of the search",
        "says the class any more; *fooled*: and the checker reads what was there; *real*: and it reads something else,",
        "or no clean scene.",
        said_of_bar(found["rows"]),
        "",
        "| judges in the search | n | denied | fooled | real | held out too | fooled by sign noise |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {row['way']} | {row['fooled']['n']} | {percent(row['denied'])} | {percent(row['fooled'])} "
            f"| {percent(row['real'])} | {percent(row['fooled, and the held-out judge too'])} "
            f"| {percent(row['fooled by sign noise'])} |"
            for row in found["rows"]
        ),
        "",
    ]
