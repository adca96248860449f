"""New files below ComfyUI's output folder: names that count up, nothing is ever written over, and no name leads out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import folder_paths

from ..core.errors import ProvokeError

LONGEST = 200  # characters of a name, folders included
FORBIDDEN = '<>:"|?*\\'  # in names that travel between systems
LAST = 99_999


def reserved(prefix: str, suffixes: Sequence[str]) -> list[Path]:
    """Makes empty files output/PREFIX_00001_SUFFIX, one for each suffix, all of the next free number.

    Folders are made. Nothing that exists is touched, also when another process was quicker.
    Raises: ProvokeError for a name that leaves the output folder, or that not every system takes.
    """
    wanted = _wanted(prefix)
    wanted.parent.mkdir(parents=True, exist_ok=True)
    for number in range(1, LAST + 1):
        made: list[Path] = []
        try:
            for suffix in suffixes:
                path = wanted.with_name(f"{wanted.name}_{number:05}_{suffix}")
                path.open("xb").close()  # fails where there is one
                made.append(path)
        except FileExistsError:
            discard(made)
            continue
        return made
    raise ProvokeError(f"There are {LAST} files of that name", "a free number", "choose another filename_prefix")


def discard(paths: Sequence[Path]) -> None:
    """Takes away what `reserved` has made, when nothing came of it."""
    for path in paths:
        path.unlink(missing_ok=True)


def below_output(path: Path) -> str:
    """A file's place relative to the output folder, with forward slashes."""
    return path.relative_to(_root()).as_posix()


def _root() -> Path:
    return Path(folder_paths.get_output_directory()).resolve()


def _wanted(prefix: str) -> Path:
    name, root = prefix.strip(), _root()
    legal = name.isprintable() and 0 < len(name) <= LONGEST and not set(name) & set(FORBIDDEN)
    parts = name.split("/")
    if legal and ".." not in parts and parts[-1] not in ("", "."):
        wanted = (root / name).resolve()  # links included: where it would really be written
        if root in wanted.parents:
            return wanted
    raise ProvokeError(
        f"The file name {prefix[:80]!r} leads out of ComfyUI's output folder, or is none",
        f"a name of at most {LONGEST} characters, with folders below output if you like, without {FORBIDDEN}",
        "choose another filename_prefix",
    )
