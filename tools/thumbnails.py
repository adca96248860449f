"""Makes the picture that the page shows for each template, `example_workflows/NAME.jpg`, from a real run of it; and of
some of these runs, with captions, a picture for the help pages.

python dev.py run tools/thumbnails.py [-- --only NAME]

A template for real weights cannot be run here. Its picture is that of the same method on the demo, above a line that
says what it needs.
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from . import sheet, templates, workflow
from .console import DevError, say
from .pictures import IMAGES
from .server import Client, Result, Server
from .templates import FOLDER, Template

WIDTH, HEIGHT, STRIP, GAP = 384, 256, 40, 4  # pixels
PAPER, INK, BAND = "#f2f2f5", "#ffffff", "#3f3f55"
FONT = ImageFont.load_default(15)
LIKE = {
    "Vary a real upscaler (needs RealESRGAN)": "Vary an upscaler",
    "Steer a real upscaler (needs RealESRGAN, CLIP)": "Steer the demo world",
    "Vary a turbo model (needs SDXL Turbo, CLIP)": "Vary a few-step model",
    "Steer a prompt (needs SD1.5, CLIP)": "Steer a prompt",
    "Search noise (needs Flux, CLIP)": "Search noise with any sampler",
    "Best of seeds (needs SDXL, CLIP)": "Best of seeds",
    "Learn a token (needs SD1.5, CLIP)": "Learn a token",
    "Search a prompt (needs SD1.5, CLIP, GPT-2)": "Search a prompt",
    "Match a sentence (needs SD1.5, BLIP-2)": "Match a sentence",
    "Judge by the CLIP of SDXL (needs SDXL, CLIP Vision)": "Draw the demo world",
}
"""Which run stands for a template that needs weights."""
HELP = {
    "learn-token": "Learn a token",
    "kept-conditioning": "Load a kept prompt (needs its file)",
    "failure-report": "Report a failure",
    "follow-vlm": "Follow a VLM",
    "vlm-inversion": "Match a sentence",
    "steer-prompt": "Keep a steered prompt",
}
"""web/docs/images/NAME.jpg, and the template whose run it shows."""
Shown = tuple[Image.Image, str]  # a picture and what it shows


def path(name: str) -> Path:
    """Where the page looks for a template's picture."""
    return FOLDER / f"{name}.jpg"


def pictures(client: Client, template: Template, result: Result) -> list[Shown]:
    """At most six pictures in the order in which the template names them: four of its first node, one of each other."""
    order = list(template.about.get("shows", {}))
    nodes = sorted({p.node for p in result.pictures}, key=lambda node: order.index(node) if node in order else 99)
    chosen = [
        p for node in nodes for p in result.pictures if p.node == node and p.index < (4 if node == nodes[0] else 1)
    ]
    found = []
    for picture in chosen[:6]:
        with Image.open(io.BytesIO(client.fetch(picture))) as image:
            found.append((image.convert("RGB"), template.shows(picture.node)))
    return found


def captioned(title: str, shown: Sequence[Shown]) -> Image.Image:
    """The pictures of a run under its name, with what each shows, for a help page."""
    with tempfile.TemporaryDirectory() as folder:
        cells = []
        for at, (image, caption) in enumerate(shown):
            times = max(1, sheet.CELL // max(image.size))
            file = Path(folder) / f"{at}.png"
            image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST).save(file)
            cells.append(sheet.Cell(file, caption))
        drawn = Path(folder) / "sheet.png"
        sheet.draw([(title, cells)], drawn)
        with Image.open(drawn) as whole:
            width = min(len(cells), sheet.COLUMNS) * (sheet.CELL + sheet.GAP) + sheet.GAP
            cut = whole.crop((0, 0, width, whole.height))
    return cut.resize((cut.width * 2 // 3, cut.height * 2 // 3), Image.Resampling.LANCZOS)


def composed(images: Sequence[Image.Image]) -> Image.Image:
    """Side by side, or in two rows from three on. Small ones are enlarged without being blurred."""
    columns, rows = (len(images), 1) if len(images) < 3 else ((len(images) + 1) // 2, 2)
    sheet = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    width, height = (WIDTH - GAP) // columns - GAP, (HEIGHT - GAP) // rows - GAP
    for at, image in enumerate(images):
        scale = min(width / image.width, height / image.height)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        small = image.resize(size, Image.Resampling.NEAREST if scale > 1.5 else Image.Resampling.LANCZOS)
        left = GAP + (at % columns) * (width + GAP) + (width - size[0]) // 2
        top = GAP + (at // columns) * (height + GAP) + (height - size[1]) // 2
        sheet.paste(small, (left, top))
    return sheet


def needing(like: Image.Image, template: Template) -> Image.Image:
    """The demo's picture above a line that says what this template needs."""
    sheet = like.copy()
    pen = ImageDraw.Draw(sheet)
    pen.rectangle((0, HEIGHT - STRIP, WIDTH, HEIGHT), fill=BAND)
    needs = template.name.partition("(")[2].rstrip(")")
    pen.text((8, HEIGHT - STRIP + 3), needs, fill=INK, font=FONT)
    pen.text((8, HEIGHT - STRIP + 20), "shown: the same on the demo", fill="#c9c9d9", font=FONT)
    return sheet


def save(picture: Image.Image, file: Path) -> None:
    """As a small JPEG."""
    picture.save(file, quality=84, optimize=True, progressive=True)
    say(f"   {file.name}: {file.stat().st_size // 1024} KB")


def run(host: Path, wanted: Sequence[Template]) -> None:
    """Run the templates and keep their pictures. Raises DevError where one fails."""
    with Server(host, cpu=True) as server:
        client = server.client()
        definitions = client.get("/object_info")
        for template in wanted:
            result = client.run(workflow.to_prompt(template.graph, definitions), workflow=template.graph, timeout=3600)
            if result.status != "success":
                raise DevError(f"{template.name}: {result.error}")
            shown = pictures(client, template, result)
            save(composed([image for image, _ in shown]), path(template.name))
            for name in (name for name, of in HELP.items() if of == template.name):
                save(captioned(template.name.partition(" (")[0], shown), IMAGES / f"{name}.jpg")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="templates whose name contains this")
    only = parser.parse_args().only
    if not os.environ.get("COMFYUI_PATH"):
        raise DevError("This needs ComfyUI: start it as `python dev.py run tools/thumbnails.py`.")
    every = templates.load()
    if wanted := [template for template in templates.runnable(every) if only in template.name]:
        run(Path(os.environ["COMFYUI_PATH"]).resolve(), wanted)
    for template in every:
        if template.name in LIKE and only in template.name:
            with Image.open(path(LIKE[template.name])) as like:
                save(needing(like.convert("RGB"), template), path(template.name))


if __name__ == "__main__":
    main()
