"""Random weights for models whose classes leave them unset (comfy.ops.disable_weight_init)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

CARRIED = slice(0, 8)  # channels of a noise predictor's first skip connection that hold its input, see tiny.py


def _drawn(name: str, like: Tensor, rng: torch.Generator) -> Tensor:
    """One parameter, float32. Fan-in scaled where it multiplies; around 1 for norms; small for biases."""
    noise = torch.randn(like.shape, generator=rng)
    if like.ndim >= 2 and like[0].numel() > 1:
        return noise * like[0].numel() ** -0.5
    if name.endswith(("weight", "scale", "gamma")):
        return 1 + 0.1 * noise
    return 0.1 * noise


def fill(module: nn.Module, *, seed: int = 0, scaled: Mapping[str, float] | None = None) -> nn.Module:
    """Give every parameter and floating buffer of a module a reproducible value, drawn in float32, cast to its type.

    scaled: factors for parameters by name. Raises KeyError for a name that the module does not have.
    Buffers too: MMDiT.pos_embed is unset memory. Gradients are switched off, as the host's loaders leave them.
    """
    rng = torch.Generator().manual_seed(seed)
    left = dict(scaled or {})
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(_drawn(name, parameter, rng) * left.pop(name, 1.0))
        for _, buffer in module.named_buffers():
            if buffer.is_floating_point():
                buffer.copy_(0.1 * torch.randn(buffer.shape, generator=rng))
    if left:
        raise KeyError(f"{type(module).__name__} has no parameters {sorted(left)}")
    module.requires_grad_(False)
    return module


def write(weight: Tensor, at: Any, values: Tensor | float) -> None:
    """weight[at] = values, in float32: not every storage type can be indexed."""
    wide = weight.float()
    wide[at] = values
    weight.copy_(wide)
