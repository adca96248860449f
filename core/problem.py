"""What a search asks: the score of a variable, and which way is up.

A *generator* is a frozen function from the variable to an image, with its vector-Jacobian product (as `jax.vjp`): it
alone decides whether a graph is kept, recomputed, chunked or tiled. A *problem* joins a generator with an objective.
The gradient is taken in two halves that meet at the image,

    d score / d variable  =  J(variable)^T . d score / d image,

so the generator runs once however many augmented copies of the image are scored, only one copy's graph is alive at a
time, and an objective that couples the batch (diversity) stays exact when the generator works in chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from .augment import Augmentation
from .budgets import normal
from .errors import GradientError
from .objectives import Objective, WeightedSum

Pullback = Callable[[Tensor], Tensor]


class Generator(Protocol):
    """A frozen differentiable function: variable (B, ...) -> image (B C H W, float32 in [0, 1]).

    `forward_cost` and `vjp_cost` are in forward-equivalents (MACs of one plain call = 1) per item of the batch.
    """

    @property
    def forward_cost(self) -> float: ...

    @property
    def vjp_cost(self) -> float: ...

    def __call__(self, variable: Tensor) -> Tensor:
        """The image, without a graph."""
        ...

    def vjp(self, variable: Tensor) -> tuple[Tensor, Pullback]:
        """The image without a graph, and a function (callable once) from d score / d image to d score / d variable."""
        ...


class Differentiable:
    """Lifts an ordinary torch function to a `Generator`.

    Args:
        function: variable (B, ...) -> image (B, ...); differentiable, samples independent of each other.
        chunk: how many items of the batch share one graph. None keeps one graph for all (cost 2: forward + backward);
            a number computes the image without a graph and each chunk again in the pullback (cost 3, memory of one
            chunk).
    """

    forward_cost = 1.0

    def __init__(self, function: Callable[[Tensor], Tensor], *, chunk: int | None = None) -> None:
        self.function, self.chunk = function, chunk

    @property
    def vjp_cost(self) -> float:
        return 2.0 if self.chunk is None else 3.0

    @torch.no_grad()
    def __call__(self, variable: Tensor) -> Tensor:
        if self.chunk is None:
            return self.function(variable)
        return torch.cat([self.function(part) for part in variable.split(self.chunk)])

    def vjp(self, variable: Tensor) -> tuple[Tensor, Pullback]:
        if self.chunk is not None:
            return self(variable), lambda cotangent: torch.cat(
                [
                    self._graph(part)[1](part_cotangent)
                    for part, part_cotangent in zip(
                        variable.split(self.chunk), cotangent.split(self.chunk), strict=True
                    )
                ]
            )
        return self._graph(variable)

    def _graph(self, variable: Tensor) -> tuple[Tensor, Pullback]:
        with torch.enable_grad():
            leaf = variable.detach().requires_grad_(True)
            image = self.function(leaf)
        if not image.requires_grad:
            raise GradientError(
                "The generator's output carries no gradient",
                "an output computed from the variable with differentiable torch operations",
                "use a model without no_grad, detach or compiled (TorchScript) parts",
            )

        def pullback(cotangent: Tensor) -> Tensor:
            (gradient,) = torch.autograd.grad(image, leaf, cotangent, allow_unused=True)
            return torch.zeros_like(leaf) if gradient is None else gradient

        return image.detach(), pullback


@dataclass(frozen=True)
class Evaluation:
    """What a problem knows about one variable.

    score: B, float32, higher is better. gradient: like the variable, d score / d variable (None if not asked for).
    image: what was generated, B C H W. terms: named parts of the score, B each. cost: forward-equivalents per item.
    """

    score: Tensor
    image: Tensor
    gradient: Tensor | None = None
    terms: dict[str, Tensor] = field(default_factory=dict)
    cost: float = 0.0


class Problem(Protocol):
    """Anything that can be searched."""

    def evaluate(self, variable: Tensor, rng: torch.Generator, *, gradient: bool) -> Evaluation:
        """Score (and gradient) of a variable; all chance comes from `rng`, a CPU generator."""
        ...


class ImageProblem:
    """score(variable) = mean over augmented copies of objective(augment(generator(variable))).

    Args:
        generator: the frozen model.
        objective: scores images; the parts of a `WeightedSum` are reported as terms.
        augment: differentiable random change of the image (expectation over transformation, Athalye et al. 2018).
        copies: how many augmented copies are averaged per evaluation.
    """

    def __init__(
        self, generator: Generator, objective: Objective, *, augment: Augmentation | None = None, copies: int = 1
    ) -> None:
        self.generator, self.augment, self.copies = generator, augment, copies
        self.objective = objective if isinstance(objective, WeightedSum) else WeightedSum({"score": (1.0, objective)})

    def evaluate(self, variable: Tensor, rng: torch.Generator, *, gradient: bool) -> Evaluation:
        if not gradient:
            image = self.generator(variable)
            with torch.no_grad():
                copies = [self.objective.terms(self._augmented(image, rng)) for _ in range(self.copies)]
            return self._evaluation(copies, image, None, self.generator.forward_cost)
        image, pullback = self.generator.vjp(variable)
        cotangent, copies = self._looked_at(image, rng)
        return self._evaluation(copies, image, pullback(cotangent), self.generator.vjp_cost)

    def _looked_at(self, image: Tensor, rng: torch.Generator) -> tuple[Tensor, list[dict[str, Tensor]]]:
        """d score / d image, and the terms of every copy."""
        cotangent, copies = torch.zeros_like(image), []
        for _ in range(self.copies):  # one graph at a time: memory does not grow with the copies
            part, terms = self._one_copy(image, rng)
            cotangent += part / self.copies
            copies.append(terms)
        return cotangent, copies

    def _one_copy(self, image: Tensor, rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The gradient of one augmented copy's score by the image, B C H W, and its terms."""
        with torch.enable_grad():
            leaf = image.detach().requires_grad_(True)
            terms = self.objective.terms(self._augmented(leaf, rng))
            total = self.objective.total(terms).sum()
        if not total.requires_grad:
            raise GradientError(
                "The objective carries no gradient",
                "a score computed from the image with differentiable torch operations",
                "use another objective, or method: random",
            )
        (part,) = torch.autograd.grad(total, leaf)
        return part, {name: value.detach() for name, value in terms.items()}

    def _augmented(self, image: Tensor, rng: torch.Generator) -> Tensor:
        return image if self.augment is None else self.augment(image, rng)

    def _evaluation(
        self, copies: Sequence[dict[str, Tensor]], image: Tensor, gradient: Tensor | None, cost: float
    ) -> Evaluation:
        terms = {name: _mean([copy[name] for copy in copies]) for name in copies[0]}
        return Evaluation(self.objective.total(terms), image, gradient, terms, cost)


