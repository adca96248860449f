"""Make the small copies in demo/photos from scikit-image's wheel: `python demo/training/copy_photos.py`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from PIL import Image

# name: (file in the wheel, box left top right bottom, size width height). Only photos that no training sees.
COPIES = {
    "chelsea": ("chelsea.png", (75, 0, 375, 300), (160, 160)),
    "chelsea-eye": ("chelsea.png", (110, 40, 270, 200), (160, 160)),
    "coffee": ("coffee.png", (130, 0, 530, 400), (160, 160)),
    "coffee-table": ("coffee.png", (20, 110, 260, 350), (160, 160)),
    "rocket": ("rocket.jpg", (0, 0, 640, 427), (192, 128)),
}


def main() -> None:
    """Crop, shrink (Lanczos) and save each copy as PNG."""
    spec = importlib.util.find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("scikit-image is not installed: pip install scikit-image (its wheel carries the photos)")
    source = Path(next(iter(spec.submodule_search_locations))) / "data"
    target = Path(__file__).resolve().parent.parent / "photos"
    for name, (file, box, size) in COPIES.items():
        with Image.open(source / file) as image:
            image.convert("RGB").crop(box).resize(size, Image.Resampling.LANCZOS).save(
                target / f"{name}.png", optimize=True
            )
        print(target / f"{name}.png")


if __name__ == "__main__":
    main()
