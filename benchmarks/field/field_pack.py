"""Registers the pack as `provoke`, by path, as the host does. Import this before anything of it, and before foolbox."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# foolbox imports GitPython, which raises where there is no git; nothing here asks it for anything.
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")

if "provoke" not in sys.modules:
    spec = importlib.util.spec_from_file_location(
        "provoke", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"no package at {ROOT}")
    sys.modules["provoke"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["provoke"])
