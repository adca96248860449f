"""The records of what searched: whose metadata they go into, when they are made, and that nobody else's are touched."""

from __future__ import annotations

import asyncio
import copy
import gc
import json
import uuid
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

NODE, OTHER = "ProvokeUntargetedAttack", "SaveImage"


@pytest.fixture
def recipe(comfy: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Any:
    from provoke.host import recipe

    monkeypatch.setattr(recipe, "_remembered", type(recipe._remembered)())
    return recipe


def request(*, steps: int = 4, prefix: str = "a", **more: Any) -> dict[str, Any]:
    """What a page sends."""
    prompt = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}},
        "2": {"class_type": NODE, "inputs": {"image": ["1", 0], "steps": steps}},
        "3": {"class_type": OTHER, "inputs": {"images": ["2", 0], "filename_prefix": prefix}},
    }
    return {"prompt": prompt, "extra_data": {"extra_pnginfo": {"workflow": {"id": "flow"}}}, **more}


def searching(recipe: Any, queued: dict[str, Any], node: str = "2", *, steps: int = 4, call: int = 0) -> Any:
    """As the executor runs a node of ours."""
    from comfy_execution.utils import CurrentNodeContext

    from provoke.host.api import io

    class Node(io.SearchNode):
        @classmethod
        def define_schema(cls) -> Any:
            return io.Schema(
                node_id=NODE,
                display_name="Vary Result",
                inputs=[],
                outputs=[io.Image.Output("results"), io.String.Output("report")],
            )

        @classmethod
        def execute(cls, image: Any, steps: int, direction: str = "towards", **rest: Any) -> Any:
            recipe.searched({"score": 1.0 * steps, "best": float("nan")})
            return io.NodeOutput(torch.zeros(1), f"{steps} steps")

    with CurrentNodeContext(queued["prompt_id"], node, call):
        return Node.execute(image=torch.zeros(2, 8, 8, 3), steps=steps, method="gradient")


def records(recipe: Any, queued: dict[str, Any]) -> dict[str, Any]:
    told = queued["extra_data"]["extra_pnginfo"].get(recipe.KEY, {"nodes": {}})
    return dict(json.loads(json.dumps(told, allow_nan=False))["nodes"])


def test_a_record_of_all_that_came_and_what_was_found(recipe: Any) -> None:
    queued = recipe.prepared(request())
    searching(recipe, queued)
    (record,) = records(recipe, queued)["2"]
    assert record == {
        "node": NODE,
        "title": "Vary Result",
        "search": {"score": 4.0, "best": None},
        "inputs": {"image": "2 x 8 x 8 x 3", "steps": 4, "direction": "towards", "method": "gradient"},
        "gave": {"report": "4 steps"},
    }


def test_a_prompt_that_waits_is_told_too(recipe: Any) -> None:
    """The host gives it this result without asking the node again; one that asks for something else is not told."""
    queued = recipe.prepared(request())
    behind, other = recipe.prepared(request(prefix="b")), recipe.prepared(request(steps=5))
    searching(recipe, queued)
    assert records(recipe, behind) == records(recipe, queued) != {}
    assert records(recipe, other) == {}


def test_the_request_is_left_as_it_was(recipe: Any) -> None:
    came = request()
    before = copy.deepcopy(came)
    queued = recipe.prepared(came)
    searching(recipe, queued)
    assert came == before
    assert queued["prompt"] is came["prompt"]
    assert {**queued["extra_data"]["extra_pnginfo"], recipe.KEY: None} == {"workflow": {"id": "flow"}, recipe.KEY: None}
    assert str(uuid.UUID(queued["prompt_id"])) == queued["prompt_id"]  # as the host wants it
    named = str(uuid.uuid4())
    assert recipe.prepared(request(prompt_id=named))["prompt_id"] == named


