"""Several judges as one score: what they add up to, and when they agree."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from provoke.core.agreement import Agreement, agreed
from provoke.core.errors import ProvokeError
from provoke.core.objectives import WeightedSum
from provoke.core.semantic import surrogate


def judges(says: Tensor) -> dict[str, object]:
    """Of M B figures, a judge for each row; the picture has no say but for its gradient."""
    return {str(i): (lambda image, row=row: row + 0 * image.flatten(1).sum(1)) for i, row in enumerate(says)}


def test_the_sum_and_the_weakest() -> None:
    says = torch.tensor([[3.0, 3.0, -1.0], [2.0, 0.1, 5.0], [4.0, 9.0, 9.0]])
    image = torch.rand(3, 3, 4, 4)
    total = Agreement(judges(says))  # type: ignore[arg-type]
    torch.testing.assert_close(total(image), says.sum(0))
    weakest = Agreement(judges(says), softness=0.05)  # type: ignore[arg-type]
    found = weakest(image)
    least = says.amin(0)
    assert bool((found <= least).all())
    assert bool((found >= least - 0.05 * math.log(3)).all())
    assert agreed(weakest.votes(image)).tolist() == [True, True, False] == (found > 0).tolist()


def test_a_positive_weakest_means_that_all_agree() -> None:
    """For any figures and any softness: 2000 random ones. The other way round it may be off by softness * log M."""
    rng = torch.Generator().manual_seed(0)
    image = torch.rand(2000, 3, 1, 1)
    for softness in (0.05, 0.5, 2.0):
        says = torch.randn(4, 2000, generator=rng)
        together = Agreement(judges(says), softness=softness)  # type: ignore[arg-type]
        positive = together(image) > 0
        assert bool(agreed(together.votes(image))[positive].all())
        sure = says.amin(0) > softness * math.log(4)
        assert bool(positive[sure].all())


def test_turned_round_all_have_to_be_without_it() -> None:
    """With `absent`, as the weight -1 has it: what is climbed is minus the judge that still says so most, so that
    fooling one of them gains nothing. For any figures and any softness: 2000 random ones."""
    rng = torch.Generator().manual_seed(0)
    image = torch.rand(2000, 3, 1, 1)
    for softness in (0.05, 0.5, 2.0):
        says = torch.randn(4, 2000, generator=rng)
        less = Agreement(judges(says), softness=softness, absent=True)  # type: ignore[arg-type]
        found, most = less(image), says.amax(0)
        assert bool((found >= most - 1e-6).all())
        assert bool((found <= most + softness * math.log(4) + 1e-6).all())
        assert bool(agreed(less.votes(image), absent=True)[found < 0].all())
        mirrored = Agreement(judges(-says), softness=softness)  # type: ignore[arg-type]
        torch.testing.assert_close(found, -mirrored(image))
    one_fooled, all_without = (torch.tensor(says)[:, None] for says in ([5.0, 5.0, 5.0, -6.0], [-1.0] * 4))
    image = torch.rand(1, 3, 1, 1)
    scores = [
        -Agreement(judges(says), softness=0.5, absent=True)(image)  # type: ignore[arg-type]
        for says in (one_fooled, all_without)
    ]
    assert float(scores[0]) < -5
    assert float(scores[1]) > 0
    assert not agreed({"a": torch.zeros(1)}).any()
    assert not agreed({"a": torch.zeros(1)}, absent=True).any()


@pytest.mark.parametrize("absent", [False, True])
@pytest.mark.parametrize("softness", [None, 0.5])
def test_no_more_than_the_confidence_counts_of_what_is_wanted(softness: float | None, absent: bool) -> None:
    """One judge cannot buy what another denies; what the judges say is whole, whatever counts of it."""
    sign = -1 if absent else 1
    says = torch.tensor([[2.0], [-9.0], [40.0]])
    image = torch.rand(1, 3, 2, 2)
    whole = Agreement(judges(sign * says), softness=softness, confidence=3.0, absent=absent)  # type: ignore[arg-type]
    cut = Agreement(judges(sign * says.clamp_max(3)), softness=softness, absent=absent)  # type: ignore[arg-type]
    torch.testing.assert_close(whole(image), cut(image))
    assert torch.stack(list(whole.votes(image).values())).tolist() == (sign * says).tolist()
    none = Agreement(judges(sign * says), softness=softness, confidence=0.0, absent=absent)  # type: ignore[arg-type]
    assert agreed({"b": none.votes(image)["2"]}, absent=absent).all()


@pytest.mark.parametrize("absent", [False, True])
@pytest.mark.parametrize("softness", [None, 0.5])
def test_gradients_agree_with_finite_differences(softness: float | None, absent: bool) -> None:
    rng = torch.Generator().manual_seed(1)
    weights = torch.randn(3, 12, generator=rng, dtype=torch.float64)
    members = {str(i): (lambda image, row=row: image.flatten(1) @ row) for i, row in enumerate(weights)}
    together = Agreement(members, softness=softness, confidence=0.4, absent=absent)
    image = torch.rand(5, 3, 2, 2, generator=rng, dtype=torch.float64, requires_grad=True)
    votes = torch.stack(list(together.votes(image).values()))
    assert bool((votes.abs() > 0.4).any())  # some of it has levelled off
    assert bool((votes.abs() < 0.4).any())
    torch.autograd.gradcheck(together, image, eps=1e-7, atol=1e-5)


def test_votes_stay_visible_in_a_sum_of_objectives() -> None:
    says = torch.tensor([[3.0, 1.0], [2.0, -1.0]])
    image = torch.rand(2, 3, 4, 4)
    both = WeightedSum(
        {
            "class": (2.0, Agreement(judges(says))),  # type: ignore[arg-type]
            "bright": (1.0, lambda x: x.flatten(1).mean(1)),
            "unused": (0.0, Agreement(judges(says))),  # type: ignore[arg-type]
        }
    )
    terms, votes = both.judged(image)
    assert list(terms) == ["class", "bright"] == list(both.terms(image))
    assert list(votes) == ["class"]
    torch.testing.assert_close(torch.stack(list(votes["class"].values())), says)
    torch.testing.assert_close(both(image), 2 * says.sum(0) + image.flatten(1).mean(1))


def test_the_papers_loss() -> None:
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 3.0, 0.0]])
    found = surrogate(lambda image: logits, 0)(torch.rand(2, 3, 1, 1))
    torch.testing.assert_close(found, -(1 - 2 * logits.softmax(1)[:, 0]))
    with pytest.raises(ProvokeError, match="Class number 3"):
        surrogate(lambda image: logits, 3)(torch.rand(2, 3, 1, 1))


def test_nobody_cannot_agree() -> None:
    with pytest.raises(ProvokeError, match="no judges"):
        Agreement({})
