"""The pack's share of ComfyUI's start: `python dev.py run benchmarks/startup/run.py`.

Fresh processes: the time the pack adds after the host's own modules are loaded, and its ratio to theirs in one run.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
ROUNDS = 5

CODE = """
import sys, time
began = time.perf_counter()
sys.path.insert(0, sys.argv[1])
from comfy.cli_args import args
args.cpu = True
import asyncio, nodes, comfy_extras.nodes_upscale_model, comfy_extras.nodes_train
host = time.perf_counter() - began
began = time.perf_counter()
import importlib.util as u
spec = u.spec_from_file_location("provoke", sys.argv[2] + "/__init__.py", submodule_search_locations=[sys.argv[2]])
sys.modules["provoke"] = module = u.module_from_spec(spec)
spec.loader.exec_module(module)
async def load():
    extension = await module.comfy_entrypoint()
    await extension.on_load()
    for node in await extension.get_node_list():
        node.GET_SCHEMA()
asyncio.run(load())
print(host, time.perf_counter() - began)
"""


def main() -> None:
    rounds = []
    for _ in range(ROUNDS):
        command = [sys.executable, "-c", CODE, os.environ["COMFYUI_PATH"], str(ROOT)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        host, pack = (float(word) for word in done.stdout.split()[-2:])
        rounds.append({"host_s": round(host, 3), "pack_s": round(pack, 3), "share": round(pack / host, 4)})
        print(rounds[-1], flush=True)
    result = {
        "date": datetime.date.today().isoformat(),
        "command": "python dev.py run benchmarks/startup/run.py",
        "python": platform.python_version(),
        "median pack_s": statistics.median(r["pack_s"] for r in rounds),
        "median share of the host's imports": statistics.median(r["share"] for r in rounds),
        "rounds": rounds,
    }
    (HERE / "results.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
