"""How far the untargeted attack moves the demo models' results, next to random changes of the same size.

    python dev.py run benchmarks/untargeted/run.py -- [--quick] [--out FOLDER]

Every figure is measured on what the host's own nodes make of 8-bit pictures. Inputs are crops of three photos that no
training saw. Crops of one photo are not independent, so a figure is the mean over photos of each photo's mean, and
beside it stand the lowest and the highest photo: three units carry no interval.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...demo.photos import mark_hole
from ...tools.inprocess import execute, open_pack, upscale_model, upscaled

HERE = Path(__file__).resolve().parent
EPSILONS = (2.0, 4.0, 8.0)
TRUNCATIONS = ("clip", "truncate")
COUNT = 4
DIVERSITY = 1.0  # the node has 8: see diversity.py beside this, and README.md
STEPS = 40
CROPS = 4  # per photo
PHOTOS = ("cat", "coffee", "rocket")  # scikit-image's; chelsea.png is its `cat`
LEVELS = 255


@dataclass
class Case:
    """One crop, one epsilon, one way. Changes: mean absolute, in levels of 255, in the hole (or everywhere)."""

    model: str
    crop: int
    epsilon: float
    way: str
    change: list[float]  # per result
    nearest: float  # smallest distance between two results
    between: float  # mean distance between two results
    largest: float  # largest change of the input
    rms: float  # root mean square change of the input, where it may change
    variation: float  # total variation of the change of the input, per pixel: what shows as noise
    saturated: float  # share of changed entries at epsilon
    kurtosis: float  # of the change: 3 for Gaussian noise, 1 for two points
    roughness: float  # energy of the result's Laplacian over the default result's
    seconds: float


def photographs() -> list[Tensor]:
    """The held-out photos, H W 3 in [0, 1]."""
    import skimage.data

    return [torch.from_numpy(np.asarray(getattr(skimage.data, name)()) / 255.0).float() for name in PHOTOS]


def crops(size: int, per_photo: int) -> list[Tensor]:
    """Square crops of the photos shrunk to half (so that they hold something), 1 H W 3 on the 8-bit grid."""
    rng, found = np.random.default_rng(7), []
    for photo in photographs():
        small = torch.nn.functional.interpolate(photo.movedim(-1, 0)[None], scale_factor=0.5, mode="area")[0]
        for _ in range(per_photo):
            y, x = (int(rng.integers(0, side - size + 1)) for side in small.shape[1:])
            crop = small[:, y : y + size, x : x + size].movedim(0, -1)[None]
            found.append((crop * LEVELS).round() / LEVELS)
    return found


def disc(size: int, radius: int) -> Tensor:
    """A round hole in the middle, 1 H W."""
    axis = torch.arange(size) - (size - 1) / 2
    return (axis[:, None].square() + axis[None].square() < radius**2).float()[None]


def laplacian_energy(image: Tensor, where: Tensor) -> float:
    """Mean squared Laplacian of an image B H W 3 over a mask 1 H W."""
    x = image.movedim(-1, 1)
    edge = 4 * x - x.roll(1, -1) - x.roll(-1, -1) - x.roll(1, -2) - x.roll(-1, -2)
    return float((edge.square() * where[:, None]).sum() / (where.sum() * len(image) * 3))


def measure(
    name: str,
    crop: int,
    epsilon: float,
    way: str,
    image: Tensor,
    attacked: Tensor,
    outputs: tuple[Tensor, Tensor],
    hole: Tensor | None,
    seconds: float,
) -> Case:
    """From the host's results of the attacked pictures and of the picture itself."""
    results, default = outputs
    where = torch.ones(1, *default.shape[1:3]) if hole is None else hole
    weight = where[..., None] / (where.sum() * 3)
    change = ((results - default).abs() * weight).sum((1, 2, 3)) * LEVELS
    gaps = [
        float(((results[i] - results[j]).abs() * weight[0]).sum()) * LEVELS
        for i in range(len(results))
        for j in range(i)
    ]
    z = (attacked - image) * LEVELS
    free = torch.ones(1, *image.shape[1:3], 1) if hole is None else 1 - hole[..., None]
    inside = z.masked_select(free.expand_as(z) > 0)
    variation = (z.diff(dim=1).abs().mean() + z.diff(dim=2).abs().mean()) / 2
    return Case(
        model=name,
        crop=crop,
        epsilon=epsilon,
        way=way,
        change=[round(float(c), 4) for c in change],
        nearest=min(gaps),
        between=sum(gaps) / len(gaps),
        largest=float(z.abs().max()),
        rms=float(inside.square().mean().sqrt()),
        variation=float(variation),
        saturated=float((inside.abs() > epsilon - 0.5).float().mean()),
        kurtosis=float(inside.sub(inside.mean()).pow(4).mean() / inside.var().square().clamp_min(1e-12)),
        roughness=laplacian_energy(results, where) / max(laplacian_energy(default, where), 1e-12),
        seconds=round(seconds, 2),
    )


def attack(nodes: Any, model: Any, image: Tensor, hole: Tensor | None, epsilon: float, **choices: Any) -> Any:
    """The node, as the executor calls it, with its defaults otherwise."""
    fixed = {"epsilon": epsilon, "steps": STEPS, "count": COUNT, "seed": 0, "diversity": DIVERSITY}
    return execute(nodes.UntargetedAttack, **{**fixed, **choices, "model": model, "image": image, "mask": hole})


