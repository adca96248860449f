"""How often the CLIP-targeted attack leads the world's coloriser and inpainter to the colour that a text says.

    python dev.py run benchmarks/world_steer/run.py -- [--quick] [--only MODEL] [--out FOLDER]

Writes results.json, README.md and curve.png; with --only the other model stays as it is. Inputs are held-out scenes of
one object, drawn independently: Wilson 95 % intervals. n is fixed: the first so many whose default answer is a clean
scene of one object. The target is that answer in another colour, drawn at random (the shape is decided by the ground,
and no target). A result is *there* when the learning-free checker reads a clean scene with exactly the target, from the
8-bit picture as it is and moved by one pixel; it is *believed* when the second CLIP, which nothing followed, finds the
target's caption likelier than those of all 23 others. Best of n: the same node with method random, at as many runs of
the model and of the judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...demo.world import COLOURS, SHAPES
from ...tools.inprocess import execute, open_pack, upscale_model, upscaled
from ..pages import curves, options, write
from ..rates import percent, rate
from ..verdicts import readings, shown
from ..world_attack.run import sign_noise

HERE = Path(__file__).resolve().parent
MODELS = {"coloriser": 2, "inpainter": 1}  # the model, and what the question leaves out
EPSILONS = (2.0, 4.0, 8.0)
DRAWN, INPUTS, FEW = 160, 100, 24  # scenes; inputs of the main row, and of the others
SEED = 77  # of the scenes. What was tried out while the method was made had other seeds
STEPS = 15
TRIED, COPIES = 16, 4  # starts, and changes that a gradient is averaged over: the node's
RUNS = 1 + TRIED + (STEPS + 1) * (1 + 2 * COPIES)  # of the model, an input: a gradient counts as two
BAR, NOISE_BAR = 0.8, 0.1  # of issue 5: the lower end of the steered, the rate of sign noise
# clip and similarity: chosen on scenes of seed 500; the variants differ in what they name
MAIN = {"epsilon": 8.0, "truncation": "clip", "guidance": "auto", "copies": 4, "source": False, "everywhere": False}
MAIN_NAME = "similarity, 4 copies, clip, epsilon 8"
VARIANTS: dict[str, dict[str, Any]] = {
    MAIN_NAME: {},
    "no smoothing": {"smoothing": 0.0},
    "no smoothing, as many runs": {"smoothing": 0.0, "steps": RUNS // 2},
    "the whole picture may change": {"everywhere": True},
    "epsilon 4": {"epsilon": 4.0},
    "epsilon 2": {"epsilon": 2.0},
    "truncate": {"truncation": "truncate"},
    "direction (dot product)": {"source": True},
    "direction (cosine)": {"source": True, "guidance": "direction (cosine)"},
    "no copies": {"copies": 0},
    "best of n random changes": {"method": "random", "steps": RUNS},
}
Thing = tuple[str, str]  # colour, shape


@dataclass(frozen=True)
class Inputs:
    """What a model is asked. image: n H W 3; hole: n H W (the inpainter's) or None; grey: n H W, the coloriser's
    objects, or None; answers, wanted: n each."""

    image: Tensor
    hole: Tensor | None
    grey: Tensor | None
    answers: list[Thing]
    wanted: list[Thing]


def ask(nodes: Any, model: Any, name: str, drawn: int, inputs: int, seed: int) -> Inputs:
    """The first `inputs` questions whose default answer is a clean scene of one object, and a target for each."""
    from ...nodes.demo_scene import QUESTIONS

    image, mask, *_ = nodes.DemoScene.execute(seed, drawn, "one", QUESTIONS[MODELS[name]]).args
    found = readings(upscaled(model, image))
    kept = [i for i, reading in enumerate(found) if reading.clean and len(reading.objects) == 1][:inputs]
    answers = [found[i].facts.objects[0] for i in kept]
    hole, grey = (mask[kept] if name == which else None for which in ("inpainter", "coloriser"))
    return Inputs(image[kept], hole, grey, answers, other_colours(answers, seed))


def other_colours(answers: Sequence[Thing], seed: int) -> list[Thing]:
    """For each answer one of the five other colours, at random."""
    rng = torch.Generator().manual_seed(seed)
    picks = torch.randint(len(COLOURS) - 1, (len(answers),), generator=rng).tolist()
    return [([c for c in COLOURS if c != colour][i], shape) for (colour, shape), i in zip(answers, picks, strict=True)]


def steer(nodes: Any, scorer: Any, model: Any, asked: Inputs, n: int, **choices: Any) -> Tensor:
    """The node's results for the first n inputs, n H W 3, with its defaults otherwise. Those of one target (and source)
    share a run: a batch has no say in an image's result."""
    source, everywhere = choices.pop("source"), choices.pop("everywhere")
    fixed = {"model": model, "scorer": scorer, "count": 1, "steps": STEPS}
    groups: dict[tuple[str, str], list[int]] = {}
    for place in range(n):
        texts = caption(asked.wanted[place]), caption(asked.answers[place]) if source else ""
        groups.setdefault(texts, []).append(place)
    results = torch.zeros_like(asked.image[:n])
    for (target, origin), places in groups.items():
        may = None if everywhere or asked.grey is None else asked.grey[places]
        hole = None if asked.hole is None else asked.hole[places]
        pictures = {"image": asked.image[places], "mask": hole, "perturb_mask": may}
        words = {"target_text": target, "source_text": origin}
        results[places] = execute(nodes.ClipTargetedAttack, **{**fixed, **pictures, **words, **choices})[0]
    return results


def may_change(asked: Inputs) -> Tensor:
    """n H W 1."""
    if asked.hole is not None:
        return 1 - asked.hole[..., None]
    assert asked.grey is not None
    return asked.grey[..., None]


@torch.no_grad()
def best_of_tints(model: Any, scorer: Any, asked: Inputs, n: int, draws: int = RUNS) -> Tensor:
    """What the first n inputs become under the best of so many tints, by the score without copies: offsets of at most
    the largest epsilon, one for each channel, at random. Whoever knows that tints decide needs no gradient."""
    free = may_change(asked)
    results, judge = [], scorer.judge
    for place in range(n):
        rng = torch.Generator().manual_seed(SEED + place)
        tints = EPSILONS[-1] / 255 * (2 * torch.rand((draws, 1, 1, 3), generator=rng) - 1)
        tinted = (asked.image[place] + tints * free[place]).clamp(0, 1)
        drawn = upscaled(model, (tinted * 255).round() / 255)
        target = judge.encode_texts([caption(asked.wanted[place])])[0]
        results.append(drawn[(judge.encode_images(drawn.movedim(-1, 1)) @ target).argmax()])
    return torch.stack(results)


def caption(thing: Thing) -> str:
    return f"a {thing[0]} {thing[1]}"


def believed(judge: Any, results: Tensor, wanted: Sequence[Thing]) -> list[bool]:
    """Whether the judge finds the target's caption likelier than all others."""
    things = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    with torch.no_grad():
        texts = judge.encode_texts([caption(thing) for thing in things])
        best = (judge.encode_images(results.movedim(-1, 1)) @ texts.T).argmax(1).tolist()
    return [things[index] == thing for index, thing in zip(best, wanted, strict=True)]


def there(results: Tensor, wanted: Sequence[Thing]) -> list[bool]:
    """Whether the checker reads exactly the target: from 8-bit levels, also when all moves by one pixel."""
    return [things == (thing,) for things, thing in zip(shown(results), wanted, strict=True)]


def one_model(nodes: Any, name: str, drawn: int, inputs: int, few: int) -> dict[str, Any]:
    """All figures of one model."""
    model = upscale_model(f"provoke-demo-world-{name}.safetensors")
    scorer, second = (execute(nodes.LoadScorer, scorer=which)[0] for which in ("first", "second"))
    asked = ask(nodes, model, name, drawn, inputs, SEED)
    rows = []
    for variant, change in VARIANTS.items():
        if change == {"everywhere": True} and asked.grey is None:
            continue
        choices, n = {**MAIN, **change}, len(asked.wanted) if variant == MAIN_NAME else min(few, len(asked.wanted))
        results = steer(nodes, scorer, model, asked, n, **choices)
        rows.append(_row(variant, choices["epsilon"], second, results, asked.wanted[:n]))
        print(name, rows[-1], flush=True)
    free = may_change(asked)
    tinted = best_of_tints(model, scorer, asked, min(few, len(asked.wanted)))
    rows.append(_row("best of n tints", EPSILONS[-1], second, tinted, asked.wanted[: len(tinted)]))
    for epsilon in EPSILONS:
        noisy = upscaled(model, sign_noise(asked.image, epsilon, free, SEED))
        rows.append(_row(f"sign noise, epsilon {epsilon:g}", epsilon, second, noisy, asked.wanted))
    return {"drawn": drawn, "rows": rows, "again": again(nodes, name, drawn, inputs)}


def again(nodes: Any, name: str, drawn: int, inputs: int) -> list[dict[str, Any]]:
    """The main row on scenes of another seed, with another seed of the search; and what its starts do alone."""
    model = upscale_model(f"provoke-demo-world-{name}.safetensors")
    scorer, second = (execute(nodes.LoadScorer, scorer=which)[0] for which in ("first", "second"))
    asked = ask(nodes, model, name, drawn, inputs, SEED + 1)
    n = len(asked.wanted)
    led = steer(nodes, scorer, model, asked, n, **MAIN, seed=1)
    started = best_of_tints(model, scorer, asked, n, 1 + TRIED)
    return [
        _row(MAIN_NAME, MAIN["epsilon"], second, led, asked.wanted),
        _row(f"best of {1 + TRIED} tints", MAIN["epsilon"], second, started, asked.wanted),
    ]


def _row(variant: str, epsilon: float, second: Any, results: Tensor, wanted: Sequence[Thing]) -> dict[str, Any]:
    hits, trusts = there(results, wanted), believed(second.judge, results, wanted)
    shares = {"there": hits, "believed": trusts, "both": [a and b for a, b in zip(hits, trusts, strict=True)]}
    return {
        "variant": variant,
        "epsilon": epsilon,
        **{name: rate(sum(all_), len(all_)) for name, all_ in shares.items()},
    }


def page(results: dict[str, Any]) -> str:
    """README.md from results.json."""
    lines = [
        "# The CLIP-targeted attack on the demo world",
        "",
        "`python dev.py run benchmarks/world_steer/run.py`.",
        "",
        "Percent of held-out inputs with Wilson 95 % intervals. The target is the default answer in another colour, at",
        "random; without a search the rate is 0 by that choice. *There*: the checker reads a clean scene with exactly",
        "the target, from the 8-bit result as it is and moved by one pixel. *Believed*: the second CLIP, which nothing",
        "followed, finds the target's caption the likeliest of 24. The first CLIP leads. Rows below the first differ",
        f"from it in what they name, on its first {FEW} inputs. The best of {TRIED} tints as the start, then {STEPS}",
        f"steps with a gradient averaged over {COPIES} tints. *No smoothing*: neither. Best of n: the best of",
        f"{RUNS} random changes by the same score, as many runs of the model as that (a gradient counts as two).",
        "*Tints*: the same number of random offsets, one for each channel: what one can do who knows how these two",
        "models were built. Sign noise: +-epsilon on every entry that may change. What may change: the coloriser's",
        "grey objects (*missing* of *Demo Scene* on *perturb_mask*), the inpainter's picture without its hole.",
        "",
    ]
    for name, found in results["models"].items():
        rows = {row["variant"]: row for row in found["rows"]}
        low, noise = rows[MAIN_NAME]["both"]["low"], rows[f"sign noise, epsilon {EPSILONS[-1]:g}"]["both"]["rate"]
        lines += [
            f"## {name}",
            "",
            f"{found['date']}; the first {rows[MAIN_NAME]['both']['n']} of {found['drawn']} scenes with a clean",
            f"default answer. Bars: there and believed on at least {100 * BAR:.0f} % (lower end {100 * low:.1f}:",
            f"{'held' if low >= BAR else 'missed'}), sign noise on at most {100 * NOISE_BAR:.0f} % ({100 * noise:.1f}:",
            f"{'held' if noise <= NOISE_BAR else 'missed'}).",
            "",
            "| way | n | there | believed | both |",
            "|---|---|---|---|---|",
            *(
                f"| {row['variant']} | {row['there']['n']} | {percent(row['there'])} | {percent(row['believed'])} "
                f"| {percent(row['both'])} |"
                for row in found["rows"]
            ),
            "",
            "Again, on scenes of another seed, the search's seed another one too; and its starts without any step:",
            "",
            "| way | n | there | believed | both |",
            "|---|---|---|---|---|",
            *(
                f"| {row['variant']} | {row['there']['n']} | {percent(row['there'])} | {percent(row['believed'])} "
                f"| {percent(row['both'])} |"
                for row in found["again"]
            ),
            "",
            f"Both runs together, there and believed: {percent(_together(rows[MAIN_NAME], found['again'][0]))} %.",
            "",
        ]
    return "\n".join([*lines, "![success over epsilon](curve.png)", ""])


def _together(*rows: dict[str, Any]) -> dict[str, Any]:
    """Rows of independent inputs as one rate."""
    return rate(sum(round(r["both"]["rate"] * r["both"]["n"]) for r in rows), sum(r["both"]["n"] for r in rows))


def plot(results: dict[str, Any], path: Path) -> None:
    """Success over epsilon."""
    panels = {}
    for name, found in results["models"].items():
        rows = {row["variant"]: row for row in found["rows"]}
        ways = {
            "steered": ["epsilon 2", "epsilon 4", MAIN_NAME],
            "sign noise": [f"sign noise, epsilon {epsilon:g}" for epsilon in EPSILONS],
        }
        panels[name] = {way: [(rows[v]["epsilon"], rows[v]["both"]) for v in some] for way, some in ways.items()}
    curves(panels, "target there and believed, %", path)


def main() -> None:
    chosen = options(__doc__, list(MODELS), HERE)
    numbers = (12, 6, 3) if chosen.quick else (DRAWN, INPUTS, FEW)
    nodes = open_pack()
    results = write(chosen.out, {name: one_model(nodes, name, *numbers) for name in chosen.only}, page)
    plot(results, chosen.out / "curve.png")


if __name__ == "__main__":
    main()
