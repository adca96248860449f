"""A share of independent trials with its Wilson 95 % interval, as the results of the benchmarks keep it."""

from __future__ import annotations

from typing import Any

from ..demo.checker import wilson


def rate(right: int, of: int) -> dict[str, Any]:
    """`right` of `of`: the rate, the interval's ends, and n."""
    low, high = wilson(right, of)
    return {"rate": round(right / of, 5), "low": round(low, 5), "high": round(high, 5), "n": of}


def percent(rate: dict[str, Any]) -> str:
    """A rate and its interval's ends, in percent."""
    return f"{100 * rate['rate']:.0f} ({100 * rate['low']:.0f} to {100 * rate['high']:.0f})"
