"""comfy-cli's workflow validator on every template and every blueprint, against what this server has."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from provoke.tools import registry, templates
from provoke.tools.environment import NEWEST
from provoke.tools.server import Client
from provoke.tools.workflow import to_prompt

from .test_blueprints import FILES, on_the_demo

EVERY = templates.load()
ONE = "Vary the demo world"


@pytest.mark.parametrize("template", EVERY, ids=lambda template: template.name)
def test_a_template_is_valid(
    template: templates.Template, client: Client, definitions: dict[str, Any], tmp_path: Path
) -> None:
    if client.get("/system_stats")["system"]["comfyui_version"] != NEWEST:
        pytest.skip("platform: an older ComfyUI lacks some of the nodes that templates use")
    files = [*template.needs, *([template.after] if template.after else [])]
    assert registry.workflow(to_prompt(template.graph, definitions), files, definitions, tmp_path) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_blueprint_is_valid(path: Path, definitions: dict[str, Any], tmp_path: Path) -> None:
    """As the page queues one: the nodes inside, among those outside."""
    prompt = on_the_demo(json.loads(path.read_text(encoding="utf-8")), definitions)
    assert registry.workflow(prompt, [], definitions, tmp_path) == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda node: node["inputs"].pop("image"),
        lambda node: node["inputs"].update(norm="L7"),
        lambda node: node["inputs"].update(image=["nobody", 0]),
        lambda node: node.update(class_type="ProvokeNothing"),
    ],
    ids=["an input is missing", "no such choice", "a wire from nowhere", "no such node"],
)
def test_it_would_find_a_mistake(spoil: Any, definitions: dict[str, Any], tmp_path: Path) -> None:
    (template,) = (found for found in EVERY if found.name == ONE)
    prompt = copy.deepcopy(to_prompt(template.graph, definitions))
    spoil(next(node for node in prompt.values() if node["class_type"] == "ProvokeUntargetedAttack"))
    assert registry.workflow(prompt, [], definitions, tmp_path) != []
