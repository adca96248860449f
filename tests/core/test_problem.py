"""Gradients by central finite differences, along random and block directions; cost and memory counted."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from provoke.core import augment, objectives
from provoke.core.budgets import LInf
from provoke.core.errors import GradientError
from provoke.core.problem import Differentiable, Evaluation, ImageProblem, Smoothed


def network(dtype: torch.dtype = torch.float64) -> nn.Module:
    torch_rng = torch.Generator().manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.GELU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.GELU(),
        nn.Conv2d(8, 3, 3, padding=1),
    )
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=torch_rng) * 0.3)
    return net.to(dtype).requires_grad_(False)


def picture(batch: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> torch.Tensor:
    return torch.rand(batch, 3, 10, 12, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def directions(like: torch.Tensor) -> list[torch.Tensor]:
    """16 random directions and blocks: one item, one channel, one region."""
    g = torch.Generator().manual_seed(9)
    out = [torch.randn(like.shape, generator=g, dtype=like.dtype) for _ in range(16)]
    for where in [(slice(0, 1),), (slice(-1, None),), (slice(None), 1), (..., slice(2, 5), slice(3, 9))]:
        block = torch.zeros_like(like)
        block[where] = torch.randn(like.shape, generator=g, dtype=like.dtype)[where]
        out.append(block)
    return [d / d.norm() for d in out]


def finite_difference_error(problem, x: torch.Tensor, h: float = 1e-5) -> float:
    """Relative L2 error of the vector of directional derivatives of the summed score."""

    def score(v: torch.Tensor) -> float:
        return float(problem.evaluate(v, torch.Generator().manual_seed(3), gradient=False).score.double().sum())

    gradient = problem.evaluate(x, torch.Generator().manual_seed(3), gradient=True).gradient
    analytic = torch.tensor([float((gradient * d).sum()) for d in directions(x)])
    numeric = torch.tensor([(score(x + h * d) - score(x - h * d)) / (2 * h) for d in directions(x)])
    return float((analytic - numeric).norm() / numeric.norm())


REFERENCE = picture(4, seed=2)
REGION = (torch.arange(12) < 7).double().expand(4, 1, 10, 12)
OBJECTIVES = {
    "l1": objectives.l1_distance(REFERENCE),
    "l2 in a region": objectives.l2_distance(REFERENCE, REGION),
    "mean shift": objectives.mean_shift(REFERENCE),
    "variance shift": objectives.variance_shift(REFERENCE, REGION),
    "perceptual": objectives.perceptual_distance(lambda x: [x, x.square().mean(1, keepdim=True).sin() + x], REFERENCE),
    "diversity": objectives.pairwise_diversity(2),
    "weighted": objectives.WeightedSum(
        {"l1": (1.0, objectives.l1_distance(REFERENCE)), "diversity": (-0.5, objectives.pairwise_diversity(4, REGION))}
    ),
}


@pytest.mark.parametrize("chunk", [None, 1, 3])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradient_of_every_objective(name, chunk):
    problem = ImageProblem(Differentiable(network(), chunk=chunk), OBJECTIVES[name])
    assert finite_difference_error(problem, picture(4)) < 1e-5


AUGMENTATIONS = {
    "noise": augment.pixel_noise(0.1),
    "affine": augment.affine(degrees=20, translate=0.1, scale=0.1),
    "colour": augment.brightness_contrast(brightness=0.1, contrast=0.2),
    "all": augment.compose(augment.affine(degrees=5), augment.pixel_noise(0.05)),
}


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_gradient_through_augmented_copies(name):
    objective = objectives.l2_distance(REFERENCE)
    problem = ImageProblem(Differentiable(network()), objective, augment=AUGMENTATIONS[name], copies=3)
    assert finite_difference_error(problem, picture(4)) < 1e-5


@pytest.mark.parametrize("shift", [False, True])
def test_gradient_of_a_smoothed_problem(shift):
    """It is that of the mean score at the noisy points; the score is the variable's own."""
    inner = ImageProblem(Differentiable(network()), objectives.l2_distance(REFERENCE))
    smoothed = Smoothed(inner, sigma=0.05, copies=3, shift=shift)

    class Mean:
        def evaluate(self, x, rng, *, gradient):
            if gradient:
                return smoothed.evaluate(x, rng, gradient=True)
            inner.evaluate(x, rng, gradient=False)
            noisy = [inner.evaluate(x + smoothed._noise(x, rng), rng, gradient=False) for _ in range(3)]
            return replace(noisy[0], score=torch.stack([one.score for one in noisy]).mean(0))

    assert finite_difference_error(Mean(), picture(4)) < 1e-5
    own, plain = (one.evaluate(picture(4), torch.Generator(), gradient=False) for one in (smoothed, inner))
    assert torch.equal(own.score, plain.score)
    both = smoothed.evaluate(picture(4), torch.Generator(), gradient=True)
    assert torch.equal(both.score, plain.score)
    assert both.cost == 1 + 3 * 2


