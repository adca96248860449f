"""What the CLIP-targeted attack does to real photos, as far as that can be measured without a real CLIP.

    python dev.py run benchmarks/steer_photos/run.py -- [--quick] [--only MODEL] [--out FOLDER]

Writes results.json, README.md, led-inpainter.jpg and led-upscaler.jpg. The two CLIPs that come with the pack know
coloured shapes and nothing else: a word about a photo means nothing to them, a colour does. So the target is a
picture, the model's own default result with the hole (upscaler: everything, half) painted in one of four colours, the
source is that default result, and what came of it is measured without any network: how far the mean colour moved, and
to which of the world's six colours.
Every figure is measured on what the host's own node makes of 8-bit pictures. Three photos are no sample: a figure is
the mean over the photos of each one's mean, with the lowest and the highest photo beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ...demo.photos import photo_names
from ...demo.world import COLOURS
from ...tools.inprocess import execute, open_pack, upscale_model, upscaled
from ...tools.pictures import row, stack
from ..pages import options, write
from ..verdicts import LEVELS
from ..world_attack.run import sign_noise

HERE = Path(__file__).resolve().parent
MODELS = {
    "inpainter": "provoke-demo-inpainter.safetensors",
    "upscaler x2": "provoke-demo-upscaler-x2.safetensors",
}
EPSILON, STEPS, SIDE = 8.0, 20, 64  # SIDE: of the square around the hole that is used, pixels
WAYS = ("led by pixels", "led by the CLIP", "best of n by the CLIP", "sign noise")
ASKED = ("red", "green", "blue", "yellow")


@dataclass(frozen=True)
class Question:
    """What a model is asked. image, default: 1 H W 3; hole: 1 H W or None; where: 1 h w, where the default is
    painted."""

    photo: str
    image: Tensor
    hole: Tensor | None
    default: Tensor
    where: Tensor

    def painted(self, colour: str) -> Tensor:
        """The default result with the target's colour where it is asked for: all of it in a hole, half elsewhere."""
        share = self.where[..., None] * (0.5 if self.hole is None else 1.0)
        return self.default * (1 - share) + torch.tensor(COLOURS[colour]) * share

    def mean_colour(self, image: Tensor) -> Tensor:
        """Of an image, 1 H W 3 -> 3, where it counts."""
        return (image * self.where[..., None]).sum((0, 1, 2)) / self.where.sum()


def questions(nodes: Any, name: str, model: Any) -> list[Question]:
    """A square around the hole of every demo photo, holed for the inpainter."""
    found = []
    for photo in photo_names():
        whole, hole, holed = execute(nodes.DemoPhoto, photo=photo)
        centre = hole[0].nonzero().float().mean(0)
        top, left = (
            int((at - SIDE / 2).clamp(0, side - SIDE)) for at, side in zip(centre, hole.shape[1:], strict=True)
        )
        rows, columns = slice(top, top + SIDE), slice(left, left + SIDE)
        inpaints = name == "inpainter"
        image = (holed if inpaints else whole)[:, rows, columns].clone()
        mask = hole[:, rows, columns].clone() if inpaints else None
        default = upscaled(model, image)
        found.append(Question(photo, image, mask, default, torch.ones(default.shape[:3]) if mask is None else mask))
    return found


def answer(nodes: Any, model: Any, scorer: Any, asked: Question, colour: str, way: str) -> tuple[Tensor, Tensor]:
    """The result and the changed input, 1 H W 3 each."""
    if way == "sign noise":
        free = torch.ones_like(asked.image) if asked.hole is None else 1 - asked.hole[..., None]
        changed = sign_noise(asked.image, EPSILON, free, 1)
        return upscaled(model, changed), changed
    fixed = {"model": model, "image": asked.image, "mask": asked.hole, "count": 1, "epsilon": EPSILON, "steps": STEPS}
    target = asked.painted(colour)
    if way == "led by pixels":
        (far,) = execute(nodes.DistanceObjective, picture=target)
        made = execute(nodes.UntargetedAttack, **fixed, truncation="clip", objective=far, direction="away")
    else:
        pictures = {"scorer": scorer, "target_picture": target, "source_picture": asked.default}
        random = {"method": "random", "steps": 2 * STEPS} if way.startswith("best of n") else {}
        steering = {**fixed, **random, **pictures, "smoothing": 0.0}
        made = execute(nodes.ClipTargetedAttack, **steering, truncation="clip")
    return made[0], made[2]


def measured(nodes: Any, asked: Question, colour: str, result: Tensor, scorers: dict[str, Any]) -> dict[str, Any]:
    """One result: levels towards the colour, whether it moved to that colour more than to the other five, and the
    similarity to the target that each CLIP finds, gained over the default result's."""
    usual = asked.mean_colour(asked.default)
    ways = {name: asked.mean_colour(asked.painted(name)) - usual for name in COLOURS}
    moved = asked.mean_colour(result) - usual
    nearest = max(ways, key=lambda name: float(functional.cosine_similarity(moved, ways[name], dim=0)))
    found: dict[str, Any] = {
        "levels": float(moved @ functional.normalize(ways[colour], dim=0)) * LEVELS,
        "asked for": float(ways[colour].norm()) * LEVELS,
        "right colour": nearest == colour,
    }
    for name, scorer in scorers.items():
        (objective,) = execute(nodes.ClipObjective, scorer=scorer, picture=asked.painted(colour))
        before, after = execute(nodes.ScoreImages, images=torch.cat((asked.default, result)), objective=objective)[1]
        found[f"similarity gained, {name}"] = after - before
    return found


