"""A saved picture says how to make it again: read back from the PNG that the host's own Save Image wrote."""

from __future__ import annotations

import concurrent.futures
import copy
import io
import itertools
import json
from typing import Any

import pytest
import torch
from PIL import Image

from provoke.tools import templates
from provoke.tools.server import Client, Event, Result
from provoke.tools.workflow import to_prompt

Prompt = dict[str, dict[str, Any]]
NAME = "Vary the demo world"
ATTACK, SAVES = "ProvokeUntargetedAttack", "SaveImage"
SEEDS = itertools.count(7_000)  # what the server has computed once it has: other tests must not have asked before


@pytest.fixture
def prompt(definitions: dict[str, Any]) -> Prompt:
    """The template with a short search that nobody has run."""
    (template,) = (found for found in templates.load() if found.name == NAME)
    made = to_prompt(template.graph, definitions)
    node_of(made, ATTACK)["inputs"] |= {"steps": 3, "count": 2, "seed": next(SEEDS), "epsilon": 6.0}
    return made


def name_of(prompt: Prompt, kind: str) -> str:
    return next(name for name, node in prompt.items() if node["class_type"] == kind)


def node_of(prompt: Prompt, kind: str) -> dict[str, Any]:
    return prompt[name_of(prompt, kind)]


def run(client: Client, prompt: Prompt, metadata: dict[str, Any] | None = None) -> tuple[Result, list[str]]:
    """How it ended, and the nodes that were executed."""
    executed: list[str] = []

    def hear(event: Event) -> None:
        if event.kind == "node":
            executed.append(event.node)

    result = client.run(prompt, on_event=hear, metadata={"workflow": {"id": "flow"}} if metadata is None else metadata)
    assert result.status == "success", result.error
    return result, executed


def texts(client: Client, result: Result, node: str) -> dict[str, str]:
    """What the first PNG of a node has in it."""
    picture = next(picture for picture in result.pictures if picture.node == node)
    with Image.open(io.BytesIO(client.fetch(picture))) as image:
        return {str(key): str(value) for key, value in image.text.items()}  # type: ignore[attr-defined]


def recipe(client: Client, result: Result, node: str) -> dict[str, Any]:
    return dict(json.loads(texts(client, result, node)["provoke"]))


def test_a_saved_picture_says_how_to_make_it_again(client: Client, prompt: Prompt) -> None:
    search, saves = name_of(prompt, ATTACK), name_of(prompt, SAVES)
    result, _ = run(client, prompt)
    told = recipe(client, result, saves)
    assert told["format"] == "provoke recipe 1"
    host = client.get("/system_stats")["system"]
    assert told["versions"]["comfyui"] == host["comfyui_version"]
    assert told["versions"]["torch"] == host["pytorch_version"] == torch.__version__
    assert told["versions"]["provoke"].count(".") == 2
    assert told["device"] == "cpu"
    assert list(told["nodes"]) == [search]
    (record,) = told["nodes"][search]
    assert record["node"] == ATTACK
    # every value, those of hidden widgets too; and in words what came in on wires
    given = {key: value for key, value in prompt[search]["inputs"].items() if not isinstance(value, list)}
    assert {key: record["inputs"][key] for key in given} == given
    assert record["inputs"]["image"].endswith(" x 3")
    assert record["inputs"]["model"] == "ImageModelDescriptor"
    found = record["search"]
    assert set(found["parts"]) == {"change", "contrast", "diversity"}
    weights = {"change": 1.0, "contrast": given["variance_weight"], "diversity": given["diversity"]}
    assert found["score"] == pytest.approx(sum(weights[key] * found["parts"][key] for key in weights), rel=2e-3)
    assert (found["steps"], found["ended"]) == (3, "all steps done")
    assert 0 < found["budget_used"] <= 1.001
    report = next(text for text in result.texts.values() if text.startswith("model "))
    assert record["gave"]["report"] == report
    assert f"seed {given['seed']}" in report
    assert "epsilon 6" in report


def test_it_is_enough_to_make_the_same_again(client: Client, prompt: Prompt) -> None:
    """The record's values, in place of the node's, on a graph that had others: the same picture."""
    search, saves = name_of(prompt, ATTACK), name_of(prompt, SAVES)
    first, _ = run(client, prompt)
    kept = recipe(client, first, saves)["nodes"][search][0]["inputs"]
    other = copy.deepcopy(prompt)
    other[search]["inputs"] |= {"seed": next(SEEDS), "epsilon": 2.0, "steps": 1, "step_rule": "PGD", "norm": "L2"}
    between, _ = run(client, other)
    wires = {key: value for key, value in other[search]["inputs"].items() if isinstance(value, list)}
    widgets = {key: kept[key] for key in other[search]["inputs"] if key not in wires}
    other[search]["inputs"] = {**wires, **widgets}
    other[saves]["inputs"]["filename_prefix"] += "-again"
    second, _ = run(client, other)
    pictures = [pixels(client, result, saves) for result in (first, second, between)]
    assert pictures[0] == pictures[1]
    assert pictures[0] != pictures[2]


