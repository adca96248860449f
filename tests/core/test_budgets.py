"""Budgets: idempotent, inside the ball and the box, zero is identity, and exact where the box cuts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from provoke.core.budgets import L1, L2, Budget, LInf, TruncatedNoise, normal
from provoke.core.errors import ProvokeError
from provoke.core.search import sample_generators

NORMS = [LInf, L2, L1]
ALL = [*NORMS, TruncatedNoise]
shapes = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(2, 6), st.integers(2, 6))


def problem(norm: type[Budget], shape, seed: int, epsilon: float, masked: bool) -> tuple[Budget, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    center = torch.rand(shape, generator=g).mul(1.4).sub(0.2).clamp(0, 1)  # some entries sit on the box's walls
    mask = (torch.rand(shape[0], 1, *shape[2:], generator=g) < 0.5).float() if masked else None
    if mask is not None:
        mask[:, :, 0, 0] = 1
    return norm(center, epsilon, mask=mask), center + torch.randn(shape, generator=g) * 3 * epsilon


@pytest.mark.parametrize("norm", ALL)
@settings(deadline=None, max_examples=60)
@given(shape=shapes, seed=st.integers(0, 2**31), epsilon=st.floats(1e-3, 0.5), masked=st.booleans())
def test_projection_properties(norm, shape, seed, epsilon, masked):
    budget, x = problem(norm, shape, seed, epsilon, masked)
    y = budget.project(x)
    assert y.min() >= 0
    assert y.max() <= 1
    assert (budget.measure(y) <= budget.epsilon * (1 + 1e-6) + 1e-6).all()
    if norm in (LInf, TruncatedNoise):
        assert float((y - budget.center).abs().max()) <= epsilon + 1e-6
    assert torch.equal(budget.project(y), y)
    assert torch.equal(budget.project(budget.center), budget.center)
    if budget.mask is not None:
        assert torch.equal(y[~budget.mask], budget.center[~budget.mask])
    inside = budget.center + (y - budget.center) * 0.5
    torch.testing.assert_close(budget.project(inside), inside, rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", ALL)
@settings(deadline=None, max_examples=40)
@given(shape=shapes, seed=st.integers(0, 2**31), epsilon=st.floats(2e-3, 0.3), masked=st.booleans())
def test_grid_properties(norm, shape, seed, epsilon, masked):
    budget, x = problem(norm, shape, seed, epsilon, masked)
    budget = norm((budget.center * 255).round() / 255, epsilon, mask=budget.mask)  # a picture from an 8-bit file
    y = budget.quantise(budget.project(x))
    assert torch.equal(y, (y * 255).round() / 255)
    assert y.min() >= 0
    assert y.max() <= 1
    assert (budget.measure(y) <= budget.epsilon + 1e-6).all()
    if norm in (LInf, TruncatedNoise):
        assert float((y - budget.center).abs().max()) <= epsilon + 1e-6
    assert torch.equal(budget.quantise(y), y)
    if budget.mask is not None:
        assert torch.equal(y[~budget.mask], budget.center[~budget.mask])


@pytest.mark.parametrize("norm", ALL)
def test_zero_epsilon_is_identity(norm):
    budget, x = problem(norm, (2, 3, 4, 4), 0, 0.1, False)
    budget = norm(budget.center, 0.0)
    for result in (budget.project(x), budget.quantise(x), budget.random(sample_generators(0, 2, 1))):
        assert torch.equal(result, budget.center)


@pytest.mark.parametrize("norm", [L2, L1])
def test_projection_is_the_nearest_point_where_the_box_cuts(norm):
    """Against a dense search: no feasible point found by 20,000 tries is nearer."""
    budget = norm(torch.tensor([[0.1, 0.9, 0.5]]), 0.2)
    x = torch.tensor([[-0.7, 1.4, 0.9]])
    y = budget.project(x)
    g = torch.Generator().manual_seed(0)
    near = (y + torch.randn(20_000, 3, generator=g) * 0.05).clamp(0, 1)
    size = (near - budget.center).abs()
    norms = size.mean(1) if norm is L1 else size.square().mean(1).sqrt()
    feasible = near[norms <= 0.2]
    assert len(feasible) > 1000
    assert float((feasible - x).norm(dim=1).min()) >= float((y - x).norm()) - 1e-5
    assert float(budget.measure(y)) == pytest.approx(0.2, rel=1e-4)


def test_norms_have_one_unit():
    """A uniform change by d measures d in every norm, with and without a mask."""
    center = torch.full((1, 3, 8, 8), 0.5)
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    for norm in NORMS:
        assert float(norm(center, 0.1).measure(center + 0.03)) == pytest.approx(0.03, rel=1e-5)
        assert float(norm(center, 0.1, mask=mask).measure(center + 0.03 * mask)) == pytest.approx(0.03, rel=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_direction_has_unit_size_climbs_and_respects_the_mask(norm):
    budget, _ = problem(norm, (2, 3, 16, 16), 3, 0.1, True)
    gradient = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    step = budget.direction(budget.center, gradient)
    assert torch.equal(step[~budget.mask], torch.zeros_like(step[~budget.mask]))
    torch.testing.assert_close(budget._norm(step), torch.ones(2), rtol=1e-4, atol=0)
    gain = (step * gradient).flatten(1).sum(1)
    noise = budget.free(torch.randn(step.shape, generator=torch.Generator().manual_seed(2)))
    noise = noise / budget._norm(noise).view(-1, 1, 1, 1)
    assert (gain > (noise * gradient).flatten(1).sum(1).abs()).all()


def test_random_lies_on_the_surface():
    center = torch.full((2, 3, 16, 16), 0.5)
    for norm in NORMS:
        budget = norm(center, 0.05)
        drawn = budget.random(sample_generators(7, 1, 2))
        torch.testing.assert_close(budget.measure(drawn), torch.full((2,), 0.05), rtol=1e-3, atol=0)
        assert not torch.equal(drawn[0], drawn[1])


def test_item_noise_does_not_depend_on_the_batch():
    alone = LInf(torch.full((2, 3, 4, 4), 0.5), 0.1).start(sample_generators(5, 1, 2), 0.5)
    together = LInf(torch.full((6, 3, 4, 4), 0.5), 0.1).start(sample_generators(5, 3, 2), 0.5)
    for image in range(3):
        assert torch.equal(together[2 * image : 2 * image + 2], alone)


def test_all_levels_survive_the_hosts_floor():
    """The host's Save Image floors 255 * x in float32: every grid value must come back as itself."""
    grid = LInf(torch.full((1, 256), 0.5), 0.6).quantise(torch.linspace(0, 1, 256)[None])
    assert np.array_equal((255.0 * grid.numpy()).clip(0, 255).astype(np.uint8)[0], np.arange(256))


