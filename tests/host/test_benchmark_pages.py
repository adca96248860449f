"""What a benchmark's page says is what its figures say: it was written from the results that lie beside it."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from provoke.tools.pack import ROOT

# folder, module with `page`, the files that it is made from
PAGES = (
    ("world_robust", "run", ("results.json",)),
    ("world_token", "page", ("results.json",)),
    ("world_vlm_inversion", "run", ("results.json",)),
    ("world_prompt", "page", ("results.json", "base_rate.json")),
)


@pytest.mark.parametrize(("folder", "module", "files"), PAGES, ids=[folder for folder, *_ in PAGES])
def test_a_page_is_made_from_the_figures_beside_it(
    comfy: ModuleType, folder: str, module: str, files: tuple[str, ...]
) -> None:
    at = ROOT / "benchmarks" / folder
    page = importlib.import_module(f"provoke.benchmarks.{folder}.{module}").page
    assert page(*(read(at / file) for file in files)) == (at / "README.md").read_text(encoding="utf-8")


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_bar_of_several_judges_is_read_from_the_one_fooled_least(comfy: ModuleType) -> None:
    from provoke.benchmarks.rates import rate
    from provoke.benchmarks.world_robust import ways

    def row(way: str, fooled: int) -> dict[str, Any]:
        return {"way": way, "epsilon": ways.MAIN_EPSILON, "fooled": rate(fooled, 400)}

    alone = [row(way, fooled) for way, fooled in zip(ways.ALONE, (130, 40, 90), strict=True)]
    assert ways.least_fooled(alone) == ways.ALONE[1]
    assert ways.bar([*alone, row(ways.OURS, 1)])[2]
    ours, single, held = ways.bar([*alone, row(ways.OURS, 13)])  # a third by the rate, not by the intervals' ends
    assert ours["rate"] < single["rate"] / 3
    assert not held


def test_a_verdict_one_pixel_aside_sees_both_pictures(comfy: ModuleType) -> None:
    import torch

    from provoke.benchmarks.verdicts import looked_at_twice
    from provoke.demo.world import render, sample

    scenes = sample(8, torch.Generator().manual_seed(3), objects=1)
    pictures = render(scenes)
    for down in (False, True):
        here, aside = looked_at_twice(pictures, down=down)
        for one, other in zip(here, aside, strict=True):
            moved = [b - a for a, b in zip(one.objects[0].centre, other.objects[0].centre, strict=True)]
            assert moved == pytest.approx([1.0, float(down)], abs=0.3)
