"""A search that costs nothing, as a node of its own for ComfyUI: what is left is the chart's share.

run.py puts this file into a server's custom_nodes. Each of its steps is told at once, as those of a slow search are.
"""

import math
import sys
import time

import torch
from comfy_api.v0_0_2 import ComfyExtension, io


def part(name):
    """A module of the pack, under whatever name the host has loaded it."""
    ending = f"/provoke/host/{name}.py"
    loaded = (module for module in list(sys.modules.values()) if getattr(module, "__file__", None))
    return next(module for module in loaded if module.__file__.replace("\\", "/").endswith(ending))


class ProvokeBenchChart(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="ProvokeBenchChart",
            display_name="Chart",
            category="bench",
            is_output_node=True,
            inputs=[io.Int.Input("steps"), io.Int.Input("curves"), io.Float.Input("seconds")],
        )

    @classmethod
    def execute(cls, steps, curves, seconds):
        def search():
            rng = torch.Generator().manual_seed(1)
            for i in range(steps):
                time.sleep(seconds)
                rise = 1 - math.exp(-i / 100)
                yield {
                    "score": rise * torch.linspace(0.5, 1, curves) + 0.02 * torch.randn(curves, generator=rng),
                    "distance": torch.full((curves,), 4 / 255 * rise),
                    "limit": 4 / 255,
                    "cost": 2.0 * i,
                    "stopped": "all steps done" if i == steps - 1 else "",
                }

        live = part("live")
        before, live.INTERVAL = live.INTERVAL, 0.0
        try:
            part("progress").drive(search(), steps, lambda step: None)
        finally:
            live.INTERVAL = before
        return io.NodeOutput()


class Bench(ComfyExtension):
    async def get_node_list(self):
        return [ProvokeBenchChart]


async def comfy_entrypoint():
    return Bench()
