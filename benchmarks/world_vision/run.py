"""How right the demo world's classifiers are, and what its VAE keeps of a picture, on what no training showed.

    python dev.py run benchmarks/world_vision/run.py -- [--quick] [--out FOLDER]

Writes results.json, README.md and reconstructions.png, for the weights that are there. Rates have Wilson 95 %
intervals; scenes are drawn independently.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from ...demo.checker import objects_right, read, relation_right
from ...demo.training.classifiers import disturbed
from ...demo.training.vae import Taesd, full_size
from ...demo.vision_models import CLASSIFIERS, EDGE, JUDGE, SEARCHED, VAE, edge_map, normalise, thin_edge_map
from ...demo.world import SHAPES, render, sample
from ..rates import rate

HERE = Path(__file__).resolve().parent
PICTURES, PART = 2048, 128
NOISES = (0.0, 0.1, 0.2, 0.3)  # added to the latents
COLUMNS, ENLARGED = 10, 96  # of the sheet


def facts(net: nn.Module, file: Path) -> dict[str, Any]:
    return {"parameters": sum(weight.numel() for weight in net.parameters()), "bytes": file.stat().st_size}


def classified(net: Any, edges: bool, count: int, part: str, change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """Of single objects that `change` was done to: how many get their true class."""
    rng, right = torch.Generator().manual_seed(2026), 0
    for _ in range(count // PART):
        scenes = sample(PART, rng, part=part, objects=1)
        shapes = scenes.shape[:, 0]
        classes = shapes if edges else scenes.colour[:, 0] * len(SHAPES) + shapes
        right += int((net(normalise(change(render(scenes)))).logits.argmax(1) == classes).sum())
    return rate(right, count // PART * PART)


def classifiers(count: int) -> dict[str, Any]:
    """By name: the rates on held-out backgrounds, as they are and disturbed, and on the training's."""
    rows: dict[str, Any] = {}
    for name in (*SEARCHED, JUDGE, EDGE):
        folder = CLASSIFIERS / name
        if not (folder / "model.safetensors").is_file():
            rows[name] = None
            continue
        began = time.perf_counter()
        net = transformers.AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32).eval()
        rows[name] = {**facts(net, folder / "model.safetensors"), "seconds to load": time.perf_counter() - began}
        rng = torch.Generator().manual_seed(7)
        kinds: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
            "held out": ("held out", lambda images: images),
            "held out, disturbed": ("held out", lambda images, rng=rng: disturbed(images, rng)),
            "train": ("train", lambda images: images),
        }
        if name == EDGE:
            kinds = {
                "held out": ("held out", edge_map),
                "held out, disturbed": ("held out", lambda images, rng=rng: edge_map(disturbed(images, rng))),
                "train": ("train", edge_map),
                "held out, threshold 0.15": ("held out", lambda images: edge_map(images, 0.15)),
                "held out, threshold 0.45": ("held out", lambda images: edge_map(images, 0.45)),
                "held out, thin edges": ("held out", thin_edge_map),
            }
        for kind, (part, change) in kinds.items():
            rows[name][kind] = classified(net, name == EDGE, count, part, change)
        print(name, rows[name]["held out"], flush=True)
    return rows


def load_vae() -> Taesd:
    """In the host's full size, as the host runs it."""
    net = full_size()
    weights = {name: value.float() for name, value in load_file(VAE).items() if name.startswith("taesd")}
    net.load_state_dict(weights, assign=True)
    return net.eval()


