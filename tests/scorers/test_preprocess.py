"""Our preprocessing against each library's own, on photographs of many shapes, and its gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from provoke.scorers.preprocess import Preprocess, for_host, for_open_clip, for_transformers

# PIL rounds to 8 bit after each of its two passes: half a level of 255, and half a level times the kernel's weights
LEVELS = 1.5 / 255

OPEN_CLIP = {
    "shortest": {},
    "bilinear": {"interpolation": "bilinear"},
    "squash": {"resize_mode": "squash", "mean": 0.5, "std": 0.5},
    "longest": {"resize_mode": "longest", "fill_color": 128},
    "not square": {"size": (48, 80)},
    "longest, not square": {"size": (48, 80), "resize_mode": "longest"},
}


@pytest.mark.parametrize("name", OPEN_CLIP)
def test_open_clip(name: str, photos: list[Image.Image], as_tensor: Callable[[Image.Image], Tensor]) -> None:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    settings: Any = {"size": 64, **OPEN_CLIP[name]}
    theirs = image_transform_v2(PreprocessCfg(**settings), is_train=False)
    ours = for_open_clip(settings, 64)
    std = torch.tensor(ours.std).view(3, 1, 1)
    for photo in photos:
        wanted, found = theirs(photo), ours(as_tensor(photo))[0]
        assert found.shape == wanted.shape
        assert float(((found - wanted) * std).abs().max()) < LEVELS, (name, photo.size)


def processors() -> dict[str, Callable[[], Any]]:
    import transformers.models.clip.image_processing_pil_clip as clip
    import transformers.models.convnext.image_processing_pil_convnext as convnext
    import transformers.models.siglip.image_processing_pil_siglip as siglip
    import transformers.models.vit.image_processing_pil_vit as vit

    square = {"height": 64, "width": 64}
    return {
        "clip": lambda: clip.CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size=square),
        "clip, larger crop": lambda: clip.CLIPImageProcessorPil(
            size={"shortest_edge": 60}, crop_size={"height": 56, "width": 48}
        ),
        "siglip": lambda: siglip.SiglipImageProcessorPil(size=square),
        "vit": lambda: vit.ViTImageProcessorPil(size={"height": 48, "width": 80}),
        "vit, not normalised": lambda: vit.ViTImageProcessorPil(size=square, do_normalize=False),
        "convnext, cropped": lambda: convnext.ConvNextImageProcessorPil(size={"shortest_edge": 64}, crop_pct=0.875),
        "convnext, squashed": lambda: convnext.ConvNextImageProcessorPil(size={"shortest_edge": 384}),
    }


@pytest.mark.parametrize("name", processors())
def test_transformers(name: str, photos: list[Image.Image], as_tensor: Callable[[Image.Image], Tensor]) -> None:
    processor = processors()[name]()
    ours = for_transformers(processor)
    std = torch.tensor(ours.std).view(3, 1, 1)
    for photo in photos:
        wanted, found = processor(photo, return_tensors="pt")["pixel_values"][0], ours(as_tensor(photo))[0]
        assert found.shape == wanted.shape
        assert float(((found - wanted) * std).abs().max()) < LEVELS, (name, photo.size)


def test_pixels_that_are_not_rescaled() -> None:
    import transformers

    processor = transformers.ViTImageProcessor(size={"height": 8, "width": 8}, do_rescale=False, do_normalize=False)
    torch.testing.assert_close(
        for_transformers(processor)(torch.full((1, 3, 8, 8), 0.2)), torch.full((1, 3, 8, 8), 51.0)
    )


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (7, 201), (64, 64), (63, 65), (500, 3)])
@pytest.mark.parametrize("fit", ["shortest", "squash", "longest"])
def test_any_size_from_one_pixel_on(size: tuple[int, int], fit: str) -> None:
    image = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    crop = None if fit == "squash" else (64, 64)
    found = Preprocess((64, 64), (0.0,) * 3, (1.0,) * 3, fit, crop)(image)
    assert found.shape == (2, 3, 64, 64)
    assert 0 <= float(found.detach().min()) <= float(found.detach().max()) <= 1
    found.sum().backward()
    assert image.grad is not None
    assert bool(image.grad.isfinite().all())
    assert bool(image.grad.any())


@pytest.mark.parametrize("size", [(40, 90), (90, 41), (5, 9), (64, 64)])
def test_the_gradient(size: tuple[int, int], finite_difference_error: Callable[..., float]) -> None:
    image = 0.2 + 0.6 * torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for settings in ({}, {"resize_mode": "squash"}, {"resize_mode": "longest"}, {"interpolation": "bilinear"}):
        assert finite_difference_error(for_open_clip({"size": 32, **settings}, 32), image) < 1e-7
    assert finite_difference_error(for_host(32, [0.5] * 3, [0.25] * 3), image) < 1e-7


def test_pictures_that_are_none() -> None:
    prepare = for_host(32, [0.5] * 3, [0.25] * 3)
    for shape in ((1, 4, 8, 8), (3, 8, 8), (1, 8, 8, 3), (0, 3, 8, 8)):
        with pytest.raises(ValueError, match="B x 3 x H x W"):
            prepare(torch.rand(shape))


def test_processors_that_do_something_else() -> None:
    import transformers

    with pytest.raises(ValueError, match="EfficientNetImageProcessor"):
        for_transformers(transformers.EfficientNetImageProcessor())
    with pytest.raises(ValueError, match="resamples with 1"):
        for_transformers(transformers.ViTImageProcessor(resample=1))
    with pytest.raises(ValueError, match="many sizes"):
        for_transformers(transformers.ViTImageProcessor(do_resize=False))
    with pytest.raises(ValueError, match="resize_mode 'stretch'"):
        for_open_clip({"resize_mode": "stretch"}, 32)