def one_model(nodes: Any, name: str, quick: bool) -> tuple[dict[str, Any], Any]:
    """All figures of one model, and its picture."""
    model = upscale_model(MODELS[name])
    scorers = {which: execute(nodes.LoadScorer, scorer=which)[0] for which in ("first", "second")}
    cases, rows = [], []
    for asked in questions(nodes, name, model)[: 1 if quick else None]:
        first = [(asked.image[0], "what it gets"), (asked.default[0], "always answers")]
        shown = {way: list(first) for way in WAYS[:2]}
        for colour in ASKED[: 2 if quick else None]:
            for way in WAYS:
                result, changed = answer(nodes, model, scorers["first"], asked, colour, way)
                case = {"photo": asked.photo, "colour": colour, "way": way}
                cases.append({**case, **measured(nodes, asked, colour, result, scorers)})
                if way in shown:
                    shown[way] += [(changed[0], "looks the same")] if len(shown[way]) == 2 else []
                    shown[way].append((result[0], f"{colour}, {way.split()[-1]}"))
        print(name, asked.photo, flush=True)
        rows += [row(*zip(*some, strict=True), cell=128) for some in shown.values()]
    return {"cases": cases}, stack(rows)


def by_photo(cases: list[dict[str, Any]], key: str) -> tuple[float, float, float]:
    """The mean over the photographs' means, the lowest and the highest. Two parts of one photograph are one unit."""
    groups: dict[str, list[float]] = {}
    for case in cases:
        groups.setdefault(case["photo"].partition("-")[0], []).append(float(case[key]))
    means = [mean(values) for values in groups.values()]
    return mean(means), min(means), max(means)


def page(results: dict[str, Any]) -> str:
    """README.md from results.json."""
    lines = [
        "# The CLIP-targeted attack on real photos",
        "",
        "`python dev.py run benchmarks/steer_photos/run.py`.",
        "",
        "The two CLIPs that come with the pack know coloured shapes and nothing else; no weights of a real CLIP were",
        "at hand. **So this does not show that a text leads a photo.** The target is a picture, the default result",
        "with the hole (upscaler: half of everything) in one of four colours, and what is counted needs no network:",
        "the mean colour. It shows how far the models can be led at all (*by pixels*: Vary Result, away from the",
        "distance to that picture), and what a scorer outside of its world is worth: compare what the first CLIP",
        "gained, which led, with the second CLIP and with the colour.",
        "",
        f"{len(photo_names())} parts of three photos that no training saw, {SIDE} x {SIDE} pixels, four colours each;",
        f"epsilon {EPSILON:g} of 255, clip, {STEPS} steps, 4 copies, direction by the first CLIP. *Levels*: how far",
        "the mean colour moved towards the target's, of 255 (in brackets: how far the target is). *Right colour*: it",
        "moved to that one of the world's six more than to any other (chance: 17 %). *Gained*: similarity to the",
        "target picture over the default result's. Three photos are no sample: means over photos, lowest and highest",
        f"photo in brackets. Best of n: of {2 * STEPS + 1} random changes.",
        "",
    ]
    for name, found in results["models"].items():
        lines += [
            f"## {name}",
            "",
            f"{found['date']}.",
            "",
            "| way | levels | right colour, % | gained, first | gained, second |",
            "|---|---|---|---|---|",
        ]
        for way in WAYS:
            cases = [case for case in found["cases"] if case["way"] == way]
            levels, far = by_photo(cases, "levels"), by_photo(cases, "asked for")[0]
            right = [100 * share for share in by_photo(cases, "right colour")]
            gained = [by_photo(cases, f"similarity gained, {which}") for which in ("first", "second")]
            lines.append(
                f"| {way} | {levels[0]:.1f} ({levels[1]:.1f} to {levels[2]:.1f}; of {far:.0f}) | "
                f"{right[0]:.0f} ({right[1]:.0f} to {right[2]:.0f}) | "
                + " | ".join(f"{g[0]:+.3f} ({g[1]:+.3f} to {g[2]:+.3f})" for g in gained)
                + " |"
            )
        lines += ["", f"![the {name}, led to four colours](led-{name.partition(' ')[0]}.jpg)", ""]
    return "\n".join(lines)


def main() -> None:
    chosen = options(__doc__, list(MODELS), HERE)
    nodes = open_pack()
    found = {name: one_model(nodes, name, chosen.quick) for name in chosen.only}
    write(chosen.out, {name: figures for name, (figures, _) in found.items()}, page)
    for name, (_, picture) in found.items():
        picture.save(chosen.out / f"led-{name.partition(' ')[0]}.jpg", quality=90, subsampling=0, optimize=True)


if __name__ == "__main__":
    main()
