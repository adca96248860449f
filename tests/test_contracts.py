"""The rules of the house, held by tools: lint, types, which room may import which, and what the pack asks for.

They are tests, not steps before them, so that there is one summary which counts them, and so that the contracts are
themselves tested: a contract that cannot fail is worth nothing. The package is linted as a copy under its own name,
because the folder that it is developed in may be called anything.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("nodes", "host", "core", "scorers", "demo", "tools")
SHIPPED = ("nodes", "host", "core", "scorers", "demo")
LINES = 400  # a file that is longer cannot be read in one sitting


def run(*command: str, cwd: Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def copy_package(parent: Path) -> Path:
    """The pack's Python files as `parent/provoke`. A room that does not stand yet is an empty package there."""
    package = parent / "provoke"
    package.mkdir(parents=True)
    shutil.copy(ROOT / "__init__.py", package)
    for room in ROOMS:
        for source in (ROOT / room).rglob("*.py"):
            target = package / source.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
        (package / room).mkdir(exist_ok=True)
        for folder in [package / room, *(path for path in (package / room).rglob("*") if path.is_dir())]:
            (folder / "__init__.py").touch()
    return package


def lint_imports(parent: Path) -> subprocess.CompletedProcess[str]:
    call = "from importlinter.cli import lint_imports_command as c; c()"
    config = str(ROOT / "pyproject.toml")
    return run(sys.executable, "-c", call, "--config", config, "--no-cache", cwd=parent, path=parent)


def test_ruff() -> None:
    checked = run(sys.executable, "-m", "ruff", "check", ".", cwd=ROOT)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def mypy(parent: Path, *what: str) -> subprocess.CompletedProcess[str]:
    options = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache")]
    return run(sys.executable, "-m", "mypy", *options, *what, cwd=parent, path=parent)


def test_types_of_the_pack(tmp_path: Path) -> None:
    copy_package(tmp_path)
    checked = mypy(tmp_path, "-p", "provoke")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_types_of_dev(tmp_path: Path) -> None:
    # dev.py is a script that has `tools` beside it, so that is how it is checked.
    shutil.copy(ROOT / "dev.py", tmp_path)
    shutil.copytree(ROOT / "tools", tmp_path / "tools")
    checked = mypy(tmp_path, "dev.py")  # and what it imports; the rest of tools is checked as provoke.tools above
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_contracts_hold(tmp_path: Path) -> None:
    copy_package(tmp_path)
    checked = lint_imports(tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr


# One forbidden import for every arrow that the design does not draw.
VIOLATIONS = [
    ("core", "from ..host import planted"),
    ("core", "from ..nodes import planted"),
    ("core", "from ..demo import planted"),
    ("core", "from ..scorers import planted"),
    ("core", "import comfy.utils"),
    ("core", "def late():\n    import folder_paths"),
    ("core", "import transformers"),
    ("core", "import open_clip"),
    ("host", "from ..nodes import planted"),
    ("host", "from ..scorers import planted"),
    ("host", "from ..demo import planted"),
    ("host", "from ..tools import planted"),
    ("scorers", "from ..core import planted"),
    ("scorers", "from ..host import planted"),
    ("scorers", "import comfy.sd"),
    ("demo", "from ..core import planted"),
    ("demo", "from ..host import planted"),
    ("demo", "import folder_paths"),
    ("nodes", "from ..tools import planted"),
]


@pytest.mark.parametrize(("room", "line"), VIOLATIONS)
def test_contracts_catch(room: str, line: str, tmp_path: Path) -> None:
    package = tmp_path / "provoke"
    for name in ROOMS:  # a skeleton is enough, and quick
        (package / name).mkdir(parents=True)
        (package / name / "__init__.py").touch()
        (package / name / "planted.py").touch()
    (package / "__init__.py").touch()
    assert lint_imports(tmp_path).returncode == 0
    (package / room / "wrong.py").write_text(line + "\n", encoding="utf-8")
    checked = lint_imports(tmp_path)
    assert checked.returncode != 0, checked.stdout
    assert f"provoke.{room}.wrong" in checked.stdout


def test_our_rooms_are_not_importable_as_such() -> None:
    for name in (*ROOMS, "dev"):
        spec = importlib.util.find_spec(name)
        where = Path(spec.origin or "") if spec else None
        assert where is None or ROOT not in where.parents or ".hosts" in where.parts or ".venv" in where.parts, where


def test_importing_the_pack_is_light() -> None:
    """Neither the host's start nor core may pay for scorer libraries; core has no need of the host."""
    code = (
        "import importlib.util, sys\n"
        f"root = {str(ROOT)!r}\n"
        "spec = importlib.util.spec_from_file_location('provoke', root + '/__init__.py',"
        " submodule_search_locations=[root])\n"
        "sys.modules['provoke'] = module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "assert 'torch' not in sys.modules, 'the root imports torch'\n"
        "import pkgutil, importlib, provoke.core as core\n"
        "for info in pkgutil.iter_modules(core.__path__): importlib.import_module('provoke.core.' + info.name)\n"
        "heavy = {'comfy', 'comfy_api', 'folder_paths', 'open_clip', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    checked = run(sys.executable, "-c", code, cwd=ROOT / "tests")
    assert checked.returncode == 0, checked.stderr


def test_requirements_never_touch_the_hosts_torch() -> None:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    listed = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r"^dependencies = \[(.*?)\]", project, re.MULTILINE | re.DOTALL)
    assert found
    assert sorted(re.findall(r'"([^"]+)"', found[1])) == sorted(listed)
    names = {re.split(r"[\s<>=!~\[;]", line)[0].lower() for line in listed}
    assert not names & {"torch", "torchvision", "torchaudio", "triton"}


def test_files_can_be_read_in_one_sitting() -> None:
    files = [ROOT / "dev.py", *(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))]
    lines = {str(path.relative_to(ROOT)): len(path.read_bytes().splitlines()) for path in files}
    assert not {name: count for name, count in lines.items() if count >= LINES}
