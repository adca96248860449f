"""The workflows that the pack ships, through the real server: they run, refuse nonsense, and can be cancelled."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from PIL import Image

from provoke.tools import templates
from provoke.tools.canvas import Canvas
from provoke.tools.environment import NEWEST
from provoke.tools.pack import ROOT
from provoke.tools.server import Client, Event, Rejected, Server
from provoke.tools.workflow import NOTES, to_prompt
from provoke.tools.workflows import blueprints, make

EVERY = templates.load()
NAMES = [template.name for template in templates.runnable(EVERY) if not template.needs]
AFTER = [template for template in EVERY if template.after]
NEEDING = [template for template in EVERY if template.needs and not template.after]
REFUSALS = {"value_not_in_list", "custom_validation_failed"}  # no such file; the latter is Load Image's
Nodes = dict[str, Any]


def prompt_of(name: str, definitions: Nodes) -> dict[str, dict[str, Any]]:
    (template,) = (found for found in EVERY if found.name == name)
    return to_prompt(template.graph, definitions)


@pytest.mark.parametrize("name", NAMES)
def test_a_template_runs_and_leaves_pictures(name: str, server: Server, client: Client, definitions: Nodes) -> None:
    (template,) = (found for found in EVERY if found.name == name)
    runs(template, server, client, definitions)


@pytest.mark.parametrize("template", AFTER, ids=lambda template: template.name)
def test_a_template_runs_on_what_another_has_left(
    template: templates.Template, server: Server, client: Client, definitions: Nodes
) -> None:
    (first,) = (found for found in EVERY if found.name == template.after)
    assert template.after in note_of(template)
    try:
        runs(template, server, client, definitions)
    except Rejected:  # nobody has run the first one on this server yet
        assert client.run(prompt_of(first.name, definitions)).status == "success"
        runs(template, server, client, definitions)


def runs(template: templates.Template, server: Server, client: Client, definitions: Nodes) -> None:
    """To its end, without a complaint, with pictures that are no blanks."""
    name = template.name
    result = client.run(prompt_of(name, definitions), workflow=template.graph)
    assert result.status == "success", f"node {result.error_node}: {result.error}"
    assert result.pictures
    for picture in result.pictures:
        with Image.open(io.BytesIO(client.fetch(picture))) as image:
            assert min(image.size) >= 16
            assert any(low != high for low, high in image.convert("RGB").getextrema()), f"{picture} is blank"
    assert server.problems() == []
    # What the demo says about pictures is said about pictures that exist.
    described = set(template.about.get("shows", {}))
    assert described <= {picture.node for picture in result.pictures} | set(result.texts)


def note_of(template: templates.Template) -> str:
    """The words of its notes."""
    return "\n".join(node["widgets_values"][0] for node in template.graph["nodes"] if node["type"] in NOTES)


@pytest.mark.parametrize("template", NEEDING, ids=lambda template: template.name)
def test_a_template_for_real_weights_lacks_nothing_but_them(
    template: templates.Template, client: Client, definitions: Nodes, ours: Nodes
) -> None:
    """Its name and its note say what it needs; the server refuses it for files that are not there, and nothing else."""
    assert "(needs " in template.name
    prompt = to_prompt(template.graph, definitions)
    with pytest.raises(Rejected) as caught:
        client.post("/prompt", {"prompt": prompt})
    missing = set()
    for node, found in caught.value.body["node_errors"].items():
        for error in found["errors"]:
            assert error["type"] in REFUSALS, f"node {node} ({found['class_type']}): {error}"
            missing.add("a photo" if found["class_type"] == "LoadImage" else error["extra_info"]["received_value"])
    assert missing == set(template.needs)
    for file in template.needs:
        assert file in note_of(template), f"the note does not say that it needs {file}"
    assert {node["class_type"] for node in prompt.values()} & set(ours)


def test_templates_that_are_made_by_code_are_what_the_code_makes(client: Client, definitions: Nodes) -> None:
    """With the widgets of the newest host, whose defaults an older one need not share."""
    if client.get("/system_stats")["system"]["comfyui_version"] != NEWEST:
        return
    kept = {template.name: template.graph for template in EVERY}
    for name, make_it in make.TEMPLATES.items():
        assert make_it(Canvas(definitions)) == kept[name], f"{name}: run `python dev.py run tools/workflows/make.py`"
    for name in blueprints.BLUEPRINTS:
        written = json.loads((ROOT / "subgraphs" / f"{name}.json").read_text(encoding="utf-8"))
        assert blueprints.made(name, definitions) == written, f"{name}: run `python dev.py run tools/workflows/make.py`"


def test_every_method_has_a_template_with_the_demo_and_one_for_real_weights(ours: Nodes) -> None:
    """Of each node some template shows how it is wired; of each method, in one of its forms, two."""
    used = [{node["type"] for node in template.graph["nodes"]} for template in EVERY]
    assert set(ours) - set().union(*used) == set(), "nodes that no template shows"
    with_weights = set().union(*({node["type"] for node in template.graph["nodes"]} for template in NEEDING))
    methods = {
        name.removesuffix("Custom") for name, node in ours.items() if node["category"] in ("Provoke/attack",)
    } | {"ProvokeLatentSearch", "ProvokeBestOfSeeds", "ProvokeAdversarialToken", "ProvokePromptSearch"}
    methods |= {"ProvokeVlmInversionSampler"}
    assert methods <= {name.removesuffix("Custom") for name in with_weights}


def test_the_pack_is_in_its_templates(definitions: Nodes, ours: Nodes) -> None:
    used = {node["class_type"] for name in NAMES for node in prompt_of(name, definitions).values()}
    assert used & set(ours)


def test_a_value_out_of_range_is_refused_in_words(client: Client, definitions: Nodes, ours: Nodes) -> None:
    """By the server, before anything runs: with a dynamic combo or a validate_inputs this is easily lost."""
    tried = set()
    for name in NAMES:
        for identity, node in prompt_of(name, definitions).items():
            if node["class_type"] not in ours:
                continue
            for key, bound in lower_bounds(ours[node["class_type"]]).items():
                if (node["class_type"], key) in tried or not isinstance(node["inputs"].get(key), int | float):
                    continue
                tried.add((node["class_type"], key))
                prompt = only_what_needs(identity, prompt_of(name, definitions), definitions)
                prompt[identity]["inputs"][key] = bound - 1
                with pytest.raises(Rejected) as caught:
                    client.post("/prompt", {"prompt": prompt})
                assert caught.value.status == 400
                assert key in caught.value.text
                assert "smaller than min" in caught.value.text
    assert tried


def only_what_needs(identity: str, prompt: dict[str, Any], definitions: Nodes) -> dict[str, Any]:
    """A prompt without the output nodes that run without a node: the server would still take it for their sake."""

    def needs(node: str) -> bool:
        wires = [value for value in prompt[node]["inputs"].values() if isinstance(value, list)]
        return node == identity or any(needs(wire[0]) for wire in wires)

    outputs = {node for node in prompt if definitions[prompt[node]["class_type"]].get("output_node")}
    return {node: body for node, body in prompt.items() if node not in outputs or needs(node)}


def lower_bounds(definition: dict[str, Any]) -> dict[str, float]:
    """The numbers among a node's inputs that have a minimum."""
    declared = {**definition["input"].get("required", {}), **definition["input"].get("optional", {})}
    return {
        name: options[1]["min"]
        for name, options in declared.items()
        if options[0] in ("INT", "FLOAT") and len(options) > 1 and "min" in options[1]
    }


