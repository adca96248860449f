"""The demo world: pictures of one or two coloured shapes on a plain ground, whose truth is known exactly.

A picture is 64 x 64. A scene has a background and one or two objects, each with a shape, a colour, a centre and a
radius. Two objects differ in shape or colour (or both), so that a caption always says which is which. They do not
touch, and one axis clearly dominates between them: one is left of, right of, above or below the other. `sample` draws
scenes, `render` paints them. What is said about them is in captions.py, what reads a picture back is in checker.py.

Some combinations are held out, so that a figure can be about pictures that no training saw (see `split`):
- one object: every pair of colour and shape keeps one of the four backgrounds that training never shows it on. All 24
  pairs stay in both parts, or a classifier of the pairs could have no answer for those that it never saw.
- two objects: about one in six of the 1104 combinations (colour, shape, colour, shape, relation), by a hash; "a red
  circle left of a blue square" and "a blue square right of a red circle" are the same combination. On no background.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

SIZE = 64  # pixels a side

SHAPES = ("circle", "square", "triangle", "ring")

# RGB in [0,1]. Near the corners of the cube: two colours are at least 0.60 apart (L2), and a colour and a ground 0.50.
COLOURS = {
    "red": (0.88, 0.10, 0.10),
    "green": (0.10, 0.75, 0.15),
    "blue": (0.10, 0.20, 0.90),
    "yellow": (0.95, 0.85, 0.10),
    "pink": (0.90, 0.15, 0.80),
    "cyan": (0.10, 0.80, 0.85),
}

# Greys, at least 0.46 apart: no object is grey, so that ground and object differ in kind, not only in degree.
BACKGROUNDS = {
    "white": (0.95, 0.95, 0.95),
    "silver": (0.68, 0.68, 0.68),
    "grey": (0.32, 0.32, 0.32),
    "black": (0.05, 0.05, 0.05),
}

# What the first object is to the second; the converse of each; the axis (0: x, 1: y, which points down) and the sign
# of the way from the first to the second.
RELATIONS = ("left of", "right of", "above", "below")
CONVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
AXIS = (0, 0, 1, 1)
SIGN = (1, -1, 1, -1)

# The shapes of radius 1: a circle; a square of half side 0.9; an equilateral triangle, point up, of circumradius 1.3;
# a ring whose hole has radius 0.5. Their areas are then within 1.5 of each other, and none is a thinner other.
HALF_SIDE, CIRCUMRADIUS, HOLE = 0.9, 1.3, 0.5
AREAS = (torch.pi, 4 * HALF_SIDE**2, 0.75 * 3**0.5 * CIRCUMRADIUS**2, torch.pi * (1 - HOLE**2))
HALF_WIDTHS = (1.0, HALF_SIDE, 0.5 * 3**0.5 * CIRCUMRADIUS, 1.0)
HALF_HEIGHTS = (1.0, HALF_SIDE, 0.75 * CIRCUMRADIUS, 1.0)
# A centre is that of the bounding box. The centre of mass lies so much lower:
MASS = (0.0, 0.0, 0.25 * CIRCUMRADIUS, 0.0)

SMALLEST, LARGEST, LARGEST_OF_TWO = 10.0, 20.0, 14.0  # radii, pixels
MARGIN = 4.0  # pixels between an object and the picture's edge
GAP = 5.0  # pixels between two objects, along the axis of their relation: a soft edge does not join them
DOMINANCE = 1.75  # how much further apart two objects are along that axis than along the other: within 30 degrees of it

HELD_OUT_SHARE = 1 / 6  # of the combinations of two objects
_SALT = 34  # of the hash: of forty tried the most even one over colours, shapes and relations


@dataclass(frozen=True)
class Facts:
    """What can be said of a scene in words. `relation` is that of the first object to the second."""

    objects: tuple[tuple[str, str], ...]  # (colour, shape)
    relation: str | None = None  # None for one object
    background: str | None = None  # None where nothing is said of it

    def ordered(self) -> Facts:
        """The same, so that equal facts compare equal: the left or the upper object first."""
        if self.relation in ("right of", "below"):
            return Facts(self.objects[::-1], CONVERSE[self.relation], self.background)
        return self if self.relation else Facts(tuple(sorted(self.objects)), None, self.background)


@dataclass(frozen=True)
class Thing:
    """One object. The centre is its bounding box's, (x, y) in pixels from the picture's upper left corner."""

    shape: str
    colour: str
    centre: tuple[float, float]
    radius: float


@dataclass(frozen=True)
class Scene:
    background: str
    objects: tuple[Thing, ...]

    @property
    def relation(self) -> str | None:
        """What the first object is to the second; None for one object."""
        if len(self.objects) < 2:
            return None
        (x0, y0), (x1, y1) = (thing.centre for thing in self.objects)
        if abs(x1 - x0) >= abs(y1 - y0):
            return "left of" if x1 > x0 else "right of"
        return "above" if y1 > y0 else "below"

    @property
    def facts(self) -> Facts:
        return Facts(tuple((t.colour, t.shape) for t in self.objects), self.relation, self.background)


@dataclass(frozen=True)
class Scenes:
    """A batch of scenes. Names are their places in BACKGROUNDS, COLOURS and SHAPES; an object that is not there has
    -1 as its shape and colour, and radius 0.
    """

    background: Tensor  # B, int64
    shape: Tensor  # B 2, int64
    colour: Tensor  # B 2, int64
    centre: Tensor  # B 2 2, float32: (x, y) in pixels
    radius: Tensor  # B 2, float32: pixels

    def __len__(self) -> int:
        return len(self.background)

    def __iter__(self) -> Iterator[Scene]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Scene:
        shapes, colours = self.shape[index].tolist(), self.colour[index].tolist()
        centres, radii = self.centre[index].tolist(), self.radius[index].tolist()
        things = tuple(
            Thing(SHAPES[shapes[i]], tuple(COLOURS)[colours[i]], (centres[i][0], centres[i][1]), radii[i])
            for i in range(2)
            if shapes[i] >= 0
        )
        return Scene(tuple(BACKGROUNDS)[int(self.background[index])], things)

    @property
    def relation(self) -> Tensor:
        """B int64: the place in RELATIONS, -1 for one object."""
        way = self.centre[:, 1] - self.centre[:, 0]
        across = way[:, 0].abs() >= way[:, 1].abs()
        found = torch.where(across, (way[:, 0] < 0).long(), 2 + (way[:, 1] < 0).long())
        return torch.where(self.shape[:, 1] >= 0, found, -1)

    def pick(self, index: Tensor | slice) -> Scenes:
        """The scenes at `index` (positions or a mask)."""
        return Scenes(*(getattr(self, field.name)[index] for field in fields(self)))

    def to(self, device: torch.device | str) -> Scenes:
        """The same on another device, where `render` then works."""
        return Scenes(*(getattr(self, field.name).to(device) for field in fields(self)))


def batch(scenes: Sequence[Scene]) -> Scenes:
    """Single scenes as one batch. The second object of a lone one is absent."""
    blank = Thing("", "", (0.0, 0.0), 0.0)
    rows = [(*scene.objects, blank)[:2] for scene in scenes]
    place = {name: index for names in (SHAPES, COLOURS, BACKGROUNDS) for index, name in enumerate(names)}
    place[""] = -1
    return Scenes(
        torch.tensor([place[scene.background] for scene in scenes]),
        torch.tensor([[place[thing.shape] for thing in row] for row in rows]),
        torch.tensor([[place[thing.colour] for thing in row] for row in rows]),
        torch.tensor([[thing.centre for thing in row] for row in rows], dtype=torch.float32),
        torch.tensor([[thing.radius for thing in row] for row in rows], dtype=torch.float32),
    )


def split(scene: Scene | Facts) -> str:
    """ "train" or "held out". Facts of one object must name the background, or ValueError."""
    facts = (scene.facts if isinstance(scene, Scene) else scene).ordered()
    if len(facts.objects) == 1:
        if facts.background is None:
            raise ValueError("Whether one object is held out depends on the background, and none is named.")
        (colour, shape) = facts.objects[0]
        place = tuple(COLOURS).index(colour) + SHAPES.index(shape)
        held = tuple(BACKGROUNDS).index(facts.background) == place % len(BACKGROUNDS)
    else:
        (first, second) = facts.objects
        words = f"{_SALT} {' '.join(first)} {facts.relation} {' '.join(second)}"
        held = int.from_bytes(hashlib.sha256(words.encode()).digest()[:4], "big") < HELD_OUT_SHARE * 2**32
    return "held out" if held else "train"


@functools.cache
def _combinations(objects: int, part: str | None) -> Tensor:
    """N x (background, colour, shape) for one object, N x (colour, shape, colour, shape, relation) for two: places."""
    pairs = [(c, s) for c in range(len(COLOURS)) for s in range(len(SHAPES))]
    named = [(tuple(COLOURS)[c], SHAPES[s]) for c, s in pairs]
    rows: list[tuple[int, ...]] = []
    if objects == 1:
        for (b, name), (i, pair) in itertools.product(enumerate(BACKGROUNDS), enumerate(pairs)):
            if part in (None, split(Facts((named[i],), None, name))):
                rows.append((b, *pair))
    else:
        for (i, j), (r, name) in itertools.product(itertools.permutations(range(24), 2), enumerate(RELATIONS)):
            if part in (None, split(Facts((named[i], named[j]), name))):
                rows.append((*pairs[i], *pairs[j], r))
    return torch.tensor(rows)


def _between(low: Tensor | float, high: Tensor, rng: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(high.shape, generator=rng)


def _drawn(table: Tensor, count: int, rng: torch.Generator) -> Tensor:
    return table[torch.randint(len(table), (count,), generator=rng)]


def _one(count: int, rng: torch.Generator, part: str | None) -> Scenes:
    background, colour, shape = _drawn(_combinations(1, part), count, rng).unbind(1)
    radius = _between(SMALLEST, torch.full((count,), LARGEST), rng)
    half = torch.tensor([HALF_WIDTHS, HALF_HEIGHTS]).T[shape] * radius[:, None]
    centre = _between(half + MARGIN, SIZE - MARGIN - half, rng)
    none = torch.full_like(shape, -1)
    return Scenes(
        background,
        torch.stack((shape, none), 1),
        torch.stack((colour, none), 1),
        torch.stack((centre, torch.zeros_like(centre)), 1),
        torch.stack((radius, torch.zeros_like(radius)), 1),
    )


def _two(count: int, rng: torch.Generator, part: str | None) -> Scenes:
    """Built, not tried: the radii share the room along the relation's axis, and what is left of it is dealt out."""
    drawn = _drawn(_combinations(2, part), count, rng)
    colour, shape, relation = drawn[:, [0, 2]], drawn[:, [1, 3]], drawn[:, 4]
    axis, sign = torch.tensor(AXIS)[relation], torch.tensor(SIGN)[relation]
    halves = torch.tensor([HALF_WIDTHS, HALF_HEIGHTS])
    along, across = halves[axis[:, None], shape], halves[1 - axis[:, None], shape]
    room = SIZE - 2 * MARGIN - GAP
    # the radius of one of the two, in a random order, so that the other still has its smallest; then of the other
    early = torch.randint(2, (count, 1), generator=rng)
    width, width_of_other = (2 * along.gather(1, which) for which in (early, 1 - early))
    one = _between(SMALLEST, ((room - SMALLEST * width_of_other) / width).clamp_max(LARGEST_OF_TWO), rng)
    other = _between(SMALLEST, ((room - one * width) / width_of_other).clamp_max(LARGEST_OF_TWO), rng)
    radius = torch.empty(count, 2).scatter_(1, early, one).scatter_(1, 1 - early, other)
    along, across = along * radius, across * radius
    # along the axis: from the edge to the first, and between the two
    left = room - 2 * along.sum(1)
    start = _between(0.0, left, rng)
    extra = _between(0.0, left - start, rng)
    near = torch.where(sign > 0, along[:, 0], along[:, 1])
    first = MARGIN + start + near
    distance = along.sum(1) + GAP + extra
    low, high = MARGIN + across, SIZE - MARGIN - across
    aside = _between(low[:, 0], high[:, 0], rng)
    reach = distance / DOMINANCE
    aside_second = _between(torch.maximum(low[:, 1], aside - reach), torch.minimum(high[:, 1], aside + reach), rng)
    places = torch.stack((first, first + distance), 1)
    places = torch.where(sign[:, None] > 0, places, places.flip(1))
    asides = torch.stack((aside, aside_second), 1)
    upright = (axis == 1)[:, None]
    centre = torch.stack((torch.where(upright, asides, places), torch.where(upright, places, asides)), 2)
    background = torch.randint(len(BACKGROUNDS), (count,), generator=rng)
    return Scenes(background, shape, colour, centre, radius)


