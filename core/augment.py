"""Differentiable random changes of an image, for expectation over transformation (EOT, Athalye et al. 2018).

Each draws ONE set of parameters per call for the whole batch: an image's gradient must not depend on who else is in the
batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Augmentation = Callable[[Tensor, torch.Generator], Tensor]


def _uniform(rng: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), generator=rng))


def compose(*augmentations: Augmentation) -> Augmentation:
    """One after the other."""

    def augment(image: Tensor, rng: torch.Generator) -> Tensor:
        for each in augmentations:
            image = each(image, rng)
        return image

    return augment


def pixel_noise(sigma: float) -> Augmentation:
    """Gaussian noise of standard deviation `sigma` in image units (the image is not clamped: that would cut the
    gradient).
    """

    def augment(image: Tensor, rng: torch.Generator) -> Tensor:
        return image + sigma * torch.randn(image.shape[1:], generator=rng).to(image)

    return augment


def affine(
    *, degrees: float = 0.0, translate: float = 0.0, scale: float = 0.0, beyond: str = "reflection"
) -> Augmentation:
    """Rotation by up to `degrees`, shift by up to `translate` (fraction of the side), zoom by a factor in 1 +- `scale`.

    Bilinear. beyond: what is seen past the picture's edge, its "reflection" or more of its "border" (a reflection may
    show a thing twice).
    """

    def augment(image: Tensor, rng: torch.Generator) -> Tensor:
        angle = torch.tensor(_uniform(rng, -degrees, degrees)).deg2rad()
        zoom = 1.0 / _uniform(rng, 1 - scale, 1 + scale)
        dx, dy = (2 * _uniform(rng, -translate, translate) for _ in range(2))
        cos, sin = float(angle.cos()) * zoom, float(angle.sin()) * zoom
        aspect = image.shape[-2] / image.shape[-1]  # grid units are sides: without it a wide picture would shear
        matrix = image.new_tensor([[cos, -sin * aspect, dx], [sin / aspect, cos, dy]]).expand(len(image), 2, 3)
        grid = F.affine_grid(matrix, list(image.shape), align_corners=False)
        return F.grid_sample(image, grid, mode="bilinear", padding_mode=beyond, align_corners=False)

    return augment


def sometimes(chance: float, augmentation: Augmentation) -> Augmentation:
    """With this chance (0 to 1), else the picture as it is."""

    def augment(image: Tensor, rng: torch.Generator) -> Tensor:
        return augmentation(image, rng) if float(torch.rand((), generator=rng)) < chance else image

    return augment


def mirrored(image: Tensor, rng: torch.Generator) -> Tensor:
    """Left and right exchanged."""
    return image.flip(-1)


def perspective(distortion: float) -> Augmentation:
    """Each corner is pulled inwards by up to `distortion` halves of the side (torchvision's RandomPerspective).

    Bilinear; past the picture's edge more of its border.
    """

    def augment(image: Tensor, rng: torch.Generator) -> Tensor:
        corners = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]], dtype=torch.float64)
        pulled = corners * (1 - distortion * torch.rand(4, 2, generator=rng, dtype=torch.float64))
        matrix = _homography(pulled, corners).to(image)
        height, width = image.shape[-2:]
        y, x = ((torch.arange(n).to(image) * 2 + 1) / n - 1 for n in (height, width))
        points = torch.stack(
            (x.expand(height, width), y[:, None].expand(height, width), torch.ones_like(x).expand(height, width)), -1
        )
        seen = points @ matrix.T
        grid = (seen[..., :2] / seen[..., 2:]).expand(len(image), height, width, 2)
        return F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)

    return augment


def _homography(start: Tensor, end: Tensor) -> Tensor:
    """The 3 x 3 matrix that takes four points (4 2) to four others."""
    rows: list[list[float]] = []
    for (x, y), (u, v) in zip(start.tolist(), end.tolist(), strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
    solved = torch.linalg.solve(torch.tensor(rows, dtype=start.dtype), end.flatten())
    return torch.cat((solved, solved.new_ones(1))).view(3, 3)


def colour_jitter(*, brightness: float = 0.0, contrast: float = 0.0, saturation: float = 0.0) -> Augmentation:
    """Light, distance from the mean grey and distance from each pixel's own grey, each by a factor in 1 +- its value
    (torchvision's ColorJitter without its hue: a colour's name is part of a text's meaning). Not clamped.
    """

    def augment(image: Tensor, rng: torch.Generator) -> Tensor:
        light, contrasted, saturated = (1 + _uniform(rng, -most, most) for most in (brightness, contrast, saturation))
        image = image * light
        grey = (image * image.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
        mean = grey.mean((1, 2, 3), keepdim=True)
        return grey + ((image - mean) * contrasted + mean - grey) * saturated

    return augment


def erasing(*, least: float = 0.02, most: float = 0.33, fill: float = 0.5) -> Augmentation:
    """A rectangle of `least` to `most` of the area, sides 0.3 to 3.3 to one, becomes grey `fill` (torchvision's
    RandomErasing)."""

    def augment(image: Tensor, rng: torch.Generator) -> Tensor:
        height, width = image.shape[-2:]
        area = _uniform(rng, least, most) * height * width
        ratio = 10 ** _uniform(rng, -0.52, 0.52)
        h, w = (max(1, min(n, round(v))) for n, v in ((height, (area * ratio) ** 0.5), (width, (area / ratio) ** 0.5)))
        top, left = (int(_uniform(rng, 0, n - size + 1)) for n, size in ((height, h), (width, w)))
        keep = torch.ones(1, 1, height, width).to(image)
        keep[..., top : top + h, left : left + w] = 0
        return image * keep + fill * (1 - keep)

    return augment


def brightness_contrast(*, brightness: float = 0.0, contrast: float = 0.0) -> Augmentation:
    """Adds up to +-`brightness` (image units) and scales the distance from mid grey by a factor in 1 +- `contrast`."""

    def augment(image: Tensor, rng: torch.Generator) -> Tensor:
        gain = 1 + _uniform(rng, -contrast, contrast)
        return (image - 0.5) * gain + 0.5 + _uniform(rng, -brightness, brightness)

    return augment
