"""The run that every attack on a sampler shares: search, render through the host's own path, measure there.

Batches are image-major everywhere: image 0's `count` results first, then image 1's.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from comfy_execution.graph_utils import ExecutionBlocker
from torch import Tensor

from ..core import steps as rules
from ..core.augment import Augmentation
from ..core.batches import repeated, runs
from ..core.budgets import Budget
from ..core.errors import ProvokeError
from ..core.search import sample_generators
from ..host.api import io
from ..host.judges import Held, judging
from ..host.sampling.graph import Graph, Latent, Rendered, image_major
from ..host.sampling.handle import Sampling
from ..host.sampling.variables import VARIABLES, ConditioningVariable, HintVariable, Variable, sampled_region
from . import sampler_search
from .attack_settings import LEVELS, budget_kind, rule_of
from .attack_sockets import ball_inputs
from .measured import Measured, Verdict, spent
from .objective import Make, Situation
from .sampler_search import Found, Plan
from .sampler_sockets import SearchSettings, custom_inputs, graph_of, ksampler_inputs, search_inputs
from .smoothing import Smoothing


@dataclass(frozen=True)
class SamplerAttackSettings:
    """The widgets of `inputs` that say what may be moved, how far and how."""

    perturb: str
    epsilon: float
    epsilon_levels: float
    count: int
    norm: str
    truncation: str
    step_rule: str
    step_size: float
    schedule: str
    start_noise: float

    def __post_init__(self) -> None:
        if self.perturb == "control image" and self.norm == "L-inf" and 0 < self.epsilon_levels < 1:
            raise ProvokeError(
                f"An epsilon of {self.epsilon_levels:g} levels, and an 8-bit picture changes by whole levels",
                "1 or more, or 0 for the sampler's own result",
                "raise epsilon_levels, or set norm to L2 or L1, which bound the average",
            )

    @property
    def radius(self) -> float:
        """In the variable's own units."""
        return self.epsilon_levels / LEVELS if self.perturb == "control image" else self.epsilon

    @property
    def scale(self) -> float:
        """What the variable's unit is shown in: 8-bit levels, or 1 for shares of the RMS."""
        return LEVELS if self.perturb == "control image" else 1.0

    @property
    def unit(self) -> str:
        """In words."""
        return "levels of 255" if self.perturb == "control image" else "of the RMS"


def inputs(form: str) -> list[io.Input]:
    """What comes in. Nothing may be added here: a new widget is appended to every node after its own.

    form: "KSampler" or "Custom".
    """
    return [
        *(ksampler_inputs() if form == "KSampler" else custom_inputs()),
        io.Combo.Input(
            "perturb",
            options=list(VARIABLES),
            tooltip="What is changed. conditioning: what the prompt became (positive). latent: the picture that "
            "sampling starts from (denoise below 1), or that it keeps around a hole (mask). control image: the picture "
            "of the last ControlNet.",
        ),
        io.Float.Input(
            "epsilon",
            default=0.3,
            min=0.0,
            max=100.0,
            step=0.01,
            tooltip="For conditioning and latent: how far each of their numbers may go, as a fraction of the thing's "
            "own RMS (root mean square). 0 gives the sampler's own result.",
        ),
        io.Float.Input(
            "epsilon_levels",
            default=8.0,
            min=0.0,
            max=64.0,
            step=0.5,
            tooltip="For the control image: how far a pixel may go, in 8-bit levels (of 255). 0 gives the sampler's "
            "own result.",
        ),
        io.Int.Input("count", default=4, min=1, max=64, tooltip="How many different results per latent."),
        *search_inputs(),
        *ball_inputs(
            moved="thing",
            truncation="truncate keeps the change like Gaussian noise cut at epsilon; clip lets every number go to "
            "epsilon (classic PGD): 2.5 times the norm.",
        ),
    ]


