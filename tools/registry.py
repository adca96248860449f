"""What comfy-cli says of the pack: `comfy node validate`, and `comfy workflow validate` for every template.

python dev.py run tools/registry.py [-- --object-info FILE]

The tests ask the same (tests/dev/test_comfy_cli.py, tests/server/test_validator.py). A template for real weights may
lack its files, and nothing else.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import comfy_cli, templates
from .console import say
from .pack import ROOT
from .workflow import to_prompt
from .workflows.make import definitions

ABSENT = {"no_options_available", "unknown_enum_value"}  # a file that is not in its folder


def node() -> list[str]:
    """Complaints about the pack itself."""
    done = comfy_cli.ask("node", "validate", cwd=ROOT)
    said = done.stdout + done.stderr  # to which of the two it speaks depends on who listens
    clean = done.returncode == 0 and "passed" in said and "Warning" not in said
    return [] if clean else [said]


def workflow(prompt: dict[str, Any], needs: Sequence[str], known: dict[str, Any], folder: Path) -> list[str]:
    """Complaints about a workflow as it is queued, less the files that it says it needs. known: all nodes."""
    queued, info = folder / "prompt.json", folder / "object_info.json"
    queued.write_text(json.dumps(prompt), encoding="utf-8")
    info.write_text(json.dumps(known), encoding="utf-8")
    done = comfy_cli.ask("--json", "workflow", "validate", "--workflow", str(queued), "--input", str(info))
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        return [done.stdout + done.stderr]
    found = ((answer.get("error") or {}).get("details") or {}).get("errors", [])
    if done.returncode and not found:
        return [done.stdout]
    allowed = ABSENT if needs else set()
    return [f"{one['node_id']} {one.get('field')}: {one['message']}" for one in found if one["code"] not in allowed]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--object-info", type=Path, help="a saved answer of /object_info, instead of a server's")
    options = parser.parse_args()
    given = options.object_info
    known = json.loads(given.read_text(encoding="utf-8")) if given else definitions()
    comfy_cli.ensure()
    complaints = {"the pack": node()}
    with tempfile.TemporaryDirectory() as folder:
        for template in templates.load():
            prompt = to_prompt(template.graph, known)
            complaints[template.name] = workflow(prompt, template.needs, known, Path(folder))
            say(f"   {template.name}: {'; '.join(complaints[template.name]) or 'valid'}")
    wrong = [name for name, found in complaints.items() if found]
    for text in complaints["the pack"]:
        say(text)
    raise SystemExit(f"Not clean: {', '.join(wrong)}" if wrong else 0)


if __name__ == "__main__":
    main()
