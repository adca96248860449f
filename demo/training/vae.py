"""The demo world's VAE: a slim net that is exactly the host's TAESD (8x, 4 channels) with most of its weights zero.

The host's *Load VAE* reads a TAESD from a state dict alone, but only one of 64 channels and 23 blocks. A block of zero
weights passes on its input's positive part, and a channel of zero weights stays zero. So a net with fewer channels and
fewer blocks is trained, in a fraction of the time, and its weights are written into the corner of zeros (`padded`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from ..checker import objects_right, read
from ..vision_models import VAE
from ..world import render, sample

LATENT = 4  # channels
ALL_WIDTH, ALL_BLOCKS = 64, (1, 3, 3, 3)  # of the host's class, at 64, 32, 16 and 8 pixels a side
WIDTHS = (16, 32, 48, 64)  # ours
ENCODER_BLOCKS, DECODER_BLOCKS = (0, 1, 1, 3), (1, 1, 2, 3)


class Clamp(nn.Module):
    """Softly to (-3, 3)."""

    def forward(self, latents: Tensor) -> Tensor:
        return torch.tanh(latents / 3) * 3


def _conv(into: int, out: int, *, stride: int = 1, bias: float | None = 0.0, gain: float = 1.0) -> nn.Conv2d:
    """3 x 3, He-initialised times `gain`; `bias` is where it starts, None for none."""
    conv = nn.Conv2d(into, out, 3, stride, 1, bias=bias is not None)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    with torch.no_grad():
        conv.weight.mul_(gain)
    if conv.bias is not None and bias is not None:
        nn.init.constant_(conv.bias, bias)
    return conv


class Block(nn.Module):
    """Three convolutions beside the identity, then a ReLU; at first nearly the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        relu, last = nn.ReLU(), _conv(width, width, gain=0.1)
        self.conv = nn.Sequential(_conv(width, width), relu, _conv(width, width), relu, last)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.conv(x) + x)


def _blocks(width: int, number: int, of: int) -> list[nn.Module]:
    """`number` blocks and, for the others of `of`, what a block of zeros does."""
    return [Block(width) if index < number else nn.ReLU() for index in range(of)]


