"""Where the script is that a person names. Standard library only."""

from __future__ import annotations

from pathlib import Path

from .console import DevError
from .environment import ROOT


def find(script: str) -> Path:
    """The script, named absolutely, from the caller's folder or from the repository. Raises DevError if it is none."""
    tried = list(dict.fromkeys([Path.cwd() / script, ROOT / script]))
    found = next((path.resolve() for path in tried if path.is_file()), None)
    if found is None:
        raise DevError(f"There is no script {script}. Looked for: {', '.join(map(str, tried))}")
    if not found.is_relative_to(ROOT):
        raise DevError(f"{found} is no script of this repository ({ROOT}). Start it with Python itself.")
    if found.suffix != ".py" or not all(part.isidentifier() for part in found.relative_to(ROOT).with_suffix("").parts):
        raise DevError(f"{found} cannot be run as a module of the pack: that takes a .py file with a plain name.")
    return found
