"""What a judge of shapes sees: an edge map. The real Canny forward, a gradient of a smooth stand-in backward.

Source: Canny, PAMI 8 (1986); straight-through estimator: Bengio et al. 2013 (arXiv 1308.3432).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from .classifiers import Classifier
from .files import words
from .judge import ImageClassifier

_SOBEL = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))
_TINY = 1e-12  # keeps the gradient of a root finite where a picture is flat
_ROUNDS = 16  # hysteresis grows so many pixels between two looks whether it still does


@dataclass(frozen=True)
class Canny:
    """Pictures to edge maps: B C H W in [0, 1] -> B 1 H W of 0 and 1. Those of skimage.feature.canny(mode="nearest")
    for a grey picture; of several channels the one with the strongest edge counts at each pixel, as in OpenCV.

    Forward: a Gaussian; Sobel; non-maximum suppression between interpolated neighbours; hysteresis (a pixel above `low`
    is kept if a path of such pixels, diagonals too, leads to one above `high`); the outermost pixels hold no edge.
    Backward: the gradient of `soft`, straight through suppression and hysteresis, which have none.

    Args:
        sigma: of the Gaussian, in pixels; 0 leaves it out.
        low, high: thresholds on Sobel's magnitude in contrast: a sharp step from 0 to 1 has 1 without the Gaussian,
            0.62 with a sigma of 1. No change by up to 16 of 255 levels makes an edge on flat ground with these.
        softness: width of the stand-in's sigmoid, in contrast.
    Raises:
        ValueError: thresholds or a sigma that make no sense.
    """

    sigma: float = 1.0
    low: float = 0.05
    high: float = 0.1
    softness: float = 0.1

    def __post_init__(self) -> None:
        if not (0 < self.low <= self.high and self.sigma >= 0 and self.softness > 0):
            raise ValueError(
                words(
                    f"Canny with sigma {self.sigma}, low {self.low}, high {self.high}, softness {self.softness}",
                    "0 < low <= high, a sigma of 0 or more, a softness above 0",
                    "change the one that is out of order",
                )
            )

    def __call__(self, images: Tensor) -> Tensor:
        """Hard edges; differentiable as `soft` is."""
        soft = self.soft(images)
        return self.hard(images) + (soft - soft.detach())  # the bracket is exactly 0

    def soft(self, images: Tensor) -> Tensor:
        """The stand-in: sigmoid((magnitude - middle of the thresholds) / softness), B 1 H W in (0, 1). Ours."""
        magnitude, _, _ = self._sobel(images)
        return torch.sigmoid((magnitude - (self.low + self.high) / 2) / self.softness)

    @torch.no_grad()
    def hard(self, images: Tensor) -> Tensor:
        """Canny's edges, without a gradient."""
        magnitude, across, down = self._sobel(images)
        thin = _inside(_thin(magnitude, across, down)) & (magnitude >= self.low)
        return _connected(thin & (magnitude >= self.high), thin).to(images.dtype)

    def _sobel(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Magnitude, d/dx and d/dy of the smoothed picture, of the channel where it is the largest: B 1 H W each."""
        kernel = images.new_tensor(_SOBEL) / 4
        flat = _padded(_smooth(images.flatten(0, 1)[:, None], self.sigma), 1, 1)
        found = functional.conv2d(flat, torch.stack((kernel, kernel.T))[:, None])
        across, down = found.view(*images.shape[:2], 2, *images.shape[2:]).unbind(2)
        magnitude = (across.square() + down.square() + _TINY).sqrt()
        strongest = magnitude.argmax(1, keepdim=True)
        return magnitude.gather(1, strongest), across.gather(1, strongest), down.gather(1, strongest)


def of_edges(classifier: ImageClassifier, canny: Canny | None = None) -> Classifier:
    """A classifier that was trained on edge maps, for pictures: it sees their edge maps and nothing else, at the
    size that its net takes (so that an edge is one pixel wide there). Shares the module.

    Raises ValueError for what is no single classifier with a preprocessing of its own (an ensemble, a zero-shot one).
    """
    if not isinstance(classifier, Classifier):
        raise ValueError(
            words(
                f"The edge classifier is {classifier.name} ({type(classifier).__name__})",
                "one folder of Load Image Classifier, trained on edge maps",
                "connect such a one, without `together_with`",
            )
        )
    edges = canny or Canny()
    prepare = replace(classifier.preprocess, become=lambda pictures: edges(pictures).expand(-1, 3, -1, -1))
    return classifier.seeing(prepare, f"{classifier.name} on edges")


def _padded(planes: Tensor, x: int, y: int) -> Tensor:
    return functional.pad(planes, (x, x, y, y), mode="replicate")


def _smooth(planes: Tensor, sigma: float) -> Tensor:
    """N 1 H W by a Gaussian cut off at four sigma, as scipy does; the border is replicated."""
    if sigma == 0:
        return planes
    reach = int(4 * sigma + 0.5)
    steps = torch.arange(-reach, reach + 1, device=planes.device, dtype=planes.dtype)
    taps = torch.exp(steps.square() / (-2 * sigma**2))
    taps = taps / taps.sum()
    planes = functional.conv2d(_padded(planes, 0, reach), taps.view(1, 1, -1, 1))
    return functional.conv2d(_padded(planes, reach, 0), taps.view(1, 1, 1, -1))


def _thin(magnitude: Tensor, across: Tensor, down: Tensor) -> Tensor:
    """Where the magnitude is at least that on either side along the gradient, interpolated between two neighbours."""
    height, width = magnitude.shape[-2:]
    around = functional.pad(magnitude, (1, 1, 1, 1))

    def at(x: int, y: int) -> Tensor:
        return around[..., 1 + y : 1 + y + height, 1 + x : 1 + x + width]

    steep = down.abs() > across.abs()
    share = torch.minimum(down.abs(), across.abs()) / torch.maximum(down.abs(), across.abs()).clamp_min(_TINY)
    falling = across * down >= 0  # the gradient points to the lower right (or upper left)

    def side(s: int) -> Tensor:
        straight = torch.where(steep, at(0, s), at(s, 0))
        # of the two diagonals on this side, the one that lies along the gradient
        other = torch.where(steep, at(-s, s), at(s, -s))
        diagonal = torch.where(falling, at(s, s), other)
        return straight * (1 - share) + diagonal * share

    return (magnitude >= side(1)) & (magnitude >= side(-1))


def _inside(mask: Tensor) -> Tensor:
    """Without the outermost pixels: what lies beyond the picture is not known."""
    return functional.pad(mask[..., 1:-1, 1:-1], (1, 1, 1, 1))


def _connected(seeds: Tensor, among: Tensor) -> Tensor:
    """The pieces of a mask (8 neighbours) that hold a seed: B 1 H W bool."""
    grown, allowed = seeds.float(), among.float()
    while True:
        before = grown
        for _ in range(_ROUNDS):
            grown = functional.max_pool2d(grown, 3, stride=1, padding=1) * allowed
        if torch.equal(grown, before):
            return grown > 0
