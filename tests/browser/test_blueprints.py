"""A blueprint on the page: one node, whose widgets are those of the node inside."""

from __future__ import annotations

import json
from typing import Any

import pytest

from provoke.tools.browser import CANVAS, NODES_2, RENDERERS, Tab
from provoke.tools.canvas import OUTSIDE
from provoke.tools.pack import ROOT
from provoke.tools.server import Server

from .test_runs import SEEDS

FILES = {path.stem: path for path in sorted((ROOT / "subgraphs").glob("*.json"))}
RUN = "Vary a Result (Provoke)"
# as the page does when a person has typed something
CHANGE = """([name, value]) => {
    const node = window.app.graph.getNodeById(1);
    const widget = node.widgets.find((widget) => widget.name === name);
    widget.value = value;
    widget.callback?.(value, window.app.canvas, node);
}"""


def blueprint(name: str) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(FILES[name].read_text(encoding="utf-8"))
    return made


# what there is to be seen of them: rows of the page's own; on the canvas, what it is not told to leave out
SEEN = {
    CANVAS: "() => window.app.graph.getNodeById(1).widgets.filter((widget) => !widget.hidden)"
    ".map((widget) => widget.name)",
    NODES_2: "() => [...document.querySelectorAll('[data-node-id=\"1\"] .lg-node-widget')]"
    ".map((row) => row.innerText.trim())",
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("renderer", RENDERERS)
def test_its_widgets_are_there_and_set_those_of_the_nodes_inside(tab: Tab, renderer: str, name: str) -> None:
    file = blueprint(name)
    tab.render(renderer)
    assert tab.load(name, file) == []
    tab.frame()
    (one,) = file["nodes"]
    promoted = [put["name"] for put in one["inputs"] if "widget" in put]
    tab.page.wait_for_function(f"(count) => ({SEEN[renderer]})().length >= count", arg=len(promoted))
    assert tab.page.evaluate(SEEN[renderer]) == promoted
    changed = {
        put: f"{value} and more" if isinstance(value, str) else value + 1
        for put, value in zip(promoted, one["widgets_values"], strict=True)
    }
    for widget, value in changed.items():
        tab.page.evaluate(CHANGE, [widget, value])
    prompt = tab.page.evaluate("async () => (await window.app.graphToPrompt()).output")
    assert {place: run_with(prompt, *inner(file, place)) for place in promoted} == changed


def inner(file: dict[str, Any], promoted: str) -> tuple[str, str]:
    """The type of the node inside that has a promoted widget, and the widget's name there."""
    (subgraph,) = file["definitions"]["subgraphs"]
    slot = [put["name"] for put in subgraph["inputs"]].index(promoted)
    (link,) = (link for link in subgraph["links"] if (link["origin_id"], link["origin_slot"]) == (OUTSIDE, slot))
    (target,) = (node for node in subgraph["nodes"] if node["id"] == link["target_id"])
    return target["type"], target["inputs"][link["target_slot"]]["name"]


def run_with(prompt: dict[str, Any], kind: str, name: str) -> Any:
    """The value that the one node of a type gets; the page numbers nodes inside anew."""
    (found,) = (node["inputs"][name] for node in prompt.values() if node["class_type"] == kind)
    return found


def test_what_is_set_on_the_one_node_is_what_runs(tab: Tab, server: Server) -> None:
    assert tab.load(RUN, wired(blueprint(RUN))) == []
    tab.frame()
    for count in (1, 3):
        for name, value in {"count": count, "steps": 1, "seed": next(SEEDS)}.items():
            tab.page.evaluate(CHANGE, [name, value])
        tab.run()
        assert tab.wait_for_end() == "execution_success"
        tab.page.wait_for_function("(count) => window.app.nodeOutputs[4]?.images?.length === count", arg=count)
    assert server.problems() == []


def wired(file: dict[str, Any]) -> dict[str, Any]:
    """With a demo scene, the demo's upscaler and a Preview Image."""
    model, scene, seen = (
        node(2, "UpscaleModelLoader", [], ["UPSCALE_MODEL"], ["provoke-demo-upscaler-x2.safetensors"]),
        node(3, "ProvokeDemoScene", [], ["IMAGE"], [0, "fixed", 1, "one", "nothing"]),
        node(4, "PreviewImage", [{"name": "images", "type": "IMAGE", "link": 3}], [], []),
    )
    (one,) = file["nodes"]
    sockets = {put["name"]: place for place, put in enumerate(one["inputs"])}
    results = [put["name"] for put in one["outputs"]].index("results")
    links = [
        [1, 2, 0, 1, sockets["model"], "UPSCALE_MODEL"],
        [2, 3, 0, 1, sockets["image"], "IMAGE"],
        [3, 1, results, 4, 0, "IMAGE"],
    ]
    one["inputs"][sockets["model"]]["link"], one["inputs"][sockets["image"]]["link"] = 1, 2
    one["outputs"][results]["links"] = [3]
    model["outputs"][0]["links"], scene["outputs"][0]["links"] = [1], [2]
    return {**file, "nodes": [one, model, scene, seen], "links": links, "last_node_id": 4, "last_link_id": 3}


def node(number: int, kind: str, inputs: list[Any], outputs: list[str], values: list[Any]) -> dict[str, Any]:
    """One beside the blueprint."""
    made = {"id": number, "type": kind, "pos": [(number - 3) * 400, 500], "size": [300, 200], "flags": {}}
    made |= {"order": number, "mode": 0, "inputs": inputs, "properties": {}, "widgets_values": values}
    return {**made, "outputs": [{"name": of, "type": of, "links": []} for of in outputs]}
