"""Scores of what an image shows, by a judge: how near it is to a text or a picture, or to a class.

A judge comes in as a function: `embed`, images B C H W in [0, 1] -> vectors B D of length 1; `logits`, images -> B K.
Both must be differentiable. Scores are higher where there is more of the thing; the method weighs by -1 for less.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .errors import ProvokeError
from .objectives import Objective, region_at

Embed = Callable[[Tensor], Tensor]
Logits = Callable[[Tensor], Tensor]

# Below this a difference of two unit vectors has no direction worth following: float32 knows them to about 1e-7.
_STILL = 1e-4


def looking_at(
    judge: Callable[[Tensor], Tensor], region: Tensor | None, default: Tensor | None
) -> Callable[[Tensor], Tensor]:
    """A judge (`embed` or `logits`) that sees a picture in a region only.

    Args:
        region: B 1 h w in [0, 1], of any size; None for the whole picture.
        default: what it sees elsewhere, B C H W in [0, 1]; None for mid grey.
    """
    if region is None:
        return judge
    rest = 0.5 if default is None else default

    def look(image: Tensor) -> Tensor:
        inside = region_at(region, image)
        return judge(image * inside + (rest if isinstance(rest, float) else rest.to(image)) * (1 - inside))

    return look


def similarity(embed: Embed, target: Tensor) -> Objective:
    """Cosine between the image and a target, in [-1, 1].

    Args:
        target: vectors of length 1, D or B D (one for each image).
    """
    return lambda image: (embed(image) * target).sum(-1)


def same(target: Tensor, source: Tensor) -> bool:
    """Whether there is no direction from source to target: vectors of length 1 that are equal but for rounding."""
    return bool(((target - source).norm(dim=-1) < _STILL).all())


def directional(embed: Embed, default: Tensor, target: Tensor, source: Tensor, *, cosine: bool = False) -> Objective:
    """How far the image has moved from the default in the direction from source to target.

    (E(y) - E(y0)) . (E(target) - E(source)), the dot product of arXiv 2403.08294; with `cosine` divided by both lengths
    (StyleGAN-NADA, arXiv 2108.00946), which scores the direction alone, however small the step.

    Args:
        default: the images' own results y0, B C H W in [0, 1].
        target, source: vectors of length 1, D or B D.
    At y = y0 the cosine is 0/0: it is 0 there, its gradient that of the dot product over a small fixed length. Where
    source and target are the same there is no direction: the score is 0 everywhere.
    """
    with torch.no_grad():
        start = embed(default)
    direction = target - source
    length = direction.norm(dim=-1, keepdim=True)
    direction = torch.where(length < _STILL, torch.zeros_like(direction), direction)

    def along(image: Tensor) -> Tensor:
        moved = embed(image) - start
        dot = (moved * direction).sum(-1)
        if not cosine:
            return dot
        far = (moved.square().sum(-1) + _STILL**2).sqrt()
        return dot / (far * length.clamp_min(_STILL)[..., 0])

    return along


def likelihood(loss: Callable[[Tensor], Tensor]) -> Objective:
    """Minus a judge's loss, as a score: of -log p(the text matches) or of a caption's mean -log p it is the log
    probability itself, at most 0.

    Args:
        loss: images -> B, lower where they match better; differentiable.
    """
    return lambda image: -loss(image)


def _check_class(index: int, classes: int) -> None:
    if not 0 <= index < classes:
        raise ProvokeError(
            f"Class number {index}", f"0 to {classes - 1}, as the classifier has them", "choose another class"
        )


def class_probability(logits: Logits, index: int) -> Objective:
    """Probability of class `index`, in [0, 1]. Saturates: where it is nearly 0 or 1 there is little to climb.

    Raises ProvokeError for a class that the judge does not have, when first called.
    """

    def probability(image: Tensor) -> Tensor:
        answers = logits(image)
        _check_class(index, answers.shape[-1])
        return answers.softmax(-1)[:, index]

    return probability


def surrogate(logits: Logits, index: int) -> Objective:
    """2 p - 1 for the probability p of class `index`, in [-1, 1]: positive where the judge finds it likelier than all
    the rest together. SAGE's loss of one member, -(1 - 2 p) (arXiv 2306.00974).

    Raises ProvokeError for a class that the judge does not have, when first called.
    """
    probability = class_probability(logits, index)
    return lambda image: 2 * probability(image) - 1


def margin(logits: Logits, index: int, *, confidence: float = 0.0, absent: bool = False) -> Objective:
    """By how much the logit of class `index` leads the best other one, at most `confidence` (Carlini and Wagner 2017,
    their f6 with its sign turned); with `absent`, for who wants less of it, at least -`confidence` (f6 as it is).

    Positive where the judge says the class. It does not saturate before `confidence` (in logits; inf: never).
    Raises ProvokeError for a class that the judge does not have, when first called.
    """

    def within(lead: Tensor) -> Tensor:
        return lead.clamp_min(-confidence) if absent else lead.clamp_max(confidence)

    def lead(image: Tensor) -> Tensor:
        answers = logits(image)
        _check_class(index, answers.shape[-1])
        if answers.shape[-1] == 1:
            return within(answers[:, 0])
        others = torch.cat((answers[:, :index], answers[:, index + 1 :]), -1)
        return within(answers[:, index] - others.amax(-1))

    return lead