@pytest.mark.parametrize("shift", [False, True])
def test_the_noise_that_smooths(shift):
    """Of the size asked for, the same for all, alike in a channel; nothing that may not change is touched."""
    seen = []

    class Spy:
        def evaluate(self, x, rng, *, gradient):
            seen.append(x)
            return Evaluation(x.sum((1, 2, 3)), x, torch.ones_like(x) if gradient else None)

    center = torch.full((2, 3, 32, 32), 0.5)
    mask = torch.zeros(2, 1, 32, 32)
    mask[..., 8:24] = 1
    budget = LInf(center, 0.01, mask=mask)
    Smoothed(Spy(), sigma=0.05, copies=200, shift=shift, within=budget.anywhere).evaluate(
        center, torch.Generator().manual_seed(0), gradient=True
    )
    noise = torch.stack(seen[1:]) - center
    assert float(noise[..., 8:24].std()) == pytest.approx(0.05, rel=0.12)
    assert float(noise[..., :8].abs().max()) < 1e-6
    assert torch.equal(noise[:, 0], noise[:, 1])
    apart = (noise[..., 9:24] - noise[..., 8:23]).square().mean().sqrt() / 0.05
    assert apart < (1e-4 if shift else 1.6)


@pytest.mark.parametrize(("chunk", "forwards"), [(None, 2.0), (1, 3.0)])
def test_stated_cost_is_the_counted_cost(chunk, forwards):
    weights = [torch.randn(8, c, 3, 3) for c in (3, 8, 8)]

    def layers(x: torch.Tensor) -> torch.Tensor:  # no modules: the counter's module hooks refuse autograd.grad
        for w in weights:
            x = torch.nn.functional.conv2d(x, w, padding=1).tanh()
        return x

    generator = Differentiable(layers, chunk=chunk)
    x = picture(2, torch.float32)
    with FlopCounterMode(display=False) as one:
        generator(x)
    with FlopCounterMode(display=False) as all_of_it:
        evaluation = ImageProblem(generator, objectives.mean_shift(torch.zeros(2, 8, 10, 12))).evaluate(
            x, torch.Generator(), gradient=True
        )
    assert all_of_it.get_total_flops() / one.get_total_flops() == pytest.approx(forwards, rel=0.02)
    assert evaluation.cost == forwards


def test_memory_does_not_grow_with_the_copies():
    """Bytes kept for backward while the objective runs: one copy's, however many copies."""

    def most_kept(copies: int) -> int:
        kept, peak = 0, 0

        class Held:
            def __init__(self, t: torch.Tensor) -> None:
                nonlocal kept, peak
                self.t, self.size = t, t.numel() * t.element_size()
                kept += self.size
                peak = max(peak, kept)

            def __del__(self) -> None:
                nonlocal kept
                kept -= self.size

        features = network(torch.float32)
        objective = objectives.perceptual_distance(features, picture(2, torch.float32, 5))
        problem = ImageProblem(
            Differentiable(lambda x: x * 1.0), objective, augment=augment.pixel_noise(0.1), copies=copies
        )
        with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.t):
            problem.evaluate(picture(2, torch.float32), torch.Generator().manual_seed(0), gradient=True)
        return peak

    assert most_kept(8) <= 1.05 * most_kept(1)


def test_chunks_change_nothing_for_a_coupled_objective():
    objective = objectives.pairwise_diversity(4)
    whole = ImageProblem(Differentiable(network()), objective).evaluate(picture(4), torch.Generator(), gradient=True)
    parts = ImageProblem(Differentiable(network(), chunk=1), objective).evaluate(
        picture(4), torch.Generator(), gradient=True
    )
    torch.testing.assert_close(parts.gradient, whole.gradient)


def test_terms_are_reported_unweighted_and_unused_ones_cost_nothing():
    def forbidden(image: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("a part of weight 0 was computed")

    one = objectives.l1_distance(REFERENCE)
    objective = objectives.WeightedSum({"l1": (2.0, one), "off": (0.0, forbidden)})
    evaluation = ImageProblem(Differentiable(network()), objective).evaluate(
        picture(4), torch.Generator(), gradient=True
    )
    torch.testing.assert_close(evaluation.score, 2 * evaluation.terms["l1"])
    assert set(evaluation.terms) == {"l1"}


def test_a_cut_graph_is_an_error():
    with pytest.raises(GradientError, match="no gradient"):
        Differentiable(lambda x: x.detach() * 2).vjp(picture(1))


def test_scores_do_not_depend_on_the_batch():
    problem = ImageProblem(
        Differentiable(network()), objectives.l2_distance(REFERENCE[:1]), augment=AUGMENTATIONS["all"], copies=2
    )
    x = picture(3)
    together = problem.evaluate(x, torch.Generator().manual_seed(4), gradient=True)
    alone = problem.evaluate(x[1:2], torch.Generator().manual_seed(4), gradient=True)
    torch.testing.assert_close(together.gradient[1:2], alone.gradient)
    torch.testing.assert_close(together.score[1:2], alone.score)


def test_an_objective_without_a_gradient_is_an_error():
    constant = objectives.WeightedSum({"flat": (1.0, lambda image: torch.ones(len(image)))})
    with pytest.raises(GradientError, match="objective carries no gradient"):
        ImageProblem(Differentiable(network()), constant).evaluate(picture(2), torch.Generator(), gradient=True)