def test_the_hosts_copies_are_copies(recipe: Any) -> None:
    """Its queue keeps one of what runs; what the node adds later is not in it, and it can be sent to a page."""
    queued = recipe.prepared(request())
    kept = copy.deepcopy(queued)
    searching(recipe, queued)
    assert recipe.KEY not in kept["extra_data"]["extra_pnginfo"]
    assert json.loads(json.dumps(kept)) == {**request(), "prompt_id": queued["prompt_id"]}


def test_what_another_prompt_has_stays(recipe: Any) -> None:
    first = recipe.prepared(request())
    searching(recipe, first)
    before = records(recipe, first)
    second = recipe.prepared(request(prefix="b"))
    assert records(recipe, second) == before  # the host will not execute the node again
    assert second["extra_data"]["extra_pnginfo"] is not first["extra_data"]["extra_pnginfo"]
    searching(recipe, second, steps=9)  # or it does
    assert records(recipe, second)["2"][0]["gave"] == {"report": "9 steps"}
    assert records(recipe, first) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda prompt: prompt["2"]["inputs"].update(steps=5),
        lambda prompt: prompt["1"]["inputs"].update(image="b.png"),
        lambda prompt: prompt["2"]["inputs"].update(image=["1", 1]),
        lambda prompt: prompt["2"]["inputs"].update(image="1"),
        lambda prompt: prompt["2"].update(class_type="ProvokeClipTargetedAttack"),
    ],
)
def test_what_decides_the_result_decides_the_record(recipe: Any, change: Any) -> None:
    searching(recipe, recipe.prepared(request()))
    renamed = request()
    renamed["prompt"] = {
        f"9:{name}": {**node, "inputs": {k: [f"9:{v[0]}", v[1]] if isinstance(v, list) else v for k, v in puts.items()}}
        for name, node in renamed["prompt"].items()
        for puts in [node["inputs"]]
    }
    assert set(records(recipe, recipe.prepared(renamed))) == {"9:2"}  # ids do not
    other = request()
    change(other["prompt"])
    assert records(recipe, recipe.prepared(other)) == {}


def test_calls_of_a_list_are_kept_apart_and_begin_anew(recipe: Any) -> None:
    queued = recipe.prepared(request())
    for call, steps in enumerate((3, 5, 7)):
        searching(recipe, queued, steps=steps, call=call)
    assert [one["inputs"]["steps"] for one in records(recipe, queued)["2"]] == [3, 5, 7]
    again = recipe.prepared(request())
    assert records(recipe, again) == records(recipe, queued)
    searching(recipe, again, steps=2)
    assert [one["inputs"]["steps"] for one in records(recipe, again)["2"]] == [2]


def test_one_that_failed_is_not_remembered(recipe: Any) -> None:
    from comfy_execution.utils import CurrentNodeContext

    queued = recipe.prepared(request())
    with CurrentNodeContext(queued["prompt_id"], "2", 0):
        recipe.searched({"score": 1.0})  # and then an error, or Cancel
    assert records(recipe, recipe.prepared(request())) == {}


def test_what_a_node_expands_into_has_a_record_too(recipe: Any) -> None:
    queued = recipe.prepared(request())
    searching(recipe, queued, "2.0.0.1")
    assert records(recipe, queued)["2.0.0.1"][0]["node"] == NODE


def test_outside_of_a_queued_prompt_nothing_happens(recipe: Any) -> None:
    gone = {"prompt_id": str(uuid.uuid4())}
    assert searching(recipe, gone).args[1] == "4 steps"
    assert len(recipe._remembered) == 0
    queued = recipe.prepared(request())
    number = queued["prompt_id"]
    assert number in recipe._prompts
    del queued
    gc.collect()
    assert number not in recipe._prompts  # the host has forgotten it, and so have we


def test_old_ones_are_forgotten(recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "REMEMBERED", 3)
    for steps in range(6):
        searching(recipe, recipe.prepared(request(steps=steps)), steps=steps)
    known = [bool(records(recipe, recipe.prepared(request(steps=steps)))) for steps in range(6)]
    assert known == [False] * 3 + [True] * 3


