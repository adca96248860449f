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
    more = bench.more(world, {"more": 1}, bench.QUICK, tmp_path)
    made = {"date": "today", "settings": bench.QUICK}
    text = bench.page({"ways": {**made, **found}, "more": {**made, **more}, "earlier": {**made, **more}})
    assert text.count("\n| ") == 4 + len(found["ways"]) + len(more["ways"])
    assert text.count("Bars, of ") == 2  # what was looked at before is said as well


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


def test_the_prompts_of_the_bars_were_never_looked_at_before() -> None:
    import provoke.benchmarks.world_vlm_inversion.run as bench
    from provoke.demo.captions import canonical

    said = {canonical(scene) for scene in bench.fresh(bench.MORE)}
    assert len(said) == bench.MORE
    table, few = bench.prompts(bench.PROMPTS), bench.ablated(bench.PROMPTS)
    for seen in (table, few, bench.tried_before(), bench.tuned(bench.LOOKED_AT)):
        assert not {canonical(scene) for scene in seen} & said


def test_the_page_says_whether_the_bars_held() -> None:
    import provoke.benchmarks.world_vlm_inversion.run as bench
    from provoke.benchmarks.rates import rate

    def row(count: int, distance: float) -> dict[str, Any]:
        rates = {kind: rate(count, 24) for kind in ("all", "objects", "clean")}
        each = {"all": [i < count for i in range(24)], "distance": [distance] * 24}
        return {**rates, "all, of every seed": 0.5, "distance": distance, "seconds a picture": 1.0, "each": each}

    def said(plain: int, ours: int, distance: float) -> str:
        ways = {bench.PLAIN: row(plain, 0.2), bench.OURS: row(ours, distance)}
        return f"{bench.bars(ways)} {bench.ahead(ways)}"

    good = said(12, 24, 0.2)
    assert "colours: held at 100 (86 to 100)" in good
    assert "success: missed at 2.00 (1.41 to 3.43) times" in good  # its lower end is
    assert "success: held at 4.00 (2.18 to " in said(6, 24, 0.2)
    assert "sampler: held at 1.00 (1.00 to 1.00) times" in good
    assert f"relation: {bench.OURS}: 100" in good
    near = said(17, 22, 0.2)
    assert "colours: reached at 92 (74 to 98), not by the interval's lower end" in near
    assert "success: missed at 1.29 (1.0" in near
    assert "(all prompts would be 1.41 times)" in near
    bad = said(17, 10, 0.4)
    assert "colours: missed at 42" in bad
    assert "sampler: missed at 2.00 (2.00 to 2.00) times" in bad
    assert "(all prompts would be inf times)" in said(0, 10, 0.4)
    assert f"relation: {bench.PLAIN}: 71" in bad
