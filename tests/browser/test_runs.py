"""From the Run button to the pictures: the chart moves, the search can be stopped or cancelled, and a reload loses
nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from provoke.tools.browser import RENDERERS, Tab
from provoke.tools.server import Server

from .conftest import node_of

Graphs = Callable[[str], dict[str, Any]]
NAME, KIND = "Vary the demo world", "ProvokeUntargetedAttack"
STEPS, COUNT, SEED = 1, 2, 3  # places among the values of the node: they follow epsilon
# The host remembers what it ran, and a search that is not run has no chart.
SEEDS = itertools.count(1)


def searching(graphs: Graphs, steps: int) -> dict[str, Any]:
    """A template whose search takes so many steps, each as short as it can be."""
    graph = graphs(NAME)
    values = node_of(graph, KIND)["widgets_values"]
    values[STEPS], values[COUNT], values[SEED] = steps, 2, next(SEEDS)
    return graph


@pytest.mark.parametrize("renderer", RENDERERS)
def test_a_run_from_the_button_to_the_pictures(tab: Tab, graph: Graphs, server: Server, renderer: str) -> None:
    tab.render(renderer)
    made = searching(graph, 200)  # long enough to be seen moving
    assert tab.load(NAME, made) == []
    tab.frame()
    tab.run()
    tab.wait_for_step(1)
    early = tab.lines()
    assert len(early) > 1
    tab.wait_for_step(5)
    late = tab.lines()
    assert all(len(after) > len(before) for before, after in zip(early, late, strict=True))
    assert tab.wait_for_end() == "execution_success"
    tab.wait_for_words("all steps done")
    (said,) = tab.charts()
    assert f"step {made_steps(made)} of {made_steps(made)}" in said
    assert "model runs a result" in said
    pictures = tab.page.evaluate(
        "() => window.app.graph._nodes.filter((node) => node.type === 'SaveImage' || node.type === 'PreviewImage')"
        ".map((node) => [node.title, (window.app.nodeOutputs[node.id]?.images ?? []).length])"
    )
    assert pictures
    assert all(count for _, count in pictures), pictures
    assert server.problems() == []


def made_steps(graph: dict[str, Any]) -> int:
    return int(node_of(graph, KIND)["widgets_values"][STEPS])


@pytest.mark.parametrize("renderer", RENDERERS)
def test_cancel_ends_it_and_the_next_run_works(tab: Tab, graph: Graphs, renderer: str) -> None:
    tab.render(renderer)
    tab.load(NAME, searching(graph, 4000))
    tab.frame()
    tab.run()
    tab.wait_for_step(1)
    tab.page.evaluate("() => window.app.extensionManager.command.execute('Comfy.Interrupt')")
    assert tab.wait_for_end() == "execution_interrupted"
    tab.wait_for_words("ended early")
    assert not tab.page.locator(".provoke-stop").first.is_visible()
    tab.load(NAME, searching(graph, 2))
    tab.run()
    assert tab.wait_for_end() == "execution_success"


def test_stop_keeps_the_best_and_a_reload_keeps_the_curve(tab: Tab, graph: Graphs) -> None:
    tab.load(NAME, searching(graph, 4001))
    tab.frame()
    tab.run()
    tab.wait_for_step(2)
    tab.page.locator(".provoke-stop").first.click()
    assert tab.wait_for_end() == "execution_success"
    tab.wait_for_words("stopped by request, best kept")
    lines, said = tab.lines(), tab.charts()
    tab.reload()
    tab.page.locator(".provoke-line").first.wait_for(state="attached", timeout=60_000)
    tab.wait_for_words("stopped by request, best kept")
    (again,) = tab.charts()
    assert (again[: len(said[0])], again[len(said[0]) :][:10]) == (said[0], " · run of ")
    # A long curve is thinned where it is kept: the same ends, not the same points between.
    assert [ends(line) for line in tab.lines()] == [ends(line) for line in lines]


def ends(line: str) -> tuple[str, str]:
    """First and last point of a path of points, "M40 960L46 374"."""
    points = line.removeprefix("M").split("L")
    return points[0], points[-1]