def pixels(client: Client, result: Result, node: str) -> bytes:
    picture = next(picture for picture in result.pictures if picture.node == node)
    with Image.open(io.BytesIO(client.fetch(picture))) as image:
        return image.convert("RGB").tobytes()


def test_it_is_there_when_the_host_does_not_search_again(client: Client, prompt: Prompt) -> None:
    search, saves = name_of(prompt, ATTACK), name_of(prompt, SAVES)
    first, executed = run(client, prompt)
    assert search in executed
    prompt[saves]["inputs"]["filename_prefix"] += "-renamed"
    second, executed = run(client, prompt)
    assert saves in executed
    assert search not in executed
    assert recipe(client, second, saves) == recipe(client, first, saves)
    prompt[search]["inputs"]["seed"] = seed = next(SEEDS)
    third, executed = run(client, prompt)
    assert search in executed
    assert recipe(client, third, saves)["nodes"][search][0]["inputs"]["seed"] == seed


def test_it_is_there_in_a_prompt_that_waited_behind_the_search(client: Client, prompt: Prompt) -> None:
    """Queued while the other one searches, it comes in before there is anything to know of it."""
    search, saves = name_of(prompt, ATTACK), name_of(prompt, SAVES)
    prompt[search]["inputs"] |= {"steps": 12}
    behind = copy.deepcopy(prompt)
    behind[saves]["inputs"]["filename_prefix"] += "-behind"
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting: list[concurrent.futures.Future[tuple[Result, list[str]]]] = []

        def hear(event: Event) -> None:
            if event.kind == "progress" and event.node == search and not waiting:
                waiting.append(pool.submit(run, Client(client.url), behind))

        first = client.run(prompt, on_event=hear, metadata={"workflow": {"id": "flow"}})
        second, executed = waiting[0].result(timeout=300)
    assert search not in executed
    assert recipe(client, second, saves) == recipe(client, first, saves)


def test_several_searches_and_subgraphs(client: Client, prompt: Prompt) -> None:
    """ "12:5" is what the page calls node 5 in the subgraph that is node 12. Equal nodes are computed once."""
    search, saves = name_of(prompt, ATTACK), name_of(prompt, SAVES)
    prompt["12:5"] = copy.deepcopy(prompt[search])
    prompt["12:6"] = copy.deepcopy(prompt[search])
    prompt["12:5"]["inputs"]["seed"] = other = next(SEEDS)
    prompt["join"] = {"class_type": "ImageBatch", "inputs": {"image1": [search, 0], "image2": ["12:5", 0]}}
    prompt["all"] = {"class_type": "ImageBatch", "inputs": {"image1": ["join", 0], "image2": ["12:6", 0]}}
    prompt[saves]["inputs"]["images"] = ["all", 0]
    result, executed = run(client, prompt)
    assert len({search, "12:6"} & set(executed)) == 1
    told = recipe(client, result, saves)["nodes"]
    assert set(told) == {search, "12:5", "12:6"}
    assert told["12:6"] == told[search]
    assert told["12:5"][0]["inputs"]["seed"] == other
    assert told["12:5"][0]["search"]["score"] != told[search][0]["search"]["score"]


def test_a_list_makes_a_record_for_each(client: Client, prompt: Prompt, definitions: dict[str, Any]) -> None:
    """Best of Seeds gives its seeds as a list; the host executes what they are wired to once for each."""
    search, saves = name_of(prompt, ATTACK), name_of(prompt, SAVES)
    encode = {"class_type": "CLIPTextEncode", "inputs": {"clip": ["models", 1], "text": "a red circle"}}
    wanted = {"class_type": "ProvokeClipObjective", "inputs": widgets(definitions["ProvokeClipObjective"])}
    wanted["inputs"] |= {"scorer": ["scorer", 0], "text": "a blue square"}
    best = {"class_type": "ProvokeBestOfSeeds", "inputs": widgets(definitions["ProvokeBestOfSeeds"])}
    best["inputs"] |= {"model": ["models", 0], "positive": ["words", 0], "negative": ["words", 0], "vae": ["models", 2]}
    best["inputs"] |= {"latent_image": ["empty", 0], "objective": ["wanted", 0], "steps": 2, "seeds": 3, "keep": 2}
    best["inputs"] |= {"noise_seed": next(SEEDS)}
    prompt |= {
        "models": {"class_type": "ProvokeLoadDemoModels", "inputs": {"model": "4 steps"}},
        "words": encode,
        "empty": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "scorer": {"class_type": "ProvokeLoadScorer", "inputs": {"scorer": "first"}},
        "wanted": wanted,
        "best": best,
    }
    prompt[search]["inputs"]["seed"] = ["best", 2]
    result, _ = run(client, prompt)
    told = recipe(client, result, saves)["nodes"]
    (picked,) = told["best"]
    assert picked["inputs"]["objective"] == "similarity to 'a blue square'"
    seeds = picked["gave"]["seeds"]
    assert len(seeds) == len(set(seeds)) == 2
    # a value that came over a wire is there as it came
    assert [record["inputs"]["seed"] for record in told[search]] == seeds
    prompt[saves]["inputs"]["filename_prefix"] += "-renamed"
    again, executed = run(client, prompt)
    assert not {"best", search} & set(executed)
    assert recipe(client, again, saves)["nodes"] == told


