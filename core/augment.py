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


def affine(*, degrees: float = 0.0, translate: float = 0.0, scale: float = 0.0) -> Augmentation:
    """Rotation by up to `degrees`, shift by up to `translate` (fraction of the side), zoom by a factor in 1 +- `scale`.

    Bilinear, borders reflected.
    """

    def augment(image: Tensor, rng: torch.Generator) -> Tensor:
        angle = torch.tensor(_uniform(rng, -degrees, degrees)).deg2rad()
        zoom = 1.0 / _uniform(rng, 1 - scale, 1 + scale)
        dx, dy = (2 * _uniform(rng, -translate, translate) for _ in range(2))
        cos, sin = float(angle.cos()) * zoom, float(angle.sin()) * zoom
        aspect = image.shape[-2] / image.shape[-1]  # grid units are sides: without it a wide picture would shear
        matrix = image.new_tensor([[cos, -sin * aspect, dx], [sin / aspect, cos, dy]]).expand(len(image), 2, 3)
        grid = F.affine_grid(matrix, list(image.shape), align_corners=False)
        return F.grid_sample(image, grid, mode="bilinear", padding_mode="reflection", align_corners=False)

    return augment


def brightness_contrast(*, brightness: float = 0.0, contrast: float = 0.0) -> Augmentation:
    """Adds up to +-`brightness` (image units) and scales the distance from mid grey by a factor in 1 +- `contrast`."""

    def augment(image: Tensor, rng: torch.Generator) -> Tensor:
        gain = 1 + _uniform(rng, -contrast, contrast)
        return (image - 0.5) * gain + 0.5 + _uniform(rng, -brightness, brightness)

    return augment
