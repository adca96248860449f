"""Draws web/icon.png, which the registry shows: many grey dots of one answer, and the one that was coaxed elsewhere.

python dev.py run tools/icon.py
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

from .pack import ROOT

SIZE, FINE = 400, 4  # pixels of the picture; drawn so many times larger, then reduced
NIGHT, GREY, PATH, RED = "#1b1d2a", "#8b90a8", "#f2a65a", "#ff4d5e"
GRID = (80, 160, 240, 320)
MOVED, TO = (240, 160), (318, 74)


def icon() -> Image.Image:
    """400 x 400 pixels, RGBA."""
    picture = Image.new("RGBA", (SIZE * FINE, SIZE * FINE), (0, 0, 0, 0))
    pen = ImageDraw.Draw(picture)
    pen.rounded_rectangle((0, 0, SIZE * FINE - 1, SIZE * FINE - 1), radius=84 * FINE, fill=NIGHT)
    for x in GRID:
        for y in GRID:
            if (x, y) not in (MOVED, (320, 80)):
                _dot(pen, (x, y), 20, GREY)
    pen.line([(v * FINE) for point in (MOVED, TO) for v in point], fill=PATH, width=12 * FINE)
    _dot(pen, MOVED, 11, PATH)
    _dot(pen, TO, 34, RED)
    return picture.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def _dot(pen: ImageDraw.ImageDraw, at: tuple[int, int], radius: int, colour: str) -> None:
    x, y = at
    pen.ellipse([v * FINE for v in (x - radius, y - radius, x + radius, y + radius)], fill=colour)


def main() -> None:
    path: Path = ROOT / "web" / "icon.png"
    icon().save(path, optimize=True)
    print(path)


if __name__ == "__main__":
    main()
