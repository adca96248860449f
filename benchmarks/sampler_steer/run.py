"""How often *Steer Sampling* leads the demo's diffusion model to what a text says, against its own prompt.

    python dev.py run benchmarks/sampler_steer/run.py -- [--quick] [--out FOLDER]

Writes results.json and README.md. The prompt is one object on the ground that no training showed it on, each object
once; the target is the same in another colour. What is moved is the conditioning, within an L-inf ball. Where the
search is led: to the text by the first CLIP alone; and also to a picture, what the same model draws for the target's
own prompt with the same seed. A result is *there* when the learning-free checker reads a clean scene with the target,
and *believed* when the second CLIP, which nothing followed, finds the target's caption likelier than those of all 23
others. Noise: random signs, on the surface of the same ball. All results are the host's own KSampler's. The independent
units are prompts.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...demo.captions import canonical
from ...demo.world import Facts
from ...tools.inprocess import execute, open_pack
from ..prompts import HELD_OUT, one_object
from ..rates import against, clustered, percent, rate
from ..record import facts
from ..sampler_diversity.run import CFG, MODEL, STEPS, Painter
from ..world_steer.run import Thing, believed, other_colours, there

HERE = Path(__file__).resolve().parent
PROMPTS, DRAWS = 24, 4
DRAWN, SEEDS = 93, 300  # of the targets' colours, of the noises: not those that the settings were chosen on
CHOICES: dict[str, Any] = {
    "epsilon": 1.0,
    "truncation": "clip",
    "step_rule": "PGD",
    "step_size": 0.3,
    "schedule": "cosine",
    "guidance": "similarity",
    "copies": 0,
    "search_steps": 80,
    "count": 1,
}
BAR = 0.8  # of issue 7: share of the targets reached
NEARNESS = -20.0  # weight of the distance from that picture, beside the likeness to the text: it decides
WAYS = {
    "usual": "the usual picture",
    "steered": "steered to the text",
    "to a picture": "steered to the model's own picture of the text",
    "noise": "sign noise of the same norm",
    "target": "(that picture)",
}


@dataclass(frozen=True)
class Pair:
    """What the prompt says, and what is to be seen instead: the same in another colour, on the same ground."""

    first: Thing
    target: Thing
    ground: str

    @property
    def prompt(self) -> str:
        return _said(self.first, self.ground)

    @property
    def wish(self) -> str:
        return _said(self.target, self.ground)


def _said(thing: Thing, ground: str) -> str:
    return canonical(Facts((thing,), None, ground), background=True)


def pairs(count: int, seed: int) -> list[Pair]:
    """Each object once, on its held-out ground, and another colour by chance."""
    scenes = one_object()[: min(count, HELD_OUT)]
    before = [scene.facts.objects[0] for scene in scenes]
    rows = zip(before, other_colours(before, seed), scenes, strict=True)
    return [Pair(first, target, scene.background) for first, target, scene in rows]


def near(nodes: Any, picture: Tensor) -> Any:
    """An objective that has more of what is near to a picture (1 3 H W)."""
    with torch.inference_mode():
        distance = nodes.DistanceObjective.execute("root mean square (L2)", picture=picture.movedim(1, -1)).args[0]
        return nodes.CombineObjectives.execute(distance, NEARNESS, distance, 0.0).args[0]


def steer(painter: Painter, asked: Pair, noise_seed: int, search_seed: int, **more: Any) -> tuple[Tensor, Tensor]:
    """KSampler's picture of the prompt, and the node's, both 1 H W 3."""
    results, unperturbed, *_ = execute(
        painter.nodes.ClipTargetedAttackSampler, **painter.sockets(asked.prompt, noise_seed), scorer=painter.first,
        target_text=asked.wish, source_text=asked.prompt, search_seed=search_seed, **CHOICES, **more,
    )  # fmt: skip
    return painter.decoded(unperturbed).movedim(1, -1), painter.decoded(results).movedim(1, -1)


def measured(nodes: Any, model: str, prompts: int) -> dict[str, Any]:
    """All figures."""
    painter = Painter(nodes, model)
    hits: dict[str, list[bool]] = {way: [] for way in WAYS}
    trusts: dict[str, list[bool]] = {way: [] for way in WAYS}
    began = time.process_time()
    asked_for = pairs(prompts, DRAWN)
    prompts = len(asked_for)
    for at, asked in enumerate(asked_for):
        own = painter.draw(asked.wish, SEEDS + at, 1)
        usual, steered = steer(painter, asked, SEEDS + at, at)
        led = steer(painter, asked, SEEDS + at, at, objective=near(nodes, own))[1]
        noisy = painter.noisy(asked.prompt, CHOICES["epsilon"], at, DRAWS, SEEDS + at, sign=True).movedim(1, -1)
        shown = {"usual": usual, "steered": steered, "to a picture": led, "noise": noisy, "target": own.movedim(1, -1)}
        for way, pictures in shown.items():
            same = [asked.target] * len(pictures)
            hits[way] += there(pictures, same)
            trusts[way] += believed(painter.second.judge, pictures, same)
        counts = {way: sum(found) for way, found in hits.items()}
        print(f"{at + 1} of {prompts}: {counts}, {time.process_time() - began:.0f} s", flush=True)
    rows = [
        {
            "way": way,
            "there": _by_prompt(hits[way], prompts),
            "believed": _by_prompt(trusts[way], prompts),
            "both": _by_prompt([a and b for a, b in zip(hits[way], trusts[way], strict=True)], prompts),
        }
        for way in WAYS
    ]
    drawn = [led for led, own in zip(hits["to a picture"], hits["target"], strict=True) if own]
    found = {"prompts": prompts, "seconds": round(time.process_time() - began), "rows": rows}
    return {**found, "there, of the targets that are drawn": rate(sum(drawn), len(drawn))} if drawn else found


def _by_prompt(hits: list[bool], prompts: int) -> dict[str, Any]:
    """The rate, a prompt with all its draws as one trial."""
    each = len(hits) // prompts
    return clustered([hits[at : at + each] for at in range(0, len(hits), each)])


def page(results: dict[str, Any]) -> str:
    """README.md from results.json."""
    found = results["found"]
    choices = ", ".join(f"{name} {value}" for name, value in CHOICES.items())
    lines = [
        "# The CLIP-targeted attack on a sampler's conditioning",
        "",
        f"`{results['command']}`, {results['date']}; {found['seconds']} CPU seconds.",
        "",
        f"Model: *{results['model']}* of *Load Demo Models*, sampled in {STEPS} at cfg {CFG:g}.",
        f"{found['prompts']} prompts of one object, each once, on the ground that no training showed it on, each led",
        f"to the same in another colour by *Steer Sampling* ({choices}).",
        "Percent with Wilson 95 % intervals (unit: the prompt). *There*: the checker reads a clean scene with the",
        "target.",
        "*Believed*: the second CLIP, which nothing followed, finds the target's caption the likeliest of 24.",
        "",
        "*The model's own picture of the text* is what it draws with the same seed when the prompt says it: a distance",
        f"from that, with weight {NEARNESS:g}, on the `objective` socket.",
        "",
        "| way | results | there | believed | both |",
        "|---|---|---|---|---|",
        *(
            f"| {WAYS[row['way']]} | {row['there']['trials']} | {percent(row['there'])} | {percent(row['believed'])} "
            f"| {percent(row['both'])} |"
            for row in found["rows"]
        ),
        "",
    ]
    if "there, of the targets that are drawn" in found:
        of = found["there, of the targets that are drawn"]
        lines += [
            f"Of the {of['n']} targets that the model itself draws for their own prompt, {percent(of)} are reached.",
            "",
        ]
    best = next(row["there"] for row in found["rows"] if row["way"] == "to a picture")
    lines += [f"Bar: {100 * BAR:.0f} % there, led to a picture: {against(best, BAR)}.", ""]
    if "earlier" in results:
        earlier = results["earlier"]
        rows = {row["way"]: percent(row["there"]) for row in earlier["rows"]}
        lines += [
            f"{earlier['prompts']} {earlier['of']}, the same settings, {earlier['date']}:",
            f"there, by the text {rows['steered']}, led to a picture {rows['to a picture']}, noise {rows['noise']}.",
            "",
        ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three prompts, to see that it runs")
    parser.add_argument("--model", default=MODEL, help="of Load Demo Models")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    found = measured(open_pack(), options.model, 3 if options.quick else PROMPTS)
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "results.json"
    before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    kept = {"earlier": before["earlier"]} if "earlier" in before else {}  # of prompts that no longer are drawn
    results = {**facts(__file__), "model": options.model, "found": found, **kept}
    file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (options.out / "README.md").write_text(page(results), encoding="utf-8")


if __name__ == "__main__":
    main()
