"""The sampler attacks' effect by the benchmarks' own code, on a prompt of theirs (benchmarks/sampler_diversity).

On the 20-step model in 4 steps; the full runs' figures are committed there.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch


def test_results_differ_more_than_by_noise_of_the_same_norm(nodes: ModuleType) -> None:
    import provoke.benchmarks.sampler_diversity.run as bench

    painter, text, norm = bench.Painter(nodes, "20 steps"), "a red circle", 0.1
    scene = bench.one_object()[0]  # what it shows is not asked here
    ours, noise = bench.Tally(painter), bench.Tally(painter)
    ours.add(painter.varied(text, norm, count=2, search_steps=6), scene)
    noise.add(painter.noisy(text, norm, 0), scene)
    assert ours.levels[0] >= 1.5 * noise.levels[0]
    assert ours.features[0] >= 1.5 * noise.features[0]


def test_noise_has_exactly_the_norm(nodes: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the searched change is compared with is as large, and drawn on the same seed's noise."""
    import provoke.benchmarks.sampler_diversity.run as bench

    painter = bench.Painter(nodes, "20 steps")
    given: list[torch.Tensor] = []
    monkeypatch.setattr(painter, "draw", lambda positive, *rest, **more: given.append(positive[0][0]))
    base = painter.conditioning("a red circle")[0][0]
    for sign in (False, True):
        painter.noisy("a red circle", 0.25, 3, draws=4, sign=sign)
        moved = (given[-1] - base) / base.square().mean().sqrt()
        torch.testing.assert_close(moved.square().mean((1, 2)).sqrt(), torch.full((4,), 0.25), rtol=1e-3, atol=0)


def test_noise_that_keeps_as_many_right_is_the_most_diverse_that_does() -> None:
    """Of three: one loses nothing, one a little of few prompts, one half of all."""
    from provoke.benchmarks.sampler_diversity.run import as_right, compared

    def row(norm: float, right: list[float], levels: float) -> dict[str, Any]:
        own = {"right": right, "levels": [levels] * 8, "features": [levels] * 8}
        return {"norm": norm, "levels": levels, "features": levels, "by prompt": own}

    ours = row(0.1, [1.0] * 7 + [0.5], 6.0)
    noise = [row(0.1, [1.0] * 8, 0.5), row(0.5, [1.0] * 6 + [0.0, 1.0], 2.0), row(1.0, [0.5] * 8, 9.0)]
    assert as_right(ours, noise, "levels") is noise[1]
    (found,) = compared([ours], noise)
    assert found["levels, same norm"] == {"rate": 12.0, "low": 12.0, "high": 12.0}
    assert found["levels, as right"] == {"norm": 0.5, "rate": 3.0, "low": 3.0, "high": 3.0}
    assert compared([ours], [row(0.1, [0.0] * 8, 0.5)])[0]["levels, as right"] is None
