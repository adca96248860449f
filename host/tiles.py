"""Tile plans: out = sum_t w_t * f(x_t) with sum_t w_t = 1, and its adjoint.

A plan is the product of two axis plans. Two kinds of axis: the host's own (feathered overlaps, so that the function is
the one which the host's node computes on large pictures), and a halo around an inner part that is kept (for memory;
exact where the model looks no further than the halo). They nest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

HOST_TILE, HOST_OVERLAP = 512, 32  # ImageUpscaleWithModel.execute in nodes_upscale_model.py
HALO = 32  # input pixels that a tile sees around the part which it gives


@dataclass(frozen=True)
class Span:
    """Input pixels [start, stop) of one axis; of their output, [first, first + len(weight)) lands at `at`."""

    start: int
    stop: int
    first: int
    at: int
    weight: Tensor = field(compare=False)

    @property
    def kept(self) -> slice:
        return slice(self.first, self.first + len(self.weight))

    @property
    def target(self) -> slice:
        return slice(self.at, self.at + len(self.weight))


def whole_axis(length: int, scale: int) -> list[Span]:
    """One tile."""
    return [Span(0, length, 0, 0, torch.ones(length * scale))]


def host_axis(length: int, scale: int, tile: int = HOST_TILE, overlap: int = HOST_OVERLAP) -> list[Span]:
    """The positions and feathered weights of `comfy.utils.tiled_scale_multidim`, divided by their sum."""
    starts = list(range(0, length - overlap, tile - overlap)) if length > tile else [0]
    spans, total = [], torch.zeros(length * scale)
    for start in starts:
        stop = min(start + tile, length)
        weight = _feather((stop - start) * scale, overlap * scale)
        span = Span(start, stop, 0, start * scale, weight)
        total[span.target] += weight
        spans.append(span)
    return [Span(s.start, s.stop, 0, s.at, s.weight / total[s.target]) for s in spans]


def _feather(length: int, feather: int) -> Tensor:
    """Ramps at both ends. A tile that is no longer than the ramp has none: tiled_scale_multidim skips it then."""
    weight = torch.ones(length)
    if feather >= length:
        return weight
    ramp = torch.arange(1, feather + 1) / feather
    weight[:feather] *= ramp
    weight[length - feather :] *= ramp.flip(0)
    return weight


def halo_axis(length: int, scale: int, tile: int, halo: int = HALO) -> list[Span]:
    """Tiles of at most `tile` pixels that give their inner part, `tile - 2 halo` pixels, and only see the rest."""
    if length <= tile:
        return whole_axis(length, scale)
    inner, spans = tile - 2 * halo, []
    for low in range(0, length, inner):
        high = min(low + inner, length)
        start, stop = max(0, low - halo), min(length, high + halo)
        spans.append(Span(start, stop, (low - start) * scale, low * scale, torch.ones((high - low) * scale)))
    return spans


def nested_axis(outer: list[Span], scale: int, tile: int) -> list[Span]:
    """Each span of `outer` cut by a halo axis: the outer weights, the inner windows."""
    spans = []
    for span in outer:
        for part in halo_axis(span.stop - span.start, scale, tile):
            low, high = max(part.at, span.first), min(part.at + len(part.weight), span.kept.stop)
            if low < high:
                spans.append(
                    Span(
                        span.start + part.start,
                        span.start + part.stop,
                        part.first + low - part.at,
                        span.at + low - span.first,
                        span.weight[low - span.first : high - span.first],
                    )
                )
    return spans


@dataclass(frozen=True)
class Tile:
    """A window of the input and what becomes of its output."""

    row: Span
    column: Span

    def cut(self, image: Tensor) -> Tensor:
        """B C H W -> B C h w, a view."""
        return image[..., self.row.start : self.row.stop, self.column.start : self.column.stop]

    def place(self, image: Tensor) -> Tensor:
        """The part of the whole output that this tile contributes to, a view."""
        return image[..., self.row.target, self.column.target]

    def weighted(self, output: Tensor) -> Tensor:
        """w_t * f(x_t), without what is not kept."""
        return output[..., self.row.kept, self.column.kept] * self._weight(output)

    def adjoint(self, cotangent: Tensor, height: int, width: int) -> Tensor:
        """w_t^T of the whole cotangent, as a cotangent of this tile's output (height x width)."""
        part = self.place(cotangent) * self._weight(cotangent)
        full = cotangent.new_zeros((*cotangent.shape[:-2], height, width))
        full[..., self.row.kept, self.column.kept] = part
        return full

    def _weight(self, like: Tensor) -> Tensor:
        return self.row.weight.to(like)[:, None] * self.column.weight.to(like)