def sample(count: int, rng: torch.Generator, *, part: str | None = None, objects: int | None = None) -> Scenes:
    """`count` random scenes. Every combination of the part ("train", "held out"; None: all) is equally likely.

    `objects` is 1, 2, or None for either with equal chance. `rng` is a CPU generator and the only source of chance.
    """
    if part not in (None, "train", "held out"):
        raise ValueError(f"The part must be 'train', 'held out' or None, and is {part!r}.")
    if objects is not None:
        return (_one if objects == 1 else _two)(count, rng, part)
    lone = torch.rand(count, generator=rng) < 0.5
    kinds = _one(count, rng, part), _two(count, rng, part)
    mixed = []
    for field in fields(Scenes):
        one, two = (getattr(kind, field.name) for kind in kinds)
        mixed.append(torch.where(lone.view(-1, *[1] * (one.dim() - 1)), one, two))
    return Scenes(*mixed)


def distance(shape: int, x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """Signed distance in pixels to the outline of a shape centred at 0 (negative inside); x, y, radius broadcast."""
    if shape == 0:
        return torch.hypot(x, y) - radius
    if shape == 1:
        return torch.maximum(x.abs(), y.abs()) - HALF_SIDE * radius
    if shape == 2:
        inner = 0.5 * CIRCUMRADIUS * radius
        y = y - 0.5 * inner  # to the centre of mass
        return torch.maximum(y, 0.5 * 3**0.5 * x.abs() - 0.5 * y) - inner
    return (torch.hypot(x, y) - 0.5 * (1 + HOLE) * radius).abs() - 0.5 * (1 - HOLE) * radius


def cover(shape: Tensor, centre: Tensor, radius: Tensor) -> Tensor:
    """How much of each pixel each of N objects covers: shape N, centre N 2, radius N -> N 64 64 in [0,1]."""
    axis = torch.arange(SIZE, device=centre.device) + 0.5
    covered = centre.new_zeros(len(shape), SIZE, SIZE)
    for kind in range(len(SHAPES)):
        these = (shape == kind).nonzero()[:, 0]
        x = axis[None, None] - centre[these, 0, None, None]
        y = axis[None, :, None] - centre[these, 1, None, None]
        covered[these] = (0.5 - distance(kind, x, y, radius[these, None, None])).clamp(0, 1)
    return covered


def coverage(scenes: Scenes) -> Tensor:
    """B 2 64 64 in [0,1]: how much of each pixel each object covers; 0 where there is no object."""
    flat = cover(scenes.shape.flatten(), scenes.centre.flatten(0, 1), scenes.radius.flatten())
    return flat.view(-1, 2, SIZE, SIZE)


def render(scenes: Scenes) -> Tensor:
    """The pictures, B 3 64 64 float32 RGB in [0,1], with edges smooth over one pixel."""
    colours = scenes.centre.new_tensor(list(COLOURS.values()))[scenes.colour.clamp_min(0)]  # B 2 3
    ground = scenes.centre.new_tensor(list(BACKGROUNDS.values()))[scenes.background]  # B 3
    covered = coverage(scenes).flatten(2)
    picture = ground[:, :, None] + (colours - ground[:, None]).transpose(1, 2) @ covered
    return picture.view(-1, 3, SIZE, SIZE).clamp_(0, 1)
