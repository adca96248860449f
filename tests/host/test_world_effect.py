"""Both attacks on the world's models by the benchmarks' own code, on a few inputs (benchmarks/world_attack and
world_steer).

The full runs have hundreds of inputs; their figures are committed there.
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


def test_the_coloriser_is_led_to_a_colour_and_noise_leads_nowhere(nodes: ModuleType) -> None:
    from provoke.benchmarks.world_attack.run import sign_noise
    from provoke.benchmarks.world_steer import run as bench
    from provoke.tools.inprocess import execute, upscale_model, upscaled

    model = upscale_model("provoke-demo-world-coloriser.safetensors")
    (scorer,) = execute(nodes.LoadScorer, scorer="first")
    asked = bench.ask(nodes, model, "coloriser", 16, INPUTS, 700)
    led = bench.there(bench.steer(nodes, scorer, model, asked, INPUTS, **bench.MAIN), asked.wanted)
    noise = sign_noise(asked.image, 8.0, asked.grey[..., None], 1)
    assert sum(led) >= 4  # of six: the full run's lower end is 80 %
    assert sum(bench.there(upscaled(model, noise), asked.wanted)) == 0
