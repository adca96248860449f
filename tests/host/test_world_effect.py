"""The untargeted attack on the world's models by the benchmark's own code, on a few of its inputs
(benchmarks/world_attack).

The full run has 60 inputs for each model; its figures are committed there.
"""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

INPUTS = 6


@pytest.mark.parametrize("name", ["coloriser", "inpainter"])
def test_answers_change_under_the_attack_and_not_under_noise(nodes: ModuleType, name: str) -> None:
    import provoke.benchmarks.world_attack.run as bench
    from provoke.nodes.demo_scene import QUESTIONS

    model = bench.upscale_model(f"provoke-demo-world-{name}.safetensors")
    image, mask, *_ = nodes.DemoScene.execute(40, INPUTS, "one", QUESTIONS[bench.MODELS[name]]).args
    hole = mask if name == "inpainter" else None
    free = torch.ones_like(mask) if hole is None else 1 - hole
    defaults = bench.shown(bench.upscaled(model, image))
    attacked, noisy = bench.Tally(), bench.Tally()
    found = bench.attack(nodes, model, image, hole, epsilon=8.0, count=1, steps=20)
    attacked.add(defaults, bench.shown(found))
    noise = bench.sign_noise(image, 8.0, free[..., None], 1)
    noisy.add(defaults, bench.shown(bench.upscaled(model, noise)))
    # of six: the full run's lower end is well above a half, and noise's upper end below a quarter
    assert attacked.changed >= 3
    assert noisy.changed <= 1
    assert attacked.changed > noisy.changed
