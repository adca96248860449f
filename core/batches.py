"""Batches that hold several results for each image, image-major: image 0's results first, then image 1's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def repeated(batch: Tensor, count: int) -> Tensor:
    """B ... -> B * count ...: `count` copies of image 0, then of image 1."""
    return batch.repeat_interleave(count, 0)


def runs(rows: Tensor, count: int) -> list[Tensor]:
    """B * count ... -> `count` of B ...: every image's first result, then every image's second, and so on."""
    return [rows[at::count] for at in range(count)]


def joined(parts: Sequence[Tensor]) -> Tensor:
    """The way back from `runs`: row 0 of every part, then row 1 of every part."""
    return parts[0] if len(parts) == 1 else torch.stack(list(parts), 1).flatten(0, 1)


def side_by_side(images: Tensor) -> Tensor:
    """B C H W -> 1 H (B W) C: one picture to look at."""
    return torch.cat(list(images), dim=-1)[None].movedim(1, -1)
