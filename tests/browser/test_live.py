"""The chart where it is not simple: in a subgraph, on several nodes, in two tabs, in light and dark."""

from __future__ import annotations

import copy
import re
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from provoke.tools.browser import CANVAS, NODES_2, RENDERERS, Tab
from provoke.tools.server import Server

from .conftest import node_of
from .test_runs import COUNT, KIND, NAME, SEED, SEEDS, searching

Graphs = Callable[[str], dict[str, Any]]
# what a person does who selects a node and turns it into a subgraph
WRAP = """(type) => {
    const { graph } = window.app;
    const node = graph._nodes.find((node) => node.type === type);
    return String(graph.convertToSubgraph(new Set([node])).node.id);
}"""


def twice(graph: dict[str, Any]) -> dict[str, Any]:
    """With the search, and what saves its results, a second time."""
    made = copy.deepcopy(graph)
    search = node_of(made, KIND)
    fed = {link[3] for link in made["links"] if link[1] == search["id"]}
    saves = next(node for node in made["nodes"] if node["type"] == "SaveImage" and node["id"] in fed)
    numbers = {search["id"]: 901, saves["id"]: 902}
    for node in (search, saves):
        again = copy.deepcopy(node)
        again["id"] = numbers[node["id"]]
        again["pos"] = [node["pos"][0], node["pos"][1] + 1100]
        for socket in [*again.get("inputs", []), *again.get("outputs", [])]:
            socket.update({"link": None} if "link" in socket else {"links": []})
        made["nodes"].append(again)
    new = made["nodes"][-2], made["nodes"][-1]
    for link in list(made["links"]):
        number, origin, slot, target, place, kind = link[:6]
        if target not in numbers or (target == saves["id"] and origin != search["id"]):
            continue
        again = [1000 + number, numbers.get(origin, origin), slot, numbers[target], place, kind]
        made["links"].append(again)
        node = new[0] if target == search["id"] else new[1]
        node["inputs"][place]["link"] = again[0]
        source = next(found for found in made["nodes"] if found["id"] == again[1])
        source["outputs"][slot]["links"] = [*(source["outputs"][slot].get("links") or []), again[0]]
    new[0]["widgets_values"][SEED] = next(SEEDS)
    return made


def test_two_searches_in_one_workflow_have_a_chart_each(tab: Tab, graph: Graphs) -> None:
    assert tab.load(NAME, twice(searching(graph, 4))) == []
    tab.frame()
    tab.run()
    assert tab.wait_for_end() == "execution_success"
    tab.page.wait_for_function("() => document.querySelectorAll('.provoke-words').length === 2")
    said = tab.charts()
    assert all("step 4 of 4" in words for words in said)
    assert said[0] != said[1]


@pytest.mark.parametrize("renderer", RENDERERS)
def test_in_a_subgraph_the_chart_is_inside_and_outside(tab: Tab, graph: Graphs, renderer: str) -> None:
    tab.render(renderer)
    tab.load(NAME, searching(graph, 6))
    outer = tab.page.evaluate(WRAP, KIND)
    saved = tab.page.evaluate("() => JSON.stringify(window.app.graph.serialize().nodes.map((n) => n.widgets_values))")
    tab.frame()
    tab.run()
    tab.wait_for_step(1)
    assert tab.wait_for_end() == "execution_success"
    tab.page.locator(".provoke-words", has_text="all steps done").and_(tab.page.locator(":visible")).first.wait_for()
    assert len(tab.charts()) == 1  # on the subgraph's node
    again = tab.page.evaluate("() => JSON.stringify(window.app.graph.serialize().nodes.map((n) => n.widgets_values))")
    assert again == saved  # the chart is nothing to save
    tab.page.evaluate(
        "(id) => { const { canvas, graph } = window.app; canvas.openSubgraph(graph.getNodeById(id).subgraph,"
        " graph.getNodeById(id)) }",
        outer,
    )
    tab.page.wait_for_timeout(1500)
    assert len(tab.charts()) == 1  # on the node itself
    tab.page.evaluate("() => window.app.canvas.setGraph(window.app.rootGraph ?? window.app.graph)")
    tab.page.wait_for_timeout(1500)
    assert len(tab.charts()) == 1