def one_crop(
    nodes: Any, name: str, model: Any, index: int, image: Tensor, hole: Tensor | None, epsilon: float
) -> list[Case]:
    """Every way of changing one picture."""
    default, cases = upscaled(model, image), []

    def add(way: str, attacked: Tensor, results: Tensor, seconds: float) -> None:
        cases.append(measure(name, index, epsilon, way, image, attacked, (results, default), hole, seconds))

    for truncation in TRUNCATIONS:
        for method in ("gradient", "random"):
            # best of n random changes gets the runs of the model that the gradient search had: 2 a step
            steps = STEPS if method == "gradient" else 2 * STEPS
            began = time.monotonic()
            results, _, attacked, *_ = attack(
                nodes, model, image, hole, epsilon, truncation=truncation, method=method, steps=steps
            )
            add(
                f"{truncation}, {'gradient' if method == 'gradient' else 'best of n'}",
                attacked,
                results,
                time.monotonic() - began,
            )
    free = 1.0 if hole is None else 1 - hole[..., None]
    rng = torch.Generator().manual_seed(1000 + index)
    sign = torch.randn(COUNT, *image.shape[1:], generator=rng).sign()
    noisy = ((image + sign * epsilon / LEVELS * free).clamp(0, 1) * LEVELS).round() / LEVELS
    add("sign noise", noisy, upscaled(model, noisy), 0.0)
    return cases


def by_photo(values: np.ndarray, photos: np.ndarray) -> tuple[float, float, float]:
    """Mean over the photos' means, and the lowest and highest of them."""
    means = np.array([values[photos == photo].mean() for photo in np.unique(photos)])
    return float(means.mean()), float(means.min()), float(means.max())


def summarise(cases: list[Case]) -> list[dict[str, Any]]:
    """One row per model, epsilon and way. Ratios are taken within each crop: to sign noise of the same epsilon, and to
    the best of n random changes in the way's own budget, which got as many runs of the model.
    """
    rows = []
    keys = sorted({(c.model, c.epsilon, c.way) for c in cases})
    mean_change = {(c.model, c.epsilon, c.way, c.crop): float(np.mean(c.change)) for c in cases}
    for model, epsilon, way in keys:
        these = [c for c in cases if (c.model, c.epsilon, c.way) == (model, epsilon, way)]
        photos = np.array([c.crop * len(PHOTOS) // len(these) for c in these])
        change = np.array([np.mean(c.change) for c in these])
        base = np.array([mean_change[model, epsilon, "sign noise", c.crop] for c in these])
        own = f"{way.partition(',')[0]}, best of n" if "," in way else way
        equal = np.array([mean_change[model, epsilon, own, c.crop] for c in these])
        rows.append(
            {
                "model": model,
                "epsilon": epsilon,
                "way": way,
                "crops": len(these),
                "change": by_photo(change, photos),
                "times sign noise": by_photo(change / base, photos),
                "lowest ratio of a crop": float((change / base).min()),
                "times best of n": by_photo(change / equal, photos),
                "pairwise over change": by_photo(np.array([c.between / np.mean(c.change) for c in these]), photos),
                "crops with mean pair >= mean change": int(sum(c.between >= np.mean(c.change) for c in these)),
                "crops with nearest pair >= largest change": int(sum(c.nearest >= max(c.change) for c in these)),
                **{
                    key: float(np.mean([getattr(c, key) for c in these]))
                    for key in ("largest", "rms", "variation", "saturated", "kurtosis", "roughness", "seconds")
                },
            }
        )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The Markdown table of the summary."""
    lines = [
        "| model | epsilon | way | change (photos) | x sign noise (photos) | x best of n | pairs / change | RMS | TV | "
        "at epsilon | kurtosis | roughness |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        c, t, b, p = r["change"], r["times sign noise"], r["times best of n"], r["pairwise over change"]
        lines.append(
            f"| {r['model']} | {r['epsilon']:g} | {r['way']} | {c[0]:.2f} ({c[1]:.2f}-{c[2]:.2f}) | "
            f"{t[0]:.2f} ({t[1]:.2f}-{t[2]:.2f}) | {b[0]:.1f} | {p[0]:.2f} | {r['rms']:.2f} | {r['variation']:.2f} | "
            f"{100 * r['saturated']:.0f} % | {r['kurtosis']:.1f} | {r['roughness']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one crop a photo and one epsilon: to see that it runs")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    nodes = open_pack()
    import comfyui_version  # noqa: F401  recorded below

    jobs = [
        ("inpainter", "provoke-demo-inpainter.safetensors", 96, disc(96, 16)),
        ("upscaler x2", "provoke-demo-upscaler-x2.safetensors", 64, None),
    ]

    cases: list[Case] = []
    for name, file, size, hole in jobs:
        model = upscale_model(file)
        for epsilon in EPSILONS[1:2] if options.quick else EPSILONS:
            for index, crop in enumerate(crops(size, 1 if options.quick else CROPS)):
                image = crop if hole is None else mark_hole(crop, hole)
                cases += one_crop(nodes, name, model, index, image, hole, epsilon)
                print(f"{name}, epsilon {epsilon:g}, crop {index + 1}", flush=True)
    rows = summarise(cases)
    options.out.mkdir(parents=True, exist_ok=True)
    result = {
        "date": datetime.date.today().isoformat(),
        "command": "python dev.py run benchmarks/untargeted/run.py",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "ComfyUI": sys.modules["comfyui_version"].__version__,
        },
        "settings": {
            "diversity": DIVERSITY,
            "steps": STEPS,
            "count": COUNT,
            "crops per photo": CROPS,
            "photos": PHOTOS,
        },
        "summary": rows,
        "cases": [asdict(case) for case in cases],
    }
    (options.out / "results.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (options.out / "table.md").write_text(table(rows), encoding="utf-8")
    print(table(rows))


if __name__ == "__main__":
    main()
