"""Makes the pictures of the README and the help pages, from real runs: `python dev.py run tools/pictures.py`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..demo.photos import photo_names
from .inprocess import open_pack, upscale_model
from .pack import ROOT

IMAGES = ROOT / "web" / "docs" / "images"
CELL, GAP, LINE = 192, 8, 20
FONT = ImageFont.load_default(13)


def row(images: Sequence[Any], captions: Sequence[str], cell: int = CELL) -> Image.Image:
    """Pictures (H W 3 in [0, 1]) side by side with a line under each."""
    height = max(round(cell * image.shape[0] / image.shape[1]) for image in images)
    sheet = Image.new("RGB", (len(images) * (cell + GAP) - GAP, height + LINE), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        picture = Image.fromarray((np.asarray(image.clamp(0, 1)) * 255).round().astype(np.uint8))
        size = (cell, round(cell * picture.height / picture.width))
        sheet.paste(picture.resize(size, Image.Resampling.LANCZOS), (i * (cell + GAP), 0))
        pen.text((i * (cell + GAP) + 2, height + 3), caption, fill="#333333", font=FONT)
    return sheet


def stack(rows: Sequence[Image.Image]) -> Image.Image:
    """Rows under each other."""
    sheet = Image.new("RGB", (max(r.width for r in rows), sum(r.height + GAP for r in rows) - GAP), "white")
    top = 0
    for r in rows:
        sheet.paste(r, (0, top))
        top += r.height + GAP
    return sheet


def save(picture: Image.Image, name: str) -> Path:
    """As a JPEG: a PNG of few colours would dither, and hide what the pictures are about."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    path = IMAGES / name
    picture.save(path, quality=92, subsampling=0, optimize=True)
    return path


def attack(nodes: Any, **inputs: Any) -> Any:
    """The node with its defaults."""
    import torch

    widgets = {w.id: w.default for w in nodes.UntargetedAttack.define_schema().inputs if hasattr(w, "default")}
    first = {w.id: w.options[0] for w in nodes.UntargetedAttack.define_schema().inputs if hasattr(w, "options")}
    with torch.inference_mode():
        return nodes.UntargetedAttack.execute(**{**widgets, **first, **inputs}).args


def main() -> None:
    nodes = open_pack()
    inpainter = upscale_model("provoke-demo-inpainter.safetensors")

    hero = []
    for name in ("chelsea", "coffee", "rocket"):
        _, hole, holed = nodes.DemoPhoto.execute(name).args
        results, default, attacked, *_ = attack(nodes, model=inpainter, image=holed, mask=hole, epsilon=8.0, count=3)
        captions = ["what the model gets", "what it always answers", "looks the same to us", *["another answer"] * 3]
        hero.append(row([holed[0], default[0], attacked[0], *results], captions))
    print(save(stack(hero), "vary-inpainter.jpg"))

    _, hole, holed = nodes.DemoPhoto.execute("chelsea").args
    rows = []
    for epsilon in (0.0, 2.0, 4.0, 8.0):
        results, _, attacked, difference, *_ = attack(
            nodes, model=inpainter, image=holed, mask=hole, epsilon=epsilon, count=2
        )
        captions = [f"input, epsilon {epsilon:g}", "its change, amplified", "result 1", "result 2"]
        rows.append(row([attacked[0], difference[0], *results], captions))
    print(save(stack(rows), "vary-epsilon.jpg"))

    rows = []
    for truncation in ("clip", "truncate"):
        results, _, attacked, difference, *_ = attack(
            nodes, model=inpainter, image=holed, mask=hole, epsilon=8.0, count=2, truncation=truncation
        )
        captions = [f"{truncation}: input", "its change, amplified", "result 1", "result 2"]
        rows.append(row([attacked[0], difference[0], *results], captions))
    print(save(stack(rows), "vary-truncation.jpg"))

    photos = [nodes.DemoPhoto.execute(name).args for name in photo_names()]
    print(save(row([p[2][0] for p in photos], list(photo_names())), "demo-photos.jpg"))


if __name__ == "__main__":
    main()
