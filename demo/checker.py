"""Reads a picture back into the scene that it shows, by rule and without learning, or says why it shows none.

It judges what generators make of the demo world, so it is lenient about soft edges, small shifts of colour and light
noise, and strict about what a thing is. The ground is what the picture's rim shows; what differs from it, in connected
pieces, are the objects; a piece's colour is that of its core, its outline is where the picture is halfway between
ground and colour. Area and centre of mass then give, for every shape, the only radius and centre which that shape could
have here, and the shape is the one whose outline fits. At the end the scene that was read is painted again, and the
picture must agree with it: whatever else the picture holds cannot hide.

A scene is clean if all that holds. Two objects that lie diagonally are clean too, but their relation is None.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .world import AREAS, BACKGROUNDS, COLOURS, MASS, SHAPES, SIZE, Facts, Scene, cover

# Distances are L2 in RGB, each channel in [0,1]. The palette's: 0.46 between grounds, 0.50 between a ground and a
# colour, 0.60 between colours.
RIM = 2  # pixels: objects keep 4 from the edge, 3 after a shift
GROUND_NEAR = 0.17  # a ground may be so far from its name: a grey halfway between two is 0.23 from both
RIM_NEAR = 0.20  # a pixel of the rim that is further from the rim's median is not ground: 6 sigma of noise 0.02
RIM_ODD = 0.02  # the share of the rim that may be so: ten pixels
APART = 0.24  # a pixel is of an object above it: half of the least contrast between a ground and a colour
SPECK = 40  # pixels: a smaller piece is dirt, not an object; the smallest object covers 220
DIRT = 8  # pixels of dirt that are overlooked
COLOUR_NEAR = 0.20  # a core may be so far from its colour: halfway between two colours is 0.30 from both
CORE_NEAR = 0.30  # a pixel of the core that is further from the core's colour is another colour
CORE_ODD = 0.08  # the share of the core that may be so
SMALL, LARGE = 8.5, 22.0  # radii: the world's 10 to 20, with room for edges that eat into a shape
BLUR = 2.0  # pixels: outlines are compared with sharp shapes and with those blurred so, which have lost their corners
# Overlap (intersection over union) of outline and shape. 99 in 100 clean ones have 0.96, blurred by 1.5 pixels 0.88;
# a square on its corner has 0.84, blobs, stars and halves less. (A pentagon has 0.90: it cannot be told from a circle.)
FIT = 0.865
LEAD = 0.06  # how much better it must be than that of the next best shape; clean ones have 0.13
AGREE = 0.30  # a pixel that is further from the scene painted again, and from its edges, belongs to no scene
EDGE = 2  # pixels on either side of an outline which that does not look at
ODD = 12  # such pixels that are overlooked
DIAGONAL = 1.4  # the world keeps 1.75 between the axes; below this the relation is not clear
_BATCH = 128  # pictures at once: what fits in a cache

_SIDE = torch.arange(SIZE) + 0.5


@dataclass(frozen=True)
class Seen:
    """An object as it was read. The centre is its bounding box's, (x, y) in pixels; `fit` is its outline's overlap."""

    shape: str
    colour: str
    centre: tuple[float, float]
    radius: float
    fit: float


@dataclass(frozen=True)
class Reading:
    """What a picture shows. Where it is not clean, `reason` says why, and no objects are given."""

    clean: bool
    reason: str
    background: str | None = None
    objects: tuple[Seen, ...] = ()  # the left or the upper one first
    relation: str | None = None  # of the first to the second; None for one object and for a diagonal

    @property
    def facts(self) -> Facts:
        return Facts(tuple((seen.colour, seen.shape) for seen in self.objects), self.relation, self.background)


def pieces(mask: Tensor) -> Tensor:
    """Connected pieces (8 neighbours): mask B H W -> B H W int64: 0 outside, else the piece's largest place + 1."""
    count, height, width = mask.shape
    inside = mask.reshape(count, 1, height, width).float()
    labels = torch.arange(1, height * width + 1, device=mask.device).view(1, 1, height, width) * inside
    while True:
        spread = _spread(labels, 1) * inside
        # A label is a place: take over the label that this place has now. So labels jump, and the passes are few.
        table = functional.pad(spread.flatten(1), (1, 0))
        spread = torch.maximum(table.gather(1, spread.long().flatten(1)).view_as(spread), spread)
        if torch.equal(spread, labels):
            return labels.view(count, height, width).long()
        labels = spread


