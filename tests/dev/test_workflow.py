"""The converter from saved workflows to prompts, on small graphs made by hand."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from provoke.tools.workflow import WorkflowError, to_prompt

DEFINITIONS: dict[str, Any] = {
    "Photo": {
        "display_name": "A Photo",
        "input": {
            "required": {"name": [["cat", "dog"], {}], "file": ["COMBO", {"options": ["a"], "image_upload": True}]}
        },
        "input_order": {"required": ["name", "file"]},
    },
    "Attack": {
        "input": {
            # Not in the page's order on purpose: input_order decides.
            "required": {
                "steps": ["INT", {"default": 20}],
                "image": ["IMAGE"],
                "seed": ["INT", {"default": 0, "control_after_generate": True}],
                "weights": ["STRING", {"forceInput": True}],
            },
            "optional": {
                "mask": ["MASK", {}],
                "count": ["INT", {"default": 4}],
                "rule": [
                    "COMFY_DYNAMICCOMBO_V3",
                    {
                        "options": [
                            {"key": "sign", "inputs": {"required": {}}},
                            {
                                "key": "adam",
                                "inputs": {
                                    "required": {"lr": ["FLOAT", {"default": 0.1}], "extra": ["IMAGE", {}]},
                                    "optional": {"seed": ["INT", {"default": 0}]},
                                },
                            },
                        ]
                    },
                ],
            },
        },
        "input_order": {"required": ["image", "seed", "steps", "weights"], "optional": ["mask", "count", "rule"]},
    },
    "Both": {"input": {"required": {"image": ["IMAGE", {}], "strength": ["FLOAT", {}]}}},
    "Show": {"input": {"required": {"images": ["IMAGE", {}]}}, "output_node": True},
}


def graph() -> dict[str, Any]:
    return {
        "nodes": [
            {"id": 1, "type": "Photo", "widgets_values": ["dog", "a", "image"], "outputs": [{"type": "IMAGE"}]},
            {
                "id": 2,
                "type": "Attack",
                "title": "Mine",
                "inputs": [
                    {"name": "image", "type": "IMAGE", "link": 10},
                    {"name": "mask", "type": "MASK", "link": None},
                ],
                "outputs": [{"type": "IMAGE"}],
                "widgets_values": [7, "fixed", 30, 4, "sign"],
            },
            {
                "id": 3,
                "type": "Show",
                "inputs": [{"name": "images", "type": "IMAGE", "link": 11}],
                "widgets_values": ["x"],
            },
            {"id": 4, "type": "MarkdownNote", "widgets_values": ["# words"]},
        ],
        "links": [[10, 1, 0, 2, 0, "IMAGE"], [11, 2, 0, 3, 0, "IMAGE"]],
    }


def node(saved: dict[str, Any], identity: int) -> dict[str, Any]:
    return next(found for found in saved["nodes"] if found["id"] == identity)


def test_widgets_links_and_notes() -> None:
    prompt = to_prompt(graph(), DEFINITIONS)
    assert prompt == {
        "1": {"class_type": "Photo", "inputs": {"name": "dog", "file": "a"}, "_meta": {"title": "A Photo"}},
        "2": {
            "class_type": "Attack",
            "inputs": {"seed": 7, "steps": 30, "count": 4, "rule": "sign", "image": ["1", 0]},
            "_meta": {"title": "Mine"},
        },
        "3": {"class_type": "Show", "inputs": {"images": ["2", 0]}, "_meta": {"title": "Show"}},
    }


def test_the_graph_is_left_alone() -> None:
    saved = graph()
    before = copy.deepcopy(saved)
    to_prompt(saved, DEFINITIONS)
    assert saved == before


def test_links_as_objects() -> None:
    saved = graph()
    keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    saved["links"] = [dict(zip(keys, link, strict=True)) for link in saved["links"]]
    assert to_prompt(saved, DEFINITIONS) == to_prompt(graph(), DEFINITIONS)


def test_a_dynamic_combo_brings_its_own_widgets() -> None:
    saved = graph()
    # The nested seed has a control too, as it is an INT of that name.
    node(saved, 2)["widgets_values"] = [7, "fixed", 30, 4, "adam", 0.25, 99, "randomize"]
    inputs = to_prompt(saved, DEFINITIONS)["2"]["inputs"]
    assert (inputs["rule"], inputs["rule.lr"], inputs["rule.seed"]) == ("adam", 0.25, 99)


def test_an_unknown_choice_of_a_dynamic_combo() -> None:
    saved = graph()
    node(saved, 2)["widgets_values"][4] = "newton"
    with pytest.raises(WorkflowError, match="'newton' is none of the choices of 'rule'"):
        to_prompt(saved, DEFINITIONS)


def test_inputs_appended_later_get_their_defaults() -> None:
    saved = graph()
    node(saved, 2)["widgets_values"] = [7, "fixed", 30]
    inputs = to_prompt(saved, DEFINITIONS)["2"]["inputs"]
    assert (inputs["count"], inputs["rule"]) == (4, "sign")


def test_too_many_values_are_refused() -> None:
    saved = graph()
    node(saved, 2)["widgets_values"].append(5)
    with pytest.raises(WorkflowError, match="has 6 widget values for the widgets"):
        to_prompt(saved, DEFINITIONS)


def test_what_an_output_node_shows_is_no_value() -> None:
    assert to_prompt(graph(), DEFINITIONS)["3"]["inputs"] == {"images": ["2", 0]}


def test_a_missing_value_without_default() -> None:
    saved = {"nodes": [{"id": 5, "type": "Both", "widgets_values": []}], "links": []}
    definitions = {"Both": {"input": {"required": {"kind": ["COMBO", {}]}}}}
    with pytest.raises(WorkflowError, match="no value for its widget 'kind'"):
        to_prompt(saved, definitions)


def test_values_by_name() -> None:
    saved = graph()
    node(saved, 2)["widgets_values"] = {"seed": 7, "steps": 30, "count": 4, "rule": "sign"}
    assert to_prompt(saved, DEFINITIONS) == to_prompt(graph(), DEFINITIONS)


def test_a_list_as_a_value_is_not_a_wire() -> None:
    saved = {"nodes": [{"id": 1, "type": "Both", "widgets_values": [["1", 0]]}], "links": []}
    assert to_prompt(saved, DEFINITIONS)["1"]["inputs"] == {"strength": {"__value__": ["1", 0]}}


def test_a_wired_widget_keeps_its_place_among_the_values() -> None:
    saved = graph()
    node(saved, 2)["inputs"].append({"name": "steps", "type": "INT", "widget": {"name": "steps"}, "link": 12})
    saved["links"].append([12, 1, 1, 2, 2, "INT"])
    inputs = to_prompt(saved, DEFINITIONS)["2"]["inputs"]
    assert (inputs["seed"], inputs["steps"], inputs["count"]) == (7, ["1", 1], 4)


def test_a_primitive_gives_its_value() -> None:
    saved = graph()
    saved["nodes"].append({"id": 6, "type": "PrimitiveNode", "widgets_values": [55, "fixed"]})
    node(saved, 2)["inputs"].append({"name": "steps", "type": "INT", "widget": {"name": "steps"}, "link": 12})
    saved["links"].append([12, 6, 0, 2, 2, "INT"])
    prompt = to_prompt(saved, DEFINITIONS)
    assert prompt["2"]["inputs"]["steps"] == 55
    assert "6" not in prompt


def test_reroutes_are_followed() -> None:
    saved = graph()
    saved["nodes"] += [
        {"id": 7, "type": "Reroute", "inputs": [{"name": "", "type": "*", "link": 10}]},
        {"id": 8, "type": "Reroute", "inputs": [{"name": "", "type": "*", "link": 13}]},
    ]
    saved["links"] += [[13, 7, 0, 8, 0, "*"], [14, 8, 0, 2, 0, "IMAGE"]]
    node(saved, 2)["inputs"][0]["link"] = 14
    assert to_prompt(saved, DEFINITIONS) == to_prompt(graph(), DEFINITIONS)


def test_a_bypassed_node_passes_its_input_on() -> None:
    saved = graph()
    node(saved, 2)["mode"] = 4
    prompt = to_prompt(saved, DEFINITIONS)
    assert "2" not in prompt
    assert prompt["3"]["inputs"] == {"images": ["1", 0]}


def test_a_muted_node_is_gone_with_its_wires() -> None:
    saved = graph()
    node(saved, 2)["mode"] = 2
    prompt = to_prompt(saved, DEFINITIONS)
    assert set(prompt) == {"1", "3"}
    assert prompt["3"]["inputs"] == {}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda saved: saved["nodes"].append({"id": 9, "type": "Nobody"}),
            "'Nobody', which this ComfyUI does not have",
        ),
        (lambda saved: saved["links"].pop(), "Link 11 into images of node 3"),
        (lambda saved: saved.update(definitions={"subgraphs": [{"id": "x"}]}), "has subgraphs"),
        (lambda saved: saved.update(nodes=[node(saved, 4)]), "no node that would run"),
    ],
)
def test_refusals(change: Any, words: str) -> None:
    saved = graph()
    change(saved)
    with pytest.raises(WorkflowError, match=words):
        to_prompt(saved, DEFINITIONS)


def test_a_circle_of_reroutes() -> None:
    saved = graph()
    saved["nodes"].append({"id": 7, "type": "Reroute", "inputs": [{"name": "", "type": "*", "link": 13}]})
    saved["links"] += [[13, 7, 0, 7, 0, "*"]]
    node(saved, 2)["inputs"][0]["link"] = 13
    with pytest.raises(WorkflowError, match="in a circle"):
        to_prompt(saved, DEFINITIONS)
