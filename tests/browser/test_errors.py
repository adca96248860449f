"""An error of a node is seen where it is: on the node, with the node's own words."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from provoke.tools import browser
from provoke.tools.browser import NODES_2, RENDERERS, Tab
from provoke.tools.server import Server, with_page

from .conftest import node_of
from .test_runs import KIND, NAME, searching

Graphs = Callable[[str], dict[str, Any]]
EPSILON = 0  # its place among the values of the node
# The nodes that the canvas frames as those that failed.
FRAMED = """() => window.app.graph._nodes.filter((node) => node.strokeStyles.executionError?.call(node))
    .map((node) => String(node.id))"""
# The same of Nodes 2.0.
RINGED = """() => [...document.querySelectorAll('[data-node-id]:has(.ring-destructive-background)')]
    .map((node) => node.dataset.nodeId)"""


@pytest.fixture
def apart(chromium: Any, server: Server) -> Iterator[Tab]:
    """A tab on a server of its own: that of the other tests is to log no error. (What the page complains of is not
    asked: its details of an error look the node up in the registry, which it is kept from.)"""
    with Server(Path(os.environ["COMFYUI_PATH"]).resolve(), cpu=True, arguments=with_page()) as own:
        browser.settle(own)
        tab = Tab(chromium, own.url)
        yield tab
        tab.close()


def test_an_error_is_on_the_node_that_it_comes_from_in_words(apart: Tab, graph: Graphs) -> None:
    made = searching(graph, 3)
    node = node_of(made, KIND)
    node["widgets_values"][EPSILON] = 0.3
    for renderer in RENDERERS:
        apart.render(renderer)
        apart.load(NAME, made)
        apart.frame()
        apart.run()
        assert apart.wait_for_end() == "execution_error"
        assert apart.page.evaluate(FRAMED) == [str(node["id"])]
        if renderer == NODES_2:
            apart.page.wait_for_timeout(500)
            assert apart.page.evaluate(RINGED) == [str(node["id"])]
        # newer pages say at once which node it was, and its words to who asks for details; older ones show a dialog
        details = apart.page.get_by_test_id("error-overlay-see-errors")
        words = apart.page.get_by_text("An epsilon of 0.3 levels")
        details.or_(words).first.wait_for(timeout=20_000)
        if details.count():
            details.first.click()
        words.first.wait_for(timeout=20_000)
        apart.page.keyboard.press("Escape")
