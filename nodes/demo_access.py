"""The way from the nodes to the demo world, which a copy of the pack may lack."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from ..core.errors import ProvokeError

FOLDER = Path(__file__).resolve().parent.parent / "demo"


def demo(module: str) -> Any:
    """A module of the demo world by its name, imported when it is first asked for.

    Raises ProvokeError where the folder is missing or not whole: the other nodes do without it.
    """
    try:
        return importlib.import_module(f"..demo.{module}", __package__)
    except ModuleNotFoundError as error:
        if not str(error.name).startswith(f"{__package__.rpartition('.')[0]}.demo"):
            raise  # a package of Python's is missing, not a file of ours
        raise ProvokeError(
            f"The demo world is not there: no {module}.py in {FOLDER}",
            "the folder `demo` of the pack, with its weights",
            "install the pack again (or copy its folder `demo` back); all nodes that are not under Provoke/demo work "
            "without it",
        ) from error


def weights(*place: str) -> Path:
    """A file or folder below demo/weights. Raises ProvokeError where it is missing."""
    path = FOLDER.joinpath("weights", *place)
    if not path.exists():
        raise ProvokeError(
            f"The demo model {'/'.join(place)} is not there: {path} is missing",
            "the folder `demo/weights` of the pack",
            "install the pack again (or copy its folder `demo` back)",
        )
    return path
