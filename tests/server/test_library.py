"""The converter against the workflows that ComfyUI itself ships: hundreds of real ones, made by many hands."""

from __future__ import annotations

import json
import sysconfig
from pathlib import Path
from typing import Any

from provoke.tools.environment import NEWEST
from provoke.tools.server import Client
from provoke.tools.workflow import WorkflowError, to_prompt

# Its page keeps a 3D viewer's buttons among the values.
NOT_TAKEN = {"Load3D"}


def library() -> list[dict[str, Any]]:
    """Every saved workflow in the installed packages of templates."""
    found = []
    for path in Path(sysconfig.get_paths()["purelib"]).glob("comfyui_workflow_templates*/**/*.json"):
        graph = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(graph, dict) and "nodes" in graph:
            found.append(graph)
    return found


def test_the_hosts_own_workflows_convert(client: Client, definitions: dict[str, Any]) -> None:
    converted, refused = 0, []
    for graph in library():
        types = {node["type"] for node in graph["nodes"]}
        if graph.get("definitions", {}).get("subgraphs") or types & NOT_TAKEN:
            continue
        try:
            converted += bool(to_prompt(graph, definitions))
        except WorkflowError as error:
            if "does not have" not in str(error):  # nodes of online services are switched off here
                refused.append(str(error))
    assert converted >= 40
    # The installed workflows are written for the newest host; an older one has fewer inputs on some nodes.
    if client.get("/system_stats")["system"]["comfyui_version"] == NEWEST:
        assert refused == []
