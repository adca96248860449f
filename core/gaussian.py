"""How far an initial noise may go and still be a plausible sample of N(0, I). Units: standard deviations.

Each keeps something of the noise that it starts from, and that noise is a true sample: so what is kept is as likely as
in any other sample, by construction. What is not kept, core/gaussianity.py measures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .budgets import L2, Budget, LInf, _largest, gaussian, per_item
from .errors import ProvokeError

LIMIT = 4.0  # standard deviations: of 16,384 Gaussian entries (SD1.5, 512 px) the largest is mostly just above


class Clamped(LInf):
    """No entry moves by more than epsilon, and none leaves +-LIMIT (or the largest entry of the item's start, if
    that is further). Source: SAGE's clamp (arXiv 2306.00974; there epsilon is 1).

    Args:
        center: B ..., the noise to start from.
    """

    def __init__(self, center: Tensor, epsilon: float) -> None:
        super().__init__(center, epsilon, box=None)
        reach = per_item(center.abs().flatten(1).amax(1).clamp_min(LIMIT), center)
        self.low, self.high = torch.maximum(self.low, -reach), torch.minimum(self.high, reach)


class Free(L2):
    """The root mean square move is at most epsilon, and nothing is kept: for priors, and to compare with."""

    def __init__(self, center: Tensor, epsilon: float) -> None:
        super().__init__(center, epsilon, box=None)


class Rotated(Budget):
    """The noise may be turned and nothing else: z = cos(t) z0 + sin(t) u, u orthogonal to z0 and as long. So its norm
    stays.

    Distance is the root mean square move, 2 sin(t / 2) for a noise of variance 1: an independent sample lies at 1.41
    (t = 90 degrees), the opposite noise at 2; a larger epsilon bounds nothing. `project` is the exact projection onto
    the cap (of every group, see `ChannelsRotated`). Source: ours; the sphere as a Gaussian's shell is folklore.

    Args:
        center: B ..., the noise to start from; every group of it (B ... in one) must vary.
    """

    def __init__(self, center: Tensor, epsilon: float) -> None:
        super().__init__(center, epsilon, box=None)
        self.offset, self.spoke = self._split(center)
        self.radius = self.spoke.norm(dim=2, keepdim=True)
        if not bool((self.radius > 0).all()):
            raise ProvokeError(
                "The noise to start from is constant",
                "Gaussian noise",
                "connect a NOISE that draws some (RandomNoise), not one that is disabled",
            )
        # the same largest angle for every group: its chords together are epsilon
        length = self.radius.flatten(1).norm(dim=1)
        half = (epsilon * self.entries.sqrt() / (2 * length)).clamp_max(1.0)
        self.angle = (2 * half.asin())[:, None, None]

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What is kept as it is, and what is turned, in groups: broadcastable to B G N, and B G N."""
        flat = x.flatten(1)[:, None]
        return torch.zeros_like(flat[..., :1]), flat

    def project(self, x: Tensor) -> Tensor:
        if self.epsilon == 0:
            return self.center.clone()
        inside = self.contains(x)
        if bool(inside.all()):
            return x
        _, spoke = self._split(x)
        start = self.spoke / self.radius
        along = (spoke * start).sum(2, keepdim=True)
        across = spoke - along * start
        size = across.norm(dim=2, keepdim=True)
        angle = torch.atan2(size, along).clamp_max(self.angle)
        turned = self.radius * (angle.cos() * start + angle.sin() * across / size.clamp_min(1e-20))
        return torch.where(per_item(inside, x) > 0, x, (self.offset + turned).view_as(x))

    def contains(self, x: Tensor, slack: float = 0.0) -> Tensor:
        """Whether each item is a rotation of its start by at most the angle, but for float rounding and `slack`."""
        offset, spoke = self._split(x)
        length = spoke.norm(dim=2, keepdim=True)
        # relative: a sum of N squares in float32, and the angle from a cosine near 1 (twice the chord, by sines)
        near = slack + 20 * torch.finfo(x.dtype).eps
        kept = ((length - self.radius).abs() <= near * self.radius) & ((offset - self.offset).abs() <= near)
        chord = (spoke - self.spoke).norm(dim=2, keepdim=True)
        turned = chord <= 2 * self.radius * ((self.angle / 2).sin() + near)
        return (kept & turned).flatten(1).all(1)

    def random(self, rngs: Sequence[torch.Generator]) -> Tensor:
        """Turned as far as may be in a random direction, 90 degrees at most: beyond, there are ever fewer noises."""
        if self.epsilon == 0:
            return self.center.clone()
        _, drawn = self._split(gaussian(self.center, rngs))
        start = self.spoke / self.radius
        across = drawn - (drawn * start).sum(2, keepdim=True) * start
        across = across / across.norm(dim=2, keepdim=True)
        angle = self.angle.clamp_max(math.pi / 2)
        turned = self.radius * (angle.cos() * start + angle.sin() * across)
        return self.project((self.offset + turned).view_as(self.center))

    def direction(self, x: Tensor, gradient: Tensor) -> Tensor:
        """The gradient without what would change a norm (of the spoke of each group), normalised."""
        _, spoke = self._split(x)
        climb = self._split(gradient)[1]
        climb = climb / climb.abs().flatten(1).amax(1).clamp_min(1e-38)[:, None, None]
        unit = spoke / spoke.norm(dim=2, keepdim=True).clamp_min(1e-38)
        climb = (climb - (climb * unit).sum(2, keepdim=True) * unit).reshape(x.shape)
        return climb / per_item(self._norm(climb).clamp_min(1e-38), climb)

    def _norm(self, delta: Tensor) -> Tensor:
        return (delta.flatten(1).square().sum(1) / self.entries).sqrt()

    def _shrink(self, delta: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return self.project(self.center + delta) - self.center


class ChannelsRotated(Rotated):
    """Each channel's mean and standard deviation stay what they were; what is left of a channel is turned as in
    `Rotated`. (To restandardise a channel after every step is this projection.)

    Args:
        center: B C ..., more than two numbers a channel.
    """

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        flat = x.flatten(2)
        mean = flat.mean(2, keepdim=True)
        return mean, flat - mean


class PhasesMoved(Budget):
    """The two-dimensional power spectrum of each channel stays what it was; only phases move. So do its mean, its
    variance and the covariance of pixels at any distance (with the borders joined). Half of the freedom is left.

    Distance is the root mean square move. Not the nearest point: all phases go back by the same share until it fits.
    Source: ours.

    Args:
        center: B ... h w, the noise to start from.
    """

    def __init__(self, center: Tensor, epsilon: float) -> None:
        super().__init__(center, epsilon, box=None)
        self.waves = torch.fft.fft2(center)
        # a constant and the finest stripes have no phase, only a sign: they stay
        rows, columns = (2 * torch.arange(size) % size == 0 for size in center.shape[-2:])
        self.movable = (~(rows[:, None] & columns)).to(center.device)

    def project(self, x: Tensor) -> Tensor:
        if self.epsilon == 0:
            return self.center.clone()
        inside = self.contains(x)
        if bool(inside.all()):
            return x
        phase = torch.where(self.movable, (torch.fft.fft2(x) * self.waves.conj()).angle(), 0.0)

        def point(share: Tensor) -> Tensor:
            turned = torch.polar(torch.ones_like(phase), phase * per_item(share, phase))
            return torch.fft.ifft2(self.waves * turned).real

        share = _largest(lambda s: self.measure(point(s)), self.epsilon, torch.ones_like(self.entries))
        return torch.where(per_item(inside, x) > 0, x, point(share))

    def contains(self, x: Tensor, slack: float = 0.0) -> Tensor:
        waves = torch.fft.fft2(x)
        largest = per_item(self.waves.abs().flatten(1).amax(1), x)
        near = (slack + 100 * torch.finfo(x.dtype).eps) * largest
        off = (waves.abs() - self.waves.abs()).abs() <= near
        still = ((waves - self.waves).abs() <= near) | self.movable
        return (off & still).flatten(1).all(1) & (self.measure(x) <= self.epsilon + slack + self.rounding)

    def random(self, rngs: Sequence[torch.Generator]) -> Tensor:
        return self.project(gaussian(self.center, rngs))

    def direction(self, x: Tensor, gradient: Tensor) -> Tensor:
        """The part of the gradient that turns phases, normalised."""
        climb = gradient / per_item(gradient.abs().flatten(1).amax(1).clamp_min(1e-38), gradient)
        waves = torch.fft.fft2(x)
        turn = (torch.fft.fft2(climb) * waves.conj()).imag / waves.abs().square().clamp_min(1e-20)
        climb = torch.fft.ifft2(torch.where(self.movable, 1j * turn * waves, 0.0)).real
        return climb / per_item(self._norm(climb).clamp_min(1e-38), climb)

    def _norm(self, delta: Tensor) -> Tensor:
        return (delta.flatten(1).square().sum(1) / self.entries).sqrt()

    def _shrink(self, delta: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return self.project(self.center + delta) - self.center
