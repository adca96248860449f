"""What a judge is, and what all of them share: frozen weights, one precision inside and at least float32 outside."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from .files import words
from .preprocess import Preprocess

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


class Scorer(Protocol):
    """A frozen judge of how well a picture and a text match.

    name: for reports. size: height and width that the image tower sees. scale, bias: the model's own, so that
    `scale * cosine + bias` are its logits. module: all weights; whoever manages memory moves it, and pictures follow.
    input_dtype: what the towers compute in; vectors come out in at least float32 whatever it is.
    """

    name: str
    size: tuple[int, int]
    scale: float
    bias: float
    module: nn.Module

    @property
    def input_dtype(self) -> torch.dtype: ...

    def encode_images(self, images: Tensor) -> Tensor:
        """B 3 H W in [0, 1], any H and W from 1 on, on any device -> B D of length 1, on the module's device.
        Differentiable."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """N texts -> N D of length 1, without a graph, and usable in one (never an inference tensor)."""
        ...

    def look(self, images: Tensor) -> Tensor:
        """All that it computes of pictures, differentiable: what memory is counted on."""
        ...


class ImageClassifier(Protocol):
    """A frozen judge of what a picture shows. `labels` names the columns of the logits."""

    name: str
    labels: tuple[str, ...]

    def logits(self, images: Tensor) -> Tensor:
        """B 3 H W in [0, 1], any H and W from 1 on -> B K, at least float32. Differentiable."""
        ...

    def look(self, images: Tensor) -> Tensor:
        """As `Scorer.look`."""
        ...


@contextmanager
def normal_mode() -> Iterator[None]:
    """Within: tensors that autograd may use, without a graph.

    ComfyUI runs nodes in torch's inference mode, and what is made there cannot be saved for a backward.
    """
    with torch.inference_mode(False), torch.no_grad():
        yield


def frozen(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The module in eval mode, without gradients of its own, stored and computing in this type."""
    if dtype not in DTYPES:
        raise ValueError(
            words(f"The precision is {dtype}", ", ".join(map(str, DTYPES)), "choose one that gradients survive")
        )
    return module.to(dtype).eval().requires_grad_(False)


def place_of(module: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Where a module is now and what it computes in."""
    weight = next(p for p in module.parameters() if p.is_floating_point())
    return weight.device, weight.dtype


def scale_and_bias(module: Any) -> tuple[float, float]:
    """What the model multiplies cosines with, and adds (SigLIP; 0 elsewhere)."""
    bias = getattr(module, "logit_bias", None)
    return float(module.logit_scale.detach().float().exp()), 0.0 if bias is None else float(bias.detach())


def check_ids(ids: Tensor, rows: int, name: str) -> None:
    """ValueError: a tokenizer that is not the model's. (On an accelerator the look-up itself ends the process.)"""
    if int(ids.max()) >= rows:
        raise ValueError(
            words(
                f"The tokenizer of {name} gives token {int(ids.max())} and the model knows {rows}",
                "the tokenizer of this model",
                "take the tokenizer's files from where the weights came from",
            )
        )


class Frozen:
    """A library's module as a judge: what scorers and classifiers have in common.

    Args:
        module: frozen from now on.
        preprocess: pictures as it takes them.
        name: for reports.
        dtype: what it is stored in and computes in.
    """

    def __init__(self, module: nn.Module, preprocess: Preprocess, name: str, dtype: torch.dtype) -> None:
        self.module, self.name = frozen(module, dtype), name
        self.size = preprocess.crop or preprocess.size or (0, 0)
        self._model: Any = module
        self.preprocess = preprocess

    @property
    def input_dtype(self) -> torch.dtype:
        return place_of(self.module)[1]

    def _seen(self, tower: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """What a tower of the module makes of pictures, B 3 H W in [0, 1]. Differentiable."""
        device, dtype = place_of(self.module)
        return through(tower, self.preprocess(images.to(device)), dtype)


class FrozenScorer(Frozen, ABC):
    """A library's CLIP as a `Scorer`: its two towers are all that a library has of its own.

    Args:
        module, preprocess, name, dtype: as in `Frozen`.
    """

    def __init__(self, module: nn.Module, preprocess: Preprocess, name: str, dtype: torch.dtype) -> None:
        super().__init__(module, preprocess, name, dtype)
        self.scale, self.bias = scale_and_bias(module)

    def encode_images(self, images: Tensor) -> Tensor:
        return unit(self._seen(self._image_tower, images))

    def look(self, images: Tensor) -> Tensor:
        return self.encode_images(images)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        with normal_mode():
            return unit(self._text_tower(list(texts), place_of(self.module)[0]))

    @abstractmethod
    def _image_tower(self, pixels: Tensor) -> Tensor:
        """Preprocessed pictures -> B D."""

    @abstractmethod
    def _text_tower(self, texts: list[str], device: torch.device) -> Tensor:
        """N texts -> N D; `device` is the module's."""


def unit(vectors: Tensor) -> Tensor:
    """Of length 1, in at least float32: half precision cannot square small numbers."""
    return functional.normalize(vectors.to(torch.promote_types(vectors.dtype, torch.float32)), dim=-1)


def through(tower: Callable[[Tensor], Tensor], x: Tensor, dtype: torch.dtype) -> Tensor:
    """tower(x) in its own precision, with a gradient that does not underflow there. float32 in and out.

    In half precision the backward runs on cotangents scaled to 1, picture by picture; it is linear, so that dividing
    again at the other end leaves the gradient as it is. Source: loss scaling (Micikevicius et al. 2017,
    arXiv:1710.03740), here per picture.
    """
    if dtype not in (torch.float16, torch.bfloat16):
        return tower(x.to(dtype))
    sizes: list[Tensor] = []
    return _Scaled.apply(tower(_Unscaled.apply(x, sizes).to(dtype)).float(), sizes)


class _Scaled(torch.autograd.Function):
    """The identity; its backward scales each row's cotangent to a largest entry of 1 and notes by what."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: list[Tensor]) -> Tensor:
        ctx.sizes = sizes
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:
        size = cotangent.flatten(1).abs().amax(1)
        size = torch.where(size > 0, size, 1)
        ctx.sizes[:] = [size]
        return cotangent / size.view(-1, *[1] * (cotangent.ndim - 1)), None


class _Unscaled(torch.autograd.Function):
    """The identity at the other end; its backward takes the scale out again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: list[Tensor]) -> Tensor:
        ctx.sizes = sizes
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:
        return cotangent * ctx.sizes[0].view(-1, *[1] * (cotangent.ndim - 1)), None
