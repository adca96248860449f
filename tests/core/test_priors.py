"""Priors of an initial noise: their values, their gradients, and beside a problem."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from provoke.core.priors import WithPrior, chi, dno
from provoke.core.problem import Differentiable, ImageProblem


def drawn(count: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def test_chi_is_the_log_density_of_the_norm():
    z = drawn().double()
    radius, d = z.flatten(1).norm(dim=1), 256
    log = (d - 1) * radius.log() - radius.square() / 2
    best = (d - 1) * math.log(math.sqrt(d - 1)) - (d - 1) / 2
    torch.testing.assert_close(chi(z, rng()), log - best, rtol=1e-6, atol=1e-9)
    at_best = z / radius.view(-1, 1, 1, 1) * math.sqrt(d - 1)
    assert float(chi(at_best, rng()).abs().max()) < 1e-9


@pytest.mark.parametrize("prior", [chi, dno])
def test_true_samples_cost_little_and_strange_ones_much(prior):
    true, strange = prior(drawn(20), rng()), prior(1.5 * drawn(20), rng())
    assert bool((true <= 0).all())
    assert float(true.mean()) > -1.5
    assert float(strange.max()) < float(true.min())
    assert float(strange.mean()) < float(true.mean()) - 5


def test_dno_sees_what_chi_does_not():
    z = drawn(20)
    shifted = (z + 0.7) / (1 + 0.7**2) ** 0.5
    assert float(chi(shifted, rng()).mean()) > -2
    assert float(dno(shifted, rng()).mean()) < -10


@pytest.mark.parametrize("prior", [chi, dno])
def test_gradients_by_finite_differences(prior):
    z = (1.2 * drawn(2) + 0.3).double()
    ways = [torch.randn(z.shape, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in range(16)]
    block = torch.zeros_like(z)
    block[:, 1] = 1
    corner = torch.zeros_like(z)
    corner[0, :, :2, :2] = 1
    leaf = z.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(prior(leaf, rng()).sum(), leaf)
    measured, claimed = [], []
    for way in [*ways, block, corner]:
        h = 1e-5
        measured.append(float((prior(z + h * way, rng()) - prior(z - h * way, rng())).sum()) / (2 * h))
        claimed.append(float((gradient * way).sum()))
    difference = torch.tensor(measured) - torch.tensor(claimed)
    assert float(difference.norm() / torch.tensor(measured).norm()) < 1e-4


def test_float16_noise_does_not_overflow():
    assert bool(chi(torch.full((1, 16, 128, 128), 3.0, dtype=torch.float16), rng()).isfinite().all())


def test_beside_a_problem():
    """Score and gradient are the sums; without a gradient only the score."""
    problem = ImageProblem(Differentiable(lambda z: z[:, :3]), lambda image: image.flatten(1).mean(1))
    z = 1.5 * drawn()
    plain = problem.evaluate(z, rng(), gradient=True)
    both = WithPrior(problem, chi, 0.1).evaluate(z, rng(), gradient=True)
    torch.testing.assert_close(both.score, plain.score + 0.1 * chi(z, rng()))
    leaf = z.clone().requires_grad_(True)
    (pull,) = torch.autograd.grad(chi(leaf, rng()).sum(), leaf)
    torch.testing.assert_close(both.gradient, plain.gradient + 0.1 * pull)
    torch.testing.assert_close(both.terms["prior"], chi(z, rng()))
    without = WithPrior(problem, chi, 0.1).evaluate(z, rng(), gradient=False)
    assert without.gradient is None
    torch.testing.assert_close(without.score, both.score)