def _mean(values: Sequence[Tensor]) -> Tensor:
    """Never coarser than float32, whatever the model computes in."""
    stacked = torch.stack(list(values))
    return stacked.to(torch.promote_types(stacked.dtype, torch.float32)).mean(0)


class Smoothed:
    """A problem with a gradient averaged over Gaussian noise on the variable; scores and pictures stay the variable's.

    Where an answer jumps from one to the next, the gradient here says nothing of the answer there; that of a smoothed
    boundary does. The gradient is the mean of those at the noisy points (`within` is taken as the identity).

    Args:
        problem: the problem to smooth.
        sigma: standard deviation of the noise, in the variable's own units.
        copies: how many noisy copies are averaged, one after the other (one graph at a time).
        shift: as in core.budgets.normal.
        within: maps a noisy variable back to where the problem is defined (a budget's `anywhere`, say).
    Source: expectation over transformation with noise as the transformation (Athalye et al. 2018); the shifts are ours.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        sigma: float,
        copies: int,
        shift: bool = False,
        within: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> None:
        self.problem, self.sigma, self.copies, self.shift, self.within = problem, sigma, copies, shift, within

    def evaluate(self, variable: Tensor, rng: torch.Generator, *, gradient: bool) -> Evaluation:
        own = self.problem.evaluate(variable, rng, gradient=False)
        if not gradient:
            return own
        total, cost = torch.zeros_like(variable), own.cost
        for _ in range(self.copies):
            copy = self.problem.evaluate(self.within(variable + self._noise(variable, rng)), rng, gradient=True)
            assert copy.gradient is not None
            total, cost = total + copy.gradient / self.copies, cost + copy.cost
        return replace(own, gradient=total, cost=cost)

    def _noise(self, variable: Tensor, rng: torch.Generator) -> Tensor:
        """One for the whole batch: an image's result must not depend on its neighbours."""
        return self.sigma * normal(variable.shape[1:], rng, self.shift).to(variable)
