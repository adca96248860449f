"""Objectives by a judge, on judges simple enough to know the answer."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from provoke.core.errors import ProvokeError
from provoke.core.objectives import WeightedSum, region_at
from provoke.core.semantic import class_probability, directional, looking_at, margin, similarity

RNG = torch.Generator().manual_seed(0)
MATRIX = torch.randn(3 * 4 * 4, 5, generator=RNG, dtype=torch.float64)
WEIGHT = torch.randn(3 * 4 * 4, 4, generator=RNG, dtype=torch.float64)
IMAGES = torch.rand(3, 3, 4, 4, generator=RNG, dtype=torch.float64)
OTHERS = torch.rand(3, 3, 4, 4, generator=RNG, dtype=torch.float64)


def embed(image: Tensor) -> Tensor:
    return functional.normalize(image.flatten(1) @ MATRIX, dim=-1)


def logits(image: Tensor) -> Tensor:
    return image.flatten(1) @ WEIGHT


TARGET, SOURCE = embed(OTHERS[:1])[0], embed(OTHERS[1:2])[0]

REGION = torch.rand(3, 1, 2, 2, generator=RNG, dtype=torch.float64)

OBJECTIVES = {
    "in a region": similarity(looking_at(embed, REGION, OTHERS), TARGET),
    "similarity": similarity(embed, TARGET),
    "dot product": directional(embed, OTHERS, TARGET, SOURCE),
    "cosine": directional(embed, OTHERS, TARGET, SOURCE, cosine=True),
    "cosine at the default": directional(embed, IMAGES, TARGET, SOURCE, cosine=True),
    "probability": class_probability(logits, 2),
    "margin": margin(logits, 1, confidence=math.inf),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradients_agree_with_finite_differences(name: str) -> None:
    torch.autograd.gradcheck(OBJECTIVES[name], IMAGES.clone().requires_grad_(True), eps=1e-7, atol=1e-4)


def test_similarity_is_one_at_the_target() -> None:
    torch.testing.assert_close(similarity(embed, embed(IMAGES))(IMAGES), torch.ones(3, dtype=torch.float64))


def test_directions() -> None:
    """Nothing at the default, positive towards the target, and the same length for the cosine however far it went."""
    dot, cosine = (directional(embed, IMAGES, TARGET, SOURCE, cosine=c) for c in (False, True))
    assert torch.equal(dot(IMAGES), torch.zeros(3, dtype=torch.float64))
    assert torch.equal(cosine(IMAGES), torch.zeros(3, dtype=torch.float64))
    by_hand = ((embed(OTHERS) - embed(IMAGES)) * (TARGET - SOURCE)).sum(-1)
    torch.testing.assert_close(dot(OTHERS), by_hand)
    assert bool((cosine(OTHERS).abs() <= 1).all())
    wanted = functional.cosine_similarity(embed(OTHERS) - embed(IMAGES), (TARGET - SOURCE).expand(3, -1), dim=-1)
    torch.testing.assert_close(cosine(OTHERS), wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("cosine", [False, True])
def test_source_equal_to_target_is_no_direction(cosine: bool) -> None:
    still = directional(embed, OTHERS, TARGET, TARGET, cosine=cosine)
    image = IMAGES.clone().requires_grad_(True)
    score = still(image)
    assert torch.equal(score, torch.zeros(3, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(score.sum(), image)
    assert not gradient.any()


def test_probability_and_margin_agree_on_who_wins() -> None:
    answers = logits(IMAGES)
    for index in range(4):
        lead = margin(logits, index, confidence=math.inf)(IMAGES)
        assert ((lead > 0) == (answers.argmax(1) == index)).all()
        assert bool((class_probability(logits, index)(IMAGES)[lead > 0] >= 0.25).all())
    assert float(margin(logits, 1, confidence=0.5)(100 * IMAGES).max()) <= 0.5


def test_a_margin_levels_off_on_the_side_that_is_wanted() -> None:
    """For who wants less of a class it has a slope where the judge is sure of it, and none where that is long lost."""
    image = IMAGES.clone().requires_grad_(True)
    for index in range(4):
        whole = margin(logits, index, confidence=math.inf)(image)
        less = margin(logits, index, confidence=0.5, absent=True)(image)
        torch.testing.assert_close(less, whole.clamp_min(-0.5))
        (slope,) = torch.autograd.grad(less.sum(), image)
        assert slope.flatten(1).any(1).tolist() == (whole > -0.5).tolist()


def test_one_class_alone() -> None:
    lead = margin(lambda image: logits(image)[:, :1], 0, confidence=math.inf)(IMAGES)
    torch.testing.assert_close(lead, logits(IMAGES)[:, 0])


@pytest.mark.parametrize("make", [class_probability, margin])
def test_a_class_that_is_not_there_is_refused(make: object) -> None:
    with pytest.raises(ProvokeError, match="0 to 3"):
        make(logits, 4)(IMAGES)  # type: ignore[operator]


def test_a_judge_that_looks_at_a_region() -> None:
    """Inside the picture, outside the default (or mid grey), in between both by their shares; nothing for no region."""
    half = torch.zeros(3, 1, 4, 4, dtype=torch.float64)
    half[..., :2] = 1
    pasted = torch.cat((IMAGES[..., :2], OTHERS[..., 2:]), -1)
    torch.testing.assert_close(looking_at(logits, half, OTHERS)(IMAGES), logits(pasted))
    grey = torch.cat((IMAGES[..., :2], torch.full_like(IMAGES[..., 2:], 0.5)), -1)
    torch.testing.assert_close(looking_at(logits, half, None)(IMAGES), logits(grey))
    assert looking_at(logits, None, OTHERS) is logits
    # of another size: each pixel has its share
    torch.testing.assert_close(looking_at(logits, half[..., ::2, :1], OTHERS)(IMAGES), logits(IMAGES))
    torch.testing.assert_close(region_at(half, IMAGES[..., :2, :1]), torch.full((3, 1, 2, 1), 0.5, dtype=torch.float64))


def test_a_sum_is_where_the_picture_is() -> None:
    """A judge may sit on another device than the picture (Score Images' are on the CPU)."""
    image = torch.zeros(2, 3, 4, 4, device="meta")
    parts = WeightedSum({"judge": (1.0, lambda _: torch.ones(2)), "distance": (1.0, lambda x: x.flatten(1).mean(1))})
    assert {value.device.type for value in parts.terms(image).values()} == {"meta"}
