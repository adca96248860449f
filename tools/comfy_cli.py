"""The program `comfy` (comfy-cli): its validators say what the registry and other people's tools will say of the pack.

In an environment of its own beside the tests' one: it would bring its own versions of what is pinned there. Standard
library only.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from .console import DevError, run_logged, say, step
from .environment import LOG, VENV, python_of

VERSION = "1.23.0"
PLACE = VENV / "comfy-cli"
MARK = PLACE / "provoke-version"  # written last
MISSING = (
    f"No comfy-cli here, whose validator the tests ask: `python dev.py test` installs it into {PLACE}. Or name its "
    "program in PROVOKE_COMFY_CLI."
)


def find() -> Path | None:
    """The program; None where there is none, or another version than the pinned one."""
    named = os.environ.get("PROVOKE_COMFY_CLI")
    if named:
        if not Path(named).is_file():
            raise DevError(f"PROVOKE_COMFY_CLI names {named!r}, where no program is. Name comfy-cli's, or unset it.")
        return Path(named)
    program = python_of(PLACE).with_name("comfy.exe" if os.name == "nt" else "comfy")
    known = MARK.is_file() and MARK.read_text(encoding="utf-8") == VERSION
    return program if known and program.is_file() else None


def ensure() -> None:
    """Have it, or say why there is none: the tests that need it then fail with the same words."""
    if find() is not None:
        return
    check = "the network, pip's own settings (`python -m pip config list`), and the free disk space."
    with step(f"installing comfy-cli {VERSION} for its validators (log: {LOG})"):
        try:
            run_logged([sys.executable, "-m", "venv", str(PLACE)], what="Making its environment", log=LOG, check=check)
            command = [str(python_of(PLACE)), "-m", "pip", "--disable-pip-version-check", "--no-input", "install"]
            run_logged([*command, f"comfy-cli=={VERSION}"], what="Installing comfy-cli", log=LOG, check=check)
            MARK.write_text(VERSION, encoding="utf-8")
        except DevError as error:
            say(f"{error}\n   {MISSING}")


def ask(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run it, without questions and without word to its makers. Raises DevError where there is none."""
    program = find()
    if program is None:
        raise DevError(MISSING)
    environment = {**os.environ, "DO_NOT_TRACK": "1"}
    return subprocess.run(
        [str(program), "--skip-prompt", *words], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
