"""Pictures in rows with words under each, as one picture."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

CELL, GAP, LINE, MARGIN = 192, 8, 16, 4  # pixels
LINES = 5  # of a caption
MOST = 400  # pictures: what one can still look at


def eight_bit(picture: Tensor) -> np.ndarray:
    """H W C in [0, 1] -> H W 3 uint8, rounded down as Save Image does, so that a saved PNG has the same bytes."""
    levels = 255.0 * picture[..., :3].detach().float().cpu().numpy()
    return np.clip(np.nan_to_num(levels), 0, 255).astype(np.uint8)


def contact_sheet(
    pictures: Sequence[Tensor], captions: Sequence[Sequence[str]], *, columns: int = 0, lines: int = LINES
) -> Image.Image:
    """At most MOST pictures (H W C in [0, 1], of any sizes).

    Args:
        captions: lines under each, `lines` at most; what does not fit is cut off with an ellipsis.
        columns: pictures in a row; 0 makes about as many as there are rows.
    """
    font = ImageFont.load_default(11)
    columns = columns or math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    high = CELL + lines * LINE + GAP
    sheet = Image.new("RGB", (columns * (CELL + GAP) + GAP, rows * high + GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        left, top = GAP + i % columns * (CELL + GAP), GAP + i // columns * high
        small = _fitted(Image.fromarray(eight_bit(picture)))
        sheet.paste(small, (left + (CELL - small.width) // 2, top + (CELL - small.height) // 2))
        for k, line in enumerate(caption[:lines]):
            pen.text((left, top + CELL + MARGIN + k * LINE), _cut(line, pen, font), fill="#222222", font=font)
    return sheet


def as_image(sheet: Image.Image) -> Tensor:
    """A sheet as an IMAGE: 1 H W 3 in [0, 1]."""
    return torch.from_numpy(np.asarray(sheet).astype(np.float32) / 255)[None]


def _fitted(picture: Image.Image) -> Image.Image:
    """As large as the cell allows; small ones keep their pixels square and sharp."""
    ratio = CELL / max(picture.size)
    size = tuple(max(1, round(side * ratio)) for side in picture.size)
    return picture.resize(size, Image.Resampling.NEAREST if ratio > 1 else Image.Resampling.LANCZOS)  # type: ignore[arg-type]


def wrapped(text: str, lines: int, width: int = 34) -> list[str]:
    """A text over so many lines, by words; what is longer than that ends in an ellipsis."""
    words, rows = text.split(), [""]
    for word in words:
        longer = f"{rows[-1]} {word}".strip()
        if len(longer) <= width or not rows[-1]:
            rows[-1] = longer
        else:
            rows.append(word)
    return [*rows[: lines - 1], " ".join(rows[lines - 1 :])] if len(rows) > lines else rows


def _cut(line: str, pen: ImageDraw.ImageDraw, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    line = "".join(c if c.isprintable() else " " for c in line[:200])
    if pen.textlength(line, font) <= CELL:
        return line
    while line and pen.textlength(f"{line}…", font) > CELL:
        line = line[:-1]
    return f"{line}…"
