"""Budgets of an initial noise: idempotent, inside, zero is identity, and what each keeps is kept."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from provoke.core.budgets import Budget
from provoke.core.errors import ProvokeError
from provoke.core.gaussian import LIMIT, ChannelsRotated, Clamped, Free, PhasesMoved, Rotated
from provoke.core.search import sample_generators

ALL = [Clamped, Free, Rotated, ChannelsRotated, PhasesMoved]
shapes = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(3, 9), st.integers(3, 9))


def drawn(shape, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def kept(kind: type[Budget], z: torch.Tensor) -> torch.Tensor:
    """What a budget promises to keep, one row per item."""
    if kind is Rotated:
        return z.flatten(1).norm(dim=1, keepdim=True)
    if kind is ChannelsRotated:
        return torch.cat([z.flatten(2).mean(2), z.flatten(2).std(2)], 1)
    if kind is PhasesMoved:
        return torch.fft.fft2(z).abs().flatten(1)
    return torch.zeros(len(z), 1)


@pytest.mark.parametrize("kind", ALL)
@settings(deadline=None, max_examples=60)
@given(shape=shapes, seed=st.integers(0, 2**31), epsilon=st.floats(1e-3, 2.5), far=st.floats(1e-3, 30.0))
def test_projection_properties(kind, shape, seed, epsilon, far):
    center = drawn(shape, seed)
    budget = kind(center, epsilon)
    y = budget.project(center + far * drawn(shape, seed + 1))
    assert bool(budget.contains(y).all())
    assert bool((budget.measure(y) <= epsilon * (1 + 1e-4) + 2e-5).all())
    assert torch.equal(budget.project(y), y)
    assert torch.equal(budget.project(center), center)
    torch.testing.assert_close(kept(kind, y), kept(kind, center), rtol=1e-4, atol=1e-4)
    if kind is Clamped:
        assert float((y - center).abs().max()) <= epsilon + 1e-6
        assert float(y.abs().max()) <= max(LIMIT, float(center.abs().max())) + 1e-6


@pytest.mark.parametrize("kind", ALL)
def test_zero_epsilon_is_identity(kind):
    center = drawn((2, 4, 8, 8), 0)
    budget = kind(center, 0.0)
    for result in (budget.project(center + 1), budget.random(sample_generators(0, 2, 1))):
        assert torch.equal(result, center)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("epsilon", [0.1, 0.7])
def test_random_lies_on_the_surface_and_depends_on_the_item_alone(kind, epsilon):
    center = drawn((2, 4, 8, 8), 3)
    both = kind(center, epsilon).random(sample_generators(7, 1, 2))
    torch.testing.assert_close(kind(center, epsilon).measure(both), torch.full((2,), epsilon), rtol=2e-3, atol=0)
    alone = kind(center[1:], epsilon).random(sample_generators(7, 1, 2)[1:])
    torch.testing.assert_close(alone, both[1:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ALL)
def test_direction_has_unit_size_and_climbs_within_what_is_kept(kind):
    center = drawn((2, 4, 8, 8), 4)
    budget = kind(center, 1.0)
    x = budget.project(center + 0.3 * drawn(center.shape, 6))
    gradient = 1e-25 * drawn(center.shape, 5)
    step = budget.direction(x, gradient)
    torch.testing.assert_close(budget._norm(step), torch.ones(2), rtol=1e-4, atol=0)
    size = 1e-2
    moved = budget.project(x + size * step)
    gain = ((moved - x) * gradient).flatten(1).sum(1) / gradient.flatten(1).norm(dim=1)
    assert bool((gain > 0).all())
    # a step along what is kept is not undone by the projection
    torch.testing.assert_close(moved - x, size * step, rtol=0, atol=5e-3)


@pytest.mark.parametrize("kind", [Rotated, ChannelsRotated])
def test_the_cap_is_projected_onto_exactly(kind):
    """No feasible point found by 20,000 tries is nearer."""
    center = drawn((1, 1, 2, 2), 1)
    budget = kind(center, 0.4)
    x = center + torch.tensor([[[[1.0, -2.0], [0.5, 1.5]]]])
    y = budget.project(x)
    near = budget.project((y + 0.1 * drawn((20_000, 1, 2, 2), 2)).view(20_000, 1, 1, 2, 2).squeeze(1))
    assert bool((budget.measure(near) <= 0.4 + 1e-4).all())
    assert float((near - x).flatten(1).norm(dim=1).min()) >= float((y - x).norm()) - 1e-4


def test_a_rotation_by_a_right_angle_is_an_independent_sample():
    center = drawn((1, 4, 32, 32), 1)
    budget = Rotated(center, 2.5)
    z = budget.random(sample_generators(2, 1, 1))
    assert float((z * center).mean().abs()) < 1e-5
    assert float(budget.measure(z)) == pytest.approx(math.sqrt(2) * float(center.square().mean().sqrt()), rel=1e-4)
    assert torch.equal(budget.project(-center), -center)


@pytest.mark.parametrize("kind", ALL)
def test_an_items_budget_does_not_depend_on_its_neighbours(kind):
    """Not even on one with an entry far out."""
    center = drawn((2, 4, 8, 8), 2)
    center[1, 0, 0, 0] = 1e4
    center[:1] += 5e-4 - center[:1].mean((2, 3), keepdim=True)
    near = center - 1e-3  # the other sign of each mean: no phase to move
    wish = center + 3 * drawn(center.shape, 8)
    both, alone = kind(center, 5.0), kind(center[:1], 5.0)
    torch.testing.assert_close(both.project(wish)[:1], alone.project(wish[:1]), rtol=0, atol=1e-5)
    assert torch.equal(both.contains(near)[:1], alone.contains(near[:1]))


def test_a_constant_noise_is_refused():
    with pytest.raises(ProvokeError, match="constant"):
        ChannelsRotated(torch.ones(1, 4, 8, 8), 0.5)
