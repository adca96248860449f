"""Tests of Gaussianity: true samples are rejected as often as the level says, and what is not Gaussian is found."""

from __future__ import annotations

import pytest
import torch

from provoke.core.gaussianity import LEVEL, STATISTICS, Gaussianity

SHAPE = (4, 8, 8)
COUNT = 800


@pytest.fixture(scope="module")
def test() -> Gaussianity:
    return Gaussianity(SHAPE)


def samples(seed: int = 99, count: int = COUNT) -> torch.Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", STATISTICS)
def test_true_samples_are_rejected_at_the_level(test, name):
    rate = float(test.rejected(samples())[name].float().mean())
    assert abs(rate - LEVEL) < 4 * (LEVEL * (1 - LEVEL) * (1 / COUNT + 1 / 1999)) ** 0.5


SMOOTH = torch.tensor([[0.1, 0.2, 0.1], [0.2, 1.0, 0.2], [0.1, 0.2, 0.1]])


def smoothed(z: torch.Tensor) -> torch.Tensor:
    """Correlated neighbours, the same variance."""
    kernel = (SMOOTH / SMOOTH.norm()).view(1, 1, 3, 3).repeat(z.shape[1], 1, 1, 1)
    padded = torch.nn.functional.pad(z, (1, 1, 1, 1), mode="circular")
    return torch.nn.functional.conv2d(padded, kernel, groups=z.shape[1])


STRANGE = {
    "too large": (lambda z: 1.3 * z, {"norm", "marginal", "channels", "patches", "spectrum"}),
    "uniform": (lambda z: (torch.special.ndtr(z) - 0.5) * 12**0.5, {"marginal"}),
    "one channel shifted": (lambda z: z + torch.tensor([0.8, 0, 0, 0]).view(4, 1, 1), {"channels"}),
    "smooth": (smoothed, {"spectrum", "patches"}),
    "channels alike": (lambda z: 0.8 * z + 0.6 * z[:, :1], {"patches"}),
}


@pytest.mark.parametrize("name", STRANGE)
def test_what_is_not_gaussian_is_found(test, name):
    """By the tests that are made for it, in more than half of the cases."""
    change, by = STRANGE[name]
    rejected = test.rejected(change(samples(count=200)))
    for statistic in by:
        assert float(rejected[statistic].float().mean()) > 0.5, statistic


def test_other_shapes_and_one_at_a_time(test):
    video = torch.randn(2, 16, 3, 6, 10, generator=torch.Generator().manual_seed(0))
    for p in Gaussianity(video.shape[1:])(video).values():
        assert p.shape == (2,)
        assert bool(((p > 0) & (p <= 1)).all())
    z = samples(count=3)
    for name, p in test(z).items():
        assert torch.equal(p[1:2], test(z[1:2])[name])
