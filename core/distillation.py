"""Score distillation for any prediction type: which way a diffusion model would change a clean latent.

    ratio = draw(low, high)                        # noise to signal, uniform in its logarithm (so in log-SNR)
    noisy = z and noise, mixed at that ratio
    pull  = w(ratio) * (D(noisy) - z)              # D: the prediction of the clean latent

Whether a model predicts the noise, v or the flow's velocity, its prediction of the clean latent says the same; the
published weights are other choices of w (below). Sources: SDS (arXiv 2209.14988), DDS (arXiv 2304.07090); the form in
terms of the clean latent is ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .errors import ProvokeError

# z B ..., noise B ..., ratio of noise to signal -> the predicted clean latent, B ..., without a graph
Predict = Callable[[Tensor, Tensor, float], Tensor]

WEIGHTS: dict[str, Callable[[float], float]] = {
    "picture": lambda ratio: 1.0,
    "velocity": lambda ratio: (1 + ratio) / ratio,
    "noise": lambda ratio: 1 / ratio,
    "noise, by its variance": lambda ratio: ratio / (1 + ratio * ratio),
}
"""w by the ratio r = sigma / alpha. picture: the prediction's own distance. velocity: v_hat - v of a flow, whose time
is r / (1 + r). noise: eps_hat - eps. The last is DreamFusion's w(t) = sigma_t^2 on that: s^2 / r with s^2 = r^2 / (1 +
r^2)."""


def share_to_ratio(share: float) -> float:
    """A share of noise (of what is mixed, 0 to 1: a flow's own time) as a ratio of noise to signal."""
    if not 0 < share < 1:
        raise ProvokeError(f"A noise level of {share:g}", "above 0 and below 1", "change the noise levels of SDS")
    return share / (1 - share)


def drawn_ratio(low: float, high: float, rng: torch.Generator) -> float:
    """Uniform in log-SNR between two ratios of noise to signal."""
    return math.exp(math.log(low) + (math.log(high) - math.log(low)) * float(torch.rand((), generator=rng)))


class Distillation:
    """The pull of a diffusion model on clean latents. Call it with (z, progress in [0, 1], rng).

    Args:
        predict: the model with its prompt and guidance.
        low, high: ratios of noise to signal to draw from; `high` falls to `high_end` over the run (annealing), evenly
            in its logarithm.
        weight: a name in WEIGHTS.
        reference: B ..., and what the model predicts for it under the words that describe it: Delta Denoising. What
            the model would change in the reference anyway is subtracted, so that only the edit pulls.
    """

    def __init__(
        self,
        predict: Predict,
        *,
        low: float,
        high: float,
        high_end: float | None = None,
        weight: str = "picture",
        reference: tuple[Tensor, Predict] | None = None,
    ) -> None:
        end = high if high_end is None else high_end
        if not 0 < low <= min(high, end):
            raise ProvokeError(
                f"SDS draws noise levels from {low:g} up to {high:g}, in the end {end:g} (noise to signal)",
                "a low end below the high ends",
                "lower the low end, or raise the high ones",
            )
        self.predict, self.low, self.high, self.end, self.reference = predict, low, high, end, reference
        self.weight = WEIGHTS[weight]

    def range_at(self, progress: float) -> tuple[float, float]:
        """Low and high ratio at this share of the run."""
        return self.low, math.exp((1 - progress) * math.log(self.high) + progress * math.log(self.end))

    @torch.no_grad()
    def __call__(self, z: Tensor, progress: float, rng: torch.Generator) -> Tensor:
        """Which way the model would go, like z: minus the gradient of w / 2 |z - x0_hat|^2 with x0_hat held."""
        ratio = drawn_ratio(*self.range_at(progress), rng)
        # one draw for the batch: an image's result does not depend on its neighbours
        noise = torch.randn(z.shape[1:], generator=rng).to(z).expand_as(z)
        pull = self.predict(z, noise, ratio) - z
        if self.reference is not None:
            start, describe = self.reference
            pull = pull - (describe(start, noise, ratio) - start)
        return self.weight(ratio) * pull
