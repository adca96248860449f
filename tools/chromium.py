"""The browser that the browser tests drive: found, or installed where that can be done. Standard library only."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from .console import DevError, run_logged, say, step
from .environment import LOG

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "msedge")
PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "C:/Program Files/Google/Chrome/Application/chrome.exe",
    "C:/Program Files (x86)/Microsoft/Edge/Application/msedge.exe",
)
PACKAGES = ("chromium", "fonts-liberation", "fonts-dejavu-core")  # of Debian; without a font it would draw no words
MISSING = (
    "No Chromium here, which the browser tests drive. Install one (Debian: `apt-get install chromium`), or name its "
    "program in PROVOKE_CHROMIUM, or leave these tests out: `python dev.py test --no-browser`."
)


def find() -> Path | None:
    """The program of a Chromium, Chrome or Edge; None where there is none."""
    named = os.environ.get("PROVOKE_CHROMIUM")
    if named:
        return Path(named) if Path(named).is_file() else None
    found = next((path for path in map(shutil.which, NAMES) if path), None)
    return Path(found) if found else next((Path(place) for place in PLACES if Path(place).is_file()), None)


def can_install() -> bool:
    """Whether this is Debian, and we may: on anybody else's machine that is theirs to do."""
    return Path("/etc/debian_version").exists() and shutil.which("apt-get") is not None and os.geteuid() == 0


def ensure() -> None:
    """Have a browser, or say why there is none: the tests that need it then fail with the same words."""
    if find() is not None:
        return
    if not can_install():
        say(f"   {MISSING}")
        return
    settings = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    check = "the network, apt's sources (/etc/apt), and the free disk space."
    with step(f"installing Chromium for the browser tests (log: {LOG})"):
        try:
            run_logged(["apt-get", "update"], what="apt-get update", log=LOG, check=check, env=settings)
            command = ["apt-get", "install", "-y", "--no-install-recommends", *PACKAGES]
            run_logged(command, what="Installing Chromium", log=LOG, check=check, env=settings)
        except DevError as error:
            say(f"{error}\n   {MISSING}")
