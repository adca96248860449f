"""The Wan VAEs frame by frame: one checkpoint for every step of their own loop, the feature cache as its input."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .checkpoint import Around, checkpoint

KEPT = "kept"  # stands for a tensor in the pattern of a cache; the host's own marks are None and "Rep"


def is_by_frames(module: nn.Module) -> bool:
    """Whether `decode_by_frames` knows this VAE: comfy.ldm.wan.vae.WanVAE (2.1) or comfy.ldm.wan.vae2_2.WanVAE."""
    return _kind(module) is not None


def _kind(module: nn.Module) -> str | None:
    for name in ("vae", "vae2_2"):
        known = getattr(sys.modules.get(f"comfy.ldm.wan.{name}"), "WanVAE", None)
        if known is not None and type(module) is known:
            return name
    return None


def decode_by_frames(module: Any, latent: Tensor, around: Around, half: bool) -> Tensor:
    """`WanVAE.decode`, of which only what goes from one step to the next is kept for the backward.

    Args:
        module: a VAE that `is_by_frames` knows.
        latent: B C T h w, in the VAE's type. T = 1 is one step and gains nothing.
        around, half: as `checkpoint` takes them.

    Returns: B 3 T' H W, before `process_output`.
    """
    newer = _kind(module) == "vae2_2"
    frames = module.conv2(latent)
    # WanVAE.decode: the first frame alone, then pairs (2.1) or single frames (2.2)
    length, size = latent.shape[2], 1 if newer else 2
    starts = [0, *range(1, length, size)]
    count = sum(type(m).__name__ == "CausalConv3d" for m in module.decoder.modules())
    cache: list[Any] = [None] * count
    if not newer and length == 1:
        cache = []  # 2.1 decodes a single picture without one
    pieces = []
    for start in starts:
        stop = 1 if start == 0 else min(start + size, length)
        options = {"first_chunk": start == 0} if newer else {}
        pixels, cache = _step(module.decoder, frames[:, :, start:stop], cache, options, stop == length, around, half)
        pieces.append(pixels)
    out = torch.cat(pieces, 2)
    return sys.modules["comfy.ldm.wan.vae2_2"].unpatchify(out, patch_size=2) if newer else out  # type: ignore[attr-defined]


def _step(
    decoder: Any, frame: Tensor, cache: list[Any], options: dict[str, Any], last: bool, around: Around, half: bool
) -> tuple[Tensor, list[Any]]:
    """The pixels of one step and the cache after it. The decoder rewrites the list that it is given."""
    before = [KEPT if isinstance(entry, Tensor) else entry for entry in cache]
    after: list[Any] = []

    def function(frame: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        given = _filled(before, tensors)
        pixels = decoder(frame, feat_cache=given or None, feat_idx=[0], **options)
        if isinstance(pixels, list):  # 2.1 gives what its levels in time have been cut into
            pixels = torch.cat(pixels, 2)
        if last:
            return (pixels,)
        after[:] = [KEPT if isinstance(entry, Tensor) else entry for entry in given]
        return (pixels, *[entry for entry in given if isinstance(entry, Tensor)])

    tensors = [entry for entry in cache if isinstance(entry, Tensor)]
    pixels, *kept = checkpoint(function, frame, *tensors, around=around, half=half)
    return pixels, _filled(after, kept)


def _filled(pattern: list[Any], tensors: Any) -> list[Any]:
    rest = iter(tensors)
    return [next(rest) if entry is KEPT else entry for entry in pattern]


# where a decoder that goes step by step detaches what a step sees of the one before it, and the switch that makes it go
# in one: the same function. TAEHV: `apply_model_with_memblocks`; SeedVR2: the memory cache of its causal convolutions.
_SWITCHES = {
    "comfy.taesd.taehv.TAEHV": ("parallel", True),
    "comfy.ldm.seedvr.vae.VideoAutoencoderKLWrapper": ("use_slicing", False),
}


@contextmanager
def uncut(module: Any) -> Iterator[None]:
    """Within, where a graph is recorded: decoders whose steps are cut from each other decode all frames at once."""
    name, value = _SWITCHES.get(f"{type(module).__module__}.{type(module).__qualname__}", ("", None))
    if not torch.is_grad_enabled() or not hasattr(module, name):
        yield
        return
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)