def test_the_chart_of_a_subgraph_follows_the_renderer_after_the_run(tab: Tab, graph: Graphs) -> None:
    tab.load(NAME, searching(graph, 3))
    outer = tab.page.evaluate(WRAP, KIND)
    tab.frame()
    tab.run()
    assert tab.wait_for_end() == "execution_success"
    tab.wait_for_words("all steps done")
    mounted = tab.page.locator(".provoke-mounted")
    for renderer in (NODES_2, CANVAS, NODES_2):
        tab.render(renderer)
        tab.wait_for_words("all steps done")
        tab.page.wait_for_timeout(1000)
        assert len(tab.charts()) == 1, renderer
        assert mounted.count() == (renderer == NODES_2)
    collapse = "(id) => window.app.graph.getNodeById(id).collapse()"
    for visible in (False, True):
        tab.page.evaluate(collapse, outer)
        mounted.wait_for(state="visible" if visible else "hidden")


def test_a_result_that_the_host_still_has_shows_the_search_that_it_came_from(
    tab: Tab, chromium: Any, server: Server, graph: Graphs
) -> None:
    """For somebody who closes the browser and comes back: nothing is executed."""
    made = {**searching(graph, 6), "id": str(uuid.uuid4())}
    tab.load(NAME, made)
    tab.frame()
    tab.run()
    assert tab.wait_for_end() == "execution_success"
    tab.wait_for_words("all steps done")
    (said,), lines = tab.charts(), tab.lines()
    other = Tab(chromium, server.url)
    try:
        other.complaints.clear()  # the host's, of its own beginning
        other.load(NAME, made)
        other.frame()
        assert other.charts() == []
        other.run()
        assert other.wait_for_end() == "execution_success"
        other.wait_for_words("run of")
        (again,) = other.charts()
        assert re.fullmatch(re.escape(said) + r" · run of \d\d:\d\d", again)
        assert other.lines() == lines
        assert other.complaints == []
    finally:
        other.close()
    assert server.problems() == []


@pytest.mark.parametrize("renderer", RENDERERS)
def test_a_samplers_report_is_beneath_the_chart_of_the_node_that_ran(tab: Tab, graph: Graphs, renderer: str) -> None:
    """A SAMPLER has no output for it; after a reload it is still there."""
    made = graph("VLM inversion as a sampler")
    values = node_of(made, "ProvokeVlmInversion")["widgets_values"]
    values[1:3] = [3, next(SEEDS)]  # steps, search_seed
    tab.render(renderer)
    tab.load("VLM inversion as a sampler", made)
    tab.frame()
    tab.run()
    assert tab.wait_for_end() == "execution_success"
    report = tab.page.locator(".provoke-report", has_text="8 decodes, 16 looks of the VLM").first
    report.wait_for()
    chart, words = (tab.page.locator(name).first.bounding_box() for name in (".provoke-live svg", ".provoke-report"))
    assert chart is not None
    assert words is not None
    assert words["y"] >= chart["y"] + chart["height"]  # neither covers the other
    assert words["y"] + words["height"] <= bottom_of(tab)
    said = report.inner_text()
    tab.reload()
    report.wait_for()
    assert report.inner_text() == said


def bottom_of(tab: Tab) -> float:
    """Where the box of the chart ends."""
    box = tab.page.locator(".provoke-live").first.bounding_box()
    assert box is not None
    return box["y"] + box["height"]


@pytest.mark.parametrize("renderer", RENDERERS)
def test_two_tabs_do_not_mix(tab: Tab, chromium: Any, server: Server, graph: Graphs, renderer: str) -> None:
    made = {**searching(graph, 8), "id": str(uuid.uuid4())}  # the same workflow in both
    tab.render(renderer)
    other = Tab(chromium, server.url, renderer)
    try:
        other.load(NAME, made)
        tab.load(NAME, made)
        tab.frame()
        tab.run()
        tab.wait_for_step(2)
        assert tab.wait_for_end() == "execution_success"
        assert len(tab.charts()) == 1
        assert other.charts() == []
        other.reload()
        other.page.wait_for_timeout(2000)
        assert other.charts() == []
    finally:
        other.close()


