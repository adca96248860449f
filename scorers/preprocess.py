"""Pictures as an image tower takes them: resized, cropped, normalised, and differentiable all the way.

The libraries do this with PIL on 8-bit pictures, and the host rounds to 8 bit, which leaves no gradient. The kernels
here are the same (antialiased, bicubic with a = -0.5), in floating point, clamped to [0, 1] as 8 bits are; what remains
is the rounding. Sources: `open_clip.transform.image_transform`, transformers' `PilBackend`,
`comfy.clip_model.clip_preprocess`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .files import words

Size = tuple[int, int]  # height, width
KERNELS = {2: "bilinear", 3: "bicubic"}  # PIL.Image.Resampling
SQUASHED_FROM = 384  # ConvNext's processor squashes from this size on, and crops below it
# Processors of transformers that do just resize, crop, rescale and normalise; names without Fast, Pil, FeatureExtractor
ORDINARY = frozenset(
    f"{name}ImageProcessor"
    for name in (
        *("CLIP", "Siglip", "Blip", "ViT", "DeiT", "Beit", "Bit"),
        *("MobileNetV1", "MobileNetV2", "Segformer", "Pvt"),
    )
)
CONVNEXT = "ConvNextImageProcessor"


@dataclass(frozen=True)
class Preprocess:
    """B 3 H W in [0, 1], any size from one pixel on -> B 3 h w, normalised; at least float32 (float64 stays).

    Args:
        size: what the resize goes to; None leaves the picture's own size.
        fit: "shortest" (the picture covers `size`), "longest" (it fits into it) or "squash" (it becomes it).
        crop: height and width of the centre that is cut out, with `fill` around it where the picture is smaller.
        kernel: "bicubic" or "bilinear", antialiased.
        mean, std: of each channel, of pixels in [0, 1].
        scale: pixels are multiplied with it before that; 1 unless a library's settings say otherwise.
        fill: of the border, in [0, 1].
        rounded: how sides and offsets become whole numbers: "crop" as open_clip (sides down, offsets to the nearest),
            "none" as transformers (both down), "sides" as the host (sides to the nearest, offsets down).
        become: what resized and cropped pictures (B 3 h w in [0, 1]) turn into before the normalisation (edge maps).
    Raises:
        ValueError: pictures of another form, or a crop without a size for pictures of any size.
    """

    size: Size | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fit: str = "shortest"
    crop: Size | None = None
    kernel: str = "bicubic"
    scale: float = 1.0
    fill: float = 0.0
    rounded: str = "none"
    become: Callable[[Tensor], Tensor] | None = None

    def __call__(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1] != 3 or images.numel() == 0:
            raise ValueError(
                words(f"The pictures are {tuple(images.shape)}", "B x 3 x H x W, RGB", "take the alpha channel off")
            )
        x = self._cropped(self._resized(images.to(torch.promote_types(images.dtype, torch.float32))))
        if self.become is not None:
            x = self.become(x)
        mean, std = (x.new_tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return (x * self.scale - mean) / std

    def _resized(self, x: Tensor) -> Tensor:
        size = self._target(*x.shape[-2:])
        if size == tuple(x.shape[-2:]):
            return x
        if self.kernel != "bicubic":
            return functional.interpolate(x, size=size, mode=self.kernel, antialias=True)
        # bicubic overshoots, and 8 bits cannot: PIL cuts off after each of its two passes, rows first
        for one in ((x.shape[-2], size[1]), size):
            if one != tuple(x.shape[-2:]):
                x = functional.interpolate(x, size=one, mode="bicubic", antialias=True).clamp(0, 1)
        return x

    def _target(self, height: int, width: int) -> Size:
        if self.size is None:
            return height, width
        if self.fit == "squash":
            return self.size
        ratios = height / self.size[0], width / self.size[1]
        if self.fit == "longest":
            return tuple(max(1, round(side / max(ratios))) for side in (height, width))  # type: ignore[return-value]
        if self.size[0] != self.size[1] or self.rounded == "sides":
            return tuple(max(1, round(side / min(ratios))) for side in (height, width))  # type: ignore[return-value]
        short = self.size[0]
        if height <= width:
            return short, int(short * width / height)
        return int(short * height / width), short

    def _cropped(self, x: Tensor) -> Tensor:
        if self.crop is None:
            return x
        height, width = x.shape[-2:]
        below, right = max(0, self.crop[0] - height), max(0, self.crop[1] - width)
        if below or right:
            border = (right // 2, right - right // 2, below // 2, below - below // 2)
            x = functional.pad(x, border, value=self.fill / self.scale)
        rest = x.shape[-2] - self.crop[0], x.shape[-1] - self.crop[1]
        top, left = (round(n / 2) if self.rounded == "crop" else n // 2 for n in rest)
        return x[..., top : top + self.crop[0], left : left + self.crop[1]]


def for_open_clip(settings: Mapping[str, Any], image_size: int | Sequence[int]) -> Preprocess:
    """From an open_clip `preprocess_cfg` and the tower's image size: `open_clip.image_transform(is_train=False)`.

    ValueError: settings that open_clip itself does not have.
    """
    size = _pair(settings.get("size") or image_size)
    fit = settings.get("resize_mode") or "shortest"
    kernel = settings.get("interpolation") or "bicubic"
    if kernel == "random":  # a choice for training; without it open_clip takes bicubic
        kernel = "bicubic"
    if fit not in ("shortest", "longest", "squash") or kernel not in KERNELS.values():
        raise ValueError(
            words(
                f"The preprocess_cfg says resize_mode {fit!r} and interpolation {kernel!r}",
                "shortest, longest or squash; bicubic or bilinear",
                "take the open_clip_config.json that came with the weights",
            )
        )
    if fit == "shortest" and size[0] != size[1]:
        kernel = "bicubic"  # ResizeKeepRatio is not told the interpolation
    mean = _three(settings.get("mean") or (0.48145466, 0.4578275, 0.40821073))
    std = _three(settings.get("std") or (0.26862954, 0.26130258, 0.27577711))
    fill = float(settings.get("fill_color") or 0) / 255
    crop = None if fit == "squash" else size
    return Preprocess(size, mean, std, fit, crop, kernel, fill=fill if fit == "longest" else 0.0, rounded="crop")


def for_transformers(processor: Any) -> Preprocess:
    """From an image processor of transformers, whose class knows the defaults of what its file does not say.

    ValueError: a processor that does more than resize, crop, rescale and normalise, or in another way.
    """
    name = type(processor).__name__.removesuffix("Fast").removesuffix("Pil")
    name = name.replace("FeatureExtractor", "ImageProcessor")
    if name not in ORDINARY and name != CONVNEXT:
        raise ValueError(
            words(
                f"The folder's preprocessor is a {type(processor).__name__}",
                f"one that is known here to be differentiable: {', '.join(sorted(ORDINARY | {CONVNEXT}))}",
                "choose a model with one of these (preprocessor_config.json says which it has)",
            )
        )
    kernel = KERNELS.get(int(processor.resample)) if processor.do_resize else "bicubic"
    if kernel is None or getattr(processor, "do_pad", None):
        raise ValueError(
            words(
                f"The folder's preprocessor resamples with {processor.resample} or pads",
                "2 (bilinear) or 3 (bicubic), without padding",
                "choose another model",
            )
        )
    if name == CONVNEXT:
        size, fit, crop = _convnext(processor)
    else:
        size, fit = _resize(processor.size) if processor.do_resize else (None, "shortest")
        crop = _height_width(processor.crop_size) if getattr(processor, "do_center_crop", None) else None
    if crop is None and (size is None or fit == "shortest"):
        raise ValueError(
            words(
                "The folder's preprocessor leaves pictures of many sizes as they are",
                "one size that every picture is brought to",
                "set size to a height and a width in preprocessor_config.json",
            )
        )
    scale = 255 * float(processor.rescale_factor) if processor.do_rescale else 255.0
    mean = _three(processor.image_mean) if processor.do_normalize else (0.0,) * 3
    std = _three(processor.image_std) if processor.do_normalize else (1.0,) * 3
    return Preprocess(size, mean, std, fit, crop, kernel, scale)


def for_host(size: int, mean: Sequence[float], std: Sequence[float]) -> Preprocess:
    """`comfy.clip_model.clip_preprocess` (with its crop), without its rounding to 8 bit."""
    square = (size, size)
    return Preprocess(square, tuple(mean), tuple(std), "shortest", square, rounded="sides")


def _convnext(processor: Any) -> tuple[Size | None, str, Size | None]:
    """As ConvNextImageProcessor.resize: a crop of the middle below 384 pixels, squashed from there on."""
    crop = _height_width(processor.crop_size) if getattr(processor, "do_center_crop", None) else None
    if not processor.do_resize:
        return None, "shortest", crop
    edge = int(processor.size["shortest_edge"])
    if edge >= SQUASHED_FROM:
        return (edge, edge), "squash", crop
    larger = int(edge / processor.crop_pct)
    return (larger, larger), "shortest", crop or (edge, edge)


def _resize(size: Any) -> tuple[Size, str]:
    """`size` of a processor: {"shortest_edge"} or {"height", "width"}."""
    if size.get("shortest_edge") and not size.get("longest_edge"):
        return _pair(int(size["shortest_edge"])), "shortest"
    return _height_width(size), "squash"


def _height_width(size: Any) -> Size:
    if not (size.get("height") and size.get("width")):
        raise ValueError(
            words(
                f"The folder's preprocessor wants the size {dict(size)}",
                "height and width, or shortest_edge",
                "set them in preprocessor_config.json",
            )
        )
    return int(size["height"]), int(size["width"])


def _pair(size: int | Sequence[int]) -> Size:
    if isinstance(size, int):
        return size, size
    return int(size[0]), int(size[-1])


def _three(values: float | Sequence[float]) -> tuple[float, ...]:
    return (float(values),) * 3 if isinstance(values, (int, float)) else tuple(float(value) for value in values)
