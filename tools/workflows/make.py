"""Writes the templates that are made by code, and the blueprints, with the widgets of the running host.

python dev.py run tools/workflows/make.py [-- --only NAME]
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import templates
from ..canvas import Canvas
from ..console import DevError, say
from ..pack import ROOT
from ..server import Server
from . import blueprints, demo_world, real_weights, real_words

TEMPLATES: dict[str, Callable[[Canvas], dict[str, Any]]] = {
    **demo_world.TEMPLATES,
    **real_weights.TEMPLATES,
    **real_words.TEMPLATES,
}


def write(graph: dict[str, Any], path: Path) -> None:
    """As the page saves it, readable in a diff."""
    path.write_text(json.dumps(graph, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    say(f"   {path.name}")


def definitions() -> dict[str, Any]:
    """What /object_info of the host in COMFYUI_PATH says. Raises DevError without one."""
    path = os.environ.get("COMFYUI_PATH")
    if not path:
        raise DevError("This needs ComfyUI: start it as `python dev.py run tools/workflows/make.py`.")
    with Server(Path(path).resolve(), cpu=True) as server:
        return dict(server.client().get("/object_info"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="only those whose name contains this")
    only = parser.parse_args().only or ""
    known = definitions()
    for name, make in TEMPLATES.items():
        if only in name:
            write(make(Canvas(known)), templates.FOLDER / f"{name}.json")
    for name in blueprints.BLUEPRINTS:
        if only in name:
            write(blueprints.made(name, known), ROOT / "subgraphs" / f"{name}.json")


if __name__ == "__main__":
    main()
