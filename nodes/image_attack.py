"""What every attack on an image model shares: its sockets, its run, its report. A method adds its objective.

Batches are image-major everywhere: image 0's `count` variations first, then image 1's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from comfy_execution.graph_utils import ExecutionBlocker
from torch import Tensor

from ..core import steps as rules
from ..core.budgets import L1, L2, Budget, LInf, TruncatedNoise
from ..core.errors import ProvokeError
from ..core.objectives import Objective, check_region, l1_distance, pairwise_distances
from ..core.problem import ImageProblem
from ..core.search import Selection, Step, sample_generators, search, select
from ..host.api import io
from ..host.image_models import ImageModel, open_image_model
from ..host.progress import drive

LEVELS = 255  # epsilon and every figure of the report are in 8-bit levels

NORMS: dict[str, type[Budget]] = {"L-inf": LInf, "L2": L2, "L1": L1}
SCHEDULES: dict[str, rules.Schedule] = {"constant": rules.constant, "cosine": rules.cosine}
# name -> (radius, steps, step size, schedule) -> rule
STEP_RULES: dict[str, Callable[[float, int, float, rules.Schedule], rules.Rule]] = {
    "APGD": lambda radius, steps, size, schedule: rules.APGD(radius, steps),
    "PGD": lambda radius, steps, size, schedule: rules.Steepest(size, schedule=schedule),
    "MI-FGSM": lambda radius, steps, size, schedule: rules.Momentum(size, schedule=schedule),
    "Adam": lambda radius, steps, size, schedule: rules.Adam(size, schedule=schedule),
    "FGSM": lambda radius, steps, size, schedule: rules.Steepest(radius),
}

# default result (B C h w), region (B 1 h w or None) -> what to climb
MakeObjective = Callable[[Tensor, "Tensor | None"], Objective]


@dataclass(frozen=True)
class AttackSettings:
    """What came in on the sockets and widgets; `inputs` says the units."""

    model: Any
    image: Tensor  # B H W 3
    epsilon: float
    steps: int
    count: int
    seed: int
    method: str
    norm: str
    truncation: str
    step_rule: str
    step_size: float
    schedule: str
    start_noise: float
    stop_at_change: float
    time_limit: float
    mask: Tensor | None = None  # B H W, 1 = hole
    perturb_mask: Tensor | None = None  # B H W, 1 = may change

    @classmethod
    def of(cls, inputs: Mapping[str, Any]) -> AttackSettings:
        return cls(**{field.name: inputs[field.name] for field in fields(cls) if field.name in inputs})

    @property
    def idle(self) -> bool:
        """Whether there is nothing to search: then the host's own result goes out, bit for bit."""
        return self.epsilon == 0 or self.steps == 0


