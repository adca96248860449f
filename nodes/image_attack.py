"""The run that every attack on an image model shares: search, render through the host's own path, measure there.

Batches are image-major everywhere: image 0's `count` variations first, then image 1's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
import torch.nn.functional as F
from comfy_execution.graph_utils import ExecutionBlocker
from torch import Tensor

from ..core import steps as rules
from ..core.augment import Augmentation
from ..core.batches import repeated, side_by_side
from ..core.budgets import Budget
from ..core.errors import ProvokeError
from ..core.problem import ImageProblem, Problem
from ..core.search import Selection, Step, best_start, sample_generators, search, select
from ..host.api import io
from ..host.image_models import ImageModel, open_image_model
from ..host.judges import Held
from ..host.progress import drive
from ..host.stop import stoppable
from .attack_settings import LEVELS, AttackSettings
from .comparison import Comparison, untouched
from .image_attack_report import describe
from .measured import Measured, Verdict
from .objective import Make, Situation
from .smoothing import Smoothing


def run(
    settings: AttackSettings,
    make_objective: Make,
    *,
    coupled: bool = False,
    judges: Sequence[Held] = (),
    verdicts: Sequence[Verdict] = (),
    augment: Augmentation | None = None,
    copies: int = 1,
    smoothing: Smoothing | None = None,
    still: str = "",
) -> io.NodeOutput:
    """What a node of this family returns.

    Args:
        coupled: whether the objective compares the results of one image with each other: their best then come together.
        judges: what the objective and the verdicts compute with.
        verdicts: scores that the report gives of the results.
        augment, copies: as in core.problem.ImageProblem.
        smoothing: what the gradient is averaged over.
        still: why there is nothing to search, if so.
    """
    began = time.monotonic()
    with open_image_model(
        settings.model, settings.image, settings.mask, gradient=settings.climbs, samples=settings.count, also=judges
    ) as model:
        unperturbed = model.plain(settings.image)
        if settings.idle or still:
            return _untouched(settings, unperturbed, model, still)
        image = _on_the_grid(settings.image)
        notes = [] if torch.equal(image, settings.image) else ["the image was rounded to 8-bit levels in [0, 1] first"]
        attack = _Attack.prepare(settings, image, model, make_objective, coupled, augment, copies, smoothing)
        step, losses = attack.search()
        found = attack.finish(step)
        attacked, noisy = (_as_image(x, settings.image) for x in (found.variable, attack.noise()))
        measured = Measured(
            default=repeated(model.plain(image) if notes else unperturbed, settings.count),
            results=model.plain(attacked),
            by_noise=model.plain(noisy),
            region=attack.region,
            seconds=time.monotonic() - began,
            verdicts=verdicts,
        )
        if smoothing is not None and settings.climbs:
            notes += smoothing.words
        compared = Comparison(
            repeated(image, settings.count), attacked, measured.default, measured.results, settings.count
        )
        notes = [*notes, *model.notes]
        report = describe(settings, model.name, notes, attack.budget, step, found, measured, compared.factor)
    # the host's loss graph divides by the range of what it gets
    loss = {"loss": losses} if len(set(losses)) > 1 else ExecutionBlocker(None)
    results, difference = measured.results, compared.difference
    return io.NodeOutput(results, unperturbed, attacked, difference, loss, report, compared.sheet())


@dataclass(frozen=True)
class _Attack:
    """One run: the parts of the search on one batch of pictures."""

    settings: AttackSettings
    problem: Problem
    budget: Budget
    rule: rules.Rule
    rngs: Sequence[torch.Generator]  # one per sample
    region: Tensor | None  # B*count 1 h w: where results are compared
    group_size: int
    smoothing: Smoothing | None

    @classmethod
    def prepare(
        cls,
        s: AttackSettings,
        picture: Tensor,
        model: ImageModel,
        make_objective: Make,
        coupled: bool,
        augment: Augmentation | None,
        copies: int,
        smoothing: Smoothing | None,
    ) -> _Attack:
        """Around `picture`, B H W 3 on the 8-bit grid."""
        image = picture.movedim(-1, 1).to(model.device, torch.float32)  # B H W C -> B C H W
        hole, allowed = _mask(s.mask, image, "mask"), _mask(s.perturb_mask, image, "perturb_mask")
        if hole is not None:
            allowed = 1 - hole if allowed is None else allowed * (1 - hole)
        default = repeated(model(image), s.count)
        region = None if hole is None else F.interpolate(repeated(hole, s.count), default.shape[-2:])
        budget = s.budget(repeated(image, s.count), None if allowed is None else repeated(allowed, s.count))
        rngs = sample_generators(s.seed, len(image), s.count)
        rule = rules.RandomDraws(rngs) if s.method == "random" else s.rule(budget)
        problem: Problem = ImageProblem(
            model, make_objective(Situation(default, region)), augment=augment, copies=copies
        )
        if smoothing is not None:
            problem = smoothing.around(problem, budget, s.epsilon / LEVELS)
        return cls(s, problem, budget, rule, rngs, region, s.count if coupled else 1, smoothing)

    def search(self) -> tuple[Step, list[float]]:
        """The last step, and minus the mean score of every step that has one."""
        s, losses, began = self.settings, list[float](), time.monotonic()

        def left() -> float:
            """Seconds of the time limit."""
            return s.time_limit - (time.monotonic() - began)

        def watched(start: Tensor, should_stop: Callable[[], bool]) -> Iterator[Step]:
            for step in search(
                self.problem,
                self.budget,
                self.rule,
                start=start,
                steps=s.moves,
                rng=torch.Generator().manual_seed(s.seed % 2**63),
                group_size=self.group_size,
                target=s.stop_at_score / LEVELS or None,
                time_limit=max(left(), 0.0) if s.time_limit else None,
                should_stop=should_stop,
            ):
                scores = step["score"][step["score"].isfinite()]
                if len(scores):
                    losses.append(-float(scores.mean()))
                yield step

        def shown(step: Step) -> Tensor:
            return side_by_side(step["best_image"][: min(s.count, 4)])

        with stoppable() as should_stop:
            start, spent = self._start(lambda: should_stop() or (s.time_limit > 0 and left() <= 0))
            last = drive(watched(start, should_stop), s.moves + 1, shown)
        return {**last, "cost": last["cost"] + spent}, losses

    def _start(self, should_stop: Callable[[], bool]) -> tuple[Tensor, float]:
        """Where the search starts, and what finding it cost in runs of the model."""
        s, smoothing = self.settings, self.smoothing
        if s.method == "random":
            return self.budget.random(self.rngs), 0.0
        start = self.budget.start(self.rngs, s.start_noise)
        if smoothing is None or smoothing.share == 0:
            return start, 0.0
        tried = chain([start], smoothing.starts(self.budget, self.rngs, s.epsilon / LEVELS))
        return best_start(
            self.problem, tried, s.seed % 2**63, group_size=self.group_size, should_stop=should_stop
        )  # fmt: skip

    def finish(self, step: Step) -> Selection:
        """The better of best and last, on the 8-bit grid, re-scored there and re-checked against the budget."""
        candidates = {"best": step["best"], "last": step["variable"]}
        return select(self.problem, self.budget, candidates, group_size=self.group_size, levels=LEVELS)

    def noise(self) -> Tensor:
        """Random changes in the same budget, on the same grid: what a search has to beat."""
        s = self.settings
        drawn = self.budget.random(sample_generators(s.seed + 1, len(s.image), s.count))
        return self.budget.quantise(drawn)


def _mask(mask: Tensor | None, image: Tensor, name: str) -> Tensor | None:
    """MASK socket (B H W, 1 H W or H W) -> B 1 H W of 0 and 1, for an image B C H W."""
    if mask is None:
        return None
    mask = mask[None] if mask.ndim == 2 else mask.squeeze(1) if mask.ndim == 4 else mask
    if mask.ndim != 3 or mask.shape[-2:] != image.shape[-2:] or len(mask) not in (1, len(image)):
        raise ProvokeError(
            f"{name} is {tuple(mask.shape)} (B H W) but the image is {len(image)} x {tuple(image.shape[-2:])}",
            "a mask of the image's height and width, one for all images or one for each",
            f"resize {name}; a 64x64 one is what Load Image gives for a picture without an alpha channel: paint one in "
            "its mask editor, or disconnect it",
        )
    selected = mask > 0.5
    if not bool(selected.flatten(1).any(1).all()):
        raise ProvokeError(f"{name} is empty", "at least one pixel above one half in every image", f"paint {name}")
    return selected.to(image)[:, None].expand(len(image), -1, -1, -1)


def _on_the_grid(image: Tensor) -> Tensor:
    """What an 8-bit file can hold of a picture."""
    return (image.clamp(0, 1) * LEVELS).round() / LEVELS


def _as_image(batch: Tensor, like: Tensor) -> Tensor:
    """B C H W -> B H W C where the input image is, laid out as Load Image lays it out: convolutions round differently
    otherwise.
    """
    return batch.movedim(1, -1).contiguous().to(like.device)


def _untouched(s: AttackSettings, unperturbed: Tensor, model: ImageModel, still: str) -> io.NodeOutput:
    """Zero effect is zero: the host's own output, bit for bit."""
    why = still or ("epsilon is 0" if s.epsilon == 0 else "steps is 0")
    report = f"model      {model.name}\nsearch     none: {why}, so these are the model's own results"
    image, usual = repeated(s.image, s.count), repeated(unperturbed, s.count)
    compared = untouched(image, usual, s.count)
    blocked = ExecutionBlocker(None)
    return io.NodeOutput(usual, unperturbed, image, compared.difference, blocked, report, compared.sheet())
