"""The x2 upscaler: SRVGGNetCompact (RealESRGAN-compact class), plain L1 on antialiased bicubic halves."""

from __future__ import annotations

import copy
import math

import torch
from spandrel.architectures.Compact import Compact
from torch import Tensor

from . import measure
from .data import Crops, held_out


class Upscaler:
    """State and steps of the upscaler's training; loop.py drives it."""

    name = "provoke-demo-upscaler-x2"
    folder = "upscale_models"
    steps = 14000
    batch, size = 16, 64  # size of the large crop; the net sees half
    rate = 1.5e-3

    def __init__(self, seed: int, device: torch.device) -> None:
        self.device = device
        self.crops = Crops(seed, photos=0.75)
        self.generators = {"crops": self.crops.generator}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = Compact(num_feat=32, num_conv=12, upscale=2)
        net = net.to(device, memory_format=torch.channels_last)
        self.modules: dict[str, torch.nn.Module] = {"net": net, "average": copy.deepcopy(net)}
        self.optimizers = {"net": torch.optim.Adam(net.parameters(), lr=self.rate)}
        self.test = held_out()

    def step(self, progress: float) -> dict[str, float]:
        """One update; `progress` runs from 0 to 1 over the training."""
        optimizer = self.optimizers["net"]
        for group in optimizer.param_groups:
            group["lr"] = (
                self.rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))) * min(1, progress * 50 + 0.05)
            )
        truth = self.crops.crop(self.batch, self.size).to(self.device)
        loss = (self.modules["net"](measure.halve(truth)) - truth).abs().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.modules["net"].parameters(), 1.0)
        optimizer.step()
        return {"l1": float(loss.detach())}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """PSNR gain over bicubic per held-out photo, whole photo, RGB, in dB."""
        figures = {}
        for name, truth in self.test.items():
            small = measure.halve(truth)
            image = self.modules["average"](small.to(self.device)).clamp(0, 1).cpu()
            figures[name] = measure.psnr(image, truth)
            figures[name + "_gain"] = figures[name] - measure.psnr(measure.double(small), truth)
        figures["gain"] = sum(figures[name + "_gain"] for name in self.test) / len(self.test)
        return figures

    def failings(self, figures: dict[str, float]) -> list[str]:
        """Why these weights may not be exported; empty when they pass."""
        return [
            f"{name}: {figures[name + '_gain']:.2f} dB over bicubic, 0.5 wanted"
            for name in self.test
            if figures[name + "_gain"] < 0.5
        ]

    def weights(self) -> dict[str, Tensor]:
        """What is exported: the averaged weights."""
        return self.modules["average"].state_dict()
