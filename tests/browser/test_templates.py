"""Every template as the page opens it: no node missing, and it looks as it did when somebody looked at it."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from provoke.tools import screens, templates
from provoke.tools.browser import CANVAS, RENDERERS, Tab
from provoke.tools.environment import PAGE
from provoke.tools.templates import Template

from .conftest import node_of

NAMES = sorted(path.stem for path in templates.FOLDER.glob("*.json"))
ONE = "Vary the demo world"


def kept(name: str, renderer: str) -> Image.Image:
    with Image.open(screens.path_of(name, renderer)) as picture:
        return picture.convert("RGB")


# what the page works out anew: sockets (a widget is one too, and a wire then ends at another place), sizes, the order;
# and what a preview shows, which some pages keep as if it were its value
WORKED_OUT = {"inputs", "outputs", "size", "order"}
Wire = tuple[int, str, int, str, str]


def wires(graph: dict[str, Any]) -> set[Wire]:
    """From a node's output to a node's input, by their names."""
    nodes = {node["id"]: node for node in graph["nodes"]}
    return {
        (origin, nodes[origin]["outputs"][out]["name"], target, nodes[target]["inputs"][put]["name"], kind)
        for _, origin, out, target, put, kind in graph["links"]
    }


def kept_of(node: dict[str, Any], keys: set[str]) -> dict[str, Any]:
    """What a node's entry says under these keys. Its place is rounded to pixels: some pages move a node by a
    hundred-thousandth of one."""
    said = {key: node.get(key) for key in keys}
    return said | {"pos": [round(one) for one in node["pos"]]}


def assert_saved_as_opened(tab: Tab, name: str, made: dict[str, Any]) -> None:
    """Nodes (values, titles, places, modes), wires, groups and what the file says besides; but the view (`ds`)."""
    saved = tab.page.evaluate("() => window.app.graph.serialize()")
    again = {node["id"]: node for node in saved["nodes"]}
    assert set(again) == {node["id"] for node in made["nodes"]}
    for node in made["nodes"]:
        keys = set(node) - WORKED_OUT - ({"widgets_values"} if node["type"] == "PreviewAny" else set())
        assert kept_of(again[node["id"]], keys) == kept_of(node, keys), name
    assert wires(saved) == wires(made), name
    # an older page writes the size of a title too
    groups = [{key: group.get(key) for key in of} for group, of in zip(saved["groups"], made["groups"], strict=True)]
    assert groups == made["groups"], name
    extra = {key: value for key, value in made["extra"].items() if key != "ds"}
    assert {key: saved["extra"].get(key) for key in extra} == extra, name


@pytest.mark.parametrize("renderer", RENDERERS)
def test_templates_open_look_as_they_did_and_are_saved_unchanged(
    tab: Tab, graph: Callable[[str], Any], renderer: str, tmp_path: Path
) -> None:
    tab.render(renderer)
    changed = {}
    for name in NAMES:
        made = graph(name)
        now = screens.opened(tab, Template(name, made))  # raises where a node is missing
        assert_saved_as_opened(tab, name, made)
        if PAGE in os.environ:
            continue  # the pictures are of the newest host's page
        path = screens.path_of(name, renderer)
        changed[name] = screens.difference(now, kept(name, renderer)) if path.exists() else 1.0
        if changed[name] > screens.TOLERATED:
            now.save(tmp_path / f"{path.stem}.png")
    bad = {name: round(share, 4) for name, share in changed.items() if share > screens.TOLERATED}
    assert not bad, f"as they look now: {tmp_path}. If that is right: python dev.py run tools/screens.py"


def test_another_wire_title_or_value_would_be_seen(tab: Tab, graph: Callable[[str], Any]) -> None:
    first = "graph._nodes.find((node) => node.type === 'SaveImage')"
    widgets = "graph._nodes.flatMap((node) => node.widgets ?? [])"
    for change in (
        f"{first}.disconnectInput(0)",
        f"{first}.title = 'another'",
        "graph._groups[0].title = 'another'",
        f"{widgets}.find((widget) => widget.name === 'epsilon').value += 0.1",
    ):
        made = graph(ONE)
        assert tab.load(ONE, made) == []
        assert_saved_as_opened(tab, ONE, made)
        tab.page.evaluate(f"() => {{ const {{ graph }} = window.app; {change} }}")
        with pytest.raises(AssertionError):
            assert_saved_as_opened(tab, ONE, made)


def test_no_picture_is_of_a_template_that_is_gone() -> None:
    wanted = {screens.path_of(name, renderer) for name in NAMES for renderer in RENDERERS}
    assert set(screens.SCREENS.iterdir()) == wanted


def test_a_missing_node_or_widget_would_be_seen(tab: Tab, graph: Callable[[str], Any]) -> None:
    whole = graph(ONE)
    before = screens.opened(tab, Template(ONE, whole)) if PAGE in os.environ else kept(ONE, CANVAS)
    lacking = copy.deepcopy(whole)
    lost = node_of(lacking, "PreviewAny")
    lacking["nodes"].remove(lost)
    links = {link["link"] for link in lost["inputs"]}
    lacking["links"] = [link for link in lacking["links"] if link[0] not in links]
    assert screens.difference(screens.opened(tab, Template(ONE, lacking)), before) > screens.TOLERATED
    tab.load(ONE, whole)
    tab.page.evaluate(
        "() => { const node = window.app.graph._nodes.find((node) => node.type === 'ProvokeUntargetedAttack');"
        " node.widgets.splice(node.widgets.findIndex((widget) => widget.name === 'steps'), 1) }"
    )
    tab.frame()
    assert screens.difference(screens.shown(tab.picture()), before) > screens.TOLERATED