def inputs() -> list[io.Input]:
    """The sockets and widgets of every attack on an image model. Only ever append: workflows store widgets by "
    "position."""
    return [
        io.MultiType.Input(
            "model",
            types=[io.UpscaleModel, io.Custom("INPAINT_MODEL"), io.Vae],
            tooltip="The frozen image model: from Load Upscale Model (upscalers, restorers, inpainters of one "
            "picture), "
            "an inpaint model (needs the mask), or a VAE (encode and decode).",
        ),
        io.Image.Input(
            "image", tooltip="The picture that the model gets. Every image of a batch is searched on its own."
        ),
        io.Float.Input(
            "epsilon",
            default=4.0,
            min=0.0,
            max=64.0,
            step=0.5,
            tooltip="How far the input may change, in 8-bit levels (of 255) per pixel and colour: the largest change "
            "(L-inf), "
            "the root mean square (L2) or the mean (L1). 2 to 8 is hard to see. 0 gives the model's own result.",
        ),
        io.Int.Input(
            "steps",
            default=40,
            min=0,
            max=10_000,
            tooltip="Gradient steps (or random tries): each costs about two to three runs of the model. "
            "0 gives the model's own result.",
        ),
        io.Int.Input("count", default=4, min=1, max=64, tooltip="How many different results per image."),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=0xFFFFFFFFFFFFFFFF,
            control_after_generate=io.ControlAfterGenerate.fixed,
            tooltip="Seed of the noise that each result starts from. The same seed gives the same results.",
        ),
        io.Combo.Input(
            "method",
            options=["gradient", "random"],
            advanced=True,
            tooltip="gradient searches; random keeps the best of `steps` random changes of the same size: instant, "
            "works "
            "on any model, and the baseline that the gradient has to beat.",
        ),
        io.Combo.Input(
            "norm",
            options=list(NORMS),
            advanced=True,
            tooltip="What epsilon bounds: the largest change, the RMS, or the mean.",
        ),
        io.Combo.Input(
            "truncation",
            options=["truncate", "clip"],
            advanced=True,
            tooltip="For L-inf. truncate keeps the change like Gaussian noise cut at epsilon: least visible. clip "
            "lets every "
            "pixel go to epsilon (classic PGD): a little stronger, three times the visible noise.",
        ),
        io.Combo.Input(
            "step_rule",
            options=list(STEP_RULES),
            advanced=True,
            tooltip="How the input moves along the gradient. APGD sets its own step size; FGSM makes a single step.",
        ),
        io.Float.Input(
            "step_size",
            default=0.1,
            min=0.001,
            max=2.0,
            step=0.01,
            advanced=True,
            tooltip="Size of one step of PGD, MI-FGSM and Adam, as a fraction of epsilon.",
        ),
        io.Combo.Input(
            "schedule",
            options=list(SCHEDULES),
            advanced=True,
            tooltip="Whether the steps of PGD, MI-FGSM and Adam stay the same size or shrink to a twentieth (cosine).",
        ),
        io.Float.Input(
            "start_noise",
            default=0.5,
            min=0.0,
            max=2.0,
            step=0.05,
            advanced=True,
            tooltip="Standard deviation of the noise that a search starts from, as a fraction of epsilon. It must not "
            "be 0 "
            "for objectives that measure the distance from the default result: there the gradient is zero.",
        ),
        io.Float.Input(
            "stop_at_change",
            default=0.0,
            min=0.0,
            max=255.0,
            step=0.5,
            advanced=True,
            tooltip="Stop a result as soon as its objective reaches this many 8-bit levels. 0 uses all steps.",
        ),
        io.Float.Input(
            "time_limit",
            default=0.0,
            min=0.0,
            max=86_400.0,
            step=1.0,
            advanced=True,
            tooltip="Stop after this many seconds and keep the best so far. 0 sets no limit.",
        ),
        io.Mask.Input(
            "mask",
            optional=True,
            tooltip="The hole that the model fills in (1 = hole): its pixels are never changed, and the results are "
            "compared "
            "inside it.",
        ),
        io.Mask.Input(
            "perturb_mask",
            optional=True,
            tooltip="Where the input may change (1 = may change). Without it: everywhere outside the hole.",
        ),
    ]


def outputs() -> list[io.Output]:
    """What every attack on an image model gives. Static: without a search the host's own result goes out."""
    return [
        io.Image.Output("results", tooltip="What the model makes of the attacked images: `count` for each image."),
        io.Image.Output("unperturbed", tooltip="What the model makes of the image itself."),
        io.Image.Output(
            "attacked", tooltip="The changed inputs, on the 8-bit grid: saved as PNG they give exactly these results."
        ),
        io.Image.Output("difference", tooltip="The change of the input around mid grey, amplified until it shows."),
        io.Custom("LOSS_MAP").Output("loss", tooltip="For Plot Loss Graph: minus the objective at every step."),
        io.String.Output("report", tooltip="What was changed, by how much, what it did and what it cost, measured."),
    ]


