"""Generated training pictures: dead leaves, fractal noise, stripes, wood, cells, gradients, strokes. No data."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

SIZE = 160
Array = np.ndarray


def _noise(rng: np.random.Generator, power: float) -> Array:
    """Fractal noise SIZE SIZE in [0,1] with a 1/f^power spectrum."""
    f = np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.fftfreq(SIZE)[None])
    f[0, 0] = 1
    spectrum = np.fft.fft2(rng.normal(size=(SIZE, SIZE))) / f**power
    spectrum[0, 0] = 0
    field = np.fft.ifft2(spectrum).real
    low, high = np.quantile(field, [0.01, 0.99])
    return np.clip((field - low) / (high - low + 1e-9), 0, 1)


def _colours(rng: np.random.Generator, field: Array, stops: int = 3) -> Array:
    """Map a field in [0,1] through a random colour ramp -> H W 3."""
    ramp = rng.uniform(0, 1, (stops, 3))
    if rng.random() < 0.5:  # related colours, as in most of the world
        ramp = np.clip(ramp[:1] + rng.normal(0, 0.2, (stops, 3)), 0, 1)
    at = np.linspace(0, 1, stops)
    return np.stack([np.interp(field, at, ramp[:, c]) for c in range(3)], -1)


def _grid() -> tuple[Array, Array]:
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    return y.astype(float), x.astype(float)


def _waves(rng: np.random.Generator) -> Array:
    """Stripes or rings, straight or warped by noise: cloth, wood, ripples. -> field in [0,1]"""
    y, x = _grid()
    angle = rng.uniform(0, np.pi)
    along = y * np.sin(angle) + x * np.cos(angle)
    if rng.random() < 0.35:
        along = np.hypot(y - rng.uniform(-40, 200), x - rng.uniform(-40, 200))
    along = along + rng.uniform(0, 25) * _noise(rng, rng.uniform(1.3, 2.2))
    wave = 0.5 + 0.5 * np.sin(along * 2 * np.pi / rng.uniform(5, 40))
    if rng.random() < 0.3:
        wave = (wave > rng.uniform(0.3, 0.7)).astype(float)
    if rng.random() < 0.25:  # a check
        across = y * np.cos(angle) - x * np.sin(angle)
        wave = np.abs(wave - (np.sin(across * 2 * np.pi / rng.uniform(8, 40)) > 0))
    return np.clip(wave + rng.normal(0, rng.uniform(0, 0.05), wave.shape), 0, 1)


def _cells(rng: np.random.Generator) -> Array:
    """Voronoi cells with a shade each and dark joints: stones, scales, foam. -> H W 3"""
    y, x = _grid()
    points = rng.uniform(0, SIZE, (int(rng.integers(12, 120)), 2))
    distance = np.sqrt((y[..., None] - points[:, 0]) ** 2 + (x[..., None] - points[:, 1]) ** 2)
    order = np.argpartition(distance, 1, axis=-1)[..., :2]
    near = np.take_along_axis(distance, order, -1)
    edge = np.abs(near[..., 1] - near[..., 0])
    owner = np.take_along_axis(order, near.argmin(-1)[..., None], -1)[..., 0]
    picture = _colours(rng, rng.uniform(0, 1, len(points))[owner], int(rng.integers(2, 5)))
    joint = np.clip(edge / rng.uniform(1, 6), 0, 1)[..., None]
    return picture * (rng.uniform(0.1, 0.8) * (1 - joint) + joint)


def _texture(rng: np.random.Generator) -> Array:
    """Any of the plain textures -> H W 3 in [0,1]."""
    kind = rng.random()
    if kind < 0.2:
        return _cells(rng)
    if kind < 0.55:
        return _colours(rng, _waves(rng), int(rng.integers(2, 4)))
    if kind < 0.65:
        y, x = _grid()
        ramp = y * rng.normal() + x * rng.normal()
        return _colours(rng, (ramp - ramp.min()) / (np.ptp(ramp) + 1e-9), 2)
    return _colours(rng, _noise(rng, rng.uniform(0.7, 2.0)), int(rng.integers(2, 5)))


def _leaf(rng: np.random.Generator, radius: float) -> Array:
    """Soft mask SIZE SIZE of one shape: ellipse, box, bar or polygon."""
    y, x = _grid()
    angle = rng.uniform(0, np.pi)
    y, x = y - rng.uniform(0, SIZE), x - rng.uniform(0, SIZE)
    y, x = y * np.cos(angle) - x * np.sin(angle), y * np.sin(angle) + x * np.cos(angle)
    a, b = radius, radius * rng.uniform(0.3, 1)
    kind = rng.random()
    if kind < 0.45:
        inside = (1 - np.hypot(y / a, x / b)) * min(a, b)
    elif kind < 0.75:
        inside = np.minimum(a - np.abs(y), b - np.abs(x))
    elif kind < 0.85:
        inside = np.minimum(3 * a - np.abs(y), max(1.0, b / 6) - np.abs(x))
    else:
        turns = np.arange(int(rng.integers(3, 7))) * 2 * np.pi
        turns = turns / len(turns)
        inside = np.min([a - (y * np.cos(t) + x * np.sin(t)) for t in turns], axis=0)
    return np.clip(inside + 0.5, 0, 1)[..., None]


def _leaves(rng: np.random.Generator) -> Array:
    """Dead leaves (occluding shapes of power-law sizes, as in natural pictures), each with a texture and a shade."""
    picture = _texture(rng)
    bank = [_texture(rng) for _ in range(3)]
    count = int(rng.integers(4, 60))
    for radius in sorted(np.clip(4 / (1 - rng.random(count)) ** 0.8, 4, 60), reverse=bool(rng.random() < 0.7)):
        mask = _leaf(rng, float(radius))
        fill = bank[int(rng.integers(3))] if rng.random() < 0.5 else rng.uniform(0, 1, 3)
        if rng.random() < 0.5:  # light from one side
            y, x = _grid()
            fill = fill * (0.75 + 0.5 * np.clip((y * rng.normal() + x * rng.normal()) / SIZE, -0.5, 0.5))[..., None]
        picture = picture * (1 - mask) + np.clip(fill, 0, 1) * mask
    return picture


def _strokes(rng: np.random.Generator) -> Array:
    """Rows of short curved strokes on paper, like a hand's writing."""
    y, x = _grid()
    paper = 0.5 + 0.5 * _colours(rng, _noise(rng, 1.8), 2)
    ink = np.zeros((SIZE, SIZE))
    pitch, width = rng.uniform(10, 26), rng.uniform(0.6, 1.8)
    for row in np.arange(pitch / 2, SIZE, pitch):
        column = rng.uniform(0, pitch)
        while column < SIZE:
            t = np.linspace(0, rng.uniform(1, 5), 14)
            points_y = row + pitch * 0.3 * np.sin(t + rng.uniform(0, 6)) * rng.uniform(0.3, 1)
            points_x = column + pitch * 0.3 * np.cos(t * rng.uniform(0.5, 1.5) + rng.uniform(0, 6))
            top, left = int(max(0, row - pitch)), int(max(0, column - pitch))
            window = (slice(top, int(row + pitch)), slice(left, int(column + pitch)))
            gap = np.hypot(y[window][..., None] - points_y, x[window][..., None] - points_x).min(-1)
            ink[window] = np.maximum(ink[window], np.clip(width - gap + 0.5, 0, 1))
            column += pitch * rng.uniform(0.4, 0.9)
    return paper * (1 - ink[..., None]) + rng.uniform(0, 0.35, 3) * ink[..., None]


def generate(count: int, seed: int) -> list[Tensor]:
    """`count` pictures, each 3 SIZE SIZE uint8, from a generator of their own."""
    rng = np.random.default_rng(seed)
    makers = (_leaves, _leaves, _leaves, _texture, _texture, _cells, _strokes)
    out = []
    for _ in range(count):
        picture = makers[int(rng.integers(len(makers)))](rng)
        out.append(
            torch.from_numpy((np.clip(picture, 0, 1) * 255).round().astype(np.uint8)).permute(2, 0, 1).contiguous()
        )
    return out