@dataclass(frozen=True)
class Plan:
    """Where the tiles of one picture size are. `height` and `width` are those of the input."""

    rows: list[Span]
    columns: list[Span]
    height: int
    width: int
    scale: int

    def __iter__(self) -> Iterator[Tile]:
        return (Tile(row, column) for row in self.rows for column in self.columns)

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    @property
    def area(self) -> int:
        """Input pixels that the model sees, overlaps counted as often as they are seen."""
        return sum(s.stop - s.start for s in self.rows) * sum(s.stop - s.start for s in self.columns)


Function = Callable[[Tensor, "Tensor | None"], Tensor]


def halo_plan(height: int, width: int, scale: int, tile: int, halo: int) -> Plan:
    """Tiles of at most `tile` input pixels that see `halo` of them around the part which they give."""
    return Plan(halo_axis(height, scale, tile, halo), halo_axis(width, scale, tile, halo), height, width, scale)


def whole_plan(height: int, width: int, scale: int) -> Plan:
    return Plan(whole_axis(height, scale), whole_axis(width, scale), height, width, scale)


def host_plan(height: int, width: int, scale: int) -> Plan:
    """What the host's upscale node does: one tile up to 512 px, feathered tiles on both axes above."""
    if height <= HOST_TILE and width <= HOST_TILE:
        return whole_plan(height, width, scale)
    return Plan(host_axis(height, scale), host_axis(width, scale), height, width, scale)


def smaller_plan(plan: Plan, tile: int) -> Plan:
    """The same function in tiles of at most `tile` pixels with a halo."""
    rows, columns = nested_axis(plan.rows, plan.scale, tile), nested_axis(plan.columns, plan.scale, tile)
    return Plan(rows, columns, plan.height, plan.width, plan.scale)


def blend(plan: Plan, function: Function, x: Tensor, mask: Tensor | None, each: Callable[[], None]) -> Tensor:
    """out = sum_t w_t * f(x_t). x: B C H W or B C T H W, mask: B 1 H W or None, cut along; `each` is called for every
    tile, before it."""
    if len(plan) == 1:  # exactly f, no multiplication by one
        each()
        return function(x, mask)
    out = None
    for tile in plan:
        each()
        part = tile.weighted(function(tile.cut(x), None if mask is None else tile.cut(mask)))
        if out is None:
            out = part.new_zeros((*part.shape[:-2], plan.height * plan.scale, plan.width * plan.scale))
        tile.place(out).add_(part)
    assert out is not None  # a plan has at least one tile
    return out


def adjoint(
    plan: Plan,
    tile_vjp: Callable[[Tensor, Tensor | None, Callable[[Tensor], Tensor]], Tensor],
    x: Tensor,
    mask: Tensor | None,
    cotangent: Tensor,
    each: Callable[[], None],
) -> Tensor:
    """d <cotangent, blend(x)> / d x, one tile's graph at a time.

    tile_vjp(x_t, mask_t, cotangent_of) runs f on one tile and returns J_t^T cotangent_of(f(x_t)).
    """
    gradient = torch.zeros_like(x)
    for tile in plan:
        each()
        part = tile_vjp(
            tile.cut(x),
            None if mask is None else tile.cut(mask),
            lambda output, tile=tile: tile.adjoint(cotangent, *output.shape[-2:]),  # type: ignore[misc]
        )
        tile.cut(gradient).add_(part)
    return gradient
