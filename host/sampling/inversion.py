"""A SAMPLER of the host that does not sample: it moves the latent itself, by whatever body it is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import comfy.samplers
import torch
from torch import Tensor

from ...core.errors import ProvokeError
from ..judges import Held, room
from ..progress import check_cancelled
from .distillation import Predictor
from .handle import Sampling
from .inside import within


class Shown:
    """What a body reports its steps to, and where its noise levels come from.

    ratios: of noise to signal that SIGMAS name: the lowest, the highest, and the highest at the end of the run.
    """

    def __init__(self, callback: Any, ratios: tuple[float, float, float]) -> None:
        self._callback, self.ratios = callback, ratios

    def __call__(self, step: int, picture: Tensor, x: Tensor, total: int) -> None:
        """To the host: its progress bar, its preview, its `denoised_output`. Raises on cancel."""
        check_cancelled()
        if self._callback is not None:
            self._callback(step, picture.detach(), x.detach(), total)


Body = Callable[[Sampling, Shown], Tensor]


class InversionSampler(comfy.samplers.Sampler):  # type: ignore[misc]
    """A SAMPLER for SamplerCustomAdvanced whose guider's model is asked, and whose latent is moved.

    Args:
        body: the opened sampling and what to report to -> the latent, B C h w in the model's own space.
        vae: from a VAE socket. judges: what the body asks, one copy of the batch at a time.
        still: whether there is nothing to do: the latent goes out as it came in.
    """

    def __init__(self, body: Body, vae: Any, judges: Sequence[Held], *, still: bool = False) -> None:
        self._body, self._vae, self._judges, self._still = body, vae, judges, still

    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        """As the host calls it. Raises ProvokeError for SIGMAS without a level, and where there is nothing to begin
        from."""
        latent = torch.zeros_like(noise) if latent_image is None else latent_image
        if self._still:
            return latent
        if not bool(latent.any()) and not bool(noise.any()):
            raise ProvokeError(
                "The latent is empty and the noise is disabled, so there is nothing to begin from",
                "a picture in the latent, or a noise",
                "connect RandomNoise, or a picture's latent",
            )

        def body(sampling: Sampling) -> Tensor:
            show = Shown(callback, ratios_of(sampling))
            found = self._body(sampling, show)
            if callback is not None:
                last = max(1, len(sigmas) - 1)
                callback(last - 1, found, found, last)  # what the host gives out as its last prediction
            return found

        return within(
            model_wrap, sigmas, extra_args, noise, latent, denoise_mask, body, vae=self._vae,
            also=[patcher for held in self._judges for patcher in held.patchers],
            beside=room(self._judges, len(latent)),
        )  # fmt: skip


def ratios_of(sampling: Sampling) -> tuple[float, float, float]:
    """The noise levels that SIGMAS name, as ratios of noise to signal: the lowest above 0, the highest, and the highest
    at the end, which is their middle (the median). Raises ProvokeError where none is above 0."""
    levels = sorted(float(sigma) for sigma in sampling.sigmas if float(sigma) > 0)
    if not levels:
        raise ProvokeError(
            "No noise level of SIGMAS is above 0", "the range that the model is to be asked in", "connect a scheduler"
        )
    predictor = Predictor(sampling)
    top = float(sampling.model_sampling.sigma_max)
    # at a flow's last level nothing is left of the signal: just below it a ratio is still a number
    low, middle, high = (
        predictor.ratio(min(level, top * (1 - 1e-3))) for level in (levels[0], levels[len(levels) // 2], levels[-1])
    )
    return low, high, middle
