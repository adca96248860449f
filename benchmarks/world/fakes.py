"""What the checker is tried on: disturbances that must not change what it reads, and pictures that are no scene.

Every maker takes a count and a torch.Generator and gives B 3 64 64 in [0,1].
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ...demo.photos import load_photo, photo_names
from ...demo.world import BACKGROUNDS, COLOURS, HALF_SIDE, SIZE, Scenes, coverage, render, sample

GROUNDS, PALETTE = torch.tensor(list(BACKGROUNDS.values())), torch.tensor(list(COLOURS.values()))
_AXIS = torch.arange(SIZE) + 0.5
_X, _Y = _AXIS[None, None], _AXIS[None, :, None]


def shifted(pictures: Tensor, down: int, right: int) -> Tensor:
    """Moved by whole pixels, the edge replicated."""
    far = max(abs(down), abs(right))
    wide = functional.pad(pictures, (far,) * 4, mode="replicate")
    return wide[..., far - down : far - down + SIZE, far - right : far - right + SIZE]


def rounded(pictures: Tensor) -> Tensor:
    """As an 8-bit file holds it."""
    return (pictures * 255).round() / 255


def blurred(pictures: Tensor, sigma: float) -> Tensor:
    """By a Gaussian of so many pixels, the edge replicated."""
    reach = math.ceil(3 * sigma)
    kernel = torch.exp(-torch.arange(-reach, reach + 1.0).square() / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    wide = functional.pad(pictures, (reach,) * 4, mode="replicate")
    return functional.conv2d(functional.conv2d(wide, kernel, groups=3), kernel.mT, groups=3)


def noisy(pictures: Tensor, sigma: float, rng: torch.Generator) -> Tensor:
    return (pictures + sigma * torch.randn(pictures.shape, generator=rng)).clamp(0, 1)


def soft(pictures: Tensor, rng: torch.Generator) -> Tensor:
    """As a small VAE leaves it: blurred by one pixel, a tenth less contrast, noise of 0.02."""
    return noisy(0.05 + 0.9 * blurred(pictures, 1.0), 0.02, rng)


def coarse(pictures: Tensor) -> Tensor:
    """Half the size and back: softer edges, with overshoot."""
    small = functional.interpolate(pictures, scale_factor=0.5, mode="area")
    return functional.interpolate(small, size=SIZE, mode="bicubic").clamp(0, 1)


def jpeg(pictures: Tensor, quality: int) -> Tensor:
    done = []
    for picture in pictures:
        file = io.BytesIO()
        Image.fromarray((picture.movedim(0, -1) * 255).round().byte().numpy()).save(file, "JPEG", quality=quality)
        done.append(torch.from_numpy(np.array(Image.open(file))).movedim(-1, 0) / 255)
    return torch.stack(done)


def disturbances(pictures: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
    """Each must leave what is read as it is."""
    return {
        "clean": pictures,
        "shifted one pixel": torch.cat(
            [
                shifted(part, *way)
                for part, way in zip(pictures.chunk(4), ((1, 1), (-1, 0), (0, 1), (-1, -1)), strict=True)
            ]
        ),
        "rounded to 8 bits": rounded(pictures),
        "shifted and rounded": rounded(shifted(pictures, -1, 1)),
        "blurred, sigma 0.7": blurred(pictures, 0.7),
        "noise, sigma 0.02": noisy(pictures, 0.02, rng),
        "blurred 0.7, noise 0.02": noisy(blurred(pictures, 0.7), 0.02, rng),
        "soft: blurred 1.0, contrast 0.9, noise 0.02": soft(pictures, rng),
        "half size and back": coarse(pictures),
        "JPEG, quality 75": jpeg(pictures, 75),
    }


def harder(pictures: Tensor, rng: torch.Generator) -> dict[str, Tensor]:
    """Where reading may begin to fail: shown, not demanded."""
    third = functional.interpolate(pictures, size=SIZE // 3, mode="area")
    return {
        "blurred, sigma 1.5": blurred(pictures, 1.5),
        "blurred, sigma 2": blurred(pictures, 2.0),
        "a third of the size and back": functional.interpolate(third, size=SIZE, mode="bicubic").clamp(0, 1),
        "noise, sigma 0.05": noisy(pictures, 0.05, rng),
        "noise, sigma 0.1": noisy(pictures, 0.1, rng),
        "JPEG, quality 30": jpeg(pictures, 30),
    }


def _pick(table: Tensor, count: int, rng: torch.Generator) -> Tensor:
    return table[torch.randint(len(table), (count,), generator=rng)]


def _uniform(low: float, high: float, count: int, rng: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=rng)


def _paint(covered: Tensor, colour: Tensor, ground: Tensor) -> Tensor:
    """A layer N 64 64 of one colour N 3 over a ground N 3 or N 3 64 64."""
    under = ground if ground.dim() == 4 else ground[..., None, None].expand(-1, -1, SIZE, SIZE)
    return under + (colour[..., None, None] - under) * covered[:, None]


def _uniform_noise(count: int, rng: torch.Generator) -> Tensor:
    return torch.rand(count, 3, SIZE, SIZE, generator=rng)


def _noise_on_ground(count: int, rng: torch.Generator) -> Tensor:
    return noisy(_empty(count, rng), 0.3, rng)


def _clouds(count: int, rng: torch.Generator) -> Tensor:
    small = torch.rand(count, 3, 8, 8, generator=rng)
    return functional.interpolate(small, size=SIZE, mode="bicubic").clamp(0, 1)


def _empty(count: int, rng: torch.Generator) -> Tensor:
    return _pick(GROUNDS, count, rng)[..., None, None].expand(-1, -1, SIZE, SIZE).contiguous()


def _gradients(count: int, rng: torch.Generator) -> Tensor:
    colours = torch.cat((GROUNDS, PALETTE))
    angle = _uniform(0, 2 * math.pi, count, rng)[:, None, None]
    ramp = ((_X - 32) * angle.cos() + (_Y - 32) * angle.sin()) / 64 + 0.5
    return _paint(ramp.clamp(0, 1), _pick(colours, count, rng), _pick(colours, count, rng))


def _checkerboards(count: int, rng: torch.Generator) -> Tensor:
    cell = 2 ** torch.randint(1, 6, (count, 1, 1), generator=rng)
    board = ((_X / cell).floor() + (_Y / cell).floor()) % 2
    return _paint(board, _pick(PALETTE, count, rng), _pick(GROUNDS, count, rng))


def _photos(count: int, rng: torch.Generator) -> Tensor:
    """Random crops of the demo photos, from 64 pixels to the whole side, shrunk to 64."""
    photos, found = [load_photo(name).movedim(-1, 1) for name in photo_names()], []
    for index in range(count):
        photo = photos[index % len(photos)]
        side = int(torch.randint(64, min(photo.shape[2:]) + 1, (1,), generator=rng))
        top, left = (int(torch.randint(size - side + 1, (1,), generator=rng)) for size in photo.shape[2:])
        crop = photo[..., top : top + side, left : left + side]
        found.append(functional.interpolate(crop, size=(SIZE, SIZE), mode="area"))
    return torch.cat(found)


def _half(scenes: Scenes, rng: torch.Generator, *, below: bool) -> Tensor:
    """N 64 64: the part of the picture on one side of the first object's centre. The lower side only if asked for:
    a triangle without its lower half is a triangle.
    """
    way = torch.randint(4 if below else 3, (len(scenes), 1, 1), generator=rng)
    x, y = _X - scenes.centre[:, 0, 0, None, None], _Y - scenes.centre[:, 0, 1, None, None]
    return torch.where(way == 0, x < 0, torch.where(way == 1, x > 0, torch.where(way == 2, y < 0, y > 0))).float()


def _half_erased(count: int, rng: torch.Generator) -> Tensor:
    """The first object has lost the half on one side of its centre."""
    scenes = sample(count, rng)
    gone = _half(scenes, rng, below=False) * (coverage(scenes)[:, 0] > 0)
    return _paint(gone, GROUNDS[scenes.background], render(scenes))


def _two_coloured(count: int, rng: torch.Generator) -> Tensor:
    """One half of the first object has another colour."""
    scenes = sample(count, rng)
    other = (scenes.colour[:, 0] + torch.randint(1, len(PALETTE), (count,), generator=rng)) % len(PALETTE)
    return _paint(_half(scenes, rng, below=True) * coverage(scenes)[:, 0], PALETTE[other], render(scenes))


def _overlapping(count: int, rng: torch.Generator) -> Tensor:
    """Two objects of different colours, the second partly over the first."""
    scenes = sample(count, rng, objects=2)
    way = functional.normalize(scenes.centre[:, 1] - scenes.centre[:, 0])
    reach = HALF_SIDE * scenes.radius.sum(1)  # nearer than that they meet, whatever their shapes
    centre = scenes.centre.clone()
    centre[:, 1] = centre[:, 0] + way * (reach * _uniform(0.45, 0.75, count, rng))[:, None]
    other = (scenes.colour[:, 0] + torch.randint(1, len(PALETTE), (count,), generator=rng)) % len(PALETTE)
    moved = Scenes(scenes.background, scenes.shape, torch.stack((scenes.colour[:, 0], other), 1), centre, scenes.radius)
    layers = coverage(moved)
    first = _paint(layers[:, 0], PALETTE[moved.colour[:, 0]], GROUNDS[moved.background])
    return _paint(layers[:, 1], PALETTE[other], first)


def _in_between(count: int, rng: torch.Generator) -> Tensor:
    """A colour in the middle (0.4 to 0.6) of two of the palette."""
    scenes = sample(count, rng, objects=1)
    first = PALETTE[scenes.colour[:, 0]]
    second = PALETTE[(scenes.colour[:, 0] + torch.randint(1, len(PALETTE), (count,), generator=rng)) % len(PALETTE)]
    colour = torch.lerp(first, second, _uniform(0.4, 0.6, count, rng)[:, None])
    return _paint(coverage(scenes)[:, 0], colour, GROUNDS[scenes.background])


def _faded(count: int, rng: torch.Generator) -> Tensor:
    """A colour only 0.3 to 0.6 of the way from the ground."""
    scenes = sample(count, rng, objects=1)
    strength = _uniform(0.3, 0.6, count, rng)[:, None, None]
    return _paint(coverage(scenes)[:, 0] * strength, PALETTE[scenes.colour[:, 0]], GROUNDS[scenes.background])


def _at_the_border(count: int, rng: torch.Generator) -> Tensor:
    """The object is half out of the picture."""
    scenes = sample(count, rng, objects=1)
    centre, side = scenes.centre.clone(), torch.randint(2, (count,), generator=rng) * float(SIZE)
    axis = torch.randint(2, (count,), generator=rng)
    centre[torch.arange(count), 0, axis] = side
    return render(Scenes(scenes.background, scenes.shape, scenes.colour, centre, scenes.radius))


def _three_objects(count: int, rng: torch.Generator) -> Tensor:
    picture = _empty(count, rng)
    radius = _uniform(8.5, 10, count, rng)[:, None, None]
    for x, y in ((16, 16), (47, 18), (30, 46)):
        disc = (radius + 0.5 - torch.hypot(_X - x, _Y - y)).clamp(0, 1)
        picture = _paint(disc, _pick(PALETTE, count, rng), picture)
    return picture


def _double_exposure(count: int, rng: torch.Generator) -> Tensor:
    """Two different scenes at once, each at half strength."""
    scenes, other = sample(count, rng), sample(count, rng)
    same = Scenes(scenes.background, other.shape, other.colour, other.centre, other.radius)
    return (render(scenes) + render(same)) / 2


def _blobs(count: int, rng: torch.Generator) -> Tensor:
    """Random smooth outlines of about an object's size: a circle whose radius wavers by about a quarter."""
    x, y = (_uniform(26, 38, count, rng)[:, None, None] for _ in range(2))
    angle, radius = torch.atan2(_Y - y, _X - x), _uniform(11, 17, count, rng)[:, None, None]
    wave = torch.zeros(count, SIZE, SIZE)
    for order in (2, 3, 4, 5):
        phase = _uniform(0, 2 * math.pi, count, rng)[:, None, None]
        wave = wave + torch.cos(order * angle + phase) / 2
    edge = radius * (1 + 0.25 * wave)
    disc = (edge + 0.5 - torch.hypot(_X - x, _Y - y)).clamp(0, 1)
    return _paint(disc, _pick(PALETTE, count, rng), _pick(GROUNDS, count, rng))


