"""Vary Sampling (Untargeted Attack): several different pictures out of a sampler that hardly reacts to its seed.

generator: the user's sampler, then the decode. variable: the conditioning, the latent or the control image. objective:
away from the usual result, and from each other; optionally near the prompt. budget: a ball of a fraction of the thing's
own RMS. step rule: Auto-PGD. Source: arXiv 2403.08294; the nearness to the prompt is ours.
"""

from __future__ import annotations

from typing import Any, ClassVar

from ..core import objectives
from ..core.errors import ProvokeError
from ..core.objectives import Objective, WeightedSum
from ..host.api import io, schema
from ..host.judges import Held, judging
from . import sampler_attack
from .measured import Verdict
from .objective import ObjectiveSocket, Parts, ScorerSocket, Situation
from .objectives import vector
from .steering import similarity_to
from .untargeted_attack import DIRECTIONS


class _Node(io.SearchNode):
    """The untargeted attack on a sampler. (Siblings, no heirs: the host keeps a schema on its class.)"""

    form: ClassVar[str]
    node: ClassVar[str]
    title: ClassVar[str]

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=cls.node,
            display_name=cls.title,
            category="Provoke/attack",
            description="A sampler whose results differ although the seed does not: by a small, optimised change of "
            "the conditioning, the latent or the control image. For distilled and strongly guided models that draw "
            "nearly the same picture for every seed.",
            search_aliases=[
                "provoke",
                "variation",
                "diversity",
                "seed variance",
                "conditioning noise",
                "few-step",
                "turbo",
                "FGSM",
                "untargeted attack",
                "KSampler",
            ],
            inputs=[
                *sampler_attack.inputs(cls.form),
                io.Float.Input(
                    "diversity",
                    default=8.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    advanced=True,
                    tooltip="How strongly the results of one latent are pushed away from each other, relative to the "
                    "push away from the usual result (a weight, no unit). 0 lets each go its own way.",
                ),
                io.Float.Input(
                    "variance_weight",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.1,
                    advanced=True,
                    tooltip="Weight of the change of contrast (standard deviation of each colour) beside the mean "
                    "absolute change; the paper uses both. No unit. Not used with an objective.",
                ),
                io.Combo.Input(
                    "direction",
                    options=list(DIRECTIONS),
                    advanced=True,
                    tooltip="With an objective: towards more of it, or away from it. Without one the node goes away "
                    "from the usual result.",
                ),
                io.String.Input(
                    "keep_text",
                    default="",
                    tooltip="With a scorer: what the results are to go on showing, in words (the prompt). The report "
                    "then says how much of it is lost.",
                ),
                io.Float.Input(
                    "keep",
                    default=1.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="How strongly the similarity to keep_text (-1 to 1, by the scorer) counts beside the "
                    "change (a weight, no unit). 0: it is reported only.",
                ),
                ScorerSocket.Input("scorer", optional=True, tooltip="For keep_text: from Load CLIP Scorer."),
                ObjectiveSocket.Input(
                    "objective",
                    optional=True,
                    tooltip="What is searched for instead of change and contrast: from the objective nodes. diversity "
                    "and keep are added to it as they are.",
                ),
            ],
            outputs=sampler_attack.outputs(cls.form),
        )

    @classmethod
    def execute(
        cls,
        diversity: float,
        variance_weight: float,
        direction: str,
        keep_text: str,
        keep: float,
        scorer: Held | None = None,
        objective: Parts | None = None,
        **inputs: Any,
    ) -> io.NodeOutput:
        graph, search, attack, _ = sampler_attack.taken(inputs)
        together = diversity > 0 and attack.count > 1
        verdicts = [] if objective is None else [Verdict(objective.name, objective.build)]
        judges = [] if objective is None else list(objective.held)
        adherence = _adherence(keep_text, scorer)
        if adherence is not None and scorer is not None:
            judges.append(scorer)
            verdicts.append(adherence)

        def wanted(situation: Situation) -> WeightedSum:
            default, region = situation.needs_default("change"), situation.region
            parts: dict[str, tuple[float, Objective]]
            if objective is None:
                parts = {
                    "change": (1.0, objectives.l1_distance(default, region)),
                    "contrast": (variance_weight, objectives.variance_shift(default, region)),
                }
            else:
                parts = {"objective": (1.0, objective.times(DIRECTIONS[direction]).build(situation))}
            if together:
                parts["diversity"] = (diversity, objectives.pairwise_diversity(attack.count, region))
            if adherence is not None:
                parts["keep"] = (keep, adherence.make(situation))
            return WeightedSum(parts)

        return sampler_attack.run(
            cls.form, graph, search, attack, wanted, coupled=together, judges=judges, verdicts=verdicts
        )


class UntargetedAttackSampler(_Node):
    """The form of KSampler."""

    form = "KSampler"
    node = "ProvokeUntargetedAttackSampler"
    title = "Vary Sampling (Untargeted Attack)"


class UntargetedAttackSamplerCustom(_Node):
    """The form of SamplerCustomAdvanced."""

    form = "Custom"
    node = "ProvokeUntargetedAttackSamplerCustom"
    title = "Vary Sampling, Custom (Untargeted Attack)"


def _adherence(text: str, scorer: Held | None) -> Verdict | None:
    """How well a picture matches the text. Raises ProvokeError for one of the two without the other."""
    if scorer is None and not text.strip():
        return None
    if scorer is None or not text.strip():
        missing, there = ("scorer", "keep_text") if scorer is None else ("keep_text", "a scorer")
        raise ProvokeError(
            f"There is {there} and no {missing}",
            "both, or neither",
            "connect Load CLIP Scorer to scorer" if scorer is None else "write the prompt into keep_text",
        )
    with judging(scorer):
        target = vector(scorer, text, None).cpu()
    return Verdict(f"adherence (similarity to '{text.strip()}', {scorer.judge.name})", similarity_to(scorer, target))
