"""One real server for all tests in this folder, with the pack in it as a user has it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import pytest

from provoke.tools.server import Client, Server


def _stopped(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """The host of COMFYUI_PATH, started on the CPU in a base directory of its own."""
    path = os.environ.get("COMFYUI_PATH")
    if not path:
        pytest.fail("This test needs ComfyUI: run it through `python dev.py test`, or set COMFYUI_PATH to its folder.")
    # pytest dies of SIGTERM on the spot, and the server would stay; as Ctrl-C it ends its fixtures, and sums up.
    before = signal.signal(signal.SIGTERM, _stopped)
    try:
        with Server(Path(path).resolve(), cpu=True) as running:
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
