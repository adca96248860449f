"""The small public-domain photos that come with the pack, and a hole in each for the demo inpainter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

# The colour that tells the demo inpainter where the hole is, RGB in [0,1]. Exact in 8 bits, so that a picture with its
# hole survives being saved as a PNG, and rare in photos.
HOLE_FILL = (1.0, 0.0, 1.0)

_FOLDER = Path(__file__).resolve().parent / "photos"

# name: (shape, centre y, centre x, half height, half width), in shares of the picture's height and width
_HOLES = {
    "chelsea": ("ellipse", 0.42, 0.66, 0.17, 0.16),
    "chelsea-eye": ("box", 0.62, 0.36, 0.16, 0.17),
    "coffee": ("ellipse", 0.60, 0.66, 0.17, 0.17),
    "coffee-table": ("box", 0.42, 0.36, 0.17, 0.16),
    "rocket": ("box", 0.50, 0.52, 0.20, 0.13),
}


def photo_names() -> list[str]:
    """Names of the photos, for a combo; the first is the default. None of them was seen in training."""
    return list(_HOLES)


def _known(name: str) -> str:
    if name not in _HOLES:
        raise ValueError(f"There is no demo photo {name!r}. Expected one of: {', '.join(_HOLES)}.")
    return name


def load_photo(name: str) -> Tensor:
    """The photo `name` as 1 H W 3 float32 RGB in [0,1]. Raises ValueError for an unknown name."""
    with Image.open(_FOLDER / f"{_known(name)}.png") as image:
        array = np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    return torch.from_numpy(array)[None]


def hole(name: str) -> Tensor:
    """The photo's default hole as a mask 1 H W float32, 1 = hole. Raises ValueError for an unknown name."""
    shape, y, x, tall, wide = _HOLES[_known(name)]
    with Image.open(_FOLDER / f"{name}.png") as image:
        width, height = image.size
    rows = ((torch.arange(height) + 0.5) / height - y) / tall
    columns = ((torch.arange(width) + 0.5) / width - x) / wide
    power = 2.0 if shape == "ellipse" else 10.0  # a box with slightly rounded corners, as in training
    return (rows.abs()[:, None] ** power + columns.abs()[None] ** power < 1).float()[None]


def mark_hole(image: Tensor, mask: Tensor) -> Tensor:
    """Paint HOLE_FILL over the hole: image B H W 3 in [0,1], mask B H W (1 = hole) -> B H W 3.

    The mask is taken as hard (above one half): the inpainter knows no half holes.
    """
    inside = (mask > 0.5)[..., None]
    return torch.where(inside, image.new_tensor(HOLE_FILL), image)
