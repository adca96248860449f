"""The blueprints: the real server offers them, they are wired as they say, and what is inside runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from provoke.tools.pack import ROOT
from provoke.tools.server import Client
from provoke.tools.workflow import to_prompt, widgets

FILES = sorted((ROOT / "subgraphs").glob("*.json"))
OUTSIDE, INSIDE = -10, -20  # the page's ids of a subgraph's inputs and outputs
Nodes = dict[str, Any]


@pytest.fixture(scope="module")
def served(client: Client) -> dict[str, dict[str, Any]]:
    """By name, as the page gets them: the list, then each by its id."""
    listed = client.get("/global_subgraphs")
    ours = {key: entry for key, entry in listed.items() if entry["info"]["node_pack"] == "custom_nodes.provoke"}
    return {entry["name"]: json.loads(client.get(f"/global_subgraphs/{key}")["data"]) for key, entry in ours.items()}


def definition(file: dict[str, Any]) -> dict[str, Any]:
    (found,) = file["definitions"]["subgraphs"]
    return dict(found)


def test_the_server_offers_every_blueprint(served: dict[str, Any]) -> None:
    assert FILES
    assert sorted(served) == [path.stem for path in FILES]


@pytest.mark.parametrize("name", [path.stem for path in FILES])
def test_a_blueprint_is_one_node_with_five_widgets(name: str, served: dict[str, Any], definitions: Nodes) -> None:
    file, inner = served[name], definition(served[name])
    (node,) = file["nodes"]
    assert node["type"] == inner["id"]
    assert inner["name"] == name
    assert inner["description"]
    promoted = [put["name"] for put in node["inputs"] if "widget" in put]
    assert len(promoted) == len(node["widgets_values"]) == 5
    assert node["properties"]["proxyWidgets"] == [["-1", widget] for widget in promoted]
    for side in ("inputs", "outputs"):
        assert [(put["name"], put["type"]) for put in node[side]] == [(put["name"], put["type"]) for put in inner[side]]


@pytest.mark.parametrize("name", [path.stem for path in FILES])
def test_every_wire_has_two_ends_that_know_it(name: str, served: dict[str, Any], definitions: Nodes) -> None:
    inner = definition(served[name])
    nodes = {node["id"]: node for node in inner["nodes"]}
    assert {node["type"] for node in nodes.values()} <= set(definitions)
    for link in inner["links"]:
        origin, target = link["origin_id"], link["target_id"]
        start = inner["inputs"] if origin == OUTSIDE else nodes[origin]["outputs"]
        end = inner["outputs"] if target == INSIDE else nodes[target]["inputs"]
        source, sink = start[link["origin_slot"]], end[link["target_slot"]]
        assert link["id"] in (source["linkIds"] if origin == OUTSIDE else source["links"])
        assert link["id"] in sink["linkIds"] if target == INSIDE else link["id"] == sink["link"]
        assert source["type"] == sink["type"], f"{source['name']} -> {sink['name']}"
        assert link["type"] == source["type"]
    ends = [link for put in (*inner["inputs"], *inner["outputs"]) for link in put["linkIds"]]
    assert set(ends) <= {link["id"] for link in inner["links"]}


@pytest.mark.parametrize("name", [path.stem for path in FILES])
def test_what_is_inside_runs_on_the_demo(
    name: str, served: dict[str, Any], client: Client, definitions: Nodes, ours: Nodes
) -> None:
    """With the demo's things at its sockets, its own values at its widgets, and a step or two instead of many."""
    prompt = on_the_demo(served[name], definitions)
    for node in prompt.values():
        if node["class_type"] in ours:
            node["inputs"] |= {key: value for key, value in QUICK.items() if key in node["inputs"]}
    result = client.run(prompt)
    assert result.status == "success", f"{result.error_node}: {result.error}"
    assert result.pictures