@pytest.mark.parametrize("norm", ALL)
def test_the_grid_keeps_a_point_that_lies_on_it(norm):
    """Also on the ball's surface, and inside a narrower box."""
    center = (torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 120 + 60).round() / 255
    sign = torch.randn(center.shape, generator=torch.Generator().manual_seed(1)).sign()
    epsilon = 10 / 255 if norm is TruncatedNoise else 4 / 255
    budget = norm(center, epsilon, box=(0.1, 0.9))
    x = center + sign * 4 / 255
    torch.testing.assert_close(budget.quantise(x), x, rtol=0, atol=1e-6)
    wide = budget.quantise(budget.project(center + sign))
    assert float(wide.min()) >= 0.1 - 1e-6
    assert float(wide.max()) <= 0.9 + 1e-6


@pytest.mark.parametrize("norm", ALL)
def test_projections_are_contained_at_any_scale(norm):
    for scale in (1e-3, 1.0, 20.0, 1e3):
        center = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * scale
        budget = norm(center, 0.01 * scale, box=None)
        assert bool(budget.contains(budget.project(center + scale)).all())
        assert not bool(budget.contains(center + 0.02 * scale).any())


def test_off_grid_center_stays_within_epsilon():
    center = torch.rand(1, 1000, generator=torch.Generator().manual_seed(0))
    budget = LInf(center, 2.3 / 255)
    y = budget.quantise(budget.random(sample_generators(0, 1, 1)))
    assert float(budget.measure(y)) <= 2.3 / 255 + 1e-5


@pytest.mark.parametrize(
    ("center", "epsilon", "mask", "words"),
    [
        (torch.zeros(1, 2), -1.0, None, "epsilon"),
        (torch.zeros(1, 2), float("nan"), None, "epsilon"),
        (torch.full((1, 2), float("nan")), 0.1, None, "NaN"),
        (torch.full((1, 2), 1.5), 0.1, None, "spans"),
        (torch.zeros(2, 2), 0.1, torch.tensor([[1, 0], [0, 0]]), "mask is empty"),
    ],
)
def test_refusals(center, epsilon, mask, words):
    with pytest.raises(ProvokeError, match=words):
        LInf(center, epsilon, mask=mask)


def test_no_box():
    budget = L2(torch.zeros(1, 4), 2.0, box=None)
    torch.testing.assert_close(budget.project(torch.full((1, 4), 9.0)), torch.full((1, 4), 2.0), rtol=1e-5, atol=0)


def test_truncated_noise_keeps_a_bell_where_clipping_piles_up():
    """The share of saturated entries after the same climb along the same gradient."""
    gradient = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    share = {}
    for kind in (LInf, TruncatedNoise):
        budget = kind(torch.full((1, 3, 32, 32), 0.5), 0.05)
        x = budget.center
        for _ in range(20):
            x = budget.project(x + 0.01 * budget.direction(x, gradient))
        share[kind] = float(((x - budget.center).abs() > 0.99 * 0.05).float().mean())
    assert share[LInf] > 0.99
    assert share[TruncatedNoise] < 0.05


@pytest.mark.parametrize("norm", ALL)
@pytest.mark.parametrize("shift", [False, True])
def test_a_smooth_start_is_inside_too(norm: type[Budget], shift: bool) -> None:
    budget, _ = problem(norm, (2, 3, 6, 5), 3, 0.05, masked=True)
    start = budget.start(sample_generators(1, 2, 1), 2.0, shift)
    assert bool(budget.contains(start, slack=1e-6).all())
    assert torch.equal(start[~budget.mask], budget.center[~budget.mask])
    assert torch.equal(start, budget.start(sample_generators(1, 2, 1), 2.0, shift))


@given(seed=st.integers(0, 10_000), shift=st.booleans())
@settings(deadline=None, max_examples=30)
def test_anywhere_is_the_box_and_the_mask_alone(seed: int, shift: bool) -> None:
    budget, _ = problem(LInf, (2, 3, 6, 6), seed, 0.01, masked=True)
    far = budget.center + normal((3, 6, 6), torch.Generator().manual_seed(seed), shift)
    there = budget.anywhere(far)
    assert torch.equal(there, budget.anywhere(there))
    assert torch.equal(there[budget.mask], far[budget.mask].clamp(0, 1))
    assert torch.equal(there[~budget.mask], budget.center[~budget.mask])