def outputs(form: str) -> list[io.Output]:
    """What goes out. Static: what was not perturbed passes its input through.

    form: "KSampler" or "Custom".
    """
    order = "image 0's `count` results first"
    results = [io.Latent.Output("results", tooltip=f"What the sampler gives for the changed inputs: {order}.")]
    if form == "Custom":
        results = [
            io.Latent.Output("output", tooltip=f"What the sampler gives for the changed inputs: {order}."),
            io.Latent.Output("denoised_output", tooltip="Its last prediction, as SamplerCustomAdvanced has it."),
        ]
    return [
        *results,
        io.Latent.Output("unperturbed", tooltip="The sampler's own result, bit for bit."),
        io.Conditioning.Output(
            "positive",
            is_output_list=True,
            tooltip="The perturbed conditionings, one for each result (a list, in the order of the results); the "
            "input if something else was perturbed.",
        ),
        io.Latent.Output("latent", tooltip="The perturbed latent images; the input if something else was perturbed."),
        io.Image.Output(
            "control_image",
            tooltip="The perturbed control images, on the 8-bit grid; the input if something else was perturbed; "
            "nothing (blocked) without a ControlNet.",
        ),
        io.Custom("LOSS_MAP").Output("loss", tooltip="For Plot Loss Graph: minus the objective at every step."),
        io.String.Output("report", tooltip="What was changed, by how much, what it did and what it cost, measured."),
    ]


def taken(inputs: dict[str, Any]) -> tuple[Graph, SearchSettings, SamplerAttackSettings, dict[str, Any]]:
    """What came in on `inputs`, and the rest."""
    graph, rest = graph_of(inputs)
    search, rest = SearchSettings.taken(rest)
    names = SamplerAttackSettings.__dataclass_fields__
    attack = SamplerAttackSettings(**{name: rest[name] for name in names})
    if attack.step_rule == "FGSM" and not search.random:
        search = replace(search, search_steps=min(1, search.search_steps))
    return graph, search, attack, {name: value for name, value in rest.items() if name not in names}


@dataclass
class _Opened:
    """What the plan leaves for afterwards."""

    search: SearchSettings
    attack: SamplerAttackSettings
    make: Make
    group_size: int
    augment: Augmentation | None
    copies: int
    smoothing: Smoothing | None = None
    made: list[tuple[Variable, Budget, Tensor, Tensor | None]] = field(default_factory=list)

    def plan(self, sampling: Sampling, default: Tensor) -> Plan:
        """One search, around the graph's own inputs."""
        s, a = self.search, self.attack
        variable = VARIABLES[a.perturb](sampling)
        region = sampled_region(sampling, default)
        default, center = repeated(default, a.count), repeated(variable.center, a.count)
        mask = None if variable.mask is None else repeated(variable.mask, a.count)
        region = None if region is None else repeated(region, a.count)
        budget = budget_kind(a.norm, a.truncation)(center, a.radius, box=variable.box, mask=mask)
        rngs = sample_generators(s.search_seed, sampling.batch, a.count)
        noise = budget.random(sample_generators(s.search_seed + 1, sampling.batch, a.count))
        self.made[:] = [(variable, budget, noise if variable.levels is None else budget.quantise(noise), region)]
        if s.random:
            rule: rules.Rule = rules.RandomDraws(rngs)
        else:
            rule = rule_of(a.step_rule, a.step_size, a.schedule, budget, s.search_steps)
        smooth = self.smoothing
        if smooth is not None and isinstance(variable, ConditioningVariable):
            smooth = replace(smooth, shift=False)  # its last two dimensions are no picture's
        return Plan(
            sample=lambda rows, route: sampling.sample(**variable.arguments(rows), route=route),
            budget=budget,
            rule=rule,
            start=budget.random(rngs) if s.random else budget.start(rngs, a.start_noise),
            objective=self.make(Situation(default, region)),
            augment=self.augment,
            copies=self.copies,
            group_size=self.group_size,
            levels=variable.levels,
            around=lambda problem: problem if smooth is None else smooth.around(problem, budget, a.radius),
            evaluations=1 if smooth is None else smooth.evaluations,
        )


