"""The pack as ComfyUI sees it: one package named `provoke`, loaded by path or linked into a custom_nodes folder."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
NAME = "provoke"
NOT_PACK = (".git", ".venv", ".hosts", ".serve", "output", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache")


def load(root: Path = ROOT) -> ModuleType:
    """Load the pack the way the host does, without putting its folder on sys.path: `nodes` is a name of the host's."""
    if NAME in sys.modules:
        return sys.modules[NAME]
    spec = importlib.util.spec_from_file_location(NAME, root / "__init__.py", submodule_search_locations=[str(root)])
    if spec is None or spec.loader is None:
        raise ImportError(f"no package at {root}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = module
    spec.loader.exec_module(module)
    return module


def link(custom_nodes: Path, root: Path = ROOT) -> Path:
    """Make the pack appear as `custom_nodes/provoke`: a symlink, on Windows a junction, else a copy."""
    custom_nodes.mkdir(parents=True, exist_ok=True)
    target = custom_nodes / NAME
    if os.name != "nt":
        target.symlink_to(root, target_is_directory=True)
        return target
    made = subprocess.run(["cmd", "/c", "mklink", "/J", str(target), str(root)], capture_output=True, check=False)
    if made.returncode != 0:  # another drive or a file system without junctions
        shutil.copytree(root, target, ignore=shutil.ignore_patterns(*NOT_PACK))
    return target


def unlink(target: Path) -> None:
    """Remove what `link` made, never what it points to."""
    if target.is_symlink():
        target.unlink()
    elif target.exists():
        try:
            os.rmdir(target)  # a junction is removed as an empty folder
        except OSError:
            shutil.rmtree(target)
