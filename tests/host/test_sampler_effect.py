"""The sampler attacks' effect by the benchmarks' own code, on a prompt of theirs (benchmarks/sampler_diversity).

On the 20-step model in 4 steps; the full runs' figures are committed there.
"""

from __future__ import annotations

from types import ModuleType

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


def test_the_same_adherence_is_read_off_the_line_through_noises_points() -> None:
    from provoke.benchmarks.sampler_diversity.run import at_adherence

    noise = [{"right": {"rate": right}, "levels": levels} for right, levels in ((0.5, 30.0), (1.0, 2.0), (0.8, 10.0))]
    assert at_adherence(noise, 1.0, "levels") == 2.0
    assert at_adherence(noise, 0.9, "levels") == pytest.approx(6.0)
    assert at_adherence(noise, 0.65, "levels") == pytest.approx(20.0)
    assert at_adherence(noise, 0.2, "levels") is None
