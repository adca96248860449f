"""What goes into and comes out of the demo world's classifiers: classes, normalisation, edge maps.

The folders below demo/weights/provoke_classifiers are ordinary ones of `transformers`' image classification, and need
nothing of this file to be loaded. Their class names are here because the trainings, tests and benchmarks share them.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from .world import COLOURS, SHAPES

CLASSIFIERS = Path(__file__).resolve().parent / "weights" / "provoke_classifiers"
VAE = Path(__file__).resolve().parent / "weights" / "vae" / "provoke-demo-vae.safetensors"

SEARCHED = ("provoke-demo-resnet", "provoke-demo-regnet", "provoke-demo-hgnet")
JUDGE = "provoke-demo-convnext"  # held out: no search may use it, so that it can say whether a result is real
EDGE = "provoke-demo-edge-resnet"

LABELS = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)  # place: colour * 4 + shape
MEAN, STD = 0.5, 0.25  # of every channel, in every preprocessor_config.json

EDGE_THRESHOLD = 0.3  # of the contrast of a sharp step from 0 to 1
_SOBEL = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))


def normalise(images: Tensor) -> Tensor:
    """RGB in [0,1] to what the classifiers take: the preprocessors' arithmetic, differentiable."""
    return (images - MEAN) / STD


def edge_strength(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sobel of each channel, the channel with the strongest answer: B C H W -> magnitude, d/dx, d/dy, each B 1 H W.

    A sharp step from 0 to 1 has magnitude 1. The border is replicated, so that the picture's edge is none.
    """
    kernel = images.new_tensor(_SOBEL) / 4
    flat = functional.pad(images.flatten(0, 1)[:, None], (1, 1, 1, 1), mode="replicate")
    found = functional.conv2d(flat, torch.stack((kernel, kernel.T))[:, None])
    across, down = found.view(*images.shape[:2], 2, *images.shape[2:]).unbind(2)
    magnitude = (across.square() + down.square() + 1e-12).sqrt()
    strongest = magnitude.argmax(1, keepdim=True)
    return magnitude.gather(1, strongest), across.gather(1, strongest), down.gather(1, strongest)


def edge_map(images: Tensor, threshold: float | Tensor = EDGE_THRESHOLD) -> Tensor:
    """0 or 1 where the Sobel magnitude is above the threshold, on three equal channels: B 3 H W -> B 3 H W.

    The threshold is in contrast; a tensor must broadcast with B 1 H W. There is no gradient through it.
    """
    magnitude, _, _ = edge_strength(images)
    return (magnitude > threshold).to(images.dtype).expand(-1, 3, -1, -1)


def thin_edge_map(images: Tensor, threshold: float | Tensor = EDGE_THRESHOLD) -> Tensor:
    """`edge_map` one pixel wide: only where the magnitude is the largest along its own direction, as in Canny's."""
    magnitude, across, down = edge_strength(images)
    around = functional.pad(magnitude, (1, 1, 1, 1))

    def at(x: int, y: int) -> Tensor:
        return around[..., 1 + y : 1 + y + magnitude.shape[-2], 1 + x : 1 + x + magnitude.shape[-1]]

    flat, steep = across.abs() > 2.414 * down.abs(), down.abs() > 2.414 * across.abs()
    rising = across * down > 0
    behind = torch.where(flat, at(-1, 0), torch.where(steep, at(0, -1), torch.where(rising, at(-1, -1), at(-1, 1))))
    ahead = torch.where(flat, at(1, 0), torch.where(steep, at(0, 1), torch.where(rising, at(1, 1), at(1, -1))))
    kept = (magnitude > threshold) & (magnitude >= behind) & (magnitude > ahead)
    return kept.to(images.dtype).expand(-1, 3, -1, -1)
