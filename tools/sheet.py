"""One labelled picture of many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

CELL, GAP, COLUMNS = 320, 16, 4
PAPER, INK, FAINT = "#ffffff", "#1a1a1a", "#666666"
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
TITLE, CAPTION = ImageFont.load_default(22), ImageFont.load_default(14)


@dataclass(frozen=True)
class Cell:
    """A picture and what it shows."""

    path: Path
    caption: str


def draw(sections: Sequence[tuple[str, Sequence[Cell]]], target: Path) -> None:
    """Write the contact sheet of titled sections to a PNG file. Pictures are only ever made smaller, never larger."""
    sheet = Image.new("RGB", (COLUMNS * (CELL + GAP) + GAP, _flow(sections, None)), PAPER)
    _flow(sections, sheet)
    sheet.save(target)


def _flow(sections: Sequence[tuple[str, Sequence[Cell]]], sheet: Image.Image | None) -> int:
    """Lay everything out from the top, drawing it if there is a sheet. Gives the height."""
    pen = ImageDraw.Draw(sheet if sheet is not None else Image.new("RGB", (1, 1)))
    top = GAP
    for title, cells in sections:
        if sheet is not None:
            pen.text((GAP, top), title, fill=INK, font=TITLE)
        top += 22 + GAP
        for start in range(0, len(cells), COLUMNS):
            row = cells[start : start + COLUMNS]
            pictures = [_shrunk(cell.path) for cell in row]
            captions = ["\n".join(wrap(cell.caption, CAPTION, CELL)) for cell in row]
            tallest = max(picture.height for picture in pictures)
            if sheet is not None:
                for column, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
                    left = GAP + column * (CELL + GAP)
                    sheet.paste(picture, (left, top))
                    pen.multiline_text((left, top + tallest + 6), caption, fill=FAINT, font=CAPTION, spacing=4)
            top += tallest + 6 + max(_height(caption, pen) for caption in captions) + GAP
        top += GAP
    return top


def _shrunk(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        small = picture.convert("RGB")
    small.thumbnail((CELL, CELL), Image.Resampling.LANCZOS)
    return small


def wrap(text: str, font: Font, width: float) -> list[str]:
    """Its words in lines of at most so many pixels; a longer word has a line of its own. At least one line."""
    found = [""]
    for word in text.split():
        longer = f"{found[-1]} {word}".strip()
        if found[-1] and font.getlength(longer) > width:
            found.append(word)
        else:
            found[-1] = longer
    return found


def _height(text: str, pen: ImageDraw.ImageDraw) -> int:
    return int(pen.multiline_textbbox((0, 0), text, font=CAPTION, spacing=4)[3])
