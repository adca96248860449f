"""The workflows that the pack ships, and what they say about their pictures."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .console import DevError
from .pack import ROOT
from .workflow import VIRTUAL

FOLDER = ROOT / "example_workflows"


@dataclass(frozen=True)
class Template:
    """A file of example_workflows/ in the page's format."""

    name: str
    graph: dict[str, Any]

    @property
    def about(self) -> dict[str, Any]:
        """What `extra.provoke` says of it."""
        return dict(self.graph.get("extra", {}).get("provoke", {}))

    @property
    def needs(self) -> list[str]:
        """Files that do not come with the pack, and without which it is refused."""
        return list(self.about.get("needs", []))

    @property
    def after(self) -> str | None:
        """The template that leaves the file which this one needs."""
        return self.about.get("after")

    def shows(self, node: str) -> str:
        """What a node's picture shows: its sentence in `extra.provoke.shows`, else its title."""
        sentences = self.about.get("shows", {})
        return str(sentences[node]) if node in sentences else self.title(node)

    def title(self, node: str) -> str:
        """The title of a node as the page shows it, or its type."""
        for candidate in self.graph["nodes"]:
            if str(candidate["id"]) == node and candidate["type"] not in VIRTUAL:
                return str(candidate.get("title") or candidate["type"])
        return f"node {node}"


def runnable(every: list[Template]) -> list[Template]:
    """Those that run with what the pack brings, each after the one that it follows."""
    here = {template.name for template in every}
    first = [template for template in every if not template.needs]
    return first + [template for template in every if template.needs and template.after in here]


def load(folder: Path = FOLDER, only: str | None = None) -> list[Template]:
    """Every template, by name. Raises DevError when there is none, or one is not a saved workflow."""
    templates = []
    for path in sorted(folder.glob("*.json")):
        if only and only not in path.stem:
            continue
        try:
            graph = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DevError(f"{path} is not JSON: {error}") from None
        if not isinstance(graph, dict) or "nodes" not in graph:
            raise DevError(f"{path} is not a workflow as the page saves it (no list of nodes).")
        templates.append(Template(path.stem, graph))
    if not templates:
        raise DevError(f"No template{f' named like {only!r}' if only else ''} in {folder}.")
    return templates
