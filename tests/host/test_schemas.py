"""Workflows store widget values by position: a schema may only grow at its end. The snapshot holds that.

A change that is meant: `UPDATE_SCHEMAS=1 python dev.py test -- -k schemas`, then read the diff.
"""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SNAPSHOT = Path(__file__).resolve().parent / "schemas.json"


@pytest.fixture(scope="module")
def schemas(comfy: ModuleType) -> dict[str, Any]:
    """Node id -> its inputs in order (id, type, default, options) and its outputs."""
    import provoke

    extension = asyncio.run(provoke.comfy_entrypoint())
    return {node.GET_SCHEMA().node_id: described(node.GET_SCHEMA()) for node in asyncio.run(extension.get_node_list())}


def described(schema: Any) -> dict[str, Any]:
    def one(put: Any) -> dict[str, Any]:
        facts = {"id": put.id, "type": put.get_io_type(), "optional": getattr(put, "optional", None)}
        for name in ("default", "options", "min", "max", "control_after_generate"):
            if name == "options" and (schema.category == "Provoke/load" or put.id in ("sampler_name", "scheduler")):
                continue  # whatever lies in the model folders; whatever the running host has
            if getattr(put, name, None) is not None:
                facts[name] = str(value) if isinstance(value := getattr(put, name), type) else value
        return json.loads(json.dumps(facts, default=str))

    return {
        "display_name": schema.display_name,
        "category": schema.category,
        "inputs": [one(put) for put in schema.inputs],
        "outputs": [{"id": put.id, "type": put.get_io_type()} for put in schema.outputs],
    }


def test_schemas_only_grow_at_their_end(schemas: dict[str, Any]) -> None:
    if os.environ.get("UPDATE_SCHEMAS"):
        old = json.loads(SNAPSHOT.read_text(encoding="utf-8")) if SNAPSHOT.exists() else {}
        for name in set(old) & set(schemas):
            before, after = ([put["id"] for put in kept[name]["inputs"]] for kept in (old, schemas))
            assert after[: len(before)] == before, f"{name}: inputs may only be appended, in every saved workflow"
        SNAPSHOT.write_text(json.dumps(schemas, indent=1) + "\n", encoding="utf-8")
    kept = json.loads(SNAPSHOT.read_text(encoding="utf-8"))
    assert set(schemas) == set(kept), "nodes came or went: a rename needs a node replacement; then update the snapshot"
    for name, schema in schemas.items():
        assert schema == kept[name], f"{name} changed: inputs may only be appended; then update the snapshot"


def test_every_input_has_a_unit_or_a_meaning(schemas: dict[str, Any], comfy: ModuleType) -> None:
    """A tooltip on every input and output, aliases to be found by, and the promised category."""
    import provoke

    extension = asyncio.run(provoke.comfy_entrypoint())
    for node in asyncio.run(extension.get_node_list()):
        schema = node.define_schema()
        assert schema.search_aliases
        assert schema.category.startswith("Provoke/")
        for put in (*schema.inputs, *schema.outputs):
            assert put.tooltip, f"{schema.node_id}.{put.id} has no tooltip"


SOUGHT = {
    "variation": {"ProvokeUntargetedAttack", "ProvokeUntargetedAttackSampler", "ProvokeUntargetedAttackSamplerCustom"},
    "diversity": {"ProvokeUntargetedAttack", "ProvokeUntargetedAttackSampler", "ProvokeUntargetedAttackSamplerCustom"},
    "seed": {"ProvokeBestOfSeeds", "ProvokeLatentSearch", "ProvokeUntargetedAttackSampler"},
    "clip guidance": {"ProvokeClipTargetedAttack", "ProvokeClipTargetedAttackSampler"},
    "textual inversion": {"ProvokeAdversarialToken", "ProvokeSaveEmbedding"},
    "noise optimisation": {"ProvokeLatentSearch", "ProvokeLatentSearchCustom"},
    "noise optimization": {"ProvokeLatentSearch", "ProvokeLatentSearchCustom"},
    "fgsm": {"ProvokeUntargetedAttack", "ProvokeClipTargetedAttack", "ProvokeUntargetedAttackSampler"},
    "score distillation": {"ProvokeVlmInversionSampler", "ProvokeVlmInversion"},
    "clip score": {"ProvokeScoreImages", "ProvokeLoadScorer", "ProvokeClipObjective"},
    "contact sheet": {"ProvokeFailureReport"},
    "compare": {"ProvokeComparePictures"},
    "before after": {"ProvokeComparePictures"},
    "diff": {"ProvokeComparePictures"},
}
"""What people type who do not know our words, and what they must find by it."""


@pytest.mark.parametrize("words", SOUGHT)
def test_people_find_the_node_by_their_own_words(words: str, comfy: ModuleType) -> None:
    import provoke

    extension = asyncio.run(provoke.comfy_entrypoint())
    found = set()
    for node in asyncio.run(extension.get_node_list()):
        schema = node.define_schema()
        if any(words in text.lower() for text in (schema.display_name, *schema.search_aliases)):
            found.add(schema.node_id)
    assert SOUGHT[words] <= found, f"{words!r} does not find {SOUGHT[words] - found}"


def test_importing_the_nodes_brings_no_scorer_library(comfy: ModuleType) -> None:
    """In a fresh process with the host imported: what our nodes add to it."""
    import subprocess
    import sys

    root = Path(__file__).resolve().parents[2]
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from comfy.cli_args import args; args.cpu = True\n"
        "import folder_paths, comfy.sd, comfy_api.latest\n"
        "import importlib.util as u\n"
        f"spec = u.spec_from_file_location('provoke', {str(root / '__init__.py')!r}, "
        f"submodule_search_locations=[{str(root)!r}])\n"
        "sys.modules['provoke'] = m = u.module_from_spec(spec); spec.loader.exec_module(m)\n"
        "before = set(sys.modules)\n"
        "import provoke.nodes\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "assert not new & {'open_clip', 'transformers', 'timm', 'skimage', 'matplotlib'}, new\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, os.environ["COMFYUI_PATH"]], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
