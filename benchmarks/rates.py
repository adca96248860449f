"""A share of independent trials with its Wilson 95 % interval, as the results of the benchmarks keep it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..demo.checker import wilson

RESAMPLED = 2000


def rate(right: int, of: int) -> dict[str, Any]:
    """`right` of `of`: the rate, the interval's ends, and n."""
    low, high = wilson(right, of)
    return {"rate": round(right / of, 5), "low": round(low, 5), "high": round(high, 5), "n": of}


def shared(shares: Sequence[float], /, **more: Any) -> dict[str, Any]:
    """The mean of the units' shares, each in [0,1], with the Wilson interval of as many trials as there are units: what
    belongs to one unit (the seeds of a prompt) is not independent."""
    mean, units = sum(shares) / len(shares), len(shares)
    low, high = wilson(mean * units, units)
    return {"rate": round(mean, 5), "low": round(low, 5), "high": round(high, 5), "n": units, **more}


def clustered(rows: Sequence[Sequence[bool]]) -> dict[str, Any]:
    """`shared`, of the trials of each unit."""
    return shared([sum(row) / len(row) for row in rows], trials=sum(map(len, rows)))


def resampled(shares: Sequence[float], /, **more: Any) -> dict[str, Any]:
    """The mean of the units' shares with a bootstrap 95 % interval over the units: for rates near 0 or 1, where each
    unit has many trials and Wilson's interval of so few units says nothing."""
    values = torch.tensor(shares, dtype=torch.float64)
    low, high = (
        values[bootstrap(len(values))].mean(1).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    )
    return {
        "rate": round(float(values.mean()), 5),
        "low": round(low, 5),
        "high": round(high, 5),
        "n": len(shares),
        **more,
    }


def bootstrap(units: int) -> Tensor:
    """Which of the units are in each sample: RESAMPLED units; the same for all that is compared."""
    return torch.randint(units, (RESAMPLED, units), generator=torch.Generator().manual_seed(0))


def against(found: dict[str, Any], bar: float) -> str:
    """A rate against a bar, in words: bars are held on the interval's lower end (MEASURE)."""
    if found["low"] >= bar:
        return f"held at {percent(found)}"
    if found["rate"] >= bar:
        return f"reached at {percent(found)}, not by the interval's lower end"
    return f"missed at {percent(found)}"


def percent(rate: dict[str, Any]) -> str:
    """A rate and its interval's ends, in percent."""
    return f"{100 * rate['rate']:.0f} ({100 * rate['low']:.0f} to {100 * rate['high']:.0f})"
