"""Whether the gradient of a whole sampling is right: against central differences, for every variable of a graph.

The error is the relative L2 distance between two vectors of directional derivatives of <w, result>: the gradient's, and
the central differences' of the host's own computation, along random directions and random ones within a block (one
batch item, channel, region, token). A check along the gradient alone would be blind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .scenes import Graph, Scene, build, by_host

BAR = 0.01  # the issue's
PARITY = 1e-4  # the issue's, float32
WAYS = 16  # random directions
# Of the central differences, relative to the RMS of the variable: chosen once, for all graphs, where rounding (towards
# smaller steps) and curvature (towards larger ones) cost about the same.
STEP = {"noise": 3e-3, "latent": 2e-2, "conditioning": 4e-3, "pooled": 2e-2, "hint": 4e-3, "tokens": 1e-2}
RUNGS = ("kept", "once", "nested")  # positions on the evaluator's ladder

Function = Callable[[Tensor], Tensor]
Method = Callable[[Any, Function, Tensor, Tensor], Tensor]  # handle, function, variable, w -> gradient


@dataclass(frozen=True)
class Variable:
    """What is searched: its value in the graph, and the sampling as a function of it."""

    name: str
    value: Tensor
    function: Function


@dataclass
class Measured:
    """One variable of one scene. Errors by method; a method that raised has its words instead."""

    scene: Scene
    variable: str
    errors: dict[str, float] = field(default_factory=dict)
    blocks: dict[str, float] = field(default_factory=dict)  # of the block directions alone
    refused: dict[str, str] = field(default_factory=dict)
    directions: int = 0
    size: int = 0
    parity: float = 0.0  # largest difference between the differentiable run's latent and the host's

    @property
    def name(self) -> str:
        return f"{self.scene.name}-{self.variable}"


def variables(handle: Any, graph: Graph, scene: Scene) -> list[Variable]:
    """All that can be searched in a graph."""
    finish: Function = (lambda x: x) if handle.decode is None else handle.decode
    found = [Variable("noise", handle.noise, lambda v: finish(handle.sample(noise=v)))]
    if scene.setting == "words":
        return [_tokens(handle, finish)]
    if bool(handle.latent.any()):
        found.append(Variable("latent", handle.latent, lambda v: finish(handle.sample(latent=v))))
    found.append(_conditioning(handle, finish))
    if any("pooled_output" in entry[1] for side in handle.conditioning.values() for entry in side):
        found.append(_pooled(handle, finish))
    if handle.controls:
        hints = [control.cond_hint_original for control in handle.controls]
        found.append(Variable("hint", torch.cat(hints), lambda v: finish(handle.sample(hints=_shared(v, hints)))))
    return found


def _shared(whole: Tensor, like: Sequence[Tensor]) -> dict[int, Tensor]:
    return dict(enumerate(whole.split([len(one) for one in like])))


def _conditioning(handle: Any, finish: Function) -> Variable:
    """The text embeddings of all sides and regions, one after the other."""
    parts = [entry[0] for side in handle.conditioning.values() for entry in side]

    def function(v: Tensor) -> Tensor:
        rows = iter(v.split([len(part) for part in parts]))
        other = {name: [[next(rows), e[1]] for e in side] for name, side in handle.conditioning.items()}
        return finish(handle.sample(conditioning=other))

    return Variable("conditioning", torch.cat(parts), function)


def _pooled(handle: Any, finish: Function) -> Variable:
    parts = [entry[1]["pooled_output"] for side in handle.conditioning.values() for entry in side]

    def function(v: Tensor) -> Tensor:
        rows = iter(v.split([len(part) for part in parts]))
        other = {
            name: [[e[0], {**e[1], "pooled_output": next(rows)}] for e in side]
            for name, side in handle.conditioning.items()
        }
        return finish(handle.sample(conditioning=other))

    return Variable("pooled", torch.cat(parts), function)


def _tokens(handle: Any, finish: Function) -> Variable:
    """The embeddings of two tokens in every text encoder: n D."""
    base = handle.encoder.tokens("a photo of a cat")
    places = [(key, position) for key in sorted(base) for position in (2, 5)]
    value = torch.stack([handle.encoder.table(key)[base[key][0][at][0]].float() for key, at in places])

    def function(v: Tensor) -> Tensor:
        tokens = handle.encoder.tokens("a photo of a cat")
        for (key, at), vector in zip(places, v, strict=True):
            tokens[key][0][at] = (vector, *tokens[key][0][at][1:])
        return finish(handle.sample(conditioning={"positive": handle.encoder(tokens)}))

    return Variable("tokens", value, function)


def directions(value: Tensor, random: int) -> tuple[list[Tensor], int]:
    """`random` of the whole variable, then some within a block, all of one norm; and how many of them are blocks."""
    half, quarter = slice(0, value.shape[-1] // 2), slice(0, max(1, value.shape[-1] // 4))
    blocks: list[Any] = [(slice(-1, None),)]  # a batch item, a side, a token
    if value.ndim >= 4:
        lower = slice(value.shape[-2] // 2, None)
        blocks += [(slice(None), slice(1, 2)), (..., half, half), (..., lower, slice(value.shape[-1] // 2, None))]
    if value.ndim == 5:
        blocks.append((slice(None), slice(None), slice(0, 1)))  # a frame
    if value.ndim == 3:
        blocks += [(slice(None), slice(2, 3)), (slice(0, 1), slice(0, 1)), (..., slice(3, 4))]  # tokens, a feature
    if value.ndim == 2:
        blocks += [(slice(0, 1),), (..., quarter)]
    rng = torch.Generator().manual_seed(11)
    found = [torch.randn(value.shape, generator=rng) for _ in range(random)]
    for block in blocks:
        one = torch.zeros(value.shape)
        one[block] = torch.randn(one[block].shape, generator=rng)
        found.append(one)
    return [d * (d.numel() ** 0.5 / d.norm()) for d in found], len(blocks)


def weight(like: Tensor) -> Tensor:
    """w of the objective <w, result>."""
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(3))


def differences(variable: Variable, along: Sequence[Tensor], step: float) -> Tensor:
    """Central differences of <w, result>, added up in float64."""
    value = variable.value.detach().float()
    size = step * float(value.double().square().mean().sqrt())
    with torch.no_grad():
        w = weight(variable.function(value)).double()
        moved = [variable.function(value + size * d).double() - variable.function(value - size * d) for d in along]
    return torch.stack([(w * change).sum() for change in moved]) / (2 * size)


def gradient(handle: Any, function: Function, value: Tensor, w: Tensor) -> Tensor:
    """By the way that is measured."""
    leaf = value.detach().clone().requires_grad_(True)
    (found,) = torch.autograd.grad((function(leaf) * w).sum(), leaf)
    return found


def rung(position: int) -> Method:
    def method(handle: Any, function: Function, value: Tensor, w: Tensor) -> Tensor:
        handle.evaluator.ladder.start(position)
        return gradient(handle, function, value, w)

    return method


def ours(handle: Any) -> dict[str, Method]:
    """By how much of the graph is kept. Where hooks swap the weights, keeping everything is never chosen."""
    first = 1 if handle.evaluator.guard.always else 0
    return {name: rung(position) for position, name in enumerate(RUNGS) if position >= first}


def measure(
    scene: Scene,
    *,
    random: int = WAYS,
    only: Sequence[str] | None = None,
    methods: Callable[[Any], dict[str, Method]] = ours,
    steps: int | None = None,
    sampler: str = "euler",
) -> list[Measured]:
    """Every variable of a scene (or `only` some), by every method."""
    from ...host.sampling.inside import inside

    graph = build(scene, sampler, steps)
    theirs = by_host(graph).clone()

    def body(handle: Any) -> list[Measured]:
        handle.evaluator.ladder.start(1)
        noise = handle.noise.clone().requires_grad_(True)
        parity = float((handle.sample(noise=noise).detach() - theirs).abs().max())
        chosen = [v for v in variables(handle, graph, scene) if only is None or v.name in only]
        return [_measure(handle, scene, v, random, methods(handle), parity) for v in chosen]

    return inside(
        graph.guider, graph.noise, graph.sampler, graph.sigmas, graph.latent, body, vae=graph.vae, clip=graph.clip
    )


def _measure(
    handle: Any, scene: Scene, variable: Variable, random: int, methods: dict[str, Method], parity: float
) -> Measured:
    along, blocks = directions(variable.value, random)
    measured = differences(variable, along, STEP[variable.name])
    with torch.no_grad():
        w = weight(variable.function(variable.value.float()))
    found = Measured(scene, variable.name, directions=len(along), size=variable.value.numel(), parity=parity)
    for name, method in methods.items():
        try:
            given = method(handle, variable.function, variable.value.float(), w)
        except Exception as error:  # noqa: BLE001 (a rival's words are the result)
            found.refused[name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            continue
        claimed = torch.stack([(given.double() * d.double()).sum() for d in along])
        found.errors[name] = distance(claimed, measured)
        found.blocks[name] = distance(claimed[-blocks:], measured[-blocks:])
    return found


def distance(claimed: Tensor, measured: Tensor) -> float:
    return float((claimed - measured).norm() / measured.norm().clamp_min(1e-30))
