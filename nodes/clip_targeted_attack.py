"""Steer Result (CLIP-Targeted Attack): a deterministic model's results moved towards a text or a reference picture.

generator: the image model. variable: its input picture. objective: similarity, or a direction, in CLIP space. budget: a
ball of a few 8-bit levels. step rule: Auto-PGD, on a smoothed gradient. Source: arXiv 2403.08294; augmented copies and
smoothing: Athalye et al. 2018.
"""

from __future__ import annotations

from typing import Any

from ..host.api import io, schema
from . import image_attack, image_attack_sockets, smoothing, steering
from .attack_settings import AttackSettings


class ClipTargetedAttack(io.SearchNode):
    """The CLIP-targeted attack on an image model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ProvokeClipTargetedAttack",
            display_name="Steer Result (CLIP-Targeted Attack)",
            category="Provoke/attack",
            description="Moves the result of a model that always gives the same one (inpainter, upscaler, coloriser, "
            "VAE) towards a text or a reference picture, by a change of its input too small to see.",
            search_aliases=[
                "provoke",
                "CLIP",
                "clip guidance",
                "targeted attack",
                "steer",
                "text guided",
                "adversarial",
                "FGSM",
                "edit",
            ],
            inputs=[
                *image_attack_sockets.inputs(),
                *steering.inputs(),
                *smoothing.inputs(1.0),
                *steering.later_inputs(),
            ],
            outputs=image_attack_sockets.outputs(),
        )

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        smoothed, rest = smoothing.taken(inputs, shift=True)
        names = {widget.id for widget in (*steering.inputs(), *steering.later_inputs())}
        settings = AttackSettings(**{name: value for name, value in rest.items() if name not in names})
        led = steering.steering(settings.count, **{name: value for name, value in rest.items() if name in names})
        return image_attack.run(
            settings,
            led.objective,
            coupled=led.coupled,
            judges=led.judges,
            verdicts=led.verdicts,
            augment=led.augment,
            copies=led.copies,
            smoothing=smoothed,
            still=led.still,
        )
