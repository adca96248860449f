"""A look at the user's model before anything is spent: is it a function, is its gradient right, what does it keep?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...core.errors import GradientError
from ..chance import same_chance
from ..gradients import is_inference_refused
from ..memory import MARGIN, is_out_of_memory
from ..trees import replaced
from .lean import is_quantised

if TYPE_CHECKING:
    from .handle import Sampling

WAYS = 4  # random directions
CUT = 0.3  # by how much finite differences may disagree; a cut attention disagrees by more
STEPS = (3e-3, 3e-2)  # of the variable's RMS; the second where the first disagrees: with TF32 that may be rounding
ROUGH_STEPS = (3e-2, 0.2)
# where neither of STEPS agrees, and the model does not jump: a trained one can be that sharp (the demo's, guided, at
# one noise in ten: beside a pole of a norm, which is 1e-5 wide)
SHARP_STEPS = (3e-4, 1e-4, 3e-5, 1e-5, 3e-6)
HALVINGS = (8, 12)  # of an interval, until a smooth function changes less and less in it, and a jump stays
JUMP = 0.6  # share of the change that stays: of a jump all, of a line 1/16, of the steepest model seen two fifths
STATE = 1e-3  # by how much (of its RMS) an evaluation that is run again may differ: kernels on a GPU are not exact
ROUNDING = 1e-5  # of the result, in float32: what a difference can be by rounding alone


def look(handle: Sampling, *, check: bool) -> None:
    """Runs one model evaluation in the middle of the schedule a few times, learns what its backward needs, and chooses
    how much of the graph is kept.

    Args:
        check: also compare with earlier runs and with finite differences: costs some 25 forwards, once; up to fifteen
            times that where the differences disagree.

    Raises:
        GradientError: an evaluation that depends on what was evaluated before; a gradient that is missing, not finite,
            or another one than finite differences give.
    """
    look = _Look(handle)
    try:
        if check:
            look.refuse_memory()
        found = look.gradient()  # also where nothing is checked: it is how the guard and the evaluator learn
        if check:
            look.refuse_wrong(found)
        look.choose()
    finally:
        handle.evaluator.keyframes.start()


class _Look:
    """One point of the schedule, and the evaluations there."""

    def __init__(self, handle: Sampling) -> None:
        self.handle, self.evaluator = handle, handle.evaluator
        self.x, self.sigma = self._point(handle.steps // 2)
        rng = torch.Generator().manual_seed(0)
        self._weight = torch.randn(self.x.shape, generator=rng).to(self.x)
        self._rng = rng
        model = self.evaluator.inner_model
        # a small change drowns in the rounding of float16, or of inputs rounded to fp8
        self._rough = model.get_dtype_inference() not in (torch.float32, torch.float64) or any(
            is_quantised(module) for module in model.diffusion_model.modules()
        )
        self._conds = self.evaluator.conds
        self._texts = _texts(self._conds)

    def _point(self, step: int) -> tuple[Tensor, Tensor]:
        """A noisy latent in the model's space and its sigma, as the sampler would meet them."""
        handle, sigma = self.handle, self.handle.sigmas[min(step, self.handle.steps - 1)]
        sampling = self.evaluator.inner_model.model_sampling
        return sampling.noise_scaling(sigma, handle.noise, handle.model_latent, handle.whole(sigma)), sigma

    def _at(self, x: Tensor, sigma: Tensor | None = None, texts: list[Tensor] | None = None) -> Tensor:
        """An evaluation as if it were the run's first: with the schedule's start and the random numbers of a run."""
        evaluator = self.evaluator
        table = {id(before): now for before, now in zip(self._texts, texts or self._texts, strict=True)}
        evaluator.conds = replaced(self._conds, table)
        evaluator.keyframes.start()
        try:
            with same_chance(self.handle.chance):
                return self.handle.denoised(x, self.sigma if sigma is None else sigma)
        finally:
            evaluator.conds = self._conds

    @torch.no_grad()
    def refuse_memory(self) -> None:
        """Caches, running means (APG's momentum) and the like: computed again in the backward, from the last step to
        the first, they are something else than in the forward. So this looks in that order: there and back."""
        if self.handle.steps > 1:
            middle = self.handle.steps // 2
            points = [self._point(middle - 1), self._point(middle)]
        else:
            points = [(self.x, self.sigma), (self.x.roll(1, -1), self.sigma)]
        there = [self._at(*point) for point in points]
        if not all(bool(one.isfinite().all()) for one in there):
            raise GradientError(
                "The model's result is not finite",
                "numbers, not NaN or infinity",
                "load the model in bfloat16 or float32 instead of float16 (weight_dtype, or the start option "
                "--bf16-unet), and look at the nodes that patch it",
            )
        back = [self._at(*point) for point in reversed(points)]
        for first, again in zip(there, reversed(back), strict=True):
            if not _rms(first - again) <= STATE * _rms(first):
                raise GradientError(
                    "The model gives another result when the same evaluation is run again: a patch on it keeps "
                    f"something from one step to the next ({patches_of(self.handle)})",
                    "a model whose result depends on its input alone",
                    "bypass the nodes that patch the model with a cache or with momentum (APG: set momentum to 0)",
                )

    def gradient(self) -> list[Tensor | None]:
        """J^T weight of one evaluation by x and by the texts, the way in which the run will compute it. Nothing for x
        where no gradient comes through."""
        self.evaluator.ladder.start(1)  # with a checkpoint: that is where the guard learns
        try:
            return self._pulled()
        except RuntimeError as error:  # also NotImplementedError, of kernels without a backward
            if is_out_of_memory(error):
                raise
            if self.evaluator.hidden or not is_inference_refused(error):
                raise self._wrong(f"runs, but not backwards ({error})") from error
        self.evaluator.hidden = True
        return self.gradient()

    def _pulled(self) -> list[Tensor | None]:
        with torch.enable_grad():
            leaves = [tensor.detach().requires_grad_(True) for tensor in (self.x, *self._texts)]
            out = self._at(leaves[0], texts=leaves[1:])
        if not out.requires_grad:
            return [None] * len(leaves)
        return list(torch.autograd.grad(out, leaves, self._weight, allow_unused=True))

    def refuse_wrong(self, found: list[Tensor | None]) -> None:
        """Compares with finite differences. A backward that is wrong, or a patch that jumps, is so for every noise; a
        sharp model may be too sharp at one for differences in its precision. Where they disagree it is looked at with
        two other noises, at the same moment of the schedule (a patch may be on for a part of it), and both have to
        agree. Source: ours."""
        wrong = self._wrong_here(found)
        if wrong is None:
            return
        x = self.x
        for shift in (1, 2):
            self.x = x.roll(shift, -1)
            again = self._wrong_here(self.gradient())
            if again is not None:
                raise again
        self.x = x
        self.handle.notes.append("the gradient was checked with other noises: this one is too sharp for differences")

    def _wrong_here(self, found: list[Tensor | None]) -> GradientError | None:
        """What disagrees at this point, if anything."""
        by_x, *by_texts = found
        if by_x is None:
            raise self._wrong("carries no gradient")
        texts = [torch.zeros_like(t) if g is None else g for t, g in zip(self._texts, by_texts, strict=True)]
        if not all(bool(one.isfinite().all()) for one in (by_x, *texts)):
            raise self._wrong("has a gradient that is not finite")
        wrong = self._compare([self.x], [by_x], lambda values: self._at(values[0]), "")
        if texts and wrong is None:
            by = " by the conditioning"
            return self._compare(self._texts, texts, lambda values: self._at(self.x, texts=values), by)
        return wrong

    @torch.no_grad()
    def _compare(self, values: list[Tensor], found: list[Tensor], function: Any, by: str) -> GradientError | None:
        """Relative L2 error of the vector of directional derivatives; for a rough model of the one along the gradient,
        with larger steps. What is smaller than the rounding is let pass."""
        scale = max(_rms(value) for value in values)
        if self._rough:
            size = max(_rms(gradient) for gradient in found)
            ways = [[gradient / size for gradient in found]] if size > 0 else []
        else:
            ways = [[torch.randn(v.shape, generator=self._rng).to(v) for v in values] for _ in range(WAYS)]
        claimed = torch.tensor([_inner(found, way) for way in ways])
        seen: list[Tensor] = []
        for step in ROUGH_STEPS if self._rough else STEPS:
            measured, rounding = self._measured(values, ways, function, step * scale)
            error, size = float((claimed - measured).norm()), float(measured.norm())
            if error <= max(CUT * size, rounding):
                return None
            seen.append(measured)
        disagree = error / max(size, 1e-30)
        if not self._rough:
            worst = ways[int((claimed - seen[0]).abs().argmax())]
            # also where both differences agree: many small jumps look like a slope from far away
            if self._jumps(values, worst, function, STEPS[0] * scale):
                return GradientError(
                    "The model's result jumps where its input changes a little (finite differences disagree with each "
                    f"other). Patches on this model: {patches_of(self.handle)}",
                    "a model whose result follows its input smoothly",
                    "bypass the nodes that merge or drop tokens (Token Merging)",
                )
            # also where both agree with each other: on either side of a narrow ridge both see the slope around it.
            # Rounding can only part what is measured from what is claimed, never bring them together: it excuses
            # nothing here
            for step in SHARP_STEPS:
                measured, _ = self._measured(values, ways, function, step * scale)
                if float((claimed - measured).norm()) <= CUT * float(measured.norm()):
                    return None
        if disagree > (1 if self._rough else CUT):
            return self._wrong(f"has a wrong gradient{by} (finite differences disagree by {disagree:.0%})")
        self.handle.notes.append(
            f"the gradient{by} could not be checked well: differences of a model that rounds are {disagree:.0%} off"
        )
        return None

    def _jumps(self, values: list[Tensor], way: list[Tensor], function: Any, h: float) -> bool:
        """Whether <weight, result> jumps somewhere between -h and h along a way: halves the interval again and again
        where it changes more. A smooth one changes less in a smaller interval in the end, however steep it is."""

        def at(t: float) -> tuple[float, float]:
            out = function([v + t * d for v, d in zip(values, way, strict=True)])
            return float((out.double() * self._weight).sum()), ROUNDING * _rms(out) * out.numel() ** 0.5

        low, high = -h, h
        (below, noise), (above, _) = at(low), at(high)
        change: list[float] = []
        for _ in range(HALVINGS[1]):
            middle = (low + high) / 2
            value, _ = at(middle)
            if abs(value - below) > abs(above - value):
                high, above = middle, value
            else:
                low, below = middle, value
            change.append(abs(above - below))
        before, after = (change[count - 1] for count in HALVINGS)
        return after > max(JUMP * before, 2 * noise)

    def _measured(
        self, values: list[Tensor], ways: list[list[Tensor]], function: Any, h: float
    ) -> tuple[Tensor, float]:
        """Central differences of <weight, result> along each way, and how large they could be by rounding alone."""
        measured, rounding = [], 0.0
        for way in ways:
            plus = function([v + h * d for v, d in zip(values, way, strict=True)])
            minus = function([v - h * d for v, d in zip(values, way, strict=True)])
            measured.append(float(((plus - minus).double() * self._weight).sum()) / (2 * h))
            rounding += (ROUNDING * _rms(plus) * plus.numel() ** 0.5 / h) ** 2
        return torch.tensor(measured), rounding**0.5

    def choose(self) -> None:
        """How much of the graph is kept: everything, one evaluation's, or one block's."""
        handle, evaluator, count = self.handle, self.evaluator, self.handle.evaluations()
        evaluator.ladder.start(0)
        try:
            kept = handle.bytes_kept(self.x, self.sigma)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            kept = -1
        free = float(evaluator.model_patcher.get_free_memory(handle.device))
        if kept < 0 or kept * MARGIN > free:
            evaluator.ladder.start(2)
        elif evaluator.needs_checkpoints or kept * count * MARGIN > 0.5 * free:
            evaluator.ladder.start(1)
        size = "more than there is" if kept < 0 else f"{kept / 2**20:,.1f} MiB"
        handle.notes.append(
            f"gradient of the sampling: {evaluator.ladder.rung.words} ({count} evaluations, {size} each, "
            f"{free / 2**20:,.0f} MiB free)"
        )

    def _wrong(self, what: str) -> GradientError:
        return GradientError(
            f"The model {what}. Usual causes: an attention or other kernel without a backward, a patch that computes "
            f"without a graph. Patches on this model: {patches_of(self.handle)}",
            "a model whose gradient agrees with finite differences",
            "bypass the nodes that patch the model; start ComfyUI without --use-sage-attention and "
            "--use-flash-attention",
        )


def _texts(conds: dict[str, list[dict[str, Any]]]) -> list[Tensor]:
    """What the models attend to, once each."""
    entries = [c["model_conds"].get("c_crossattn") for cond in conds.values() for c in cond]
    found = [entry.cond for entry in entries if entry is not None and isinstance(entry.cond, Tensor)]
    return list({id(tensor): tensor for tensor in found if tensor.is_floating_point()}.values())


def patches_of(handle: Sampling) -> str:
    """What is on the model besides its weights, in words."""
    options = handle.evaluator.guider.model_options
    transformer: dict[str, Any] = options.get("transformer_options", {})
    found = {str(key) for table in transformer.get("wrappers", {}).values() for key in table if key != "provoke"}
    found |= {key for key, value in options.items() if key.startswith(("sampler_", "model_")) and value}
    found |= {f"{kind} of {key}" for kind in ("patches", "patches_replace") for key in transformer.get(kind, {})}
    return ", ".join(sorted(found)) or "none"


def _inner(a: list[Tensor], b: list[Tensor]) -> float:
    return float(sum((x.double() * y).sum() for x, y in zip(a, b, strict=True)))


def _rms(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt())
