"""Whether the approximate routes give what they say: the derivative of the run with its early predictions frozen.

So they are compared with central differences of just that: a run whose early evaluations are played back from the
unperturbed one. `OneStep` has a result of its own and is compared with its differences.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .cases import STEP, Variable, differences, directions, distance, gradient, weight
from .scenes import Scene, build

FAMILIES = ("sd15", "sd3")
SAMPLERS = ("euler", "heun", "dpmpp_2m")
STEPS = 4
RANDOM = 8


@dataclass(frozen=True)
class Shortcut:
    """`cosine`: of its gradient with the exact one, for the reader; the null is 1 / sqrt(size)."""

    family: str
    sampler: str
    route: str
    variable: str
    error: float
    cosine: float
    size: int


def routes() -> dict[str, Any]:
    from ...host.sampling.routes import LastSteps, OneStep, Residual

    return {
        "residual, last 2": Residual(2), "residual, last 2, half": Residual(2, weight=0.5), "last 2": LastSteps(2),
        "one step": OneStep(0), "one step, the third": OneStep(2),
    }  # fmt: skip


def measure(family: str, sampler: str, *, random: int = RANDOM) -> list[Shortcut]:
    from ...host.sampling.inside import inside

    graph = build(Scene(family), sampler, STEPS)

    def body(handle: Any) -> list[Shortcut]:
        handle.evaluator.ladder.start(1)
        found = []
        for name, route in routes().items():
            for variable, function in _functions(handle, route).items():
                value = handle.noise if variable == "noise" else handle.conditioning["positive"][0][0]
                if _is_cut(variable, name):
                    continue
                along, _ = directions(value, random)
                w = weight(handle.noise)
                given = gradient(handle, function, value, w)
                whole = gradient(handle, _functions(handle, None)[variable], value, w)
                with _Frozen(handle) as frozen:
                    still = Variable(variable, value, frozen.again(function))
                    if variable == "noise" and name.endswith("half"):
                        still = Variable(variable, value, frozen.again(_half(function, value)))
                    measured = differences(still, along, STEP[variable])
                claimed = torch.stack([(given.double() * d.double()).sum() for d in along])
                cosine = torch.nn.functional.cosine_similarity(given.flatten(), whole.flatten(), 0)
                error = distance(claimed, measured)
                found.append(Shortcut(family, sampler, name, variable, error, float(cosine), value.numel()))
        return found

    return inside(graph.guider, graph.noise, graph.sampler, graph.sigmas, graph.latent, body)


def _is_cut(variable: str, route: str) -> bool:
    """The noise has no gradient by `LastSteps`."""
    return variable == "noise" and route.startswith("last")


def _half(function: Callable[[Tensor], Tensor], value: Tensor) -> Callable[[Tensor], Tensor]:
    """Of the connection from the start, this share carries a gradient."""
    return lambda v: function(value + 0.5 * (v - value))


def _functions(handle: Any, route: Any) -> dict[str, Callable[[Tensor], Tensor]]:
    more = {} if route is None else {"route": route}
    rest = handle.conditioning["positive"][0][1]
    return {
        "noise": lambda v: handle.sample(noise=v, **more),
        "conditioning": lambda v: handle.sample(conditioning={"positive": [[v, rest]]}, **more),
    }


class _Frozen:
    """Within: evaluations that a route takes as constant give what they gave in the first run."""

    def __init__(self, handle: Any) -> None:
        from ...host.sampling.evaluations import Evaluator

        class Player(Evaluator):
            number = 0
            tape: dict[int, Tensor]

            def __call__(self, x: Tensor, timestep: Tensor, *args: Any, **kwargs: Any) -> Tensor:
                self.number += 1
                if not self.constant(timestep):
                    return super().__call__(x, timestep, *args, **kwargs)
                if self.number not in self.tape:
                    self.tape[self.number] = super().__call__(x, timestep, *args, **kwargs)
                return self.tape[self.number]

        self._handle, self._mine = handle, handle.evaluator
        self._player = Player(self._mine.guider, self._mine.ladder)
        self._player.tape = {}

    def again(self, function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """The function, whose first call must be with the unperturbed value, as that of `differences` is."""

        def played(v: Tensor) -> Tensor:
            self._player.number = 0
            return function(v)

        return played

    def __enter__(self) -> _Frozen:
        self._handle.evaluator = self._player
        return self

    def __exit__(self, *error: object) -> None:
        self._handle.evaluator = self._mine
