"""A blueprint on the page: one node, whose widgets are those of the node inside."""

from __future__ import annotations

import json
from typing import Any

from provoke.tools.browser import Tab
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
