"""How often *Steer Sampling* leads the demo's diffusion model to what a text says, against its own prompt.

    python dev.py run benchmarks/sampler_steer/run.py [--quick] [--out FOLDER]

Writes results.json and README.md. The prompt is a random scene of one object; the target is the same object in
another colour. What is moved is the conditioning, within an L-inf ball. Where the search is led: to the text by the
first CLIP alone; and also to a picture, what the same model draws for the target's own prompt with the same seed. A
result is *there* when the learning-free checker reads a clean scene with the target, and *believed* when the second
CLIP, which nothing followed, finds the target's caption likelier than those of all 23 others. Noise: random signs, on
the surface of the same ball. All results are the host's own KSampler's. The independent units are prompts.
"""

from __future__ import annotations

import argparse
import datetime
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...demo.world import COLOURS, SHAPES, sample
from ...tools.inprocess import execute, open_pack
from ..rates import percent, rate
from ..sampler_diversity.run import CFG, MODEL, STEPS, Painter
from ..world_steer.run import believed, caption, other_colours, there

HERE = Path(__file__).resolve().parent
PROMPTS, DRAWS = 24, 4
DRAWN, SEEDS = 93, 300  # of the prompts, of their noises: not those that the settings were chosen on
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
NEARNESS = -20.0  # weight of the distance from that picture, beside the likeness to the text: it decides
WAYS = {
    "usual": "the usual picture",
    "steered": "steered to the text",
    "to a picture": "steered to the model's own picture of the text",
    "noise": "sign noise of the same norm",
    "target": "(that picture)",
}


def things(count: int, seed: int) -> list[tuple[str, str]]:
    """(colour, shape) of scenes, drawn independently: the same may come twice."""
    scenes = sample(count, torch.Generator().manual_seed(seed), part="held out", objects=1)
    colours, shapes = list(COLOURS), list(SHAPES)
    return [
        (colours[int(colour)], shapes[int(shape)])
        for colour, shape in zip(scenes.colour[:, 0], scenes.shape[:, 0], strict=True)
    ]


def pairs(count: int, seed: int) -> list[tuple[tuple[str, str], tuple[str, str]]]:
    """What the prompt says, and the same in another colour."""
    before = things(count, seed)
    return list(zip(before, other_colours(before, seed + 1), strict=True))


def near(nodes: Any, picture: Tensor) -> Any:
    """An objective that has more of what is near to a picture (1 3 H W)."""
    with torch.inference_mode():
        distance = nodes.DistanceObjective.execute("root mean square (L2)", picture=picture.movedim(1, -1)).args[0]
        return nodes.CombineObjectives.execute(distance, NEARNESS, distance, 0.0).args[0]


def steer(
    painter: Painter, first: tuple[str, str], target: tuple[str, str], noise_seed: int, search_seed: int, **more: Any
) -> tuple[Tensor, Tensor]:
    """KSampler's picture of the prompt, and the node's, both 1 H W 3."""
    results, unperturbed, *_ = execute(
        painter.nodes.ClipTargetedAttackSampler, **painter.sockets(caption(first), noise_seed), scorer=painter.first,
        target_text=caption(target), source_text=caption(first), search_seed=search_seed, **CHOICES, **more,
    )  # fmt: skip
    return painter.decoded(unperturbed).movedim(1, -1), painter.decoded(results).movedim(1, -1)


def measured(nodes: Any, model: str, prompts: int) -> dict[str, Any]:
    """All figures."""
    painter = Painter(nodes, model)
    hits: dict[str, list[bool]] = {way: [] for way in WAYS}
    trusts: dict[str, list[bool]] = {way: [] for way in WAYS}
    began = time.process_time()
    for at, (first, target) in enumerate(pairs(prompts, DRAWN)):
        own = painter.draw(caption(target), SEEDS + at, 1)
        usual, steered = steer(painter, first, target, SEEDS + at, at)
        led = steer(painter, first, target, SEEDS + at, at, objective=near(nodes, own))[1]
        noisy = painter.noisy(caption(first), CHOICES["epsilon"], at, DRAWS, SEEDS + at, sign=True).movedim(1, -1)
        shown = {"usual": usual, "steered": steered, "to a picture": led, "noise": noisy, "target": own.movedim(1, -1)}
        for way, pictures in shown.items():
            same = [target] * len(pictures)
            hits[way] += there(pictures, same)
            trusts[way] += believed(painter.second.judge, pictures, same)
        counts = {way: sum(found) for way, found in hits.items()}
        print(f"{at + 1} of {prompts}: {counts}, {time.process_time() - began:.0f} s", flush=True)
    rows = [
        {
            "way": way,
            "there": rate(sum(hits[way]), len(hits[way])),
            "believed": rate(sum(trusts[way]), len(trusts[way])),
            "both": rate(sum(a and b for a, b in zip(hits[way], trusts[way], strict=True)), len(hits[way])),
        }
        for way in WAYS
    ]
    drawn = [led for led, own in zip(hits["to a picture"], hits["target"], strict=True) if own]
    found = {"prompts": prompts, "seconds": round(time.process_time() - began), "rows": rows}
    return {**found, "there, of the targets that are drawn": rate(sum(drawn), len(drawn))} if drawn else found


def page(results: dict[str, Any]) -> str:
    """README.md from results.json."""
    found = results["found"]
    choices = ", ".join(f"{name} {value}" for name, value in CHOICES.items())
    lines = [
        "# The CLIP-targeted attack on a sampler's conditioning",
        "",
        f"`python dev.py run benchmarks/sampler_steer/run.py`, {results['date']}; {found['seconds']} CPU seconds.",
        "",
        f"Model: *{results['model']}* of *Load Demo Models*, sampled in {STEPS} at cfg {CFG:g}.",
        f"{found['prompts']} prompts of one object (drawn at random: some twice), each led to the same in another",
        f"colour by *Steer Sampling* ({choices}).",
        "Percent with Wilson 95 % intervals. *There*: the checker reads a clean scene with the target.",
        "*Believed*: the second CLIP, which nothing followed, finds the target's caption the likeliest of 24.",
        "",
        "*The model's own picture of the text* is what it draws with the same seed when the prompt says it: a distance",
        f"from that, with weight {NEARNESS:g}, on the `objective` socket.",
        "",
        "| way | n | there | believed | both |",
        "|---|---|---|---|---|",
        *(
            f"| {WAYS[row['way']]} | {row['there']['n']} | {percent(row['there'])} | {percent(row['believed'])} "
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
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three prompts, to see that it runs")
    parser.add_argument("--model", default=MODEL, help="of Load Demo Models")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    found = measured(open_pack(), options.model, 3 if options.quick else PROMPTS)
    results = {"date": str(datetime.date.today()), "model": options.model, "found": found}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (options.out / "README.md").write_text(page(results), encoding="utf-8")


if __name__ == "__main__":
    main()