def _spread(values: Tensor, pixels: int) -> Tensor:
    """The largest value (0 or more) within so many rows and columns: ... H W. Three times as fast as max_pool2d."""
    for _ in range(pixels):
        for dim in (-1, -2):
            out, size = values.clone(), values.shape[dim] - 1
            for start, end in ((0, 1), (1, 0)):
                into = out.narrow(dim, end, size)
                torch.maximum(into, values.narrow(dim, start, size), out=into)
            values = out
    return values


def _off(difference: Tensor, limit: float) -> Tensor:
    """Where an RGB difference B 3 ... is longer than a limit. (`norm` over three strided channels is slow.)"""
    red, green, blue = difference.square().unbind(1)
    return red + green + blue > limit**2


def _wider(mask: Tensor, pixels: int) -> Tensor:
    """N H W bool, grown by so many pixels on every side."""
    return _spread(mask.byte(), pixels).bool()


def _narrower(mask: Tensor, pixels: int) -> Tensor:
    return ~_wider(~mask, pixels)


def _nearest(colour: Tensor, palette: dict[str, tuple[float, float, float]]) -> tuple[Tensor, Tensor]:
    """N 3 -> the distance to the nearest of the palette, and its place."""
    names = colour.new_tensor(list(palette.values()))
    found = (colour[:, None] - names).norm(dim=2).min(1)
    return found.values, found.indices


class _Verdicts:
    """The first reason found against each picture of a batch."""

    def __init__(self, count: int) -> None:
        self.reasons = [""] * count
        self.clean = torch.ones(count, dtype=torch.bool)

    def refuse(self, where: Tensor, reason: str) -> None:
        for index in (where & self.clean).nonzero()[:, 0].tolist():
            self.reasons[index] = reason
        self.clean &= ~where


def _rim(image: Tensor) -> Tensor:
    """The pixels within RIM of the edge: B 3 N."""
    inner = image[:, :, RIM:-RIM]
    sides = (image[:, :, :RIM], image[:, :, -RIM:], inner[..., :RIM], inner[..., -RIM:])
    return torch.cat([side.flatten(2) for side in sides], 2)


def _softened(covered: Tensor) -> Tensor:
    """N 64 64, blurred by BLUR. As products with a band matrix, which is faster than a convolution of one channel."""
    side = _SIDE.to(covered)
    band = torch.exp((side[:, None] - side).square() / (-2 * BLUR**2)) / (BLUR * math.sqrt(2 * math.pi))
    return band @ covered @ band


def _overlap(one: Tensor, other: Tensor) -> Tensor:
    """Of two masks N 64 64: intersection over union."""
    return (one & other).sum((1, 2)) / (one | other).sum((1, 2)).clamp_min(1)


