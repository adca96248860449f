"""Pictures of the page: what the browser tests compare with, and what README and help pages show.

python dev.py run tools/screens.py [-- --only NAME ...]   every template as it opens, in both renderers
python dev.py run tools/screens.py -- --docs               the chart of a search that runs, for README and help pages
"""

from __future__ import annotations

import argparse
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from . import browser, templates
from .browser import NODES_2, RENDERERS, Tab
from .pack import ROOT
from .server import Server
from .templates import Template

SCREENS = ROOT / "tests" / "browser" / "screens"
DOCS = ROOT / "web" / "docs" / "images"
CHARTED = "Vary an inpainter"
SHRUNK = 2  # the page's pixels to one of a committed picture
BLOCK = 6  # pixels of a committed picture, on a side: letters drawn a little differently do not change its mean
NOTICED = 12.0  # of 255 levels in the mean of a block
TOLERATED = 0.004  # share of blocks: one widget row of a template is more


def shown(png: bytes) -> Image.Image:
    """A picture of the page at the size in which it is kept."""
    with Image.open(io.BytesIO(png)) as picture:
        return picture.convert("RGB").reduce(SHRUNK)


def path_of(name: str, renderer: str) -> Path:
    """Where the picture of a template is kept."""
    return SCREENS / f"{name}, {renderer}.webp"


def keep(picture: Image.Image, path: Path) -> None:
    """As small as still shows every widget."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, quality=55, method=6)


def difference(one: Image.Image, other: Image.Image) -> float:
    """The share of blocks in which two pictures differ so that one would notice; 1 where their sizes differ."""
    if one.size != other.size:
        return 1.0
    means = [np.asarray(picture.reduce(BLOCK), dtype=np.float32) for picture in (one, other)]
    return float((np.abs(means[0] - means[1]).max(-1) > NOTICED).mean())


def opened(tab: Tab, template: Template) -> Image.Image:
    """A template as it looks once it is open."""
    missing = tab.load(template.name, template.graph)
    if missing:
        raise ValueError(f"The page lacks nodes of {template.name}: {missing}")
    tab.frame()
    return shown(tab.picture())


def charts(tab: Tab) -> None:
    """A node with its chart, in the middle of a run; saved for README and help pages."""
    (template,) = templates.load(only=CHARTED)
    tab.render(NODES_2)
    tab.load(template.name, template.graph)
    tab.run()
    tab.wait_for_step(25, timeout=1200)
    tab.page.evaluate(
        "() => { const { ds } = window.app.canvas; const node = document.querySelector('.provoke-live')"
        ".closest('[data-node-id]'); const at = window.app.graph.getNodeById(node.dataset.nodeId);"
        " ds.scale = 1.5; ds.offset[0] = 120 / 1.5 - at.pos[0]; ds.offset[1] = 170 / 1.5 - at.pos[1];"
        " window.app.canvas.setDirty(true, true) }"
    )
    tab.page.wait_for_timeout(1500)
    box = tab.page.locator("[data-node-id]", has=tab.page.locator(".provoke-live")).first.bounding_box()
    assert box is not None
    around: Any = {"x": box["x"] - 10, "y": box["y"] - 10, "width": box["width"] + 20, "height": box["height"] + 20}
    with Image.open(io.BytesIO(tab.page.screenshot(clip=around))) as picture:
        path = DOCS / "live-chart.jpg"
        picture.convert("RGB").save(path, quality=88, optimize=True)
    print(path, path.stat().st_size)
    tab.page.evaluate("() => window.app.extensionManager.command.execute('Comfy.Interrupt')")


def with_page(body: Callable[[Tab], None]) -> None:
    """A server and a page for a script."""
    host = Path(os.environ["COMFYUI_PATH"]).resolve()
    with Server(host, cpu=True) as server, browser.chromium() as running:
        browser.settle(server)
        tab = Tab(running, server.url)
        body(tab)
        tab.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", help="templates by name; without it all")
    parser.add_argument("--docs", action="store_true", help="the pictures of README and help pages instead")
    options = parser.parse_args()
    only = options.only
    wanted = [found for found in templates.load() if not only or found.name in only]

    def take(tab: Tab) -> None:
        for renderer in RENDERERS:
            tab.render(renderer)
            for template in wanted:
                path = path_of(template.name, renderer)
                keep(opened(tab, template), path)
                print(path, path.stat().st_size)

    with_page(charts if options.docs else take)


if __name__ == "__main__":
    main()
