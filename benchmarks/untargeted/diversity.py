"""What the weight of diversity buys and costs: four results of one picture, how far apart, how far from the default.

    python dev.py run benchmarks/untargeted/diversity.py

The inpainter at epsilon 4, truncate, on the crops of run.py.
"""

from __future__ import annotations

import datetime
import json

import numpy as np

from ...demo.photos import mark_hole
from ...tools.inprocess import open_pack, upscale_model, upscaled
from . import run

WEIGHTS = (0.0, 1.0, 4.0, 8.0, 16.0)
EPSILON = 4.0


def main() -> None:
    nodes = open_pack()
    model, hole, rows = upscale_model("provoke-demo-inpainter.safetensors"), run.disc(96, 16), []
    for weight in WEIGHTS:
        cases = []
        for index, crop in enumerate(run.crops(96, run.CROPS)):
            image = mark_hole(crop, hole)
            outputs = run.attack(nodes, model, image, hole, EPSILON, diversity=weight)
            pictures = (outputs[0], upscaled(model, image))
            cases.append(run.measure("inpainter", index, EPSILON, "truncate", image, outputs[2], pictures, hole, 0.0))
        change = np.array([np.mean(c.change) for c in cases])
        rows.append(
            {
                "diversity": weight,
                "change": float(change.mean()),
                "mean pair / mean change": float(np.mean([c.between for c in cases] / change)),
                "nearest pair / mean change, lowest crop": float(np.min([c.nearest for c in cases] / change)),
                "crops with mean pair >= mean change": int(sum(c.between >= np.mean(c.change) for c in cases)),
                "crops with nearest pair >= mean change": int(sum(c.nearest >= np.mean(c.change) for c in cases)),
                "crops with nearest pair >= largest change": int(sum(c.nearest >= max(c.change) for c in cases)),
                "crops": len(cases),
            }
        )
        print(rows[-1], flush=True)
    result = {
        "date": datetime.date.today().isoformat(),
        "command": "python dev.py run benchmarks/untargeted/diversity.py",
        "rows": rows,
    }
    (run.HERE / "diversity.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
