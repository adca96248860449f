"""The figures by which the demo models are judged; plain functions of tensors B 3 H W in [0,1]."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Net = Callable[[Tensor], Tensor]


def psnr(image: Tensor, truth: Tensor, border: int = 0) -> float:
    """PSNR in dB over all three RGB channels, without a `border` of so many pixels."""
    if border:
        image, truth = (t[..., border:-border, border:-border] for t in (image, truth))
    return float(-10 * torch.log10((image - truth).square().mean()))


def halve(image: Tensor) -> Tensor:
    """Antialiased bicubic downscale by two: what the upscaler undoes."""
    return F.interpolate(image, scale_factor=0.5, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)


def double(image: Tensor) -> Tensor:
    """Bicubic upscale by two: the baseline of the upscaler."""
    return F.interpolate(image, scale_factor=2.0, mode="bicubic", align_corners=False).clamp(0, 1)


def diffuse(image: Tensor, hole: Tensor, steps: int = 2000) -> Tensor:
    """Fill the hole (B 1 H W, 1 = hole) with the harmonic function of its rim: the smoothest fill, a blur."""
    kernel = torch.tensor([[0.0, 1, 0], [1, 0, 1], [0, 1, 0]]).div(4).expand(3, 1, 3, 3)
    known = image * (1 - hole)
    fill = known.sum((2, 3), keepdim=True) / (1 - hole).sum((2, 3), keepdim=True) * hole + known
    for _ in range(steps):
        around = F.conv2d(F.pad(fill, (1, 1, 1, 1), mode="replicate"), kernel, groups=3)
        fill = known + around * hole
    return fill


def inside(hole: Tensor, pixels: int = 3) -> Tensor:
    """The hole without a rim of so many pixels, so that the seam itself does not count as detail."""
    return 1 - F.max_pool2d(1 - hole, 2 * pixels + 1, stride=1, padding=pixels)


def gradient_energy(image: Tensor, region: Tensor) -> Tensor:
    """Mean squared forward difference (both directions, RGB) in the region B 1 H W; one value per image."""
    dy = (image[..., 1:, :-1] - image[..., :-1, :-1]).square()
    dx = (image[..., :-1, 1:] - image[..., :-1, :-1]).square()
    region = region[..., :-1, :-1]
    return ((dy + dx) * region).sum((1, 2, 3)) / (3 * region.sum((1, 2, 3)).clamp_min(1))


def sharpness(fill: Tensor, truth: Tensor, hole: Tensor) -> float:
    """Gradient energy of the fills over that of the true pictures, inside the holes; 1 = as much detail as the truth.

    A ratio of sums over the batch: a ratio per picture would be ruled by flat ones. Ours.
    """
    region = inside(hole)
    return float(gradient_energy(fill, region).sum() / gradient_energy(truth, region).sum())


def hole_change(net: Net, image: Tensor, hole: Tensor, moved: Tensor) -> Tensor:
    """Mean |net(moved) - net(image)| inside the hole, per image."""
    with torch.no_grad():
        gap = (net(moved).clamp(0, 1) - net(image).clamp(0, 1)).abs() * hole
    return gap.sum((1, 2, 3)) / (3 * hole.sum((1, 2, 3)))


def sign_noise(image: Tensor, epsilon: float, where: Tensor, generator: torch.Generator) -> Tensor:
    """image + epsilon * random signs where `where` is 1, kept in [0,1]: the baseline of the attack."""
    sign = torch.randint(0, 2, image.shape, generator=generator).float() * 2 - 1
    return (image + epsilon * sign * where).clamp(0, 1)


def attack(
    net: Net, image: Tensor, region: Tensor, where: Tensor, epsilon: float, generator: torch.Generator, steps: int = 40
) -> Tensor:
    """PGD by sign steps: push the output in `region` away (L1) from its default, moving only `where`, within epsilon.

    Its own few lines on purpose: the measuring stick of the models does not depend on the pack's search.
    """
    with torch.no_grad():
        default = net(image).clamp(0, 1)
    best, best_score = image, torch.full((len(image),), -1.0)
    moved = (image + epsilon * (2 * torch.rand(image.shape, generator=generator) - 1) * where).clamp(0, 1)
    for step in range(steps + 1):
        moved = moved.detach().requires_grad_(True)
        score = ((net(moved).clamp(0, 1) - default).abs() * region).sum((1, 2, 3))
        better = score.detach() > best_score
        best = torch.where(better[:, None, None, None], moved.detach(), best)
        best_score = torch.where(better, score.detach(), best_score)
        if step == steps:
            break
        (gradient,) = torch.autograd.grad(score.sum(), moved)
        size = epsilon * (0.25 if step < steps // 2 else 0.08)
        moved = moved.detach() + size * gradient.sign() * where
        moved = torch.maximum(torch.minimum(moved, image + epsilon), image - epsilon).clamp(0, 1)
    return best