def reconstructed(net: Taesd, count: int, objects: int, noise: float) -> dict[str, Any]:
    """Objects and relation right on held-out reconstructions, from latents with so much noise; PSNR of each picture."""
    rng = torch.Generator().manual_seed(2026 + objects)
    right, placed, psnr = 0, 0, []
    for _ in range(count // PART):
        scenes = sample(PART, rng, part="held out", objects=objects)
        truth = render(scenes)
        latents = net.encode(truth)
        images = net.decode(latents + noise * torch.randn(latents.shape, generator=rng)).clamp(0, 1)
        readings = read(images)
        right += int(objects_right(readings, scenes).sum())
        placed += int(relation_right(readings, scenes).sum())
        psnr.append(-10 * (images - truth).square().mean((1, 2, 3)).log10())
    shown = count // PART * PART
    return {
        "objects": rate(right, shown),
        "relation": rate(placed, shown),
        "psnr": round(float(torch.cat(psnr).mean()), 3),
        "psnr, worst": round(float(torch.cat(psnr).min()), 3),
    }


def vae_figures(net: Taesd, count: int) -> dict[str, Any]:
    latents = net.encode(render(sample(512, torch.Generator().manual_seed(5), part="held out")))
    spread, middle = torch.std_mean(latents, (0, 2, 3))
    return {
        **facts(net, VAE),
        "not zero": sum(int((weight != 0).sum()) for weight in net.parameters()),
        "latents": {
            "mean of each channel": [round(value, 3) for value in middle.tolist()],
            "std of each channel": [round(value, 3) for value in spread.tolist()],
            "largest": round(float(latents.abs().max()), 3),
        },
        "rates": {
            f"{objects}, noise {noise}": reconstructed(net, count if noise == 0 else count // 2, objects, noise)
            for objects in (1, 2)
            for noise in NOISES
        },
    }


def sheet(net: Taesd, target: Path) -> None:
    """Held-out scenes; the same through the VAE; the same with noise 0.2 on the latents; half way to the neighbour."""
    rng = torch.Generator().manual_seed(11)
    truth = render(sample(COLUMNS, rng, part="held out"))
    latents = net.encode(truth)
    noisy = latents + 0.2 * torch.randn(latents.shape, generator=rng)
    rows = (truth, net.decode(latents), net.decode(noisy), net.decode((latents + latents.roll(-1, 0)) / 2))
    page = Image.new("RGB", (COLUMNS * (ENLARGED + 4) + 4, len(rows) * (ENLARGED + 4) + 4), "#ffffff")
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            pixels = (image.clamp(0, 1).movedim(0, -1) * 255).round().byte().numpy()
            cell = Image.fromarray(pixels).resize((ENLARGED, ENLARGED), Image.Resampling.NEAREST)
            page.paste(cell, (4 + x * (ENLARGED + 4), 4 + y * (ENLARGED + 4)))
    page.save(target, optimize=True)


def _percent(row: dict[str, Any]) -> str:
    return f"{100 * row['rate']:.2f} ({100 * row['low']:.2f}-{100 * row['high']:.2f})"


def page(result: dict[str, Any]) -> str:
    """README.md."""
    lines = [
        "# The demo world's classifiers and VAE",
        "",
        f"Made by `{result['command']}` on {result['date']} (torch {result['versions']['torch']}, transformers"
        f" {result['versions']['transformers']}, one thread); all figures are in [results.json](results.json). Percent,"
        f" with Wilson 95 % intervals; {result['pictures']} pictures each, {result['pictures'] // 2} where latents have"
        " noise.",
        "",
        "## Classifiers",
        "",
        "One object: colour and shape, 24 classes. *Held out*: backgrounds on which no training showed that pair.",
        "*Disturbed*: blur, contrast, brightness, shift, noise, 8 bits, as in the training. The bar is 97.",
        "",
        "| model | parameters | held out | held out, disturbed | training's backgrounds |",
        "|---|---|---|---|---|",
    ]
    missing = [name for name, row in result["classifiers"].items() if row is None]
    for name, row in result["classifiers"].items():
        if row is not None and name != EDGE:
            figures = " | ".join(_percent(row[kind]) for kind in ("held out", "held out, disturbed", "train"))
            role = " (the judge: never searched with)" if name == JUDGE else ""
            lines.append(f"| {name}{role} | {row['parameters']} | {figures} |")
    edge = result["classifiers"][EDGE]
    if edge is not None:
        lines += ["", f"{EDGE}: shape, 4 classes, from an edge map (`edge_map`, threshold 0.3). The bar is 90.", ""]
        lines += ["| edge maps of | right |", "|---|---|"]
        lines += [f"| {kind} | {_percent(row)} |" for kind, row in edge.items() if isinstance(row, dict)]
    if result["vae"] is None:
        missing.append("provoke-demo-vae")
    else:
        vae = result["vae"]
        latents = vae["latents"]
        lines += [
            "",
            "## VAE",
            "",
            "![scenes, reconstructions, with noise on the latents, between two](reconstructions.png)",
            "",
            "Held-out scenes; through the VAE; with noise 0.2 on the latents; half way to the next one's latents.",
            "",
            "What the checker reads in held-out reconstructions. The bars, without noise: objects 95 (one), 90 (two).",
            "",
            "| objects, noise on the latents | objects | relation | PSNR, dB | worst |",
            "|---|---|---|---|---|",
        ]
        for kind, row in vae["rates"].items():
            both = f"{_percent(row['objects'])} | {_percent(row['relation'])}"
            lines.append(f"| {kind} | {both} | {row['psnr']} | {row['psnr, worst']} |")
        lines += [
            "",
            f"Latents, channel by channel: mean {latents['mean of each channel']}, standard deviation"
            f" {latents['std of each channel']}; the largest {latents['largest']} from 0. Of"
            f" {vae['parameters']} weights (the host's class) {vae['not zero']} are not zero.",
        ]
    if missing:
        lines += ["", f"Not there yet: {', '.join(missing)}."]
    return "\n".join([*lines, ""])


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few pictures: to see that it runs")
    parser.add_argument("--out", type=Path, default=HERE)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    count = 256 if arguments.quick else PICTURES
    net = load_vae() if VAE.is_file() else None
    result = {
        "command": "python dev.py run benchmarks/world_vision/run.py" + (" --quick" if arguments.quick else ""),
        "date": datetime.date.today().isoformat(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "pictures": count,
        "classifiers": classifiers(count),
        "vae": vae_figures(net, count) if net is not None else None,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    if net is not None:
        sheet(net, arguments.out / "reconstructions.png")
    (arguments.out / "results.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (arguments.out / "README.md").write_text(page(result), encoding="utf-8")


if __name__ == "__main__":
    main()
