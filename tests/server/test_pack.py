"""The pack as the server presents it to the page: nodes, help, templates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from provoke.tools import locales
from provoke.tools.pack import ROOT
from provoke.tools.server import Client, Server


def test_the_pack_loads_without_a_complaint(server: Server, ours: dict[str, Any]) -> None:
    assert server.problems() == []
    assert "custom_nodes/provoke" in server.log_text().replace("\\", "/")


def test_nodes_carry_the_packs_prefix(definitions: dict[str, Any], ours: dict[str, Any]) -> None:
    named = {name for name, node in definitions.items() if str(node.get("python_module")).endswith(".provoke")}
    assert named == set(ours)
    assert all(name.startswith("Provoke") for name in named)


def test_nodes_explain_themselves(ours: dict[str, Any]) -> None:
    silent = [name for name, node in ours.items() if not (node.get("description") and node.get("display_name"))]
    for name, node in ours.items():
        silent += [f"{name}.{path}" for path, options in inputs(node["input"]) if not options.get("tooltip")]
        tips = node.get("output_tooltips") or [None] * len(node["output"])
        silent += [f"{name} -> {title}" for title, tip in zip(node["output_name"], tips, strict=True) if not tip]
    assert silent == []


def inputs(section: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every input with its options, also those that a choice of a dynamic combo brings."""
    for kind in ("required", "optional"):
        for name, declared in (section.get(kind) or {}).items():
            options = declared[1] if len(declared) > 1 else {}
            yield prefix + name, options
            for option in options.get("options", []) if declared[0] == "COMFY_DYNAMICCOMBO_V3" else []:
                yield from inputs(option.get("inputs", {}), f"{prefix}{name}={option['key']}.")


def test_every_node_has_a_help_page(client: Client, ours: dict[str, Any]) -> None:
    for name in ours:
        page = client.read(f"/extensions/provoke/docs/{name}.md").decode("utf-8")
        assert len(page.split()) > 30, f"the help page of {name} says next to nothing"


def test_templates_are_offered(client: Client) -> None:
    files = sorted(path.stem for path in (ROOT / "example_workflows").glob("*.json"))
    assert files
    assert sorted(client.get("/workflow_templates")["provoke"]) == files


def test_the_page_gets_the_languages(client: Client, ours: dict[str, Any]) -> None:
    served = client.get("/i18n")
    for language in ("en", *locales.LANGUAGES):
        said = served[language]["nodeDefs"]
        assert set(ours) <= set(said)
        for name, node in ours.items():
            assert set(said[name]["inputs"]) == {path for path, _ in inputs(node["input"]) if "=" not in path}
            assert len(said[name]["outputs"]) == len(node["output"])
