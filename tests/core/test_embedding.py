"""The vocabulary's figures, and the band that keeps a token as long as a word."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from provoke.core import embedding
from provoke.core.embedding import NormBand, Vocabulary, nearest
from provoke.core.errors import ProvokeError

BLOCKS = [(6, 11.0, 1.5), (10, 4.0, 0.5)]  # two encoders: width, length, spread
WIDTH = 16


def drawn(seed: int, scale: float = 1.0, count: int = 3) -> Tensor:
    return scale * torch.randn(2, count, WIDTH, generator=torch.Generator().manual_seed(seed))


def lengths(x: Tensor) -> Tensor:
    return torch.stack([x[..., :6].norm(dim=-1), x[..., 6:].norm(dim=-1)], -1)


bands = st.builds(
    lambda seed, epsilon, scale: NormBand(drawn(seed, scale), epsilon, blocks=BLOCKS),
    st.integers(0, 10_000),
    st.floats(0.01, 20),
    st.sampled_from([0.0, 1e-3, 1.0, 100.0]),
)


@settings(max_examples=60, deadline=None)
@given(bands, st.integers(0, 10_000), st.sampled_from([0.0, 1e-6, 1.0, 1e4]))
def test_what_is_projected_is_inside_and_stays(band: NormBand, seed: int, scale: float) -> None:
    x = drawn(seed, scale)
    once = band.project(x)
    assert once.shape == x.shape
    assert bool(band.contains(once).all())
    assert torch.equal(band.project(once), once)
    off = (lengths(once) - torch.tensor([11.0, 4.0])).abs() / torch.tensor([1.5, 0.5])
    assert float(off.max()) <= band.epsilon * (1 + 1e-4) + 1e-4
    torch.testing.assert_close(band.measure(once), off.flatten(1).amax(1), rtol=1e-3, atol=1e-3)


@settings(max_examples=30, deadline=None)
@given(bands, st.integers(0, 10_000))
def test_the_projection_is_the_nearest_point(band: NormBand, seed: int) -> None:
    """No other point of the band is nearer."""
    x = drawn(seed, 3.0)
    mine = (band.project(x) - x).norm(dim=-1)
    for other in range(3):
        assert bool(((band.project(x + drawn(other)) - x).norm(dim=-1) >= mine - 1e-4).all())


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_nothing_is_nothing(seed: int, other: int) -> None:
    center = drawn(seed)
    assert torch.equal(NormBand(center, 0.0, blocks=BLOCKS).project(drawn(other)), center)


@settings(max_examples=30, deadline=None)
@given(bands, st.integers(0, 10_000), st.sampled_from([1e-30, 1.0, 1e30]))
def test_a_step_moves_every_vector_by_one(band: NormBand, seed: int, scale: float) -> None:
    gradient = drawn(seed) * scale
    step = band.direction(band.center, gradient)
    for block in (slice(0, 6), slice(6, 16)):
        torch.testing.assert_close(step[..., block].square().mean(-1).sqrt(), torch.ones(2, 3), rtol=1e-4, atol=1e-4)
    assert bool(((step * drawn(seed)).sum(-1) > 0).all())
    assert not bool(band.direction(band.center, torch.zeros_like(gradient)).any())


def test_a_random_token_is_as_long_as_may_be_and_its_own_whoever_else_is_there() -> None:
    band = NormBand(drawn(0), 2.0, blocks=BLOCKS)
    generators = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    found = band.random(generators)
    torch.testing.assert_close(lengths(found), torch.tensor([14.0, 5.0]).expand(2, 3, 2), rtol=1e-4, atol=1e-4)
    alone = NormBand(drawn(0)[1:], 2.0, blocks=BLOCKS).random([torch.Generator().manual_seed(6)])
    assert torch.equal(alone[0], found[1])


def test_blocks_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(ProvokeError, match="add up"):
        NormBand(drawn(0), 1.0, blocks=BLOCKS[:1])


# ---------------------------------------------------------------------------------------------- the vocabulary


def test_the_figures_are_those_of_the_words_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of zeros (a table that is longer than the vocabulary) count for nothing; parts make no difference."""
    words = 0.03 * torch.randn(500, 32, generator=torch.Generator().manual_seed(0)) + 0.01
    table = torch.cat([words, torch.zeros(1500, 32)])
    found = Vocabulary.of(table)
    assert found.rows == 500
    assert found.width == 32
    assert found.deviation == pytest.approx(float(words.square().mean().sqrt()), rel=1e-5)
    assert found.length == pytest.approx(float(words.norm(dim=1).mean()), rel=1e-5)
    assert found.spread == pytest.approx(float(words.norm(dim=1).std(correction=0)), rel=1e-4)
    assert found.band[1] == pytest.approx(found.length / found.deviation)
    monkeypatch.setattr(embedding, "ROWS", 7)
    assert Vocabulary.of(table) == found
    half = Vocabulary.of(table.half())
    assert half.deviation == pytest.approx(found.deviation, rel=1e-3)


@pytest.mark.parametrize("table", [torch.zeros(4, 8), torch.full((4, 8), float("nan"))])
def test_a_table_without_words_is_refused(table: Tensor) -> None:
    with pytest.raises(ProvokeError, match="empty or not finite"):
        Vocabulary.of(table)


def test_the_nearest_word(monkeypatch: pytest.MonkeyPatch) -> None:
    table = torch.randn(100, 16, generator=torch.Generator().manual_seed(0))
    wanted = torch.tensor([3, 99, 50])
    vectors = 7 * table[wanted] + 0.1 * torch.randn(3, 16, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(embedding, "ROWS", 9)
    places, cosines = nearest(table, vectors)
    assert places.tolist() == wanted.tolist()
    assert bool((cosines > 0.99).all())
