"""The demo world's image classifiers, classes of `transformers`: colour x shape of one object, or shape from edges."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.nn import functional

from ..vision_models import LABELS, MEAN, STD, edge_map, normalise, thin_edge_map
from ..world import SHAPES, SIZE, render, sample

KINDS: dict[str, Callable[..., Any]] = {
    "resnet": lambda **of: transformers.ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1], layer_type="basic", **of
    ),
    "regnet": lambda **of: transformers.RegNetConfig(
        embedding_size=16, hidden_sizes=[16, 32, 64, 96], depths=[1, 1, 2, 1], groups_width=16, layer_type="y", **of
    ),
    "convnext": lambda **of: transformers.ConvNextConfig(
        patch_size=4, image_size=SIZE, hidden_sizes=[32, 48, 64, 96], depths=[1, 1, 2, 1], **of
    ),
    "hgnet": lambda **of: transformers.HGNetV2Config(
        embedding_size=16, stem_channels=[3, 8, 16], hidden_sizes=[24, 48, 64, 96], depths=[1, 1, 1, 1],
        stage_in_channels=[16, 24, 48, 64], stage_mid_channels=[12, 16, 24, 32], stage_out_channels=[24, 48, 64, 96],
        stage_num_blocks=[1, 1, 1, 1], stage_downsample=[False, True, True, True], stage_numb_of_layers=[2, 2, 2, 2],
        stage_light_block=[False, False, True, True], stage_kernel_size=[3, 3, 5, 5], **of
    ),
}  # fmt: skip
"""By family: the configuration of a small net, given the labels."""

RATES = {"resnet": 3e-3, "regnet": 3e-3, "convnext": 2e-3, "hgnet": 3e-3}

_PREPROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": SIZE, "width": SIZE},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [MEAN] * 3,
    "image_std": [STD] * 3,
}


def _per_picture(count: int, rng: torch.Generator) -> Tensor:
    """Uniform in [0,1], B 1 1 1."""
    return torch.rand(count, 1, 1, 1, generator=rng)


def blurred(images: Tensor, sigma: Tensor) -> Tensor:
    """By a Gaussian of seven taps, a sigma in pixels for each picture (B 1 1 1; 0 leaves it as it is)."""
    steps = torch.arange(-3, 4, device=images.device)
    taps = torch.exp(-steps.square() / (2 * sigma.view(-1, 1).square() + 1e-6))
    taps = (taps / taps.sum(1, keepdim=True)).repeat_interleave(images.shape[1], 0)
    planes = functional.pad(images.flatten(0, 1)[None], (3, 3, 3, 3), mode="replicate")
    planes = functional.conv2d(planes, taps[:, None, None, :], groups=len(taps))
    return functional.conv2d(planes, taps[:, None, :, None], groups=len(taps)).view_as(images)


def disturbed(images: Tensor, rng: torch.Generator) -> Tensor:
    """Light changes that keep what a picture shows: blur, contrast, brightness, a shift, noise, 8 bits."""
    count = len(images)
    if float(torch.rand((), generator=rng)) < 0.5:
        images = blurred(images, 1.2 * _per_picture(count, rng))
    images = (images - 0.5) * (0.85 + 0.25 * _per_picture(count, rng)) + 0.5 + 0.08 * (_per_picture(count, rng) - 0.5)
    x, y = torch.randint(-2, 3, (2,), generator=rng).tolist()
    images = functional.pad(images, (2, 2, 2, 2), mode="replicate")[..., 2 + y : 2 + y + SIZE, 2 + x : 2 + x + SIZE]
    noise = torch.randn(images.shape, generator=rng) * 0.06 * _per_picture(count, rng).square()
    images = (images + noise).clamp(0, 1)
    return (images * 255).round() / 255 if float(torch.rand((), generator=rng)) < 0.5 else images


def edges_of_many_kinds(images: Tensor, rng: torch.Generator) -> Tensor:
    """Edge maps thick or thin, with thresholds of many heights and some pixels missing: B 3 64 64 of 0 and 1."""
    threshold = 0.1 + 0.4 * _per_picture(len(images), rng)
    made = torch.where(
        _per_picture(len(images), rng) < 0.5, edge_map(images, threshold), thin_edge_map(images, 0.7 * threshold)
    )
    missing = torch.rand(len(images), 1, SIZE, SIZE, generator=rng) < 0.08 * _per_picture(len(images), rng)
    return made * ~missing


class Classifier:
    """State and steps of one classifier's training; loop.py drives it."""

    folder = "provoke_classifiers"
    batch = 48

    def __init__(
        self, seed: int, device: torch.device, *, family: str, steps: int, edges: bool = False, bar: float = 0.97
    ) -> None:
        self.device, self.edges, self.bar, self.steps = device, edges, bar, steps
        self.name = f"provoke-demo-{'edge-' if edges else ''}{family}"
        self.rate = RATES[family]
        names = SHAPES if edges else LABELS
        labels = {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = transformers.AutoModelForImageClassification.from_config(KINDS[family](**labels)).to(device).train()
        self.modules: dict[str, torch.nn.Module] = {"net": net, "average": copy.deepcopy(net).eval()}
        self.optimizers = {"net": torch.optim.AdamW(net.parameters(), lr=self.rate, weight_decay=0.02)}
        self.generators = {"scenes": torch.Generator().manual_seed(seed + 1)}
        self.config = {**net.config.to_dict(), "architectures": [type(net).__name__], "dtype": "float16"}
        self.files = {"preprocessor_config.json": _PREPROCESSOR}

    def _cases(self, count: int, part: str, rng: torch.Generator, *, clean: bool = False) -> tuple[Tensor, Tensor]:
        """Pictures (or their edge maps) B 3 64 64 and their classes B."""
        scenes = sample(count, rng, part=part, objects=1)
        images, classes = render(scenes), scenes.colour[:, 0] * len(SHAPES) + scenes.shape[:, 0]
        if not clean:
            images = disturbed(images, rng)
        if self.edges:
            images = edge_map(images) if clean else edges_of_many_kinds(images, rng)
            classes = scenes.shape[:, 0]
        return images.to(self.device), classes.to(self.device)

    def step(self, progress: float) -> dict[str, float]:
        """One update; `progress` runs from 0 to 1 over the training."""
        net, optimizer = self.modules["net"], self.optimizers["net"]
        for group in optimizer.param_groups:
            cosine = 0.5 * (1 + math.cos(math.pi * progress))
            group["lr"] = self.rate * (0.01 + 0.99 * cosine) * min(1, progress * 20 + 0.02)
        images, classes = self._cases(self.batch, "train", self.generators["scenes"])
        loss = functional.cross_entropy(net(normalise(images)).logits, classes, label_smoothing=0.02)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        return {"loss": float(loss.detach())}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """The share that is right of 1920 pictures on held-out backgrounds, as they are and disturbed."""
        figures = {}
        for name, clean in (("right", True), ("right_disturbed", False)):
            rng = torch.Generator().manual_seed(12345)
            hits = []
            for _ in range(10):
                images, classes = self._cases(192, "held out", rng, clean=clean)
                hits.append(self.modules["average"](normalise(images)).logits.argmax(1) == classes)
            figures[name] = float(torch.cat(hits).float().mean())
        return figures

    def failings(self, figures: dict[str, float]) -> list[str]:
        """Why these weights may not be exported; empty when they pass."""
        short = [name for name in ("right", "right_disturbed") if figures[name] < self.bar]
        return [f"{name}: {figures[name]:.4f}, {self.bar} wanted" for name in short]

    def weights(self) -> dict[str, Tensor]:
        """What is exported: the averaged weights."""
        return self.modules["average"].state_dict()
