"""`dev.py demo`: every template through a real ComfyUI, the pictures and a contact sheet in output/demo/."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

from . import sheet, templates, workflow
from .accelerator import has_gpu
from .console import Progress, say, took
from .environment import ROOT, Host
from .server import Client, Event, Prompt, Rejected, Result, Server, ServerLost
from .templates import Template

OUTPUT = ROOT / "output" / "demo"
TIME_LIMIT = 3600.0  # seconds for one template


def run(host: Host, *, cpu: bool, only: str | None) -> int:
    """Run the templates one after the other. Exit status 1 when one of them failed; the others' pictures are kept."""
    begin = time.monotonic()
    every = templates.load(only=only)
    wanted = templates.runnable(every)
    left_out = [template for template in every if template not in wanted]
    for template in left_out:
        say(f"-- not run: {template.name} (needs {', '.join(template.needs)})")
    if not wanted:
        return 1
    cpu = cpu or not has_gpu()
    say(f"-- starting ComfyUI {host.version} with the pack, on the {'CPU' if cpu else 'GPU'}")
    folder = fresh_folder(OUTPUT)
    sections: list[tuple[str, list[sheet.Cell]]] = []
    failed: list[str] = []
    with Server(host.path, cpu=cpu) as server:
        say(f"   up after {took(server.start_seconds)}")
        for line in server.problems():
            say(f"   log: {line}")
        client = server.client()
        definitions = client.get("/object_info")
        for number, template in enumerate(wanted, 1):
            say(f"-- template {number} of {len(wanted)}: {template.name}")
            try:
                prompt = workflow.to_prompt(template.graph, definitions)
                result = follow(client, prompt, template)
                cells = collect(client, result, template, folder) if result.status == "success" else []
            except ServerLost as error:
                say(f"   FAILED: {error}")
                failed += [left.name for left in wanted[number - 1 :]]  # the others have nothing to run in
                break
            except (workflow.WorkflowError, Rejected, TimeoutError) as error:
                say(f"   FAILED: {error}")
                failed.append(template.name)
                continue
            if result.status != "success":
                say(f"   FAILED in node {result.error_node}: {result.error or result.status}")
                failed.append(template.name)
                continue
            if not cells:
                say("   FAILED: it ran to its end and left no picture")
                failed.append(template.name)
                continue
            sections.append((f"{template.name}  ({took(result.seconds)})", cells))
            say(f"   {len(cells)} pictures in {took(result.seconds)}")
        if failed:
            log = folder / "server.log"
            log.write_text(server.log_text(), encoding="utf-8")
            say(f"   the server's log: {log}")
    report(folder, sections)
    say(f"\nTook {took(time.monotonic() - begin)} in all.")
    if failed:
        say(f"{len(failed)} of {len(wanted)} templates failed: {', '.join(failed)}")
    return 1 if failed else 0


def follow(client: Client, prompt: Prompt, template: Template) -> Result:
    """Run a prompt with a line that tells which node works, and how far it is."""
    line = Progress(template.name)
    start = time.monotonic()

    def heard(event: Event) -> None:
        node = prompt.get(event.node, {})
        title = node.get("_meta", {}).get("title") or node.get("class_type", event.node)
        far = f" {event.value:.0f}/{event.maximum:.0f}" if event.kind == "progress" else ""
        line.update(f"{title}{far}  ({took(time.monotonic() - start)})")

    try:
        return client.run(prompt, timeout=TIME_LIMIT, on_event=heard, workflow=template.graph)
    finally:
        line.close()


def collect(client: Client, result: Result, template: Template, folder: Path) -> list[sheet.Cell]:
    """Save a result's pictures and texts, in the order in which the template's sentences name them."""
    cells = []
    order = list(template.graph.get("extra", {}).get("provoke", {}).get("shows", {}))
    ranked = sorted(result.pictures, key=lambda p: order.index(p.node) if p.node in order else len(order))
    for picture in ranked:
        which = f" ({picture.index + 1} of {picture.count})" if picture.count > 1 else ""
        suffix = Path(picture.filename).suffix or ".png"
        path = folder / f"{slug(template.name)}-{slug(template.title(picture.node))}-{picture.index + 1}{suffix}"
        if path.exists():  # two nodes with one title
            path = path.with_name(f"{path.stem}-node{picture.node}{suffix}")
        path.write_bytes(client.fetch(picture))
        cells.append(sheet.Cell(path, template.shows(picture.node) + which))
    for node, text in result.texts.items():
        path = folder / f"{slug(template.name)}-{slug(template.title(node))}-{node}.txt"
        path.write_text(text + "\n", encoding="utf-8")
        say(f"   text: {path.name}")
    return cells


def report(folder: Path, sections: list[tuple[str, list[sheet.Cell]]]) -> None:
    """Draw the contact sheet, and print where everything is and what it shows."""
    if not sections:
        say(f"\nNo picture was made. {folder}")
        return
    sheet.draw(sections, folder / "contact-sheet.png")
    say(f"\nPictures in {folder}")
    for title, cells in sections:
        say(f"  {title}")
        for cell in cells:
            say(f"    {cell.path.name}\n        {cell.caption}")
    say(f"  All on one sheet:\n    {folder / 'contact-sheet.png'}")


def fresh_folder(parent: Path) -> Path:
    """Make the next `run-001`, `run-002`, ... so that nothing of an earlier run is written over."""
    parent.mkdir(parents=True, exist_ok=True)
    taken = [int(path.name[4:]) for path in parent.glob("run-*") if path.name[4:].isdigit()]
    number = max(taken, default=0) + 1
    while True:
        folder = parent / f"run-{number:03d}"
        try:
            os.mkdir(folder)
            return folder
        except FileExistsError:
            number += 1


def slug(text: str) -> str:
    """A title as a short file name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:48].strip("-") or "picture"