def _shapes(alpha: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """From what an object covers, N 64 64: best shape N, its fit N, its lead N, its centre N 2 and radius N."""
    side, each = _SIDE.to(alpha), torch.arange(len(alpha))
    area = alpha.sum((1, 2)).clamp_min(1e-6)
    x = (alpha.sum(1) * side).sum(1) / area
    y = (alpha.sum(2) * side).sum(1) / area
    hard = alpha > 0.5
    fits, centres, radii = [], [], []
    for kind in range(len(SHAPES)):
        radius = (area / AREAS[kind]).sqrt()
        centre = torch.stack((x, y - MASS[kind] * radius), 1)
        model = cover(torch.full_like(radius, kind).long(), centre, radius)
        fits.append(torch.stack([_overlap(hard, outline > 0.5) for outline in (model, _softened(model))]))
        centres.append(centre)
        radii.append(radius)
    ranked = torch.stack(fits, 2).sort(2, descending=True)  # (sharp, soft) N shapes
    softness = ranked.values[..., 0].argmax(0)  # the shapes are compared with each other at one softness
    fit, second = ranked.values[softness, each, :2].unbind(1)
    best = ranked.indices[softness, each, 0]
    return best, fit, fit - second, torch.stack(centres, 1)[each, best], torch.stack(radii, 1)[each, best]


def _relation(objects: list[Seen]) -> tuple[tuple[Seen, ...], str | None]:
    """The objects in order, and what the first is to the second."""
    if len(objects) < 2:
        return tuple(objects), None
    (x0, y0), (x1, y1) = (seen.centre for seen in objects)
    across, down = abs(x1 - x0), abs(y1 - y0)
    ordered = sorted(objects, key=lambda seen: seen.centre[0 if across >= down else 1])
    clear = max(across, down) >= DIAGONAL * min(across, down)
    return tuple(ordered), ("left of" if across >= down else "above") if clear else None


def _read(image: Tensor) -> list[Reading]:
    count = len(image)
    verdicts = _Verdicts(count)
    verdicts.refuse(~image.isfinite().flatten(1).all(1), "not a picture: some values are not finite")
    image = image.nan_to_num().clamp(0, 1)

    rim = _rim(image)
    ground = rim.median(2).values
    far, background = _nearest(ground, BACKGROUNDS)
    verdicts.refuse(far > GROUND_NEAR, "unclear background")
    odd = _off(rim - ground[..., None], RIM_NEAR).float().mean(1)
    verdicts.refuse(odd > RIM_ODD, "ragged background, or an object at the border")

    kept = verdicts.clean.nonzero()[:, 0]  # what is read on: rows of the batch
    apart = image[kept] - ground[kept, :, None, None]
    found = pieces(_off(apart, APART)).flatten(1)
    areas = torch.zeros(len(kept), SIZE * SIZE + 1).scatter_add_(1, found, torch.ones(found.shape))
    areas[:, 0] = 0
    number = (areas >= SPECK).sum(1)
    dirt = (areas * (areas < SPECK)).sum(1)

    def refuse(where: Tensor, reason: str) -> None:
        verdicts.refuse(torch.zeros(count, dtype=torch.bool).index_put_((kept,), where), reason)

    refuse((number == 0) & (dirt <= DIRT), "no object")
    refuse(dirt > DIRT, "ragged background: small spots")
    refuse(number == 0, "no object")
    refuse(number > 2, "more than two objects")

    # one row for each object of the pictures that are left
    rows = (verdicts.clean[kept][:, None] & (areas >= SPECK)).nonzero()
    owner = rows[:, 0]
    mask = (found[owner] == rows[:, 1:]).view(-1, SIZE, SIZE)
    core = _narrower(mask, 2)
    core = torch.where((core.sum((1, 2)) >= 12)[:, None, None], core, _narrower(mask, 1))
    pixels = image[kept[owner]]
    size = core.sum((1, 2))
    colour = (pixels * core[:, None]).sum((2, 3)) / size.clamp_min(1)[:, None]
    strange = _off(pixels - colour[..., None, None], CORE_NEAR) & core
    far, name = _nearest(colour, COLOURS)

    def refuse_owner(where: Tensor, reason: str) -> None:
        refuse(torch.zeros(len(kept)).index_add_(0, owner, where.float()) > 0, reason)

    refuse_owner(size < 12, "an object without a core")
    refuse_owner(strange.sum((1, 2)) > CORE_ODD * size, "an object of several colours")
    refuse_owner(far > COLOUR_NEAR, "an unclear colour")

    contrast = colour - ground[kept[owner]]
    share = (apart[owner] * contrast[..., None, None]).sum(1) / contrast.square().sum(1)[:, None, None]
    alpha = share.clamp(0, 1) * _wider(mask, 2)
    best, fit, lead, centre, radius = _shapes(alpha)
    refuse_owner((radius < SMALL) | (radius > LARGE), "an object too small or too large")
    refuse_owner((fit < FIT) | (lead < LEAD), "an unclear shape")

    # the scene that was read, painted again
    painted = cover(best, centre, radius)
    whole = torch.zeros_like(apart).index_add_(0, owner, painted[:, None] * contrast[..., None, None])
    hard = painted > 0.5
    edge = torch.zeros(len(kept), SIZE, SIZE).index_add_(
        0, owner, (_wider(hard, EDGE) & ~_narrower(hard, EDGE)).float()
    )
    wrong = _off(apart - whole, AGREE) & (edge == 0)
    refuse(wrong.sum((1, 2)) > ODD, "something that belongs to no object")

    seen: list[list[Seen]] = [[] for _ in range(count)]
    values = zip(best.tolist(), name.tolist(), centre.tolist(), radius.tolist(), fit.tolist(), strict=True)
    for index, (shape, tint, (x, y), r, overlap) in zip(kept[owner].tolist(), values, strict=True):
        seen[index].append(Seen(SHAPES[shape], tuple(COLOURS)[tint], (x, y), r, overlap))
    readings = []
    for index, clean in enumerate(verdicts.clean.tolist()):
        if clean:
            objects, relation = _relation(seen[index])
            readings.append(Reading(True, "", tuple(BACKGROUNDS)[int(background[index])], objects, relation))
        else:
            readings.append(Reading(False, verdicts.reasons[index]))
    return readings


@torch.no_grad()
def read(images: Tensor) -> list[Reading]:
    """What each picture shows: B 3 64 64 of any floating type, RGB in [0,1] (values beyond are clipped).

    Raises ValueError for another shape.
    """
    if images.dim() != 4 or images.shape[1:] != (3, SIZE, SIZE) or not images.is_floating_point():
        raise ValueError(
            f"Expected pictures B 3 {SIZE} {SIZE} as floats, and came {tuple(images.shape)} {images.dtype}."
        )
    return [reading for part in images.cpu().float().split(_BATCH) for reading in _read(part)]


def _wanted(scenes: Iterable[Scene | Facts]) -> list[Facts]:
    return [(scene.facts if isinstance(scene, Scene) else scene).ordered() for scene in scenes]


def objects_right(readings: list[Reading], scenes: Iterable[Scene | Facts]) -> Tensor:
    """Where a clean picture shows exactly the scene's objects, each by colour and shape, wherever they lie: B bool."""
    pairs = zip(readings, _wanted(scenes), strict=True)
    return torch.tensor([r.clean and sorted(r.facts.objects) == sorted(wanted.objects) for r, wanted in pairs])


def relation_right(readings: list[Reading], scenes: Iterable[Scene | Facts]) -> Tensor:
    """Where the objects are right and lie as the scene says: B bool. One object lies right wherever it is."""
    pairs = zip(readings, _wanted(scenes), strict=True)
    same = [
        r.clean and (r.facts.ordered().objects, r.relation) == (wanted.objects, wanted.relation) for r, wanted in pairs
    ]
    return torch.tensor(same)


def wilson(right: float, of: int, z: float = 1.959964) -> tuple[float, float]:
    """The Wilson 95 % interval of a rate (E. B. Wilson, JASA 22, 1927). right may be a fraction."""
    rate, spread = right / of, z * z / of
    middle = (rate + spread / 2) / (1 + spread)
    half = z * math.sqrt(rate * (1 - rate) / of + spread / (4 * of)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)
