"""`dev.py serve`: the ComfyUI of the tests, opened for a person."""

from __future__ import annotations

import webbrowser
from collections.abc import Sequence

from .accelerator import has_gpu
from .console import say, took
from .environment import ROOT, Host
from .ports import free_port
from .server import Server

BASE = ROOT / ".serve"  # kept between runs: models, inputs, outputs and settings of that person
PORT = 8188


def run(host: Host, *, cpu: bool, port: int | None, browser: bool, extra: Sequence[str]) -> int:
    """Serve until Ctrl-C. `extra` goes to ComfyUI's command line."""
    cpu = cpu or not has_gpu()
    say(f"-- starting ComfyUI {host.version} on the {'CPU' if cpu else 'GPU'}; models, inputs and outputs: {BASE}")
    database = "sqlite:///" + (BASE / "user" / "comfyui.db").as_posix()
    (BASE / "user").mkdir(parents=True, exist_ok=True)
    arguments = ("--database-url", database, *extra)
    with Server(host.path, cpu=cpu, base=BASE, port=port or free_port(PORT), arguments=arguments) as server:
        say(f"   up after {took(server.start_seconds)}, log: {server.log}")
        for line in server.problems():
            say(f"   log: {line}")
        say(f"\n   {server.url}    (templates: Workflow > Browse Templates > provoke; Ctrl-C ends it)\n")
        if browser:
            webbrowser.open(server.url)
        return server.wait()
