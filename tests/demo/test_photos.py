"""The demo photos load, are small, and are all named in the licence file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from provoke.demo import photos

FOLDER = Path(__file__).resolve().parents[2] / "demo" / "photos"
LIMIT = 200_000  # bytes


@pytest.mark.parametrize("name", photos.photo_names())
def test_a_photo_and_its_hole_fit(name: str) -> None:
    image, mask = photos.load_photo(name), photos.hole(name)
    assert image.dtype == mask.dtype == torch.float32
    assert image.shape[0] == 1
    assert image.shape[3] == 3
    assert mask.shape == image.shape[:3]
    assert all(128 <= side <= 192 and side % 16 == 0 for side in image.shape[1:3])
    assert 0 <= float(image.min()) < float(image.max()) <= 1
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert 0.05 < float(mask.mean()) < 0.2
    assert torch.equal(image, photos.load_photo(name))


@pytest.mark.parametrize("name", photos.photo_names())
def test_the_mark_is_exact_and_only_in_the_hole(name: str) -> None:
    image, mask = photos.load_photo(name), photos.hole(name)
    marked = photos.mark_hole(image, mask)
    colour = torch.tensor(photos.HOLE_FILL)
    assert torch.equal(marked[mask > 0], colour.expand_as(marked[mask > 0]))
    assert torch.equal(marked[mask == 0], image[mask == 0])
    assert torch.equal((marked * 255).round() / 255, marked)  # survives a PNG
    assert not bool((image == colour).all(-1).any())  # the photo itself has no such pixel


def test_an_unknown_name_says_which_there_are() -> None:
    for call in (photos.load_photo, photos.hole):
        with pytest.raises(ValueError, match="Expected one of: chelsea"):
            call("../../secret")


def test_every_photo_has_a_licence_and_is_small() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    files = sorted(FOLDER.glob("*.png"))
    assert sorted(file.stem for file in files) == sorted(photos.photo_names())
    for file in files:
        row = next(line for line in text.splitlines() if line.startswith(f"| `{file.name}`"))
        assert "CC0" in row or "public domain" in row
        assert file.stat().st_size < LIMIT
