"""Scores of images. An objective maps images (B C H W, range [0, 1]) to one value per image (B); higher means "more of
it".

There is no second sign anywhere: a method that wants less of something weighs it by -1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .agreement import Agreement, Votes
from .errors import ProvokeError

Objective = Callable[[Tensor], Tensor]
FeatureFunction = Callable[[Tensor], "Tensor | Sequence[Tensor]"]

# Keeps the gradient of a square root finite where two things coincide; far below half an 8-bit level squared (4e-6).
_TINY = 1e-12


class WeightedSum:
    """A named weighted sum of objectives; the parts stay visible as terms.

    Args:
        parts: name -> (weight, objective).
    """

    def __init__(self, parts: Mapping[str, tuple[float, Objective]]) -> None:
        if not any(weight for weight, _ in parts.values()):
            raise ProvokeError("An objective whose parts all weigh 0", "a weight that is not 0", "raise a weight")
        self.parts = dict(parts)

    def terms(self, image: Tensor) -> dict[str, Tensor]:
        """Each part's unweighted value, B each. Parts of weight 0 cost nothing: they are left out."""
        return self.judged(image)[0]

    def judged(self, image: Tensor) -> tuple[dict[str, Tensor], dict[str, Votes]]:
        """`terms`, and of each part that is an `Agreement` what its judges say one by one."""
        values, votes = dict[str, Tensor](), dict[str, Votes]()
        for name, (weight, objective) in self.parts.items():
            if weight == 0:
                continue
            if isinstance(objective, Agreement):
                votes[name] = objective.votes(image)
                values[name] = objective.together(votes[name])
            else:
                values[name] = objective(image).to(image.device)  # a judge may sit elsewhere
        return values, votes

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of what `terms` returned: B."""
        return torch.stack([self.parts[name][0] * value for name, value in terms.items()]).sum(0)

    def __call__(self, image: Tensor) -> Tensor:
        return self.total(self.terms(image))


def _mean(x: Tensor, region: Tensor | None) -> Tensor:
    """Mean over all but the batch, weighted by `region` (broadcastable to B 1 H W, values in [0, 1])."""
    if region is None:
        return x.flatten(1).mean(1)
    weight = region.to(x).expand(x.shape[0], 1, *x.shape[2:])
    return (x * weight).flatten(1).sum(1) / (weight.flatten(1).sum(1) * x.shape[1])


def region_at(region: Tensor, image: Tensor) -> Tensor:
    """A region (B 1 H W in [0, 1]) at the height and width of an image, B C h w: of each pixel the share inside."""
    region = region.to(image)
    return region if region.shape[-2:] == image.shape[-2:] else F.interpolate(region, image.shape[-2:], mode="area")


def at_size(picture: Tensor, image: Tensor) -> Tensor:
    """A picture (b C H W in [0, 1]) at the height and width of an image, B C h w: one for each image, image-major.

    Raises ProvokeError where the images do not divide among the pictures.
    """
    if len(image) % len(picture):
        raise ProvokeError(
            f"{len(picture)} pictures to compare {len(image)} with", "one, or one for each image", "give one picture"
        )
    picture = picture.to(image)
    if picture.shape[-2:] != image.shape[-2:]:
        picture = F.interpolate(picture, image.shape[-2:], mode="bicubic", antialias=True).clamp(0, 1)
    return picture.repeat_interleave(len(image) // len(picture), 0)


def l1_distance(reference: Tensor, region: Tensor | None = None) -> Objective:
    """Mean absolute difference from `reference` (B C H W), in image units (1.0 = full range). arXiv 2403.08294's first
    loss.
    """
    return lambda image: _mean((image - reference).abs(), region)


def l2_distance(reference: Tensor, region: Tensor | None = None) -> Objective:
    """Root mean square difference from `reference` (B C H W), in image units."""
    return lambda image: (_mean((image - reference).square(), region) + _TINY).sqrt()


def _moments(image: Tensor, region: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel: B C each."""
    b, c = image.shape[:2]
    flat = image.reshape(b * c, 1, *image.shape[2:])
    weight = None if region is None else region.to(image).expand(b, 1, *image.shape[2:]).repeat_interleave(c, 0)
    mean = _mean(flat, weight)
    variance = _mean((flat - mean[:, None, None, None]).square(), weight)
    return mean.view(b, c), variance.view(b, c)


