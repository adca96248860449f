"""The run that both forms of the VLM inversion share.

generator: the VAE's decoder. variable: the clean latent, in the model's own space. objective: the VLM's losses, over
augmented copies. budget: none but a mask. step rule: plain ascent with noise and an average to restart from; beside the
VLM's gradient goes the model's own pull. Source: arXiv 2402.16305.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.batches import side_by_side
from ..core.distillation import Distillation, share_to_ratio
from ..core.inversion import Anywhere, Ascent, Averaged, HardExamples, Pulled, warmed
from ..core.problem import Differentiable
from ..core.search import Selection, Step, search, select
from ..host.judges import passed
from ..host.sampling.distillation import Predictor
from ..host.sampling.handle import Conditioning, Sampling
from .objective import Situation
from .sampler_search import decoded
from .vlm_inversion_settings import InversionSettings

SEEDS = (11, 12)  # of the copies that the selector judges by
REST = 2.0  # seconds between two previews: each decodes the average once more


@dataclass(frozen=True)
class Moment:
    """What a driver sees at each step. average: of the latents, B C h w in the model's space; picture: of it, 1 H W C,
    decoded when asked for, and not too often."""

    step: Step
    average: Tensor
    picture: Callable[[], Tensor | None]


Drive = Callable[[Iterator[Moment], int], Moment]


@dataclass(frozen=True)
class Inverted:
    """What a run leaves. selection: the best of the last latent and the average, detached. step: the last. losses:
    minus the score of every step. decodes, looks: pictures decoded and shown to the VLM, a latent. previews: decoded to
    be seen on the way. evaluations: of the model."""

    selection: Selection
    step: Step
    losses: list[float]
    decodes: int
    previews: int
    looks: int
    evaluations: int

    @property
    def cost(self) -> str:
        """For reports."""
        shown = f" and {self.previews} for the preview" if self.previews else ""
        return (
            f"{self.decodes} decodes{shown}, {self.looks} looks of the VLM a latent (with their gradients but for the "
            f"selection's), {self.evaluations} evaluations of the model without one"
        )


def inverted(
    sampling: Sampling,
    s: InversionSettings,
    drive: Drive,
    should_stop: Callable[[], bool],
    source: Conditioning | None = None,
    ratios: tuple[float, float, float] | None = None,
) -> Inverted:
    """Searches, within an opened sampling.

    Args:
        source: what describes the picture in the LATENT: then its edit alone pulls (DDS).
        ratios: of noise to signal for SDS: low, high, and high at the end; the widgets' if not given.
    """
    rng = torch.Generator().manual_seed(s.search_seed % 2**63)
    start = started(sampling)
    budget = Anywhere(start, mask=sampling.mask)
    predictors = [Predictor(sampling)] if s.sds > 0 else []
    with passed(s.vlm):
        decodes, previews = _Decodes(sampling), _Decodes(sampling)
        generator = Differentiable(decodes)
        problem = HardExamples(
            generator,
            s.parts.build(Situation()),
            augment=s.augmentation,
            copies=s.looks,
            hardest=s.hardest,
        )
        pulled = Pulled(
            problem,
            pull_of(sampling, s, predictors, start, source, ratios),
            steps=s.steps,
            alone=s.alone,
            weight=s.sds,
            balance=s.balance,
            balanced=s.norms == "balanced",
            free=budget.free,
        )
        rule = Averaged(
            Ascent(s.step_size, schedule=warmed(s.warm_up, s.last_step)),
            decay=s.ema_decay,
            restarts=s.restarts,
            noise=s.update_noise,
            rng=rng,
        )
        losses: list[float] = []

        def moments() -> Iterator[Moment]:
            shown = [time.monotonic() - REST]
            for step in search(
                pulled,
                budget,
                rule,
                start=start,
                steps=s.steps,
                rng=rng,
                time_limit=s.time_limit or None,
                should_stop=should_stop,
            ):
                losses.append(-float(step["score"].mean()))
                average = step["variable"] if rule.average is None else rule.average
                yield Moment(step, average, _Picture(previews, average, shown))

        last = drive(moments(), s.steps + 1)
        candidates = {"the last latent": last.step["variable"], "the average": last.average}
        selection = select(problem, budget, candidates, seeds=SEEDS)
    return Inverted(
        selection,
        last.step,
        losses,
        decodes.count,
        previews.count,
        problem.looks,
        sum(predictor.count for predictor in predictors),
    )


def started(sampling: Sampling) -> Tensor:
    """Where to begin: the latent, or the noise where it is empty. B C h w, in the model's space. What a mask keeps is
    the latent in any case, as in the host's own samplers."""
    latent, mask = sampling.model_latent, sampling.mask
    if bool(latent.any()):
        return latent
    return sampling.noise if mask is None else torch.where(mask != 0, sampling.noise, latent)


def pull_of(
    sampling: Sampling,
    s: InversionSettings,
    predictors: list[Predictor],
    start: Tensor,
    source: Conditioning | None,
    ratios: tuple[float, float, float] | None,
) -> Distillation | None:
    """The model's pull. None where it has no weight."""
    if not predictors:
        return None
    reference = None
    if source is not None:
        predictors.append(Predictor(sampling, {"positive": source}))
        reference = (start, predictors[-1])
    low, high, end = ratios or tuple(share_to_ratio(share) for share in (s.noise_low, s.noise_high, s.noise_end))
    return Distillation(predictors[0], low=low, high=high, high_end=end, weight=s.weighting, reference=reference)


class _Decodes:
    """Latents in the model's space -> pictures B 3 H W. count: how often."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling, self.count = sampling, 0

    def __call__(self, z: Tensor) -> Tensor:
        self.count += 1
        return decoded(self._sampling, self._sampling.latent_of(z))


class _Picture:
    """Decodes when asked, and not again before some time has passed."""

    def __init__(self, decode: Callable[[Tensor], Tensor], latent: Tensor, shown: list[float]) -> None:
        self._decode, self._latent, self._shown = decode, latent, shown

    def __call__(self) -> Tensor | None:
        if time.monotonic() - self._shown[0] < REST:
            return None
        with torch.no_grad():
            picture = side_by_side(self._decode(self._latent[:4]))
        self._shown[0] = time.monotonic()
        return picture