def widgets(definition: dict[str, Any]) -> dict[str, Any]:
    """The defaults of its widgets."""
    made = {}
    for part in ("required", "optional"):
        for name, (kind, *options) in definition["input"].get(part, {}).items():
            choices = kind if isinstance(kind, list) else (options[0] if options else {}).get("options")
            if options and "default" in options[0]:
                made[name] = options[0]["default"]
            elif choices and isinstance(choices[0], str):
                made[name] = choices[0]
    return made


def test_a_search_in_a_node_of_the_host_has_one_too(client: Client, definitions: dict[str, Any]) -> None:
    """VLM Inversion as a SAMPLER: its own node says with which values, SamplerCustomAdvanced what was found."""
    (template,) = (found for found in templates.load() if found.name == "VLM inversion as a sampler")
    made = to_prompt(template.graph, definitions)
    sampler, host, saves = (name_of(made, kind) for kind in ("ProvokeVlmInversion", "SamplerCustomAdvanced", SAVES))
    made[sampler]["inputs"] |= {"steps": 2}
    made[name_of(made, "RandomNoise")]["inputs"]["noise_seed"] = next(SEEDS)
    result, _ = run(client, made)
    told = recipe(client, result, saves)["nodes"]
    assert {sampler, host} <= set(told)
    assert told[sampler][0]["inputs"]["steps"] == 2
    assert told[host][0]["node"] == "SamplerCustomAdvanced"
    assert told[host][0]["search"]["steps"] == 2
    made[saves]["inputs"]["filename_prefix"] += "-renamed"
    again, executed = run(client, made)
    assert host not in executed
    assert recipe(client, again, saves)["nodes"] == told


def test_nothing_else_in_the_metadata_changes(client: Client, prompt: Prompt) -> None:
    saves = name_of(prompt, SAVES)
    mine = {"workflow": {"id": "flow", "nodes": [1, 2]}, "artist": "somebody", "note": {"provoke": 1}}
    result, _ = run(client, prompt, mine)
    found = texts(client, result, saves)
    assert set(found) == {*mine, "prompt", "provoke"}
    assert {key: json.loads(found[key]) for key in mine} == mine
    assert json.loads(found["prompt"]) == prompt


def test_what_somebody_else_calls_provoke_stays_theirs(client: Client, prompt: Prompt) -> None:
    saves = name_of(prompt, SAVES)
    result, _ = run(client, prompt, {"provoke": {"mine": 1}})
    assert json.loads(texts(client, result, saves)["provoke"]) == {"mine": 1}


def test_metadata_that_is_sent_back_is_not_believed(client: Client, prompt: Prompt) -> None:
    """Somebody queues again with all that a picture had in it: the old record is not this run's."""
    search, saves = name_of(prompt, ATTACK), name_of(prompt, SAVES)
    first, _ = run(client, prompt)
    old = recipe(client, first, saves)
    old["nodes"]["gone"] = old["nodes"][search]
    prompt[search]["inputs"]["seed"] = seed = next(SEEDS)
    second, _ = run(client, prompt, {"provoke": old})
    told = recipe(client, second, saves)["nodes"]
    assert set(told) == {search}
    assert told[search][0]["inputs"]["seed"] == seed


def test_a_client_without_metadata_gets_none(client: Client, prompt: Prompt) -> None:
    result = client.run(prompt)
    assert result.status == "success"
    assert set(texts(client, result, name_of(prompt, SAVES))) == {"prompt"}


def test_a_prompt_without_a_search_gets_none(client: Client) -> None:
    prompt = {
        "grey": {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 16, "batch_size": 1, "color": 999}},
        "save": {"class_type": SAVES, "inputs": {"images": ["grey", 0], "filename_prefix": "plain"}},
    }
    result, _ = run(client, prompt)
    assert set(texts(client, result, "save")) == {"prompt", "workflow"}