def mean_shift(reference: Tensor, region: Tensor | None = None) -> Objective:
    """Distance between the channel means of image and reference, averaged over channels, in image units. Ours."""
    target, _ = _moments(reference, region)
    return lambda image: (_moments(image, region)[0] - target).abs().mean(1)


def variance_shift(reference: Tensor, region: Tensor | None = None) -> Objective:
    """Distance between the channel standard deviations of image and reference, in image units.

    The paper's "variance loss" (arXiv 2403.08294); its exact form is not published: ours compares standard deviations,
    so that it has the unit of the L1 distance beside which it stands.
    """
    _, variance = _moments(reference, region)
    target = (variance + _TINY).sqrt()
    return lambda image: ((_moments(image, region)[1] + _TINY).sqrt() - target).abs().mean(1)


def perceptual_distance(features: FeatureFunction, reference: Tensor) -> Objective:
    """Root mean square distance between unit-length features, averaged over layers.

    Args:
        features: image -> feature map(s), each B C H W or B D; differentiable.
        reference: B C H W; its features are computed once.
    Source: LPIPS (Zhang et al. 2018) without learned weights.
    """

    def unit(image: Tensor) -> list[Tensor]:
        maps = features(image)
        maps = [maps] if isinstance(maps, Tensor) else list(maps)
        return [m / (m.square().sum(1, keepdim=True) + _TINY).sqrt() for m in maps]

    with torch.no_grad():
        targets = unit(reference)

    def distance(image: Tensor) -> Tensor:
        layers = [(a - b).square().flatten(1).mean(1) + _TINY for a, b in zip(unit(image), targets, strict=True)]
        return torch.stack([layer.sqrt() for layer in layers]).mean(0)

    return distance


def from_picture(
    distance: Callable[[Tensor, Tensor | None], Objective], picture: Tensor, region: Tensor | None = None
) -> Objective:
    """A distance (of those above) from a picture of any size (b C H W), in a region of any size (b 1 H W)."""
    return lambda image: distance(at_size(picture, image), None if region is None else region_at(region, image))(image)


def pairwise_distances(image: Tensor, group_size: int, region: Tensor | None = None) -> Tensor:
    """Mean absolute difference between all members of each group of `group_size` neighbours in the batch.

    image: B C H W with B a multiple of group_size. Returns groups x group_size x group_size, zero on the diagonal.
    """
    members = image.unflatten(0, (-1, group_size))
    rows = []
    for i in range(group_size):  # a row at a time: the memory of one comparison, not of all pairs
        other = members[:, i : i + 1].expand_as(members).flatten(0, 1)
        rows.append(_mean((image - other).abs(), region).view(-1, group_size))
    return torch.stack(rows, 1)


def pairwise_diversity(group_size: int, region: Tensor | None = None, *, softness: float = 0.02) -> Objective:
    """How far each image is from the nearest other one of its group (soft minimum), in image units. Ours.

    Args:
        group_size: how many neighbours in the batch belong together (the results of one input).
        region: B 1 H W weights, or None for the whole picture.
        softness: temperature of the soft minimum as a mean absolute difference; small pushes only the nearest pair
            apart.
    Raises ProvokeError for a group of one.
    """
    if group_size < 2:
        raise ProvokeError(
            "Diversity of a single result", "two or more results per image", "raise count, or set diversity to 0"
        )

    def nearest(image: Tensor) -> Tensor:
        distance = pairwise_distances(image, group_size, region)
        itself = torch.eye(group_size, dtype=torch.bool, device=image.device)
        others = distance.masked_fill(itself, torch.inf)
        return -softness * (torch.logsumexp(-others / softness, -1) - math.log(group_size - 1)).flatten()

    return nearest
