"""What the chart costs the page: `python dev.py run benchmarks/chart/run.py`.

A real server, its own event channel, a real page: 500 steps with 8 curves, an event a step. Script time is by the
browser's own profiler: every sample in which a function of web/ is on the stack. Bytes are those of the events' frames.
"""

from __future__ import annotations

import datetime
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ...tools import browser
from ...tools.browser import RENDERERS, Tab
from ...tools.server import Server

HERE = Path(__file__).resolve().parent
EVENT = "provoke.curve"  # as host/live.py has it, which needs the host to be imported
STEPS, CURVES = 500, 8
PAUSE = 0.05  # seconds between two steps: more than a frame, so that every event is drawn
SAMPLING = 100  # microseconds between two looks of the profiler
OURS = "/extensions/provoke/"


def workflow(steps: int, curves: int) -> dict[str, Any]:
    """The node alone."""
    node = {"id": 1, "type": "ProvokeBenchChart", "pos": [100, 100], "size": [400, 330], "flags": {}, "order": 0}
    return {"nodes": [{**node, "mode": 0, "inputs": [], "outputs": [], "widgets_values": [steps, curves, PAUSE]}],
            "links": [], "groups": [], "version": 0.4}  # fmt: skip


def script_time(profile: dict[str, Any]) -> float:
    """Milliseconds in which one of our functions was on the stack."""
    nodes = {node["id"]: node for node in profile["nodes"]}
    ours: dict[int, bool] = {}

    def mark(identity: int, inherited: bool) -> None:
        node = nodes[identity]
        ours[identity] = inherited or OURS in node["callFrame"]["url"]
        for child in node.get("children", []):
            mark(child, ours[identity])

    mark(profile["nodes"][0]["id"], False)
    spent = sum(delta for at, delta in zip(profile["samples"], profile["timeDeltas"], strict=True) if ours[at])
    return float(spent) / 1000


def measured(tab: Tab, frames: list[int], renderer: str) -> dict[str, Any]:
    """One run in one renderer."""
    tab.render(renderer)
    # one step more the second time: the host would remember the first run
    tab.load("chart", workflow(STEPS + RENDERERS.index(renderer), CURVES))
    tab.frame()
    frames.clear()
    profiler = tab.page.context.new_cdp_session(tab.page)
    profiler.send("Profiler.enable")
    profiler.send("Profiler.setSamplingInterval", {"interval": SAMPLING})
    profiler.send("Profiler.start")
    tab.run()
    ended = tab.wait_for_end()
    tab.page.wait_for_timeout(500)
    profile = profiler.send("Profiler.stop")["profile"]
    profiler.detach()
    if ended != "execution_success":
        raise RuntimeError(f"the run ended with {ended}")
    spent = script_time(profile)
    return {
        "renderer": renderer,
        "events": len(frames),
        "bytes": sum(frames),
        "script_ms": round(spent, 1),
        "script_ms_per_event": round(spent / len(frames), 3),
        "points_drawn": sum(line.count("L") + line.count("M") for line in tab.lines()),
    }


def listen(tab: Tab, frames: list[int]) -> None:
    """Note the size of every frame with an event of ours."""
    start = f'{{"type": "{EVENT}"'

    def heard(frame: str | bytes) -> None:
        if isinstance(frame, str) and frame.startswith(start):
            frames.append(len(frame.encode()))

    tab.page.on("websocket", lambda socket: socket.on("framereceived", heard))
    tab.reload()


def _load() -> float:
    return os.getloadavg()[1] if hasattr(os, "getloadavg") else 0.0


def main() -> None:
    base = Path(tempfile.mkdtemp(prefix="comfy-base-"))
    node = base / "custom_nodes" / "bench-chart" / "__init__.py"
    node.parent.mkdir(parents=True)
    shutil.copy(HERE / "node.py", node)
    try:
        with Server(Path(os.environ["COMFYUI_PATH"]), cpu=True, base=base) as server, browser.chromium() as running:
            browser.settle(server)
            tab, frames = Tab(running, server.url), list[int]()
            listen(tab, frames)
            runs = [measured(tab, frames, renderer) for renderer in RENDERERS]
            version = running.version
            tab.close()
    finally:
        shutil.rmtree(base, ignore_errors=True)
    result = {
        "date": datetime.date.today().isoformat(),
        "command": "python dev.py run benchmarks/chart/run.py",
        "chromium": version,
        "cores": os.cpu_count(),
        "load": round(_load(), 1),  # processes that want a core, over five minutes
        "steps": STEPS,
        "curves": CURVES,
        "runs": runs,
    }
    (HERE / "results.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for run in runs:
        print(run)


if __name__ == "__main__":
    main()
