"""What comfy-cli says of the pack: `comfy node validate`, and `comfy workflow validate` for every template.

python dev.py run tools/registry.py -- --comfy PATH [--object-info FILE]

PATH is the program `comfy` of an environment that has comfy-cli (it is none of ours: it would bring its own versions of
things). A template for real weights may lack its files, and nothing else.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from . import templates
from .console import say
from .pack import ROOT
from .workflow import to_prompt
from .workflows.make import definitions

ABSENT = {"no_options_available", "unknown_enum_value"}  # a file that is not in its folder


def node(comfy: str) -> list[str]:
    """Complaints about the pack itself."""
    done = subprocess.run(
        [comfy, "--skip-prompt", "node", "validate"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    clean = done.returncode == 0 and "passed" in done.stdout and "Warning" not in done.stdout
    return [] if clean else [done.stdout + done.stderr]


def workflow(comfy: str, template: templates.Template, known: dict[str, Any], folder: Path) -> list[str]:
    """Complaints about a template, less the files that it says it needs."""
    prompt, info = folder / "prompt.json", folder / "object_info.json"
    prompt.write_text(json.dumps(to_prompt(template.graph, known)), encoding="utf-8")
    info.write_text(json.dumps(known), encoding="utf-8")
    command = [
        comfy,
        "--skip-prompt",
        "--json",
        "workflow",
        "validate",
        "--workflow",
        str(prompt),
        "--input",
        str(info),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        return [done.stdout + done.stderr]
    found = ((answer.get("error") or {}).get("details") or {}).get("errors", [])
    if done.returncode and not found:
        return [done.stdout]
    allowed = ABSENT if template.needs else set()
    return [f"{one['node_id']} {one.get('field')}: {one['message']}" for one in found if one["code"] not in allowed]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--comfy", required=True, help="the program `comfy`")
    parser.add_argument("--object-info", type=Path, help="a saved answer of /object_info, instead of a server's")
    options = parser.parse_args()
    given = options.object_info
    known = json.loads(given.read_text(encoding="utf-8")) if given else definitions()
    complaints = {"the pack": node(options.comfy)}
    with tempfile.TemporaryDirectory() as folder:
        for template in templates.load():
            complaints[template.name] = workflow(options.comfy, template, known, Path(folder))
            say(f"   {template.name}: {'; '.join(complaints[template.name]) or 'valid'}")
    wrong = [name for name, found in complaints.items() if found]
    for text in complaints["the pack"]:
        say(text)
    raise SystemExit(f"Not clean: {', '.join(wrong)}" if wrong else 0)


if __name__ == "__main__":
    main()
