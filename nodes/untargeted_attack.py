"""Vary Result (Untargeted Attack): many different results of a deterministic model from the same-looking picture.

generator: the image model. variable: its input picture. objective: away from the default result (or one that comes in),
and from each other. budget: a ball of a few 8-bit levels. step rule: Auto-PGD. Source: arXiv 2403.08294.
"""

from __future__ import annotations

from typing import Any

from ..core import objectives
from ..core.objectives import Objective, WeightedSum
from ..host.api import io, schema
from . import image_attack, image_attack_sockets
from .attack_settings import AttackSettings
from .measured import Verdict
from .objective import ObjectiveSocket, Parts, Situation

DIRECTIONS = {"towards": 1.0, "away": -1.0}


class UntargetedAttack(io.SearchNode):
    """The untargeted attack on an image model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ProvokeUntargetedAttack",
            display_name="Vary Result (Untargeted Attack)",
            category="Provoke/attack",
            description="Makes a model that always gives the same result (upscaler, inpainter, restorer, VAE) give "
            "several different ones, by a change of its input too small to see.",
            search_aliases=[
                "provoke",
                "variation",
                "diversity",
                "adversarial",
                "FGSM",
                "PGD",
                "perturb",
                "untargeted attack",
            ],
            inputs=[
                *image_attack_sockets.inputs(),
                io.Float.Input(
                    "diversity",
                    default=8.0,
                    min=0.0,
                    max=10.0,
                    step=0.1,
                    tooltip="How strongly the results of one image are pushed away from each other, relative to the "
                    "push away from the default result (a weight, no unit). 0 lets each go its own way.",
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
                    optional=True,  # appended: prompts saved before it lack it
                    advanced=True,
                    tooltip="With an objective: towards more of it, or away from it. Without one the node goes away "
                    "from the default result.",
                ),
                ObjectiveSocket.Input(
                    "objective",
                    optional=True,
                    tooltip="What is searched for instead of change and contrast: from the objective nodes. diversity "
                    "is added to it as it is.",
                ),
            ],
            outputs=image_attack_sockets.outputs(),
        )

    @classmethod
    def execute(
        cls,
        diversity: float,
        variance_weight: float,
        direction: str = "towards",
        objective: Parts | None = None,
        **inputs: Any,
    ) -> io.NodeOutput:
        settings = AttackSettings(**inputs)
        together = diversity > 0 and settings.count > 1

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
                parts["diversity"] = (diversity, objectives.pairwise_diversity(settings.count, region))
            return WeightedSum(parts)

        return image_attack.run(
            settings,
            wanted,
            coupled=together,
            judges=() if objective is None else objective.held,
            verdicts=() if objective is None else [Verdict(objective.name, objective.build)],
        )
