"""The benchmark of VLM inversion (world_vlm_inversion) on the smallest piece that could fail.

What it measures at full size is committed beside it; here it is whether it runs, and counts what it is given.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from provoke.demo.world import render, sample


def test_the_benchmark_runs(nodes: ModuleType, tmp_path: Path) -> None:
    import provoke.benchmarks.world_vlm_inversion.run as bench

    world = bench.Bench(nodes)
    found = bench.ways(world, {"prompts": 1, "seeds": 1}, bench.QUICK, tmp_path)
    assert found["costs in plain sampler runs"]["a seed"] == pytest.approx(1, abs=0.1)
    assert found["costs in plain sampler runs"]["a search step"] > 1.5  # forward and backward
    assert all(row["all"]["n"] == 1 and 0 <= row["distance"] < 1 for row in found["ways"].values())
    text = bench.page({"ways": {"date": "today", "settings": bench.QUICK, **found}})
    assert text.count("\n| ") == 2 + len(found["ways"])


def test_verdicts_and_distance_are_about_the_picture(nodes: ModuleType) -> None:
    """The world's own pictures are right and near; another scene's are wrong; noise is far."""
    import provoke.benchmarks.world_vlm_inversion.run as bench

    whole = sample(8, torch.Generator().manual_seed(3), objects=2)
    pictures, scenes = render(whole), list(whole)
    said = bench.verdicts(pictures, scenes)
    assert all(said["all"]) and all(said["objects"]) and all(said["clean"])  # noqa: PT018
    assert sum(bench.verdicts(pictures.roll(1, 0), scenes)["all"]) <= 1
    noise = torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    assert not any(bench.verdicts(noise, scenes)["clean"])
    world = bench.Bench(nodes)
    assert float(world.distance(pictures).mean()) < 0.8 * float(world.distance(noise).mean())


@pytest.mark.parametrize(("right", "away", "words"), [(22, 0.2, "held"), (10, 0.4, "missed")])
def test_the_page_says_whether_the_bars_held(right: int, away: float, words: str) -> None:
    import provoke.benchmarks.world_vlm_inversion.run as bench
    from provoke.benchmarks.rates import rate

    def row(count: int, distance: float) -> dict[str, Any]:
        rates = {kind: rate(count, 24) for kind in ("all", "objects", "clean")}
        return {**rates, "all, of every seed": 0.5, "distance": distance, "seconds a picture": 1.0}

    ways = {"plain sampler": row(17, 0.2), "VLM inversion from noise": row(right, away)}
    text = " ".join(bench.bars(ways))
    assert text.count(words) == 2
    assert f"Ahead on objects and relation: {'VLM inversion from noise' if right > 17 else 'plain sampler'}" in text
