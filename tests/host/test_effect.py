"""The effect against its baseline, by the benchmark's own code on a small part of its inputs (benchmarks/untargeted).

The full run has 12 crops, three epsilons, 40 steps; its figures are committed there.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest


@pytest.fixture(scope="module")
def bench(comfy: ModuleType) -> ModuleType:
    import provoke.benchmarks.untargeted.run as bench
    from provoke.host.folders import register_model_folders

    register_model_folders()
    bench.STEPS = 10  # the full run has 40
    bench.DIVERSITY = 8.0  # the node's own
    return bench


@pytest.fixture(scope="module")
def nodes(comfy: ModuleType) -> ModuleType:
    import provoke.nodes

    return provoke.nodes


def ratios(bench: ModuleType, cases: list[Any], way: str, base: str = "sign noise") -> np.ndarray:
    """Per crop: mean change of `way` over that of the baseline."""
    change = {(c.way, c.crop): np.mean(c.change) for c in cases}
    return np.array([change[way, crop] / change[base, crop] for crop in sorted({c.crop for c in cases})])


def test_on_the_inpainter_at_four_levels(bench: ModuleType, nodes: ModuleType) -> None:
    """At least twice the change by sign noise on every crop, for both truncations; results unlike each other."""
    model, hole = bench.upscale_model("provoke-demo-inpainter.safetensors"), bench.disc(96, 16)
    cases = []
    for index, crop in enumerate(bench.crops(96, 1)):  # one of each held-out photo
        cases += bench.one_crop(nodes, "inpainter", model, index, bench.mark_hole(crop, hole), hole, 4.0)
    for way in ("clip, gradient", "truncate, gradient"):
        assert ratios(bench, cases, way).min() >= 2.0
        for case in (c for c in cases if c.way == way):
            assert case.largest <= 4.0 + 1e-3
            assert case.between >= np.mean(case.change)
    # what truncation is for: less visible noise
    variation = {(c.way, c.crop): c.variation for c in cases}
    assert all(variation["truncate, gradient", i] < 0.75 * variation["clip, gradient", i] for i in range(3))


def test_on_the_upscaler(bench: ModuleType, nodes: ModuleType) -> None:
    """Super-resolution is well-posed: above noise of the same norm, and not by much."""
    model, cases = bench.upscale_model("provoke-demo-upscaler-x2.safetensors"), []
    for index, crop in enumerate(bench.crops(64, 1)):
        cases += bench.one_crop(nodes, "upscaler", model, index, crop, None, 4.0)
    assert ratios(bench, cases, "clip, gradient").min() > 1.1
    assert ratios(bench, cases, "truncate, gradient", "truncate, best of n").min() > 1.1
