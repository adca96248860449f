"""A real browser on the real page of the server that tests/server uses too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from provoke.tools import browser, templates
from provoke.tools.browser import Tab
from provoke.tools.console import DevError
from provoke.tools.server import Server

Graph = dict[str, Any]


@pytest.fixture(scope="session")
def chromium(server: Server) -> Iterator[Any]:
    """It runs; the server's user has been here before."""
    browser.settle(server)
    try:
        with browser.chromium() as running:
            yield running
    except DevError as error:
        pytest.fail(str(error))


@pytest.fixture(scope="session")
def shared(chromium: Any, server: Server) -> Iterator[Tab]:
    """One tab for all tests that leave it as good as it was: a page takes seconds to open."""
    tab = Tab(chromium, server.url)
    yield tab
    tab.close()


@pytest.fixture
def tab(shared: Tab) -> Iterator[Tab]:
    """The shared tab; a test fails where the page complains or asks another server."""
    shared.complaints.clear()
    shared.outside.clear()
    shared.render(browser.CANVAS)
    yield shared
    assert shared.complaints == []
    assert shared.outside == []


@pytest.fixture
def graph() -> Callable[[str], Graph]:
    """A template as the page gets it, by name."""
    return lambda name: next(found.graph for found in templates.load() if found.name == name)


def node_of(graph: Graph, kind: str) -> Graph:
    """The first node of a type."""
    return next(node for node in graph["nodes"] if node["type"] == kind)