def on_the_demo(file: dict[str, Any], definitions: Nodes) -> dict[str, dict[str, Any]]:
    """A blueprint as it is queued: what is inside with its own values, the demo's things at its sockets, and its
    pictures seen."""
    inner = definition(file)
    prompt = demo()
    prompt |= {f"in{key}": node for key, node in unwired(inner, definitions).items()}
    values = iter(file["nodes"][0]["widgets_values"])
    promoted = {put["name"]: next(values) for put in file["nodes"][0]["inputs"] if "widget" in put}
    for target, socket, put in outer_wires(inner):
        wire = SOCKETS["vae"] if put["type"].endswith(",VAE") else SOCKETS.get(put["name"])
        prompt[f"in{target}"]["inputs"][socket] = promoted.get(put["name"], wire)
        if prompt[f"in{target}"]["inputs"][socket] is None:
            del prompt[f"in{target}"]["inputs"][socket]  # an optional one
    (shown,) = (put for put in inner["outputs"] if put["type"] == "IMAGE" and put["name"] in ("images", "results"))
    (link,) = (one for one in inner["links"] if one["id"] == shown["linkIds"][0])
    see = {"class_type": "PreviewImage", "inputs": {"images": [f"in{link['origin_id']}", link["origin_slot"]]}}
    return {**prompt, "see": see}


QUICK = {"search_steps": 1, "steps": 2, "count": 1, "seeds": 2, "copies": 1, "pairs": 1}
QUICK |= {"template": "a red circle {more:2}", "keep": 1}
QUICK |= {"text": "a red circle", "target_text": "a red circle", "prompt": "a red circle", "prompts": "a red circle"}
SOCKETS: dict[str, Any] = {
    "model": ["models", 0],
    "clip": ["models", 1],
    "vae": ["models", 2],
    "positive": ["positive", 0],
    "negative": ["negative", 0],
    "latent_image": ["latent", 0],
    "image": ["scene", 0],
    "scorer": ["scorer", 0],
    "vlm": ["vlm", 0],
    "language": ["language", 0],
}


def demo() -> dict[str, dict[str, Any]]:
    """What stands at the sockets. (VAE is one of the three things that an image attack takes for its model.)"""
    encode = "CLIPTextEncode"
    return {
        "models": {"class_type": "ProvokeLoadDemoModels", "inputs": {"model": "4 steps"}},
        "positive": {"class_type": encode, "inputs": {"clip": ["models", 1], "text": "a red circle"}},
        "negative": {"class_type": encode, "inputs": {"clip": ["models", 1], "text": ""}},
        "latent": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "scene": {
            "class_type": "ProvokeDemoScene",
            "inputs": {"seed": 0, "count": 1, "objects": "one", "missing": "nothing"},
        },
        "scorer": {"class_type": "ProvokeLoadScorer", "inputs": {"scorer": "first"}},
        "vlm": {"class_type": "ProvokeLoadVlm", "inputs": {"vlm": "provoke-demo-blip2-itm"}},
        "language": {"class_type": "ProvokeLoadLanguageModel", "inputs": {"language": "provoke-demo-gpt2"}},
    }


def unwired(inner: dict[str, Any], definitions: Nodes) -> dict[str, dict[str, Any]]:
    """The nodes inside as a prompt, without the wires from outside; those between them renamed."""
    outer = {link["id"] for link in inner["links"] if link["origin_id"] == OUTSIDE}
    nodes = json.loads(json.dumps(inner["nodes"]))
    for node in nodes:
        for put in node["inputs"]:
            put["link"] = None if put["link"] in outer else put["link"]
        assert len(node["widgets_values"]) == len(widgets(definitions[node["type"]]))
    links = [link for link in inner["links"] if link["id"] not in outer and link["target_id"] != INSIDE]
    prompt = to_prompt({"nodes": nodes, "links": links}, definitions)
    for node in prompt.values():
        wires = {key: value for key, value in node["inputs"].items() if isinstance(value, list)}
        node["inputs"] |= {key: [f"in{value[0]}", value[1]] for key, value in wires.items()}
    return prompt


def outer_wires(inner: dict[str, Any]) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """The node and input that each wire from outside ends at, and the blueprint's input that it comes from."""
    nodes = {node["id"]: node for node in inner["nodes"]}
    for link in inner["links"]:
        if link["origin_id"] == OUTSIDE:
            socket = nodes[link["target_id"]]["inputs"][link["target_slot"]]["name"]
            yield link["target_id"], socket, inner["inputs"][link["origin_slot"]]