NO_SCENES: dict[str, Callable[[int, torch.Generator], Tensor]] = {
    "uniform noise": _uniform_noise,
    "noise on a ground": _noise_on_ground,
    "coloured clouds": _clouds,
    "empty ground": _empty,
    "gradients": _gradients,
    "checkerboards": _checkerboards,
    "photos": _photos,
    "half-erased object": _half_erased,
    "two-coloured object": _two_coloured,
    "overlapping objects": _overlapping,
    "colour between two": _in_between,
    "faded colour": _faded,
    "half out of the picture": _at_the_border,
    "three objects": _three_objects,
    "double exposure": _double_exposure,
    "blobs": _blobs,
}


def _polygon(x: Tensor, y: Tensor, corners: int, turn: float) -> Tensor:
    """Signed distance to a regular polygon of inner radius 1 (flat sides exact)."""
    angles = torch.arange(corners) * (2 * math.pi / corners) + turn
    return torch.stack([x * a.cos() + y * a.sin() for a in angles]).amax(0) - 1


# Signed distances of other outlines, of about radius 1, for x and y in units of the radius.
OTHER_SHAPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "diamond": lambda x, y: _polygon(x, y, 4, math.pi / 4) + 0.1,
    "triangle, point down": lambda x, y: _polygon(x, y, 3, -math.pi / 2) + 0.35,
    "rectangle 3:2": lambda x, y: torch.maximum(x.abs() - 1.1, y.abs() - 0.733),
    "ellipse 3:2": lambda x, y: torch.hypot(x / 1.2, y / 0.8) - 1,
    "cross": lambda x, y: torch.minimum(
        torch.maximum(x.abs() - 1.1, y.abs() - 0.4), torch.maximum(x.abs() - 0.4, y.abs() - 1.1)
    ),
    "star": lambda x, y: torch.hypot(x, y) - 0.8 - 0.3 * torch.cos(5 * torch.atan2(y, x)),
    "half disc": lambda x, y: torch.maximum(torch.hypot(x, y) - 1.2, y),
    "crescent": lambda x, y: torch.maximum(torch.hypot(x, y) - 1.1, 0.8 - torch.hypot(x - 0.6, y)),
    "ring with a gap": lambda x, y: torch.maximum(
        (torch.hypot(x, y) - 0.75).abs() - 0.25, torch.minimum(x, 0.3 - y.abs())
    ),
    "ring with a small hole": lambda x, y: torch.maximum(torch.hypot(x, y) - 1, 0.25 - torch.hypot(x, y)),
    "pentagon": lambda x, y: _polygon(x, y, 5, math.pi / 2) + 0.1,
    "hexagon": lambda x, y: _polygon(x, y, 6, 0) + 0.1,
    "rounded square": lambda x, y: (x.abs() ** 4 + y.abs() ** 4) ** 0.25 - 0.95,
}
NEAR = ("pentagon", "hexagon", "rounded square", "ring with a small hole")  # too like one of ours: shown, not demanded


def other_shape(name: str, count: int, rng: torch.Generator) -> Tensor:
    """One object of an outline that the world has not, in the palette's colours, of radius 11 to 18."""
    radius = _uniform(11, 18, count, rng)[:, None, None]
    x, y = (_uniform(28, 36, count, rng)[:, None, None] for _ in range(2))
    covered = (0.5 - OTHER_SHAPES[name]((_X - x) / radius, (_Y - y) / radius) * radius).clamp(0, 1)
    return _paint(covered, _pick(PALETTE, count, rng), _pick(GROUNDS, count, rng))
