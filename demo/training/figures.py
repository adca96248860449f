"""The figures on the cards: the exported weights, loaded as the host loads them, on photos that no training saw."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from spandrel import ImageModelDescriptor, ModelLoader
from torch import Tensor

from . import measure
from .data import held_out
from .inpainter import HOLE_FILL, Inpainter
from .loop import HERE, WEIGHTS

EPSILONS = (2, 4, 8)


def load(path: Path) -> measure.Net:
    """A frozen model by spandrel, as a function of B 3 H W that can be differentiated."""
    descriptor = ModelLoader().load_from_file(path)
    if not isinstance(descriptor, ImageModelDescriptor):
        raise TypeError(
            f"{path.name} loads as {type(descriptor).__name__}; Load Upscale Model wants an ImageModelDescriptor"
        )
    model = descriptor.model.eval().requires_grad_(False)
    return lambda image: descriptor._call_fn(model, image)


def _change(net: measure.Net, image: Tensor, region: Tensor, where: Tensor) -> dict[str, dict[str, float]]:
    """Mean change of the output in the region by 40 PGD steps and by sign noise, per epsilon in 8-bit levels.

    `pairwise` is the mean change between two attacks with other seeds.
    """
    rows = {}
    for level in EPSILONS:
        epsilon = level / 255
        seeds = [torch.Generator().manual_seed(seed) for seed in (1, 2, 3)]
        one, two = (measure.attack(net, image, region, where, epsilon, seed) for seed in seeds[:2])
        noise = measure.sign_noise(image, epsilon, where, seeds[2])
        rows[str(level)] = {
            "pgd": float(measure.hole_change(net, image, region, one)),
            "sign_noise": float(measure.hole_change(net, image, region, noise)),
            "pairwise": float(measure.hole_change(net, one, region, two)),
        }
        rows[str(level)]["ratio"] = rows[str(level)]["pgd"] / rows[str(level)]["sign_noise"]
    return rows


def upscaler(net: measure.Net) -> dict[str, object]:
    """PSNR of whole held-out photos, and what an attack on a 96 px middle crop changes."""
    out: dict[str, object] = {}
    for name, truth in held_out().items():
        small = measure.halve(truth)
        with torch.no_grad():
            image = net(small).clamp(0, 1)
        top, left = (side // 2 - 48 for side in small.shape[2:])
        crop = small[..., top : top + 96, left : left + 96]
        everywhere = torch.ones_like(crop[:, :1])
        out[name] = {
            "psnr": measure.psnr(image, truth),
            "psnr_bicubic": measure.psnr(measure.double(small), truth),
            "attack": _change(net, crop, torch.ones(1, 1, 192, 192), everywhere),
        }
    return out


def inpainter(net: measure.Net, others: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]]) -> dict[str, object]:
    """Sharpness on the validation crops next to other fills, and what an attack of the known region changes there."""
    image, hole = Inpainter.pictures()
    colour = torch.tensor(HOLE_FILL)[:, None, None]
    marked = image * (1 - hole) + colour * hole
    with torch.no_grad():
        answer = net(marked).clamp(0, 1)
    known = ((answer - image).square() * (1 - hole)).sum() / (3 * (1 - hole).sum())
    out: dict[str, object] = {
        "sharpness": measure.sharpness(answer, image, hole),
        "hole_l1": float(((answer - image).abs() * hole).sum() / (3 * hole.sum())),
        "known_psnr": float(-10 * torch.log10(known)),
    }
    for name, fill in others.items():
        other = fill(image, marked, hole)
        out[f"sharpness_{name}"] = measure.sharpness(other, image, hole)
        out[f"hole_l1_{name}"] = float(((other - image).abs() * hole).sum() / (3 * hole.sum()))
    changes = [_change(net, marked[i : i + 1], hole[i : i + 1], 1 - hole[i : i + 1]) for i in range(len(image))]
    out["attack"] = {
        level: {
            key: sum(change[level][key] for change in changes) / len(changes)
            for key in ("pgd", "sign_noise", "pairwise")
        }
        for level in map(str, EPSILONS)
    }
    return out


def main() -> int:
    """Print everything as JSON."""
    net = load(WEIGHTS / "upscale_models" / "provoke-demo-inpainter.safetensors")
    others = {"blur": lambda image, marked, hole: measure.diffuse(image, hole)}
    plain = HERE / ".runs" / "provoke-demo-inpainter-l1" / "provoke-demo-inpainter-l1.safetensors"
    if plain.exists():
        l1 = load(plain)
        others["l1_model"] = lambda image, marked, hole: l1(marked).clamp(0, 1)
    result = {
        "upscaler": upscaler(load(WEIGHTS / "upscale_models" / "provoke-demo-upscaler-x2.safetensors")),
        "inpainter": inpainter(net, others),
    }
    print(json.dumps(result, indent=1))
    return 0
