"""The thing to attack: pictures of ten kinds drawn from formulas, and the small classifier trained on them."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

SIZE = 32
CLASSES = (
    "disc",
    "square",
    "triangle",
    "ring",
    "plus",
    "horizontal stripes",
    "vertical stripes",
    "diagonal stripes",
    "checkerboard",
    "dots",
)
WEIGHTS = Path(__file__).with_name("classifier.safetensors")


def pictures(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw `count` random pictures: (B 3 32 32 float32 in [0, 1] on the 8-bit grid, B class numbers).

    Colours, place, size, angle, frequency and phase are random, noise is added; many entries lie on the box's walls, so
    that it matters how an attack handles the box.
    """
    rng = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *(shape or (1, 1)), generator=rng)

    label = torch.randint(len(CLASSES), (count,), generator=rng)
    side = torch.linspace(-1, 1, SIZE)
    y, x = torch.meshgrid(side, side, indexing="ij")
    angle = uniform(-0.25, 0.25)
    u = angle.cos() * x + angle.sin() * y
    v = angle.cos() * y - angle.sin() * x
    size, right, down = uniform(0.4, 0.75), uniform(-0.25, 0.25), uniform(-0.25, 0.25)
    a, b = (u - right) / size, (v - down) / size
    radius = (a.square() + b.square()).sqrt()
    frequency, phase, other_phase = uniform(7.0, 12.0), uniform(0.0, 6.28), uniform(0.0, 6.28)
    wave, other_wave = (frequency * u + phase).sin(), (frequency * v + other_phase).sin()
    drawn = torch.stack(
        [
            radius < 1,
            torch.maximum(a.abs(), b.abs()) < 0.85,
            (b < 0.8) & (b > 1.9 * a.abs() - 1),
            (radius < 1) & (radius > 0.6),
            (torch.maximum(a.abs(), b.abs()) < 1) & (torch.minimum(a.abs(), b.abs()) < 0.3),
            other_wave > 0,
            wave > 0,
            (frequency * (u + v) * 0.71 + phase).sin() > 0,
            wave * other_wave > 0,
            (wave > 0.2) & (other_wave > 0.2),
        ],
        1,
    )
    shape = drawn[torch.arange(count), label].unsqueeze(1).float()
    paper, ink = uniform(0, 1, 3, 1, 1), uniform(0, 1, 3, 1, 1)
    close = (ink - paper).square().sum(1, keepdim=True) < 0.4**2
    ink = torch.where(close, (paper + 0.5) % 1, ink)
    light = 1 + uniform(-0.2, 0.2, 1, 1, 1) * x + uniform(-0.2, 0.2, 1, 1, 1) * y
    noise = uniform(0.02, 0.08, 1, 1, 1) * torch.randn(count, 3, SIZE, SIZE, generator=rng)
    picture = (paper + (ink - paper) * shape) * light + noise
    return (picture.clamp(0, 1) * 255).round() / 255, label


class Classifier(nn.Module):
    """Four convolutions and a linear layer; B 3 32 32 in [0, 1] to B 10 logits."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64 * 4 * 4, len(CLASSES)),
        )

    def forward(self, image: Tensor) -> Tensor:
        return self.layers((image - 0.5) / 0.25)


def load_classifier(dtype: torch.dtype = torch.float32) -> Classifier:
    """The committed classifier, frozen, on the CPU."""
    model = Classifier()
    model.load_state_dict({name: weight.float() for name, weight in load_file(WEIGHTS).items()})
    return model.to(dtype).eval().requires_grad_(False)


@torch.no_grad()
def accuracy(model: nn.Module, count: int, seed: int) -> float:
    """Share of `count` fresh pictures that the model names correctly."""
    images, labels = pictures(count, seed)
    found = torch.cat([model(part).argmax(1) for part in images.split(500)])
    return float((found == labels).double().mean())


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The loss that all attacks maximise: one value per image."""
    return F.cross_entropy(logits, labels, reduction="none")
