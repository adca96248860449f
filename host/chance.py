"""The global random generators that a model may draw from: as they are, put back, or made the same again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

Chance = dict[torch.device, Tensor]
CPU = torch.device("cpu")


def chance(devices: Iterable[torch.device]) -> Chance:
    """The states of the generators of these devices and of the CPU; nothing for a device without (meta, DirectML)."""
    return {device: _state(device) for device in {CPU, *devices} if hasattr(_module(device), "get_rng_state")}


def seeded(devices: Iterable[torch.device], seed: int = 0) -> Chance:
    """The states that a seed gives. (Not torch.manual_seed: it touches devices that are none of our business.)"""
    return {device: torch.Generator(device).manual_seed(seed).get_state() for device in chance(devices)}


def drawn_since(before: Chance) -> Chance:
    """Those states that are not what they were."""
    return {device: state for device, state in before.items() if not torch.equal(state, _state(device))}


def put(states: Chance) -> None:
    """Sets the generators."""
    for device, state in states.items():
        _module(device).set_rng_state(*([state, device] if device.type in ("cuda", "xpu") else [state]))


class same_chance:
    """Within: the generators are in these states; afterwards, as if nothing had been drawn."""

    def __init__(self, states: Chance) -> None:
        self._states = states

    def __enter__(self) -> None:
        self._outside = chance(self._states)
        put(self._states)

    def __exit__(self, *error: object) -> None:
        put(self._outside)


def _module(device: torch.device) -> Any:
    return torch if device.type == "cpu" else getattr(torch, device.type, None)


def _state(device: torch.device) -> Tensor:
    module = _module(device)
    return module.get_rng_state(device) if device.type in ("cuda", "xpu") else module.get_rng_state()
