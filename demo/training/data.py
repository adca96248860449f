"""Training pictures: crops of public-domain photos from scikit-image's wheel, and the generated ones of pictures.py."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .pictures import generate

# Split by photo. Only files whose licence note in scikit-image says public domain or CC0: see demo/photos/README.md.
HELD_OUT = ("chelsea.png", "coffee.png", "rocket.jpg")
TRAINING = {
    # file: (weight, largest scale). JPEG files are only used at half size or less, where their blocks are gone.
    "astronaut.png": (4.0, 1.0),
    "camera.png": (2.0, 1.0),
    "brick.png": (2.0, 1.0),
    "grass.png": (1.0, 1.0),
    "gravel.png": (1.0, 1.0),
    "hubble_deep_field.jpg": (1.0, 0.5),
    "retina.jpg": (1.5, 0.35),
    "text.png": (0.7, 1.0),
    "cell.png": (0.3, 0.7),
    "clock_motion.png": (0.3, 1.0),
}
SCALES = (1.0, 0.7, 0.5, 0.35)


def photo_folder() -> Path:
    """Folder of the photos in the installed scikit-image, found without importing it. Raises FileNotFoundError."""
    spec = importlib.util.find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            "scikit-image is not installed: pip install scikit-image (its wheel carries the photos)"
        )
    return Path(next(iter(spec.submodule_search_locations))) / "data"


def load_picture(path: Path) -> Tensor:
    """Read a picture file as 3 H W float32 RGB in [0,1]; grey becomes three equal channels."""
    with Image.open(path) as image:
        array = np.asarray(image.convert("RGB"))
    return torch.from_numpy(array.copy()).permute(2, 0, 1).float().div(255)


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Bicubic resize of B 3 H W in [0,1] to (height, width), antialiased when it shrinks."""
    return F.interpolate(image, size=size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)


def _pyramid(image: Tensor, largest: float, smallest_side: int) -> list[Tensor]:
    """uint8 copies of a 3 H W picture at the SCALES that still hold a crop."""
    levels = []
    for scale in SCALES:
        size = (round(image.shape[1] * scale), round(image.shape[2] * scale))
        if scale <= largest and min(size) >= smallest_side:
            levels.append((resize(image[None], size)[0] * 255).round().to(torch.uint8))
    return levels


class Crops:
    """Endless seeded batches of augmented crops.

    crop(batch, size) -> B 3 size size float32 in [0,1]. Pictures stay in memory as uint8, photos at several scales.
    """

    def __init__(self, seed: int, *, photos: float = 0.65, generated: int = 400, smallest_side: int = 100) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.share = photos
        folder = photo_folder()
        self.photos: list[list[Tensor]] = []
        weights = []
        for name, (weight, largest) in TRAINING.items():
            self.photos.append(_pyramid(load_picture(folder / name), largest, smallest_side))
            weights.append(weight)
        self.weights = torch.tensor(weights)
        self.pictures = generate(generated, seed)

    def _uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * float(torch.rand((), generator=self.generator))

    def _integer(self, end: int) -> int:
        return int(torch.randint(end, (), generator=self.generator))

    def _colour(self, image: Tensor) -> Tensor:
        """Contrast, brightness and colour changes; a grey picture is often tinted: textures come in all colours."""
        if bool((image[0] == image[2]).all()) and self._uniform() < 0.7:
            dark, light = torch.rand(2, 3, 1, 1, generator=self.generator).sort(0).values
            dark, light = dark * 0.6, 0.4 + light * 0.6
            image = dark + (light - dark) * image
        elif self._uniform() < 0.25:
            image = image[torch.randperm(3, generator=self.generator)]
        if self._uniform() < 0.5:
            image = image.clamp(1e-4, 1) ** self._uniform(0.7, 1.4)
        if self._uniform() < 0.5:
            image = image * self._uniform(0.6, 1.1) + self._uniform(-0.05, 0.1)
        return image.clamp(0, 1)

    def one(self, size: int) -> Tensor:
        """One crop, 3 size size."""
        if self._uniform() < self.share:
            levels = self.photos[int(torch.multinomial(self.weights, 1, generator=self.generator))]
            picture = levels[self._integer(len(levels))]
        else:
            picture = self.pictures[self._integer(len(self.pictures))]
        top, left = self._integer(picture.shape[1] - size + 1), self._integer(picture.shape[2] - size + 1)
        image = self._colour(picture[:, top : top + size, left : left + size].float().div(255))
        if self._uniform() < 0.5:
            image = image.flip(2)
        # Upright pictures stay upright more often: gravity is part of what an inpainter learns.
        if self._uniform() < 0.3:
            image = image.rot90(1 + self._integer(3), (1, 2))
        return image

    def crop(self, batch: int, size: int) -> Tensor:
        """A batch of crops, B 3 size size."""
        return torch.stack([self.one(size) for _ in range(batch)])


def held_out(size: int | None = None) -> dict[str, Tensor]:
    """The photos that no training sees, 1 3 H W in [0,1]; `size` shrinks the shorter side to that many pixels."""
    pictures = {}
    for name in HELD_OUT:
        image = load_picture(photo_folder() / name)[None]
        if size is not None:
            scale = size / min(image.shape[2:])
            image = resize(image, (round(image.shape[2] * scale), round(image.shape[3] * scale)))
        pictures[name.split(".")[0]] = image[..., : image.shape[2] // 16 * 16, : image.shape[3] // 16 * 16]
    return pictures


def holes(batch: int, size: int, generator: torch.Generator, smallest: float = 0.25, largest: float = 0.6) -> Tensor:
    """Hole masks B 1 size size, 1 = hole: turned ellipses and rounded boxes, with sides of `smallest`..`largest`."""

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(batch, 1, 1, 1, generator=generator)

    line = torch.linspace(-1, 1, size)
    y, x = line[None, None, :, None], line[None, None, None, :]
    angle = uniform(0, 3.1416) * (uniform(0, 1) < 0.5)
    y, x = y - uniform(-0.6, 0.6), x - uniform(-0.6, 0.6)
    y, x = y * angle.cos() - x * angle.sin(), y * angle.sin() + x * angle.cos()
    power = torch.where(uniform(0, 1) < 0.5, 2.0, 8.0)
    distance = (y / uniform(smallest, largest)).abs() ** power + (x / uniform(smallest, largest)).abs() ** power
    return (distance < 1).float()
