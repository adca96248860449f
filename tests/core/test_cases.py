"""One variable for many cases: the mean of them, a few at a time."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor

from provoke.core.budgets import LInf
from provoke.core.cases import Averaged, MeanOfCases
from provoke.core.problem import Differentiable, ImageProblem, Problem
from provoke.core.search import search, select
from provoke.core.steps import Adam, Steepest

POINTS = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 4.0]])


class Cases:
    """A picture of 1 1 1 2, whose score is how near it is to the case's point; it notes what is drawn."""

    def __init__(self, pictures: int = 1) -> None:
        self.seen: list[int] = []
        self.drawn: list[int] = []
        self.pictures = pictures

    def __call__(self, number: int, rng: torch.Generator) -> Problem:
        self.seen.append(number)
        self.drawn.append(int(torch.randint(1000, (1,), generator=rng)))

        def picture(x: Tensor) -> Tensor:
            return x.view(1, 1, 1, 2).repeat(self.pictures, 1, 1, 1)

        def near(image: Tensor) -> Tensor:
            return -(image.flatten(1) - POINTS[number]).square().sum(1)

        return ImageProblem(Differentiable(picture), near)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("pictures", [1, 3])
def test_all_of_them_are_their_mean(pictures: int) -> None:
    x = torch.tensor([[1.0, 1.0]])
    found = MeanOfCases(Cases(pictures), 3, 3).evaluate(x, rng(), gradient=True)
    torch.testing.assert_close(found.score, -(x - POINTS).square().sum(1).mean(0, keepdim=True))
    assert found.gradient is not None
    torch.testing.assert_close(found.gradient, -2 * (x - POINTS).mean(0, keepdim=True))
    assert found.image.shape == (1, 1, 1, 2 * 3 * pictures)  # side by side
    assert found.cost == 6
    torch.testing.assert_close(found.terms["score"], found.score)


def test_a_plain_evaluation_costs_one_a_case() -> None:
    found = MeanOfCases(Cases(), 3, 2).evaluate(torch.zeros(1, 2), rng(), gradient=False)
    assert found.gradient is None
    assert found.cost == 2


def test_every_case_comes_as_often_but_for_one() -> None:
    for draw in (1, 2, 3, 7):
        cases = Cases()
        MeanOfCases(cases, 3, draw).evaluate(torch.zeros(1, 2), rng(draw), gradient=False)
        assert len(cases.seen) == draw
        counts = Counter(cases.seen)
        assert max(counts.values()) - min(counts.get(number, 0) for number in range(3)) <= 1


def test_the_same_generator_draws_the_same() -> None:
    """So a selector with a fixed seed compares candidates on the same cases."""
    one, other, third = Cases(), Cases(), Cases()
    for cases, seed in ((one, 4), (other, 4), (third, 5)):
        MeanOfCases(cases, 3, 4).evaluate(torch.zeros(1, 2), rng(seed), gradient=False)
    assert (one.seen, one.drawn) == (other.seen, other.drawn)
    assert (one.seen, one.drawn) != (third.seen, third.drawn)


def test_the_search_finds_what_is_best_for_all() -> None:
    """With one case a step it circles around the mean; the average of its way is nearer than where it ends."""
    budget = LInf(torch.zeros(1, 2), 10.0, box=None)
    rule = Averaged(Adam(0.2), decay=0.97)
    problem = MeanOfCases(Cases(), 3, 1)
    for step in search(problem, budget, rule, start=torch.full((1, 2), 5.0), steps=300, rng=rng()):
        last = step["variable"]
    goal = POINTS.mean(0)
    average = rule.mean()["average"]
    assert float((average - goal).norm()) < 0.5
    whole = MeanOfCases(Cases(), 3, 3)
    chosen = select(whole, budget, {"last": last, "best": step["best"], "average": average})
    assert float((chosen.variable - goal).norm()) <= float((last - goal).norm()) + 1e-6


def test_the_average_begins_where_the_search_does() -> None:
    rule = Averaged(Steepest(1.0), decay=0.5)
    assert rule.mean() == {}
    assert rule.uses_gradient
    budget, x = LInf(torch.zeros(1, 2), 10.0, box=None), torch.tensor([[3.0, 3.0]])
    there = rule.update(x, torch.ones(1, 2), torch.zeros(1), budget, 0.0)
    torch.testing.assert_close(there, x + 1)
    torch.testing.assert_close(rule.mean()["average"], x)
    rule.update(there, torch.ones(1, 2), torch.zeros(1), budget, 0.5)
    torch.testing.assert_close(rule.mean()["average"], (x + 2 * there) / 3)
    rule.reset()
    assert rule.mean() == {}