UNUSABLE: list[dict[str, Any]] = [
    {},
    {"prompt": None},
    {"prompt": []},
    {"prompt": {"1": None, "2": {}}},
    {**request(), "extra_data": None},
    {**request(), "extra_data": {}},
    {**request(), "extra_data": {"extra_pnginfo": None}},
    {**request(), "extra_data": {"extra_pnginfo": [1]}},
    {"prompt": {"1": {"class_type": OTHER, "inputs": {}}}, "extra_data": {"extra_pnginfo": {}}},
]


@pytest.mark.parametrize("came", UNUSABLE)
def test_what_has_no_use_for_it_passes_as_it_came(recipe: Any, came: dict[str, Any]) -> None:
    assert recipe.prepared(came) is came


@pytest.mark.parametrize(
    "inputs",
    [
        {"image": ["2", 0]},
        {"image": ["nobody", 0]},
        None,
        [1],
        {"image": ["3", 0]},
    ],
)
def test_a_prompt_that_the_host_will_refuse_is_no_trouble(recipe: Any, inputs: Any) -> None:
    """A circle, a wire from nowhere, no inputs at all: nobody has looked at it yet."""
    came = request()
    came["prompt"]["2"]["inputs"] = inputs
    queued = recipe.prepared(came)
    searching(recipe, queued)
    assert set(records(recipe, queued)) == {"2"}


def test_a_long_chain_is_no_trouble(recipe: Any) -> None:
    """Longer than Python lets a function call itself."""
    came = request()
    names = [f"chain {i}" for i in range(1500)]
    for before, name in zip(["2", *names], names, strict=False):
        came["prompt"][name] = {"class_type": OTHER, "inputs": {"image": [before, 0]}}
    queued = recipe.prepared(came)
    nodes = queued["extra_data"]["extra_pnginfo"].nodes
    assert len({nodes[name].key for name in names}) == len(names)


def test_words_for_what_came_on_wires(recipe: Any, graph: Any) -> None:
    conditioning = [[torch.zeros(1, 77, 8), {}], [torch.zeros(1, 77, 8), {}]]
    assert recipe.in_words(conditioning) == "conditioning 1 x 77 x 8, conditioning 1 x 77 x 8"
    assert recipe.in_words({"samples": torch.zeros(1, 4, 8, 8)}) == "latent 1 x 4 x 8 x 8"
    assert recipe.in_words(SimpleNamespace(name="similarity to 'a cat'")) == "similarity to 'a cat'"
    assert recipe.in_words({"rule": "adam", "rate": 0.5}) == {"rule": "adam", "rate": 0.5}
    assert recipe.in_words([1, "a", None]) == [1, "a", None]
    assert recipe.in_words(object()) == "object"


@pytest.fixture
def every(nodes: ModuleType) -> list[Any]:
    return asyncio.run(nodes.Provoke().get_node_list())


def test_every_node_that_searches_leaves_one(every: list[Any]) -> None:
    """And no other: an objective or a loader finds nothing."""
    from provoke.host.api import io

    searches = {"steps", "search_steps", "seeds"}
    found = {
        node.define_schema().node_id
        for node in every
        if node.define_schema().category in ("Provoke/attack", "Provoke/search")
        and searches & {put.id for put in node.define_schema().inputs}
    }
    assert len(found) == 13
    assert found == {node.define_schema().node_id for node in every if issubclass(node, io.SearchNode)}


def test_the_hosts_clone_of_a_class_leaves_one_and_not_two(every: list[Any]) -> None:
    from provoke.host.api import io

    for node in every:
        if issubclass(node, io.SearchNode):
            executed = node.PREPARE_CLASS_CLONE(None).execute.__func__
            assert not hasattr(executed.__wrapped__, "__wrapped__")
