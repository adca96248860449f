"""The user's model as what score distillation asks: a clean latent, noise at some level, and what it predicts."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ..chance import same_chance
from .handle import Conditioning, Sampling

HALVINGS = 48  # of the noise levels' range: far below what float32 tells apart


class Predictor:
    """Predicts the clean latent (B C h w, in the model's own space) by the user's guider, without a gradient.

    Everything of the graph counts: guidance, LoRA, ControlNets, areas, patches. One call is one evaluation of the model
    (a pair with guidance).

    Args:
        sampling: what the body of `inside` or `within` got.
        conditioning: in the place of the guider's, by name.
    Attribute: count, of evaluations so far.
    """

    def __init__(self, sampling: Sampling, conditioning: Mapping[str, Conditioning] | None = None) -> None:
        self._sampling, self.count = sampling, 0
        self._conds = None if conditioning is None else sampling.processed(conditioning)

    def __call__(self, z: Tensor, noise: Tensor, ratio: float) -> Tensor:
        """z, noise: B C h w. ratio: of noise to signal; beyond what the model knows, its nearest."""
        sampling = self._sampling
        self.count += 1
        sampling.evaluator.keyframes.start()  # noise levels come in any order here
        with torch.inference_mode(), same_chance(sampling.chance):  # as the host runs it
            sigma = z.new_tensor(self.sigma(ratio))
            mixed = sampling.model_sampling.noise_scaling(sigma, noise.clone(), z)  # EPS writes into the noise
            found = sampling.denoised(mixed, sigma, self._conds)
        return found.to(z.dtype).clone()

    def sigma(self, ratio: float) -> float:
        """The model's own noise level with this ratio of noise to signal."""
        sampling = self._sampling.model_sampling
        low, high = float(sampling.sigma_min), float(sampling.sigma_max)
        for _ in range(HALVINGS):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if self.ratio(middle) < ratio else (low, middle)
        return low

    def ratio(self, sigma: float) -> float:
        """What `noise_scaling` makes of one unit of noise, by what it makes of one of signal: every kind of model."""
        one, nothing = torch.ones(1, 1), torch.zeros(1, 1)
        level = torch.tensor(sigma)
        mix = self._sampling.model_sampling.noise_scaling
        signal = float(mix(level, nothing.clone(), one))
        return float(mix(level, one.clone(), nothing)) / signal if signal > 0 else math.inf
