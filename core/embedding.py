"""A text encoder's vocabulary as the measure of how far an embedding may go, and the budget that keeps to its lengths.

One variable holds the embeddings of several text encoders: ... n W, whose last dimension is one block for each encoder,
in multiples of the standard deviation of that encoder's table. So that a step of one size means the same to all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .budgets import Budget, gaussian
from .errors import ProvokeError

ROWS = 4096  # of a table that are looked at together: a language model's has 150,000 of 2,560 numbers


@dataclass(frozen=True)
class Vocabulary:
    """What is known of a table of embeddings (V D).

    width: D. deviation: of its numbers, about 0, root mean square. length, spread: mean and standard deviation of the
    rows' lengths (L2). rows: how many there are that are not all zero (padding of the table is none of the vocabulary).
    """

    width: int
    deviation: float
    length: float
    spread: float
    rows: int

    @classmethod
    @torch.no_grad()
    def of(cls, table: Tensor) -> Vocabulary:
        """Raises ProvokeError for a table without a word, or with numbers that are not finite."""
        lengths = torch.cat([part.norm(dim=1).cpu() for part in _parts(table)])
        lengths = lengths[lengths != 0].double()
        if not len(lengths) or not bool(lengths.isfinite().all()):
            raise ProvokeError(
                "The text encoder's table of embeddings is empty or not finite",
                "a vocabulary with its weights",
                "load the text encoder again, from a complete file",
            )
        deviation = (lengths.square().mean() / table.shape[1]).sqrt()
        spread = lengths.std(correction=0) if len(lengths) > 1 else torch.zeros(())
        return cls(table.shape[1], float(deviation), float(lengths.mean()), float(spread), len(lengths))

    @property
    def band(self) -> tuple[int, float, float]:
        """The block of `NormBand`: width, and length and spread in multiples of the deviation."""
        return self.width, self.length / self.deviation, self.spread / self.deviation


@torch.no_grad()
def nearest(table: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """The row of a table (V D) that points most nearly the way of each vector (n D): places n and cosines n."""
    wanted = torch.nn.functional.normalize(vectors.float().to(table.device), dim=1)
    best, at = torch.full((len(vectors),), -2.0), torch.zeros(len(vectors), dtype=torch.long)
    start = 0
    for part in _parts(table):
        cosines = (torch.nn.functional.normalize(part, dim=1) @ wanted.T).cpu()
        found = cosines.max(0)
        at = torch.where(found.values > best, found.indices + start, at)
        best, start = torch.maximum(best, found.values), start + len(part)
    return at, best


def _parts(table: Tensor) -> Iterator[Tensor]:
    """In float32, whatever is stored."""
    return (part.float() for part in table.split(ROWS))


class NormBand(Budget):
    """Every vector is about as long as a word's: its direction is free.

    The center (an initial word) says where to start, and counts for nothing else, except that epsilon 0 allows nothing
    but it. The step of size 1 moves each vector's numbers by 1, root mean square, along the gradient. Source: ours.

    Args:
        center: B n W, the last dimension as in the module's head.
        epsilon: a length may differ from the vocabulary's mean length by so many of their standard deviations.
        blocks: of each encoder its width, the mean length of a word and their standard deviation, in the variable's
            units (`Vocabulary.band`). The widths add up to W.
    """

    def __init__(self, center: Tensor, epsilon: float, *, blocks: Sequence[tuple[int, float, float]]) -> None:
        super().__init__(center, epsilon, box=None)
        if sum(width for width, _, _ in blocks) != center.shape[-1]:
            raise ProvokeError(
                f"Blocks of {[width for width, _, _ in blocks]} for {center.shape[-1]} numbers",
                "widths that add up to the variable's",
                "report this bug",
            )
        self._widths = [width for width, _, _ in blocks]
        self._lengths = center.new_tensor([length for _, length, _ in blocks])
        # a table whose words are all of one length still has room for rounding
        self._spreads = center.new_tensor([max(spread, 1e-3 * length) for _, length, spread in blocks])
        self._low = (self._lengths - epsilon * self._spreads).clamp_min(0)
        self._high = self._lengths + epsilon * self._spreads
        self.rounding = 32 * torch.finfo(center.dtype).eps * float((self._high / self._spreads).max())

    def random(self, rngs: Sequence[torch.Generator]) -> Tensor:
        """A random direction, as long as the longest that is allowed."""
        drawn = gaussian(self.center, rngs)
        return self.project(self._scaled(drawn, self._high.expand_as(self._of(drawn))))

    def direction(self, x: Tensor, gradient: Tensor) -> Tensor:
        """The gradient, of each vector and encoder at root mean square 1."""
        width = gradient.new_tensor(self._widths, dtype=gradient.dtype).sqrt()
        # scaled by its maximum first: the square of a 1e-30 gradient would vanish
        most = torch.stack([block.abs().amax(-1) for block in gradient.split(self._widths, -1)], -1).clamp_min(1e-38)
        whole = self._spread(gradient, 1 / most)
        length = self._of(whole)
        return self._spread(whole, torch.where(length > 0, width / length.clamp_min(1e-38), 0))

    def _norm(self, delta: Tensor) -> Tensor:
        off = (self._of(self.center + delta) - self._lengths).abs() / self._spreads
        return off.flatten(1).amax(1)

    def _shrink(self, delta: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """The nearest point of a shell lies on the same ray."""
        x = self.center + delta
        length = self._of(x)
        return self._scaled(x, length.clamp(self._low, self._high)) - self.center

    def _of(self, x: Tensor) -> Tensor:
        """Lengths: B n W -> B n, one for each block."""
        return torch.stack([block.norm(dim=-1) for block in x.split(self._widths, -1)], -1)

    def _scaled(self, x: Tensor, lengths: Tensor) -> Tensor:
        """The same directions at other lengths (B n blocks); of nothing, all numbers equal."""
        now = self._of(x)
        x = torch.where(self._spread(torch.ones_like(x), now) > 0, x, torch.ones_like(x))
        return self._spread(x, lengths / self._of(x))

    def _spread(self, x: Tensor, factors: Tensor) -> Tensor:
        """Each block times its factor (B n blocks)."""
        parts = zip(x.split(self._widths, -1), factors.unbind(-1), strict=True)
        return torch.cat([block * factor[..., None] for block, factor in parts], -1)