def run(settings: AttackSettings, make_objective: MakeObjective, *, coupled: bool = False) -> io.NodeOutput:
    """Search, render the winners through the host's own path, and measure them there.

    Args:
        coupled: whether the objective compares the results of one image with each other: their best then come together.
    """
    began = time.monotonic()
    with open_image_model(settings.model, settings.image, settings.mask) as model:
        unperturbed = model.plain(settings.image)
        if settings.idle:
            return _untouched(settings, unperturbed, model)
        attack = _Attack.prepare(settings, model, make_objective)
        step, losses = attack.search(settings.count if coupled else 1)
        found = attack.finish(step, settings.count if coupled else 1)
        attacked = found.variable.movedim(1, -1).cpu()
        results = model.plain(attacked)
        noise = model.plain(attack.noise().movedim(1, -1).cpu())
        report = attack.report(step, found, unperturbed, results, noise, time.monotonic() - began)
    change = attacked - _repeat(settings.image, settings.count)
    loss = (
        {"loss": losses} if len(set(losses)) > 1 else ExecutionBlocker(None)
    )  # the host's graph divides by their range
    return io.NodeOutput(results, unperturbed, attacked, _amplified(change), loss, report)


@dataclass(frozen=True)
class _Attack:
    """One run: the five parts, and the picture they work on."""

    settings: AttackSettings
    model: ImageModel
    problem: ImageProblem
    budget: Budget
    rule: rules.Rule
    region: Tensor | None  # B*count 1 h w

    @classmethod
    def prepare(cls, s: AttackSettings, model: ImageModel, make_objective: MakeObjective) -> _Attack:
        image = s.image.movedim(-1, 1).to(model.device, torch.float32).clamp(0, 1)  # B H W C -> B C H W
        hole, allowed = (_mask(m, image, name) for m, name in ((s.mask, "mask"), (s.perturb_mask, "perturb_mask")))
        if hole is not None:
            allowed = 1 - hole if allowed is None else allowed * (1 - hole)
        default = model(image)
        region = None if hole is None else F.interpolate(hole, default.shape[-2:])
        check_region(region)
        center, default, region, allowed = (_repeat(t, s.count) for t in (image, default, region, allowed))
        budget = _budget(s, center, allowed)
        if s.method == "random":
            rule: rules.Rule = rules.RandomDraws(sample_generators(s.seed, len(s.image), s.count))
        else:
            radius = budget.epsilon
            rule = STEP_RULES[s.step_rule](radius, s.steps, s.step_size * radius, SCHEDULES[s.schedule])
        return cls(s, model, ImageProblem(model, make_objective(default, region)), budget, rule, region)

    def search(self, group_size: int) -> tuple[Step, list[float]]:
        """The last step, and minus the mean score of every step."""
        s, losses = self.settings, []
        rngs = sample_generators(s.seed, len(s.image), s.count)
        steps = 1 if s.step_rule == "FGSM" and s.method == "gradient" else s.steps

        def watched() -> Any:
            for step in search(
                self.problem,
                self.budget,
                self.rule,
                start=self.budget.random(rngs) if s.method == "random" else self.budget.start(rngs, s.start_noise),
                steps=steps,
                rng=torch.Generator().manual_seed(s.seed % 2**63),
                group_size=group_size,
                target=s.stop_at_change / LEVELS or None,
                time_limit=s.time_limit or None,
            ):
                losses.append(-float(step["score"].mean()))
                yield step

        return drive(watched(), steps + 1, lambda step: _side_by_side(step["best_image"][: min(s.count, 4)])), losses

    def finish(self, step: Step, group_size: int) -> Selection:
        """The better of best and last, on the 8-bit grid, re-scored there and re-checked against the budget."""
        candidates = {"best": step["best"], "last": step["variable"]}
        return select(self.problem, self.budget, candidates, group_size=group_size, levels=LEVELS)

    def noise(self) -> Tensor:
        """Random changes in the same budget, on the same grid: what a search has to beat."""
        drawn = self.budget.random(
            sample_generators(self.settings.seed + 1, len(self.settings.image), self.settings.count)
        )
        return self.budget.quantise(drawn)

    def report(
        self, step: Step, found: Selection, unperturbed: Tensor, results: Tensor, noise: Tensor, seconds: float
    ) -> str:
        """Everything here is measured on what the host's own path gave."""
        s, count = self.settings, self.settings.count
        region = None if self.region is None else self.region.cpu()
        default, made, random = (t.movedim(-1, 1).float().cpu() for t in (_repeat(unperturbed, count), results, noise))
        away = l1_distance(default, region)
        change, by_noise = away(made) * LEVELS, away(random) * LEVELS
        moved = (found.variable - self.budget.center).abs().flatten(1)
        largest, mean = float(moved.amax()) * LEVELS, float(moved.mean()) * LEVELS
        where = "in the hole" if region is not None else "everywhere"
        skipped = int(step["skipped"].sum())
        mode = f", {s.truncation}" if s.norm == "L-inf" else ""
        how = s.step_rule if s.method == "gradient" else "best of random"
        lines = [
            f"model      {self.model.name}",
            f"budget     {s.norm}{mode}, epsilon {s.epsilon:g} levels; used: {largest:.2f} at most, {mean:.2f} on "
            f"average",
            f"search     {how}, {step['i']} steps, seed {s.seed}: {step['stopped']}"
            + (f"; {skipped} steps without a usable gradient were skipped" if skipped else ""),
            f"change     of the result {where}, mean absolute, in levels of 255 (random noise in the same budget in "
            f"brackets)",
            *(
                f"  image {i + 1}  " + "  ".join(f"{c:.2f} ({n:.2f})" for c, n in zip(row, base, strict=True))
                for i, (row, base) in enumerate(zip(change.view(-1, count), by_noise.view(-1, count), strict=True))
            ),
            f"  mean     {float(change.mean()):.2f}, random noise {float(by_noise.mean()):.2f}"
            + (f": {float(change.mean() / by_noise.mean()):.1f} times" if float(by_noise.mean()) > 0 else ""),
        ]
        if count > 1:
            pairs = pairwise_distances(made, count, region) * LEVELS
            different = pairs[:, ~torch.eye(count, dtype=torch.bool)]
            lines.append(
                f"diversity  {float(different.mean()):.2f} levels between two results, {float(different.min()):.2f} "
                f"at least"
            )
        lines.append(f"cost       {step['cost'] + found.cost:.0f} model runs a result, {seconds:.1f} s in all")
        return "\n".join([*lines, *(f"note       {note}" for note in self.model.notes)])