def _encoder(widths: Sequence[int], blocks: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = [_conv(3, widths[0]), *_blocks(widths[0], blocks[0], ALL_BLOCKS[0])]
    for level in (1, 2, 3):
        layers.append(_conv(widths[level - 1], widths[level], stride=2, bias=None))
        layers += _blocks(widths[level], blocks[level], ALL_BLOCKS[level])
    return nn.Sequential(*layers, _conv(widths[3], LATENT, gain=0.5))


def _decoder(widths: Sequence[int], blocks: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = [Clamp(), _conv(LATENT, widths[3]), nn.ReLU()]
    for level in (3, 2, 1):
        layers += _blocks(widths[level], blocks[level], ALL_BLOCKS[level])
        layers += [nn.Upsample(scale_factor=2), _conv(widths[level], widths[level - 1], bias=None)]
    return nn.Sequential(
        *layers, *_blocks(widths[0], blocks[0], ALL_BLOCKS[0]), _conv(widths[0], 3, bias=0.5, gain=0.1)
    )


class Taesd(nn.Module):
    """Encoder and decoder under the names and numbers of the host's comfy.taesd.taesd.TAESD. Pictures are in [0,1]."""

    def __init__(
        self,
        widths: Sequence[int] = WIDTHS,
        encoder_blocks: Sequence[int] = ENCODER_BLOCKS,
        decoder_blocks: Sequence[int] = DECODER_BLOCKS,
    ) -> None:
        super().__init__()
        self.taesd_encoder, self.taesd_decoder = _encoder(widths, encoder_blocks), _decoder(widths, decoder_blocks)

    def encode(self, images: Tensor) -> Tensor:
        """B 3 H W in [0,1] -> B 4 H/8 W/8, of about unit variance."""
        return self.taesd_encoder(images)

    def decode(self, latents: Tensor) -> Tensor:
        """B 4 H W -> B 3 8H 8W, about [0,1]."""
        return self.taesd_decoder(latents)


def full_size() -> Taesd:
    """As large as the host's class, without weights: load a state dict with `assign=True`."""
    with torch.device("meta"):
        return Taesd((ALL_WIDTH,) * 4, ALL_BLOCKS, ALL_BLOCKS)


def padded(slim: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a Taesd in the host's shapes, the rest zeros, with the host's latent scale 1 and shift 0."""
    full = {name: torch.zeros(like.shape) for name, like in full_size().state_dict().items()}
    for name, mine in slim.items():
        full[name][tuple(slice(0, size) for size in mine.shape)] = mine.float().cpu()
    return {**full, "vae_scale": torch.tensor(1.0), "vae_shift": torch.tensor(0.0)}


def trained(file: Path = VAE) -> Taesd:
    """The exported VAE without the zeros around it, in float32, frozen: the same pictures several times as fast."""
    weights, net = load_file(file), Taesd()
    for name, mine in net.state_dict().items():
        mine.copy_(weights[name][tuple(slice(0, size) for size in mine.shape)])
    return net.eval().requires_grad_(False)


class Autoencoder:
    """State and steps of the VAE's training; loop.py drives it."""

    name = "provoke-demo-vae"
    folder = "vae"
    steps = 3500
    batch = 12
    rate = 1.5e-3
    noise = 0.25  # the most that is added to the latents, so that near latents decode alike

    def __init__(self, seed: int, device: torch.device) -> None:
        self.device = device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = Taesd()
        self.net = net.to(memory_format=torch.channels_last).to(device)
        self.average = copy.deepcopy(self.net)
        self.modules: dict[str, nn.Module] = {"net": self.net, "average": self.average}
        self.optimizers = {"net": torch.optim.Adam(self.net.parameters(), lr=self.rate, betas=(0.9, 0.99))}
        self.generators = {"scenes": torch.Generator().manual_seed(seed + 1)}

    def step(self, progress: float) -> dict[str, float]:
        """One update; `progress` runs from 0 to 1 over the training. L1 from the start sticks at the background."""
        optimizer, rng = self.optimizers["net"], self.generators["scenes"]
        for group in optimizer.param_groups:
            cosine = 0.5 * (1 + math.cos(math.pi * progress))
            group["lr"] = self.rate * (0.01 + 0.99 * cosine) * min(1, progress * 30 + 0.02)
        truth = render(sample(self.batch, rng, part="train")).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16):
            latents = self.net.encode(truth.contiguous(memory_format=torch.channels_last)).float()
            strength = self.noise * torch.rand(self.batch, 1, 1, 1, generator=rng)
            moved = latents + (strength * torch.randn(latents.shape, generator=rng)).to(self.device)
            image = self.net.decode(moved).float()
        spread, middle = torch.std_mean(latents, (0, 2, 3))
        unit = (middle.square() + (spread - 1).square()).mean()
        mse, l1 = (image - truth).square().mean(), (image - truth).abs().mean()
        sharp = min(1.0, max(0.0, (progress - 0.3) / 0.2))
        loss = mse + 0.05 * sharp * l1 + 0.003 * unit
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 0.5)
        optimizer.step()
        return {"mse": float(mse.detach()), "l1": float(l1.detach()), "unit": float(unit.detach())}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Held-out reconstructions: the share whose objects the checker reads right, PSNR, and the latents' spread."""
        figures = {}
        for objects, name in ((1, "one"), (2, "two")):
            scenes = sample(256, torch.Generator().manual_seed(1000 + objects), part="held out", objects=objects)
            truth = render(scenes)
            latents = self.average.encode(truth.to(self.device))
            image = self.average.decode(latents).clamp(0, 1).cpu()
            figures[name] = float(objects_right(read(image), scenes).float().mean())
            figures[f"psnr_{name}"] = float(-10 * (image - truth).square().mean((1, 2, 3)).log10().mean())
            figures[f"std_{name}"] = float(latents.std())
        return figures

    def failings(self, figures: dict[str, float]) -> list[str]:
        """Why these weights may not be exported; empty when they pass."""
        bars = {"one": 0.95, "two": 0.90}
        return [f"{name}: {figures[name]:.4f}, {bar} wanted" for name, bar in bars.items() if figures[name] < bar]

    def weights(self) -> dict[str, Tensor]:
        """What is exported: the averaged weights, in the host's shapes."""
        return padded(self.average.state_dict())
