"""What benchmarks/world_prompt counts, and its page."""

from __future__ import annotations

import json
from types import ModuleType
from typing import Any

import pytest
import torch


@pytest.fixture(scope="module")
def bench(comfy: ModuleType) -> ModuleType:
    from provoke.benchmarks.world_prompt import run

    return run


def test_classes_are_drawn_once_and_leave_out_what_was_tried(bench: ModuleType) -> None:
    drawn = bench.classes(22)
    assert len(set(drawn)) == 22
    assert not set(drawn) & set(bench.TRIED)
    assert bench.classes(8) == drawn[:8]


def test_the_command_on_the_page_gives_the_classes_on_the_page(bench: ModuleType) -> None:
    """Whatever stands in a default: one class more would be measured anew, one less would stay as a leftover."""
    from provoke.tools.pack import ROOT

    results = json.loads((ROOT / "benchmarks/world_prompt/results.json").read_text(encoding="utf-8"))
    assert list(results["classes"]) == [" ".join(thing) for thing in bench.classes(bench.CLASSES)]
    assert results["steps"] == bench.STEPS


def test_what_is_a_caption_with_the_class_in_it(bench: ModuleType) -> None:
    assert bench.caption("a red disc above a blue ring on white", ("blue", "ring"))
    for prompt in ("a red circle above a pink ring", "a yellow hoop on a blue ring", "a blue ring left of a blue hoop"):
        assert bench.caption(prompt, ("blue", "ring")) is None


def test_what_a_picture_shows_of_a_caption(bench: ModuleType) -> None:
    from provoke.demo.world import Facts

    ring, box = ("blue", "ring"), ("red", "square")
    said = Facts((ring, box), "left of", None)
    assert bench._shows(Facts((box, ring), "right of", "white"), said)
    assert not bench._shows(Facts((ring, box), "right of", "white"), said)
    assert not bench._shows(Facts((ring,), None, "white"), said)
    assert not bench._shows(Facts((ring,), None, "white"), Facts((ring,), None, "black"))


def test_the_page_leaves_out_classes_that_fail_anyway(bench: ModuleType) -> None:
    def verdict(missing: int) -> dict[str, Any]:
        fails = missing >= bench.ENOUGH
        prompt = {"prompt": "a blue ring", "score": 0.0, "natural": True, "clean": 8, "wrong": missing, "lies": fails}
        return {**prompt, "missing": missing, "fails": fails}

    def way(missing: int) -> dict[str, Any]:
        report = "3 prompts were tried in words, 0 looks with a gradient"
        return {"steps": 3, "runs": 6, "report": report, "prompts": [verdict(missing), verdict(0)]}

    ways = {"gradient": way(5), "evolution": way(4), "random": way(3), "none": way(0)}
    results = {"date": "2026-11-28", "torch": "2", "steps": 3, "classes": {}}
    results["classes"] = {"blue ring": {"plain": verdict(0), **ways}, "red ring": {"plain": verdict(6), **ways}}
    page = bench.page(results)
    assert "| gradient | 1 | 100 (21 to 100) |" in page
    assert "| random, the best of | 1 | 0 (0 to 79) |" in page
    assert "missed" in page  # one class is no proof
    assert "There were to be" not in page  # more classes than two
    assert "All ways but *none* are at the gradient's cost." in page
    counted = {"steps": 4, "report": "1 prompts were tried in words, 3 looks with a gradient"}
    ways["gradient"] |= counted | {"runs": 38}  # as the node said it once, of two seeds: 4 + 8 + 12 + 14
    results["classes"] = {str(number): {"plain": verdict(0), **ways} for number in range(9)}
    page = bench.page(results)
    assert "too many of it at the time (38 for 14). The others had 0.4 times" in page
    assert "There were to be 8 classes; they became 9" in page
    assert "Of the first 8 alone: missed." in page


def test_every_caption_of_a_class_is_one_of_the_worlds(bench: ModuleType) -> None:
    from provoke.benchmarks.world_prompt.base_rate import captions

    thing = ("blue", "ring")
    tried = captions(thing)
    assert len(set(tried)) == len(tried) == 23 * 4 * 5 * 2
    assert all(bench.caption(prompt, thing) for prompt in tried)


def test_what_fails_is_drawn_again_with_other_seeds(bench: ModuleType) -> None:
    from provoke.benchmarks.world_prompt import base_rate
    from provoke.demo.world import render, sample

    thing = ("blue", "ring")
    scenes = sample(64, torch.Generator().manual_seed(1), objects=1)
    whole = render(scenes)
    without = whole[[i for i, scene in enumerate(scenes) if scene.facts.objects[0] != thing]][: bench.HELD]

    class Painter:
        """Draws other objects than it is told, with the first seeds."""

        def draw(self, prompt: str, seed: int, count: int) -> torch.Tensor:
            return without if seed == bench.VERDICT_SEED else torch.zeros_like(without)

    found = base_rate.one_class(Painter(), thing, 3)
    assert found["missing"] == 1.0
    assert len(found["failing"]) == 3
    assert found["again"] == []


def test_the_page_says_how_rare_it_is(bench: ModuleType) -> None:
    from provoke.benchmarks.world_prompt.page import page

    def one(failing: list[str]) -> dict[str, Any]:
        return {"captions": 9, "failing": failing, "again": [], "missing": 0.01}

    rare = {"date": "today", "command": "base_rate.py", "classes": {"blue ring": one([]), "red ring": one(["a"])}}
    prompt = {"prompt": "p", "natural": True, "clean": 8, "wrong": 0, "missing": 0, "fails": False, "lies": False}
    way = {"steps": 1, "runs": 2, "report": "", "prompts": [prompt]}
    ways = {"plain": prompt, "gradient": way, "evolution": way, "random": way, "none": way}
    text = page({"date": "today", "torch": "2", "classes": {"blue ring": ways}}, rare)
    assert "Of 18 captions 1 fail,\n0 of them again" in text
    assert "| red ring | 9 | 1.00 | a | none |" in text
