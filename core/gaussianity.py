"""Whether a noise looks like N(0, I): several tests, each calibrated on true samples of the same shape.

A test at 5 % rejects 5 % of true samples: what counts is whether found noises are rejected more often than those.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

LEVEL = 0.05
ENTRIES = 2**24  # numbers drawn to calibrate, at most
DRAWS = (199, 1999)  # samples to calibrate with, fewest and most


def marginal(noise: Tensor) -> Tensor:
    """Anderson and Darling's A^2 of all entries against N(0, 1) (no parameter fitted): B ... -> B."""
    ordered = noise.flatten(1).double().sort(1).values
    count = ordered.shape[1]
    weight = 2 * torch.arange(1, count + 1, dtype=torch.float64, device=noise.device) - 1
    logs = torch.special.log_ndtr(ordered) + torch.special.log_ndtr(-ordered).flip(1)
    return -count - (weight * logs).sum(1) / count


def norm(noise: Tensor) -> Tensor:
    """Distance of the squared norm from its mean, in standard deviations: B."""
    flat = noise.flatten(1).double()
    return (flat.square().sum(1) - flat.shape[1]).abs() / math.sqrt(2 * flat.shape[1])


def channels(noise: Tensor) -> Tensor:
    """Mean, variance, skewness and kurtosis of every channel, squared in units of their standard errors, summed: B."""
    flat = noise.flatten(2).double()
    count = flat.shape[2]
    mean, spread = flat.mean(2), flat.var(2, unbiased=False)
    standard = (flat - mean[..., None]) / spread.sqrt().clamp_min(1e-12)[..., None]
    skew, kurtosis = standard.pow(3).mean(2), standard.pow(4).mean(2) - 3
    parts = ((mean, 1), (spread - 1, 2), (skew, 6), (kurtosis, 24))
    return torch.stack([value.square() * count / of for value, of in parts]).sum((0, 2))


def spectrum(noise: Tensor) -> Tensor:
    """Power in rings of equal frequency (mean over channels) against a flat spectrum, squared in units of its standard
    error, summed over rings: B."""
    planes = _planes(noise)
    power = torch.fft.fft2(planes, norm="ortho").abs().square().mean(1)  # B h w, 1 on average
    sides = [torch.fft.fftfreq(size, device=noise.device) * size for size in planes.shape[-2:]]
    radius = torch.hypot(sides[0][:, None], sides[1]).round().long()
    ring = radius.clamp_max(min(planes.shape[-2:]) // 2).flatten()
    share = torch.nn.functional.one_hot(ring).to(power)  # h*w R
    count = share.sum(0)
    return ((power.flatten(1) @ share / count - 1).square() * count * planes.shape[1]).sum(1)


def patches(noise: Tensor) -> Tensor:
    """Covariance of all patches of 2 x 2 pixels and all channels (of at most 16 of these) against I, squared Frobenius
    norm: B."""
    planes = _planes(noise)[:, :16]
    cut = torch.nn.functional.unfold(planes, 2)  # B 4C N
    found = cut @ cut.transpose(1, 2) / cut.shape[2]
    return (found - torch.eye(cut.shape[1], dtype=found.dtype, device=found.device)).square().sum((1, 2))


def _planes(noise: Tensor) -> Tensor:
    """B C h w or B C T h w -> B C' h w, float64."""
    return noise.flatten(1, -3).double()


Statistic = Callable[[Tensor], Tensor]
STATISTICS: dict[str, Statistic] = {
    "marginal": marginal,
    "norm": norm,
    "channels": channels,
    "spectrum": spectrum,
    "patches": patches,
}
"""Larger is stranger."""


class Gaussianity:
    """p-values of noises of one shape: how often a true sample is at least as strange.

    Args:
        shape: C h w (C T h w) of one noise.
        seed: of the true samples.
    """

    def __init__(self, shape: Sequence[int], seed: int = 0) -> None:
        self.shape = tuple(shape)
        size = math.prod(self.shape)
        draws = max(DRAWS[0], min(DRAWS[1], ENTRIES // size))
        rng = torch.Generator().manual_seed(seed)
        chunk = max(1, 2**20 // size)
        found: dict[str, list[Tensor]] = {name: [] for name in STATISTICS}
        for start in range(0, draws, chunk):
            drawn = torch.randn(min(chunk, draws - start), *self.shape, generator=rng)
            for name, statistic in STATISTICS.items():
                found[name].append(statistic(drawn))
        self.known = {name: torch.cat(values).sort().values for name, values in found.items()}

    def __call__(self, noise: Tensor) -> dict[str, Tensor]:
        """B C h w -> p by the name of the test, B each, on the CPU; for true samples uniform in (0, 1]."""
        values = {}
        for name, statistic in STATISTICS.items():
            known = self.known[name]
            below = torch.searchsorted(known, statistic(noise.cpu().float()))
            values[name] = (1 + len(known) - below).double() / (1 + len(known))
        return values

    def rejected(self, noise: Tensor, level: float = LEVEL) -> dict[str, Tensor]:
        """Which noises each test rejects at `level`: B bool, by name."""
        return {name: p <= level for name, p in self(noise).items()}
