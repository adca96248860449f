"""Initial noise as the host passes it around: a NOISE that was found, and the way into a LATENT and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..core.errors import ProvokeError

Latent = dict[str, Any]


class FoundNoise:
    """A NOISE that gives what it holds.

    Args:
        noise: B C h w or B C T h w, as the sampler is to get it (standard normal units).
        seed: of the noise that a stochastic sampler draws on its way.
        numbers: by which number (`batch_index`) each row goes in a LATENT that has such; 0, 1, ... if not given.
            Several rows of one number go to a LATENT of the very same numbers only.
    """

    def __init__(self, noise: Tensor, seed: int, numbers: list[int] | None = None) -> None:
        self.seed = seed
        self._noise = noise.detach().to("cpu", torch.float32).clone()
        self._numbers = list(numbers or range(len(noise)))

    def generate_noise(self, latent: Latent) -> Tensor:
        """The noise for a latent of exactly its shape, on the CPU; by `batch_index` for some of a batch.

        Raises: ProvokeError for another shape, or a number that it has no noise for, or several.
        """
        samples, numbers = latent["samples"], latent.get("batch_index")
        noise = self._noise
        if numbers is not None and list(numbers) != self._numbers:
            strange = [number for number in numbers if number not in self._numbers]
            if strange:
                raise ProvokeError(
                    f"The latent is number {strange[0]} of a batch (batch_index), and the noise has none for it",
                    "one of: " + ", ".join(str(number) for number in list(dict.fromkeys(self._numbers))[:12]),
                    "take the latent from the batch that the noise was found for",
                )
            several = [number for number in numbers if self._numbers.count(number) > 1]
            if several:
                raise ProvokeError(
                    f"The noise has {self._numbers.count(several[0])} rows for number {several[0]} of a batch "
                    "(batch_index): which one is meant is open",
                    "a latent with the noise's own numbers: " + ", ".join(map(str, self._numbers[:12])),
                    "connect the latent that came with the noise, or keep one noise for each latent",
                )
            noise = noise[[self._numbers.index(number) for number in numbers]]
        if noise.shape != samples.shape:
            raise ProvokeError(
                f"The noise is {tuple(noise.shape)} and the latent {tuple(samples.shape)}",
                "a latent of the noise's own shape: it was found for that size and batch",
                "make the latent as large as the one that the noise was found for, with the same batch size",
            )
        return noise.clone()


def found_for(latent: Latent, noise: Tensor, seed: int) -> FoundNoise:
    """Noises that were found for a LATENT of B (B * keep, image-major), numbered as their results are."""
    numbers, batch = latent.get("batch_index"), len(latent["samples"])
    if numbers is None or len(numbers) != batch:
        return FoundNoise(noise, seed)
    return FoundNoise(noise, seed, [number for number in numbers for _ in range(len(noise) // batch)])


def noise_for(noise: Any, latent: Latent) -> Tensor:
    """What a NOISE gives for a LATENT, checked: finite, of the latent's shape; on the CPU, float32.

    Raises: ProvokeError.
    """
    drawn = noise.generate_noise(latent)
    if not isinstance(drawn, Tensor) or drawn.shape != latent["samples"].shape:
        came = tuple(drawn.shape) if isinstance(drawn, Tensor) else type(drawn).__name__
        raise ProvokeError(
            f"The NOISE gives {came} for a latent of {tuple(latent['samples'].shape)}",
            "noise of the latent's shape",
            "connect a NOISE for this kind of latent",
        )
    return drawn.detach().to("cpu", torch.float32)


def refuse_constant(noise: Any, latent: Latent) -> None:
    """Raises ProvokeError for a NOISE that is the same everywhere for this latent: a search has nothing to turn."""
    drawn = noise_for(noise, latent)
    if bool((drawn.flatten(1) == drawn.flatten(1)[:, :1]).all()):
        raise ProvokeError(
            "The noise to start from is constant (disabled)",
            "Gaussian noise",
            "connect a NOISE that draws some: RandomNoise",
        )


def noise_of_latent(latent: Latent, seed: int) -> FoundNoise:
    """A LATENT (from Load Latent, say) as the NOISE that it holds.

    Raises: ProvokeError for what is no noise: another kind of tensor, not finite, all equal.
    """
    samples = latent["samples"]
    nested = bool(getattr(samples, "is_nested", False))
    if nested or samples.ndim not in (4, 5) or not samples.numel():
        raise ProvokeError(
            "The latent is a nest of several" if nested else f"The latent is {tuple(samples.shape)}",
            "B C h w, or B C T h w",
            "connect the latent of a noise, from Load Latent or Latent from Noise",
        )
    if not samples.is_floating_point() or not bool(samples.isfinite().all()):
        raise ProvokeError("The latent holds NaN or infinite values", "finite numbers", "load another file")
    if bool((samples == samples.flatten()[0]).all()):
        raise ProvokeError(
            "The latent is the same number everywhere: an empty latent is no noise",
            "the latent of a noise, from Load Latent or Latent from Noise",
            "connect such a one; for a noise by its seed use RandomNoise",
        )
    return FoundNoise(samples, seed, latent.get("batch_index"))
