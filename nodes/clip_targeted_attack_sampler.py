"""Steer Sampling (CLIP-Targeted Attack): a sampler's result moved towards a text or a reference picture.

generator: the user's sampler, then the decode. variable: the conditioning, the latent or the control image. objective:
similarity, or a direction, in CLIP space. budget: a ball of a fraction of the thing's own RMS. step rule: Auto-PGD.
Source: arXiv 2403.08294; augmented copies: Athalye et al. 2018.
"""

from __future__ import annotations

from typing import Any, ClassVar

from ..host.api import io, schema
from . import sampler_attack, smoothing, steering


class _Node(io.SearchNode):
    """The CLIP-targeted attack on a sampler. (Siblings, no heirs: the host keeps a schema on its class.)"""

    form: ClassVar[str]
    node: ClassVar[str]
    title: ClassVar[str]

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id=cls.node,
            display_name=cls.title,
            category="Provoke/attack",
            description="A sampler whose result is led to a text or a reference picture by a CLIP, by a small change "
            "of the conditioning, the latent or the control image; prompt, seed and model stay.",
            search_aliases=[
                "provoke",
                "CLIP",
                "clip guidance",
                "targeted attack",
                "steer",
                "text guided",
                "edit",
                "KSampler",
            ],
            inputs=[
                *sampler_attack.inputs(cls.form),
                *steering.inputs(),
                *smoothing.inputs(0.0),
                *steering.later_inputs(),
            ],
            outputs=sampler_attack.outputs(cls.form),
        )

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        graph, search, attack, rest = sampler_attack.taken(inputs)
        smoothed, rest = smoothing.taken(rest, shift=True)
        led = steering.steering(attack.count, **rest)
        return sampler_attack.run(
            cls.form,
            graph,
            search,
            attack,
            led.objective,
            coupled=led.coupled,
            judges=led.judges,
            verdicts=led.verdicts,
            augment=led.augment,
            copies=led.copies,
            smoothing=smoothed,
            still=led.still,
        )


class ClipTargetedAttackSampler(_Node):
    """The form of KSampler."""

    form = "KSampler"
    node = "ProvokeClipTargetedAttackSampler"
    title = "Steer Sampling (CLIP-Targeted Attack)"


class ClipTargetedAttackSamplerCustom(_Node):
    """The form of SamplerCustomAdvanced."""

    form = "Custom"
    node = "ProvokeClipTargetedAttackSamplerCustom"
    title = "Steer Sampling, Custom (CLIP-Targeted Attack)"
