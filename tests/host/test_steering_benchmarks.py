"""The benchmarks of steering (sampler_steer, world_steer, steer_photos) on the smallest piece that could fail.

What they measure at full size is committed beside them; here it is whether they run, and count what they are given.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch

from provoke.demo.world import Facts, render, sample, split


def shares(hits: int, of: int) -> dict[str, Any]:
    from provoke.benchmarks.rates import rate

    return {name: rate(hits, of) for name in ("there", "believed", "both")}


def test_verdicts_of_steering_are_about_the_picture(scorer: Any) -> None:
    """A drawn scene is there for what it shows and for nothing else, and the CLIP believes it."""
    from provoke.benchmarks.sampler_steer.run import pairs
    from provoke.benchmarks.world_steer.run import believed, other_colours, there

    scenes = sample(6, torch.Generator().manual_seed(91), part="held out", objects=1)
    pictures = render(scenes).movedim(1, -1)
    shown = [scene.facts.objects[0] for scene in scenes]
    assert there(pictures, shown) == [True] * 6
    assert sum(believed(scorer.judge, pictures, shown)) >= 5
    wanted = other_colours(shown, 92)
    assert there(pictures, wanted) == [False] * 6
    assert sum(believed(scorer.judge, pictures, wanted)) <= 1
    asked = pairs(100, 91)
    assert len({one.prompt for one in asked}) == len(asked) == 24
    assert all(one.first[0] != one.target[0] and one.first[1] == one.target[1] for one in asked)
    assert all(split(Facts((one.first,), None, one.ground)) == "held out" for one in asked)


def test_a_prompt_is_steered_by_the_benchmark(nodes: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    import provoke.benchmarks.sampler_steer.run as bench

    monkeypatch.setitem(bench.CHOICES, "search_steps", 1)
    found = bench.measured(nodes, "4 steps", 1)
    rows = {row["way"]: row for row in found["rows"]}
    assert list(rows) == list(bench.WAYS)
    assert [rows[way]["both"]["n"] for way in ("usual", "steered", "noise")] == [1, 1, bench.DRAWS]
    assert rows["usual"]["there"]["rate"] == 0  # another colour was asked for
    text = bench.page({"date": "today", "command": "this", "model": "4 steps", "found": found})
    assert text.count("\n| ") == 1 + len(bench.WAYS)
    assert "sign noise of the same norm | 4 |" in text


def test_the_world_is_steered_by_the_benchmark(nodes: ModuleType, scorer: Any) -> None:
    import provoke.benchmarks.world_steer.run as bench

    model = bench.upscale_model("provoke-demo-world-coloriser.safetensors")
    asked = bench.ask(nodes, model, "coloriser", 6, 2, 500)
    assert len(asked.wanted) == len(asked.answers) == len(asked.image) == 2
    assert all(a[0] != b[0] and a[1] == b[1] for a, b in zip(asked.answers, asked.wanted, strict=True))
    quick = {**bench.MAIN, "steps": 1, "copies": 0, "smoothing": 0.0}
    results = bench.steer(nodes, scorer, model, asked, 2, **quick)
    assert results.shape == asked.image.shape
    plain = bench.steer(nodes, scorer, model, asked, 2, **{**quick, "epsilon": 0.0})
    assert bench.there(plain, asked.answers) == [True, True]
    assert not torch.equal(results, plain)


def test_the_worlds_page_says_whether_the_bars_held() -> None:
    import provoke.benchmarks.world_steer.run as bench

    names = [*bench.VARIANTS, *(f"sign noise, epsilon {epsilon:g}" for epsilon in bench.EPSILONS)]
    rows = [{"variant": name, "epsilon": 8.0, **shares(0 if "noise" in name else 99, 100)} for name in names]
    found = {"date": "today", "drawn": 200, "rows": rows, "again": rows[:1]}
    text = bench.page({"models": {"coloriser": found}})
    assert "(lower end 94.6:" in text
    assert "Both runs together, there and believed: 99 (96 to 100) %." in text
    assert text.count("held)") == 2  # both bars
    assert all(f"| {name} | 100 |" in text for name in names)
    failed = [{**row, **shares(99 if "noise" in row["variant"] else 50, 100)} for row in rows]
    assert bench.page({"models": {"coloriser": {**found, "rows": failed}}}).count("missed)") == 2


def test_photos_are_steered_by_the_benchmark(nodes: ModuleType, scorer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One part of one photo, one colour, every way; and the page of it."""
    import provoke.benchmarks.steer_photos.run as bench

    monkeypatch.setattr(bench, "STEPS", 1)
    first = bench.photo_names()[:1]
    monkeypatch.setattr(bench, "photo_names", lambda: first)
    model = bench.upscale_model(bench.MODELS["inpainter"])
    (asked,) = bench.questions(nodes, "inpainter", model)
    cases = []
    for way in bench.WAYS:
        result, changed = bench.answer(nodes, model, scorer, asked, "red", way)
        assert result.shape == changed.shape == asked.image.shape
        assert float((changed - asked.image).abs().max()) <= (bench.EPSILON + 0.5) / 255
        scorers = {"first": scorer, "second": scorer}
        cases.append(
            {"photo": asked.photo, "colour": "red", "way": way, **bench.measured(nodes, asked, "red", result, scorers)}
        )
    target = bench.measured(nodes, asked, "red", asked.painted("red"), {})
    assert target["levels"] == pytest.approx(target["asked for"], rel=1e-3)
    assert target["right colour"]
    assert bench.by_photo([{"photo": "a-1", "x": 1}, {"photo": "a-2", "x": 3}, {"photo": "b-1", "x": 5}], "x") == (
        3.5, 2, 5,
    )  # fmt: skip
    text = bench.page({"models": {"inpainter": {"date": "today", "cases": cases}}})
    assert all(f"\n| {way} | " in text for way in bench.WAYS)
