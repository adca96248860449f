"""What all tests share: the pack under its own name, the host where it is asked for, and no test skipped in silence."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    from provoke.tools.server import Client, Server

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests"
ORDER = ("core", "dev", "scorers", "demo", "host", "server", "browser")  # quick ones first; contracts before all
PLATFORM = "platform:"  # the only reason for which a test may be skipped begins with this word


def _keep_root_off_the_path() -> None:
    """The host has modules of its own named `nodes` and so on: ours must not be importable as such."""
    sys.path[:] = [entry for entry in sys.path if Path(entry or os.curdir).resolve() != ROOT]


def _load_pack() -> None:
    """Register the pack as `provoke`, by path, as the host does (tools/pack.py is only reachable through it)."""
    entry = ROOT / "__init__.py"
    spec = importlib.util.spec_from_file_location("provoke", entry, submodule_search_locations=[str(ROOT)])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["provoke"] = module
    spec.loader.exec_module(module)


_keep_root_off_the_path()
_load_pack()


@pytest.fixture(scope="session")
def comfy(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The host's package `comfy`, on the CPU, in this process; its other modules are importable from then on.

    Its input, output, temp and user folders are temporary ones.
    """
    path = os.environ.get("COMFYUI_PATH")
    if not path or not (Path(path) / "comfy").is_dir():
        pytest.fail("This test needs ComfyUI: run it through `python dev.py test`, or set COMFYUI_PATH to its folder.")
    import torch

    torch.set_num_threads(1)
    sys.path.insert(0, str(Path(path).resolve()))
    import comfy
    import comfy.cli_args

    comfy.cli_args.args.cpu = True  # before model_management is imported: that is when it looks for a device
    import comfy.model_management
    import folder_paths

    base = tmp_path_factory.mktemp("comfyui")
    for kind in ("input", "output", "temp", "user"):
        (base / kind).mkdir()
        getattr(folder_paths, f"set_{kind}_directory")(str(base / kind))
    return comfy


def _stopped(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """One real server for all tests that want one, with the pack in it as a user has it: the host of COMFYUI_PATH,
    started on the CPU in a base directory of its own."""
    path = os.environ.get("COMFYUI_PATH")
    if not path:
        pytest.fail("This test needs ComfyUI: run it through `python dev.py test`, or set COMFYUI_PATH to its folder.")
    # pytest dies of SIGTERM on the spot, and the server would stay; as Ctrl-C it ends its fixtures, and sums up.
    before = signal.signal(signal.SIGTERM, _stopped)
    from provoke.tools.server import Server, with_page

    try:
        with Server(Path(path).resolve(), cpu=True, arguments=with_page()) as running:
            yield running
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def client(server: Server) -> Client:
    """Someone who talks to the server."""
    return server.client()


@pytest.fixture(scope="session")
def definitions(client: Client) -> dict[str, Any]:
    """Every node that the server has."""
    return dict(client.get("/object_info"))


@pytest.fixture(scope="session")
def ours(definitions: dict[str, Any]) -> dict[str, Any]:
    """The pack's nodes. Fails when there is none, so that no test about "each of them" can pass on nothing."""
    found = {name: node for name, node in definitions.items() if str(node.get("category")).startswith("Provoke/")}
    assert found, "the server lists no node in a category that begins with Provoke/"
    return found


def _room(path: Path) -> str:
    """The folder of tests/ that a file is in; "" for those directly in it."""
    parts = path.relative_to(TESTS).parts
    return parts[0] if len(parts) > 1 else ""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        room = _room(item.path)
        return ORDER.index(room) + 1 if room in ORDER else 0

    items.sort(key=rank)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests of core run without a host, so that core can have no secret need of one."""
    if _room(item.path) == "core" and "comfy" in sys.modules:
        pytest.fail("a test imported the host before or in tests/core")


def _refuse_silent_skip(report: Any) -> None:
    if not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if not reason.removeprefix("Skipped: ").startswith(PLATFORM):
        report.outcome = "failed"
        report.longrepr = f"{reason}\nA test is skipped only for a reason that begins with {PLATFORM!r}."


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    report = yield
    _refuse_silent_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, Any]:
    report = yield
    _refuse_silent_skip(report)
    return report
