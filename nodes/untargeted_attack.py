"""Vary Result (Untargeted Attack): many different results of a deterministic model from the same-looking picture.

generator: the image model. variable: its input picture. objective: away from the default result, and from each other.
budget: a ball of a few 8-bit levels. step rule: Auto-PGD. Source: arXiv 2403.08294.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..core import objectives
from ..core.objectives import WeightedSum
from ..host.api import io, schema
from . import image_attack, image_attack_sockets
from .attack_settings import AttackSettings


class UntargetedAttack(io.ComfyNode):
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
                    advanced=True,
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
                    "absolute change; the paper uses both. No unit.",
                ),
            ],
            outputs=image_attack_sockets.outputs(),
        )

    @classmethod
    def execute(cls, diversity: float, variance_weight: float, **inputs: Any) -> io.NodeOutput:
        settings = AttackSettings(**inputs)
        together = diversity > 0 and settings.count > 1

        def away(default: Tensor, region: Tensor | None) -> WeightedSum:
            parts = {
                "change": (1.0, objectives.l1_distance(default, region)),
                "contrast": (variance_weight, objectives.variance_shift(default, region)),
            }
            if together:
                parts["diversity"] = (diversity, objectives.pairwise_diversity(settings.count, region))
            return WeightedSum(parts)

        return image_attack.run(settings, away, coupled=together)
