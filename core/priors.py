"""How plausible an initial noise is as a sample of N(0, I), as a term of the score: beside a budget, or in its place.

A prior maps noise (B ...) and a CPU generator to one value per item (B), float32; 0 or less, 0 where nothing is
unlikely.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .problem import Evaluation, Problem

Prior = Callable[[Tensor, torch.Generator], Tensor]


def chi(noise: Tensor, rng: torch.Generator) -> Tensor:
    """Log density of the norm of d Gaussian numbers, less its maximum (at sqrt(d - 1)): B.

    Fixes the norm, and nothing else. Source: ReNO (arXiv 2406.04312), there weighed with 0.01.
    """
    flat = noise.flatten(1).to(torch.promote_types(noise.dtype, torch.float32))  # r^2 overflows float16
    mode = flat.shape[1] - 1
    share = flat.square().sum(1) / mode  # of the squared norm: near 1
    return 0.5 * mode * (share.log() - share + 1)


def dno(noise: Tensor, rng: torch.Generator, *, widths: Sequence[int] = (2, 4, 8), permutations: int = 8) -> Tensor:
    """Log of the bounds on the probability that rows of the shuffled noise have such a mean and such a covariance: B.

    The d numbers, shuffled, are m rows of k. With M1 the length of the rows' mean and M2 the spectral norm of their
    covariance less I,
        P(M1 or more) <= 2 exp(-m M1^2 / 2k),
        P(M2 or more) <= 2 exp(-m max(sqrt(1 + M2) - 1 - sqrt(k / m), 0)^2 / 2),
    each at most 1: so it is 0, and pulls nowhere, while the noise is likely. The mean over shuffles and widths.
    Source: DNO (arXiv 2405.18881).

    Args:
        widths: k, where d is at least k^2. rng: draws the shuffles, the same for all items.
    """
    flat = noise.flatten(1).to(torch.promote_types(noise.dtype, torch.float32))
    size, total, terms = flat.shape[1], flat.new_zeros(len(flat)), 0
    for _ in range(permutations):
        order = torch.randperm(size, generator=rng).to(flat.device)
        for k in (k for k in widths if k * k <= size):
            m = size // k
            rows = flat[:, order[: m * k]].view(-1, m, k)
            mean = rows.mean(1).square().sum(1)
            excess = rows.transpose(1, 2) @ rows / m - torch.eye(k, device=flat.device)
            spread = torch.linalg.eigvalsh(excess).abs().amax(1)
            beyond = ((1 + spread).sqrt() - 1 - (k / m) ** 0.5).clamp_min(0)
            total = total + _log_bound(m * mean / (2 * k)) + _log_bound(m * beyond.square() / 2)
            terms += 1
    return total / max(terms, 1)


def _log_bound(exponent: Tensor) -> Tensor:
    return (0.6931472 - exponent).clamp_max(0)  # log(2 exp(-e)), at most 0


class WithPrior:
    """A problem whose score has a prior of the variable added.

    Args:
        weight: what one unit of the prior (of log probability) counts.
    """

    def __init__(self, problem: Problem, prior: Prior, weight: float) -> None:
        self.problem, self.prior, self.weight = problem, prior, weight

    def evaluate(self, variable: Tensor, rng: torch.Generator, *, gradient: bool) -> Evaluation:
        one = self.problem.evaluate(variable, rng, gradient=gradient)
        with torch.enable_grad():
            leaf = variable.detach().requires_grad_(gradient)
            value = self.prior(leaf, rng)
        new = replace(
            one,
            score=one.score + self.weight * value.detach().to(one.score),
            terms={**one.terms, "prior": value.detach()},
        )
        if one.gradient is None:
            return new
        (pull,) = torch.autograd.grad(value.sum(), leaf)
        return replace(new, gradient=one.gradient + self.weight * pull.to(one.gradient))