def run(
    form: str,
    graph: Graph,
    search: SearchSettings,
    attack: SamplerAttackSettings,
    make: Make,
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
        make: the objective, from the unperturbed results.
        coupled: whether it compares the results of one image with each other: their best then come together.
        judges, verdicts, augment, copies, smoothing, still: as in image_attack.run.
    """
    began = time.monotonic()
    unperturbed = graph.rendered()
    still = still or ("epsilon is 0" if attack.radius == 0 else "search_steps is 0" if search.search_steps == 0 else "")
    if still:
        report = f"search     none: {still}, so these are the sampler's own results"
        return _output(form, graph, [unperturbed] * attack.count, unperturbed, ExecutionBlocker(None), report)
    opened = _Opened(search, attack, make, attack.count if coupled else 1, augment, copies, smoothing)
    found = sampler_search.run(
        graph,
        search,
        lambda sampling, plain: opened.plan(sampling, plain()),
        judges=judges,
        looks=graph.batch * attack.count,
    )
    variable, budget, noise, region = opened.made[0]
    moved = [variable.put(graph, rows) for rows in runs(found.selection.variable, attack.count)]
    results = [one.rendered() for one in moved]
    by_noise = [variable.put(graph, rows).rendered().output for rows in runs(noise, attack.count)]
    measured = Measured(
        default=repeated(graph.pictures(unperturbed.output), attack.count),
        results=graph.pictures(image_major([one.output for one in results])),
        by_noise=graph.pictures(image_major(by_noise)),
        region=region,
        seconds=time.monotonic() - began,
        verdicts=verdicts,
    )
    with judging(*judges):
        report = describe(graph, search, attack, variable, budget, found, measured)
    changed: dict[str, Any] = {}
    if isinstance(variable, ConditioningVariable):
        rows = [variable.exported(part) for part in runs(found.selection.variable, attack.count)]
        changed["positive"] = [one for image in zip(*rows, strict=True) for one in image]
    elif isinstance(variable, HintVariable):
        changed["control_image"] = found.selection.variable.movedim(1, -1).cpu()
    else:
        changed["latent"] = image_major([one.latent for one in moved])
    return _output(form, graph, results, unperturbed, found.loss_map, report, **changed)


def describe(
    graph: Graph,
    search: SearchSettings,
    attack: SamplerAttackSettings,
    variable: Variable,
    budget: Budget,
    found: Found,
    measured: Measured,
) -> str:
    """The report: what was perturbed, budget used, search, change next to random noise, diversity, scores, cost."""
    a, step = attack, found.step
    epsilon, norm = a.radius * a.scale, f"{a.norm} ({a.truncation})" if a.norm == "L-inf" else a.norm
    how = "best of random changes" if search.random else f"{a.step_rule}, route {search.route}"
    skipped = int(step["skipped"].sum())
    lines = [
        f"model      {type(graph.guider.model_patcher.model).__name__}, {graph.steps} steps",
        f"perturbed  {variable.words}",
        f"budget     {norm}, epsilon {epsilon:g} {a.unit}; {spent(budget, found.selection.variable, a.scale)}",
        f"search     {how}, {step['i']} steps, seed {search.search_seed}: {step['stopped']}"
        + (f"; {skipped} unusable gradients skipped" if skipped else ""),
        *measured.lines(a.count, "where the mask has it sampled"),
        f"cost       {found.cost}, {measured.seconds:.1f} s in all",
    ]
    return "\n".join([*lines, *(f"note       {note}" for note in found.notes)])


def _output(
    form: str,
    graph: Graph,
    results: Sequence[Rendered],
    unperturbed: Rendered,
    loss: object,
    report: str,
    *,
    positive: list[Any] | None = None,
    latent: Latent | None = None,
    control_image: Any = None,
) -> io.NodeOutput:
    given = [image_major([one.output for one in results])]
    if form == "Custom":
        given.append(image_major([one.denoised for one in results]))
    if control_image is None:
        found = graph.controls()
        control_image = found[0].cond_hint_original.movedim(1, -1) if found else ExecutionBlocker(None)
    return io.NodeOutput(
        *given,
        unperturbed.output,
        positive or [graph.conditioning.get("positive")],
        latent or graph.latent,
        control_image,
        loss,
        report,
    )