def test_a_missing_picture_is_refused_in_words(client: Client, definitions: Nodes, ours: Nodes) -> None:
    """A required socket that is not connected: the answer names the node and the input."""
    for name in NAMES:
        for identity, node in prompt_of(name, definitions).items():
            required = ours.get(node["class_type"], {"input": {}})["input"].get("required", {})
            for key in (key for key in required if isinstance(node["inputs"].get(key), list)):
                prompt = only_what_needs(identity, prompt_of(name, definitions), definitions)
                del prompt[identity]["inputs"][key]
                with pytest.raises(Rejected, match=key) as caught:
                    client.post("/prompt", {"prompt": prompt})
                assert node["class_type"] in caught.value.text
                return
    pytest.fail("no template has a Provoke node with a connected required input")


def long_run(definitions: Nodes, ours: Nodes) -> tuple[str, str, dict[str, dict[str, Any]]]:
    """A template, one of its Provoke nodes, and its prompt in which that node takes many steps.

    Not more than 200: the host's progress bar is silent about steps that are less than half a percent.
    """
    for name in NAMES:
        prompt = prompt_of(name, definitions)
        for identity, node in prompt.items():
            required = ours.get(node["class_type"], {"input": {}})["input"].get("required", {})
            key = "search_steps" if "search_steps" in required else "steps"
            samples = key == "steps" and "denoise" in required  # a sampler's own steps are no search
            if key in required and not samples:
                node["inputs"][key] = min(200, required[key][1]["max"])
                return name, identity, prompt
    pytest.fail("no template has a Provoke node with steps")


def test_cancel_stops_within_two_steps_and_the_next_prompt_runs(
    server: Server, client: Client, definitions: Nodes, ours: Nodes
) -> None:
    name, searching, prompt = long_run(definitions, ours)
    heard: list[float] = []
    asked: list[float] = []

    def cancel_in_the_middle(event: Event) -> None:
        if event.kind == "progress" and event.node == searching:
            heard.append(event.value)
            if len(heard) == 4:
                asked.append(event.value)
                client.interrupt()

    result = client.run(prompt, on_event=cancel_in_the_middle, timeout=300)
    assert result.status == "interrupted", result.error
    # The step that was running, and one that began while the request was on its way.
    assert heard[-1] <= asked[0] + 2
    again = client.run(prompt_of(name, definitions))
    assert again.status == "success", again.error
    assert again.pictures
    assert server.problems() == []