def _budget(s: AttackSettings, center: Tensor, allowed: Tensor | None) -> Budget:
    if s.norm == "L-inf" and s.truncation == "truncate":
        return TruncatedNoise(center, s.epsilon / LEVELS, mask=allowed)
    return NORMS[s.norm](center, s.epsilon / LEVELS, mask=allowed)


def _mask(mask: Tensor | None, image: Tensor, name: str) -> Tensor | None:
    """MASK socket (B H W, 1 H W or H W) -> B 1 H W of 0 and 1, for an image B C H W."""
    if mask is None:
        return None
    mask = mask[None] if mask.ndim == 2 else mask
    if mask.ndim != 3 or mask.shape[-2:] != image.shape[-2:] or len(mask) not in (1, len(image)):
        raise ProvokeError(
            f"{name} is {tuple(mask.shape)} (B H W) but the image is {len(image)} x {tuple(image.shape[-2:])}",
            "a mask of the image's height and width, one for all images or one for each",
            f"resize the mask, or take {name} from the same node as the image",
        )
    return (mask > 0.5).to(image)[:, None].expand(len(image), -1, -1, -1)


def _repeat(t: Any, count: int) -> Any:
    """Image-major repetition; None stays None."""
    return None if t is None else t.repeat_interleave(count, 0)


def _untouched(s: AttackSettings, unperturbed: Tensor, model: ImageModel) -> io.NodeOutput:
    """Zero effect is zero: the host's own output, bit for bit."""
    why = "epsilon is 0" if s.epsilon == 0 else "steps is 0"
    report = f"model      {model.name}\nsearch     none: {why}, so these are the model's own results"
    image = _repeat(s.image, s.count)
    loss = ExecutionBlocker(None)
    return io.NodeOutput(_repeat(unperturbed, s.count), unperturbed, image, torch.full_like(image, 0.5), loss, report)


def _amplified(change: Tensor) -> Tensor:
    """A change of a picture around mid grey, scaled so that its largest entry just reaches black or white."""
    return 0.5 + change * (0.5 / change.abs().amax().clamp_min(1e-6))


def _side_by_side(images: Tensor) -> Tensor:
    """B C H W -> 1 H (B W) C."""
    return torch.cat(list(images), dim=-1)[None].movedim(1, -1)