def test_lines_are_told_apart_and_told_of(tab: Tab, graph: Graphs) -> None:
    """By colours, dashes where those are used up, and words for who does not see it."""
    made = searching(graph, 3)
    node_of(made, KIND)["widgets_values"][COUNT] = 5  # of two scenes
    tab.load(NAME, made)
    tab.frame()
    tab.run()
    assert tab.wait_for_end() == "execution_success"
    tab.wait_for_words("all steps done")
    lines = tab.page.evaluate(
        "() => [...document.querySelectorAll('.provoke-line')].map((line) => [Number(line.dataset.image),"
        " getComputedStyle(line).stroke, getComputedStyle(line).strokeDasharray,"
        " line.querySelector('title').textContent, line.classList.contains('provoke-best')])"
    )
    assert lines[-1][4]  # on top of the others
    lines.sort()
    assert [image for image, *_ in lines] == list(range(10))
    assert len({(colour, dashes) for _, colour, dashes, *_ in lines}) == 10
    assert len({colour for _, colour, *_ in lines[:8]}) == 8
    assert [dashes == "none" for _, _, dashes, *_ in lines] == [True] * 8 + [False] * 2
    assert lines[2][3] == "image 3 of 10"
    assert sum(best for *_, best in lines) == 1
    (said,) = tab.charts()
    assert said in tab.page.get_by_role("img", name="The objective of each image").get_attribute("aria-label")


def test_it_can_be_read_in_light_and_in_dark(tab: Tab, graph: Graphs) -> None:
    """Contrast with the ground by WCAG 2: at least 4.5 for the words, 3 for the lines and for what is said in grey."""
    made = searching(graph, 2)
    node_of(made, KIND)["widgets_values"][COUNT] = 5  # of two scenes: more lines than there are colours
    tab.load(NAME, made)
    tab.frame()
    tab.run()
    assert tab.wait_for_end() == "execution_success"
    tab.wait_for_words("all steps done")
    for renderer in RENDERERS:
        tab.render(renderer)
        for palette in ("dark", "light"):
            tab.set("Comfy.ColorPalette", palette)
            tab.page.wait_for_timeout(500)
            (words,) = contrasts(tab, ".provoke-words")
            assert words > 4.5, (renderer, palette)
            assert len(contrasts(tab, ".provoke-line")) == 10
            for drawn in (".provoke-line", ".provoke-distance", ".provoke-high, .provoke-low", ".provoke-legend"):
                assert all(found >= 3 for found in contrasts(tab, drawn)), (renderer, palette, drawn)
    tab.set("Comfy.ColorPalette", "dark")


# Of each element that a selector finds: the colour that it is drawn in, with how much of the
# ground shines through, and the ground.
COLOURS = """(selector) => {
    const box = document.querySelector('.provoke-live');
    const ground = getComputedStyle(box).backgroundColor;
    const drawn = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
    const seen = (...colours) => {
        drawn.clearRect(0, 0, 1, 1);
        for (const [colour, opacity] of colours) {
            drawn.globalAlpha = opacity;
            drawn.fillStyle = colour;
            drawn.fillRect(0, 0, 1, 1);
        }
        return [...drawn.getImageData(0, 0, 1, 1).data];
    };
    return [...box.querySelectorAll(selector)].map((element) => {
        const style = getComputedStyle(element);
        let opacity = 1;
        for (let at = element; at !== box; at = at.parentElement) opacity *= getComputedStyle(at).opacity;
        const own = element instanceof SVGElement ? style.stroke : style.color;
        return [seen([ground, 1], [own, opacity]), seen([ground, 1])];
    });
}"""


def contrasts(tab: Tab, selector: str) -> list[float]:
    """Of everything in the first chart that the selector finds, with what is behind it."""
    found = []
    for colours in tab.page.evaluate(COLOURS, selector):
        assert colours[1][3] == 255, "what is behind the chart would shine through"
        light, dark = sorted((luminance(colour) for colour in colours), reverse=True)
        found.append((light + 0.05) / (dark + 0.05))
    return found


def luminance(colour: list[int]) -> float:
    """Relative luminance by WCAG 2."""
    parts = [value / 255 / 12.92 if value <= 10 else ((value / 255 + 0.055) / 1.055) ** 2.4 for value in colour[:3]]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]
