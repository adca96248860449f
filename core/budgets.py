"""How far the variable may go. A budget knows how to start, project, measure, and which way its norm climbs fastest.

All live around a `center` (B, ...), inside an optional box, on the entries that a mask leaves free: the others equal
the center exactly. `epsilon` has the same unit in every norm, that of one entry of the variable: no entry moves further
(L-inf), the root mean square move is at most that (L2), the mean absolute move is at most that (L1), over the free
entries.

`project` stays inside ball AND box, is idempotent, and is the identity at the center. It is the exact Euclidean
projection onto their intersection: projecting onto one after the other wastes budget wherever the box cuts.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .errors import ProvokeError


def per_item(values: Tensor, like: Tensor) -> Tensor:
    """Shape B values so that they broadcast over `like` (B, ...)."""
    return values.to(like).view(-1, *[1] * (like.ndim - 1))


def gaussian(like: Tensor, rngs: Sequence[torch.Generator], shift: bool = False) -> Tensor:
    """Standard normal noise shaped like `like` (B, ...); item i is drawn from CPU generator i, whoever else is in the
    batch. shift: as in `normal`.
    """
    return torch.stack([normal(like.shape[1:], rng, shift) for rng in rngs]).to(like)


def normal(shape: Sequence[int], rng: torch.Generator, shift: bool = False) -> Tensor:
    """Standard normal noise; with `shift` one number for each channel (the same over the last two dimensions): what a
    model feels of a picture's tint or light, noise on each pixel would average away.
    """
    if not shift:
        return torch.randn(tuple(shape), generator=rng)
    return torch.randn((*shape[:-2], 1, 1), generator=rng).expand(*shape)


class Budget(ABC):
    """What the norms share; a norm is a subclass with four short methods: `_norm`, `_shrink`, `random`, `direction`.

    Args:
        center: B, ...; the unperturbed variable, finite and inside the box.
        epsilon: radius per entry, in the variable's units (0 allows nothing).
        box: (low, high) of the variable's domain, or None for no domain.
        mask: broadcastable to center; entries where it is 0 may not change.
    Raises ProvokeError for a negative or infinite epsilon, a center that is not finite or not in the box, an empty
    mask.
    """

    def __init__(
        self,
        center: Tensor,
        epsilon: float,
        *,
        box: tuple[float, float] | None = (0.0, 1.0),
        mask: Tensor | None = None,
    ) -> None:
        if not (math.isfinite(epsilon) and epsilon >= 0):
            raise ProvokeError(f"An epsilon of {epsilon}", "a finite number, 0 or more", "set epsilon")
        if not bool(center.isfinite().all()):
            raise ProvokeError(
                "The input holds NaN or infinite values", "finite numbers", "check the node that made it"
            )
        low, high = box or (-math.inf, math.inf)
        if float(center.min()) < low or float(center.max()) > high:
            span = f"{float(center.min()):.4g} to {float(center.max()):.4g}"
            raise ProvokeError(f"The input spans {span}", f"values from {low:g} to {high:g}", "clamp the input first")
        self.center, self.epsilon, self.box = center, float(epsilon), (low, high)
        self.low, self.high = center.new_tensor(low), center.new_tensor(high)
        # below this a distance is only float rounding of center + change
        self.rounding = 4 * torch.finfo(center.dtype).eps * max(1.0, float(center.abs().max()))
        self.mask = None if mask is None else (mask != 0).expand_as(center)
        every = torch.full((len(center),), center[0].numel(), device=center.device)
        # float32 throughout: some devices have nothing finer, and torch sums in pairs
        self.entries = (every if self.mask is None else self.mask.flatten(1).sum(1)).to(center.dtype)
        if not bool((self.entries > 0).all()):
            raise ProvokeError(
                "The perturbation mask is empty: nothing may change",
                "at least one pixel that may change in every image",
                "paint a larger perturb_mask; the hole itself never counts",
            )

    def start(self, rngs: Sequence[torch.Generator], scale: float, shift: bool = False) -> Tensor:
        """Center plus Gaussian noise, standard deviation scale * epsilon, projected (z0 ~ N(0, delta^2) of arXiv
        2403.08294). shift: as in `normal`.
        """
        return self.project(self.center + scale * self.epsilon * gaussian(self.center, rngs, shift))

    @abstractmethod
    def random(self, rngs: Sequence[torch.Generator]) -> Tensor:
        """A random point on the ball's surface (cut by the box): the baseline that a search has to beat."""

    def project(self, x: Tensor) -> Tensor:
        """The nearest point inside ball, box and mask; same shape as x."""
        if self.epsilon == 0:
            return self.center.clone()
        boxed = x.clamp(self.low, self.high)
        if self.mask is not None:
            boxed = torch.where(self.mask, boxed, self.center)
        # what is inside but for rounding is left alone, bit for bit: projecting twice, or a grid point, changes nothing
        inside = self.contains(boxed)
        if bool(inside.all()):
            return boxed
        shrunk = self._shrink(self.free(x - self.center), self.low - self.center, self.high - self.center)
        return torch.where(per_item(inside, x) > 0, boxed, (self.center + shrunk).clamp(self.low, self.high))

    def anywhere(self, x: Tensor) -> Tensor:
        """The nearest point inside box and mask, however far from the center; same shape as x."""
        boxed = x.clamp(*self.box)
        return boxed if self.mask is None else torch.where(self.mask, boxed, self.center)

    def measure(self, x: Tensor) -> Tensor:
        """Distance from the center in the norm's unit: B."""
        return self._norm(x - self.center)

    def contains(self, x: Tensor, slack: float = 0.0) -> Tensor:
        """Whether each item is inside ball and box, but for float rounding and `slack` (in the variable's units): B."""
        slack += self.rounding
        boxed = ((x >= self.low - slack) & (x <= self.high + slack)).flatten(1).all(1)
        return boxed & (self.measure(x) <= self.epsilon + slack)

    @abstractmethod
    def direction(self, x: Tensor, gradient: Tensor) -> Tensor:
        """The step of size 1 (in this norm) from x that climbs fastest along `gradient`."""

    def free(self, change: Tensor) -> Tensor:
        """The part of a change that the mask allows."""
        # not a product: outside the mask even infinity does not count
        return change if self.mask is None else torch.where(self.mask, change, torch.zeros_like(change))

    def quantise(self, x: Tensor, levels: int = 255) -> Tensor:
        """A point near x on the grid k / levels that is still inside the budget: what an 8-bit file can hold.

        Entries that may not change keep the center's own value, on the grid or not. If the center itself is off the
        grid, the nearest grid point of the center is allowed whatever epsilon is.
        """
        if self.epsilon == 0:
            return self.center.clone()

        first, last = _grid_bounds(self.low, self.high, levels)

        # scaling the change until its rounded form fits: rounding adds at most half a level to each entry
        def rounded(share: Tensor) -> Tensor:
            wish = ((self.center + per_item(share, x) * (x - self.center)) * levels).round()
            return torch.where(first <= last, wish.clamp(first, last), wish) / levels

        def size(share: Tensor) -> Tensor:
            return self._norm(self.free(rounded(share) - self.center))

        share = _largest(size, self.epsilon + self.rounding, torch.ones_like(self.entries))
        return rounded(share) if self.mask is None else torch.where(self.mask, rounded(share), self.center)

    def _narrow(self, radius: float) -> None:
        """Cut the box to what is at most `radius` from the center."""
        self.low, self.high = (self.center - radius).clamp(min=self.low), (self.center + radius).clamp(max=self.high)

    @abstractmethod
    def _norm(self, delta: Tensor) -> Tensor:
        """Size of a change in the norm's unit: B."""

    @abstractmethod
    def _shrink(self, delta: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Project a change onto the ball and the box [low, high] around it."""


def _grid_bounds(low: Tensor, high: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """First and last grid point (in levels) between low and high; first > last where there is none."""
    slack = 1e-4  # in levels: above the float32 rounding of k / 255, far below what counts
    return (low * levels - slack).ceil(), (high * levels + slack).floor()


def _largest(size: Callable[[Tensor], Tensor], limit: float, most: Tensor) -> Tensor:
    """The largest t in [0, most] (B) with size(t) <= limit, for a size that grows with t: bisection to float32
    precision.
    """
    fits = size(most) <= limit
    low, high = torch.where(fits, most, torch.zeros_like(most)), most
    for _ in range(0 if bool(fits.all()) else 32):
        middle = (low + high) / 2
        inside = size(middle) <= limit
        low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
    return low


class LInf(Budget):
    """No entry moves by more than epsilon: a smaller box."""

    def __init__(
        self,
        center: Tensor,
        epsilon: float,
        *,
        box: tuple[float, float] | None = (0.0, 1.0),
        mask: Tensor | None = None,
    ) -> None:
        super().__init__(center, epsilon, box=box, mask=mask)
        self._narrow(epsilon)

    def random(self, rngs: Sequence[torch.Generator]) -> Tensor:
        """Sign noise: every entry on the surface."""
        return self.project(self.center + self.epsilon * gaussian(self.center, rngs).sign())

    def direction(self, x: Tensor, gradient: Tensor) -> Tensor:
        """The gradient's sign (FGSM, Goodfellow et al. 2015)."""
        return self.free(gradient).sign()

    def _norm(self, delta: Tensor) -> Tensor:
        return delta.abs().flatten(1).amax(1)

    def _shrink(self, delta: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return delta.clamp(low, high)


class L2(Budget):
    """The root mean square move of the free entries is at most epsilon."""

    def random(self, rngs: Sequence[torch.Generator]) -> Tensor:
        """Gaussian noise scaled onto the sphere: uniform on it."""
        return self.project(self.center + self._unit(self.free(gaussian(self.center, rngs))) * self.epsilon)

    def direction(self, x: Tensor, gradient: Tensor) -> Tensor:
        """The gradient itself, normalised."""
        return self._unit(self.free(gradient))

    def _unit(self, change: Tensor) -> Tensor:
        # scaled by its maximum first: the square of a 1e-30 gradient would vanish
        change = change / per_item(change.abs().flatten(1).amax(1).clamp_min(1e-38), change)
        return change / per_item(self._norm(change).clamp_min(1e-38), change)

    def _norm(self, delta: Tensor) -> Tensor:
        return (delta.flatten(1).square().sum(1) / self.entries).sqrt()

    def _shrink(self, delta: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """The nearest point of ball and box is clip(s * delta) for the largest s <= 1 that fits (KKT: s = 1 / (1 +
        multiplier)).
        """

        def point(share: Tensor) -> Tensor:
            return (delta * per_item(share, delta)).clamp(low, high)

        share = _largest(lambda s: self._norm(point(s)), self.epsilon, torch.ones_like(self.entries))
        return point(share)


class TruncatedNoise(L2):
    """Noise of standard deviation sigma * threshold, truncated at the threshold: the alternative to clipping.

    Clipped signed steps pile nearly every entry up on the surface of the L-inf ball, which is what shows in a picture
    (arXiv 2403.08294 truncates the noise instead; how is not published, this is ours). Here the whole change may only
    have the power of such noise, no entry may pass the threshold, and steps follow the gradient itself instead of its
    sign: the histogram stays bell-shaped but for a few entries in a hundred at the threshold. Measured in
    `benchmarks/untargeted`: two thirds of clipping's effect at two fifths of its visible noise.

    Args:
        threshold: no entry moves further (in the variable's units). `epsilon` is then sigma * threshold, a root
            mean square.
        sigma: standard deviation over threshold; 0.4 truncates a Gaussian at 2.5 standard deviations.
    """

    def __init__(
        self,
        center: Tensor,
        threshold: float,
        *,
        sigma: float = 0.4,
        box: tuple[float, float] | None = (0.0, 1.0),
        mask: Tensor | None = None,
    ) -> None:
        super().__init__(center, threshold * sigma, box=box, mask=mask)
        self._narrow(threshold)


class L1(Budget):
    """The mean absolute move of the free entries is at most epsilon: few entries may move far.

    Args:
        sparsity: share of the free entries that one step moves (foolbox's SparseL1Descent: 1 - quantile = 0.01).
    """

    def __init__(
        self,
        center: Tensor,
        epsilon: float,
        *,
        sparsity: float = 0.01,
        box: tuple[float, float] | None = (0.0, 1.0),
        mask: Tensor | None = None,
    ) -> None:
        super().__init__(center, epsilon, box=box, mask=mask)
        self.sparsity = sparsity

    def random(self, rngs: Sequence[torch.Generator]) -> Tensor:
        """Laplace noise scaled onto the surface: uniform on it."""
        shape = self.center.shape[1:]
        size = torch.stack([torch.empty(shape).exponential_(generator=rng) for rng in rngs]).to(self.center)
        change = self.free(size * gaussian(self.center, rngs).sign())
        return self.project(self.center + change * per_item(self.epsilon / self._norm(change), change))

    def direction(self, x: Tensor, gradient: Tensor) -> Tensor:
        """Sparse top-k step (Tramer and Boneh 2019): a signed step spreads thin and is wrong for this norm.

        Moves the k entries of the largest gradient, leaving out those that the box already stops.
        """
        climb = self.free(gradient)
        stopped = ((climb > 0) & (x >= self.high)) | ((climb < 0) & (x <= self.low))
        size = climb.abs().masked_fill(stopped, 0).flatten(1)
        k = (self.entries * self.sparsity).ceil().long()
        largest = size.sort(1, descending=True).values.gather(1, k[:, None] - 1)
        chosen = (size >= largest) & (size > 0)
        step = climb.sign() * chosen.view_as(climb)
        return step * per_item(self.entries / chosen.sum(1).clamp_min(1), step)

    def _norm(self, delta: Tensor) -> Tensor:
        return delta.abs().flatten(1).sum(1) / self.entries

    def _shrink(self, delta: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """The nearest point is sign * min(max(|delta| - t, 0), room) for the smallest t >= 0 that fits (Croce and Hein
        2021).
        """
        size = delta.abs()
        most = size.flatten(1).amax(1)

        def point(keep: Tensor) -> Tensor:  # keep = most - t grows with the ball
            soft = (size - per_item(most - keep, size)).clamp_min(0) * delta.sign()
            return soft.clamp(low, high)

        return point(_largest(lambda keep: self._norm(point(keep)), self.epsilon, most))
