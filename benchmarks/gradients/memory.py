"""What stays alive between the forward and the backward of a run, in bytes, by PyTorch's hooks on saved tensors.

They also see what an autograd.Function of ours saves. Weights are not counted; one storage is counted once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from . import rivals
from .scenes import Scene, build

FAMILIES = ("sd15", "sdxl", "flux", "wan")
STEPS = (1, 10, 50)
TOKENS = 77  # of a prompt, as CLIP gives: what is kept besides latents is mostly this
BAR = 1.1  # the issue's: 50 steps against 1, latents apart
WAYS = ("once", "nested", "unroll")


@dataclass
class Kept:
    """Bytes of tensors saved for the backward; `latents` are those of a latent's size: each step's x, and the mask."""

    rest: int = 0
    latents: int = 0
    _held: list[Tensor] = field(default_factory=list, repr=False)  # so that no address is used twice


@dataclass(frozen=True)
class Memory:
    scene: Scene
    way: str
    steps: int
    rest: int
    latents: int
    latent: int  # bytes of one latent
    evaluation: int  # bytes of one evaluation's whole graph: what the backward holds for a moment, one at a time

    @property
    def name(self) -> str:
        return f"{self.scene.name}-{self.way}-{self.steps}"


@contextmanager
def counted(weights: Any, latent: int) -> Iterator[Kept]:
    """Counts what is saved within. latent: bytes of one."""
    seen = {t.untyped_storage().data_ptr() for t in (*weights.parameters(), *weights.buffers())}
    kept = Kept()

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            kept._held.append(tensor.detach())
            if storage.nbytes() == latent:
                kept.latents += storage.nbytes()
            else:
                kept.rest += storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept
    kept._held.clear()


def measure(scene: Scene, steps: int, ways: tuple[str, ...] = WAYS) -> list[Memory]:
    """A scene's run with so many steps, with gradients by noise and conditioning."""
    from ...host.sampling.inside import inside

    graph = build(scene, "euler", steps, tokens=TOKENS)

    def body(handle: Any) -> list[Memory]:
        model, size = handle.evaluator.inner_model, handle.noise.numel() * handle.noise.element_size()
        x, sigma = handle.noise.clone().requires_grad_(True), handle.sigmas[0]
        with rivals.in_place_of_ours(handle, rivals.plainly), counted(model, size) as one:
            out = handle.denoised(x, sigma)
        found = []
        del out
        for way in ways:
            found.append(Memory(scene, way, steps, *_between(handle, model, size, way), size, one.rest + one.latents))
        return found

    return inside(
        graph.guider, graph.noise, graph.sampler, graph.sigmas, graph.latent, body, vae=graph.vae, check=steps < 2
    )


def _between(handle: Any, model: Any, size: int, way: str) -> tuple[int, int]:
    noise = handle.noise.detach().clone().requires_grad_(True)
    entry = handle.conditioning["positive"][0]
    text = entry[0].detach().clone().requires_grad_(True)

    def run() -> Tensor:
        return handle.sample(noise=noise, conditioning={"positive": [[text, entry[1]]]})

    if way == "unroll":
        with rivals.in_place_of_ours(handle, rivals.plainly), counted(model, size) as kept:
            out = run()
    else:
        handle.evaluator.ladder.start({"once": 1, "nested": 2}[way])
        with counted(model, size) as kept:
            out = run()
    del out
    return kept.rest, kept.latents
