"""The widgets that a search has whatever it moves, an image model's input or a sampler's.

Nothing may be added to these lists: workflows store widget values by position (the schema snapshot test holds this).
"""

from __future__ import annotations

from ..host.api import io
from .attack_settings import NORMS, SCHEDULES, STEP_RULES, TRUNCATIONS


def ball_inputs(*, moved: str, truncation: str) -> list[io.Input]:
    """Which ball the change stays in, and how it moves there.

    moved: what is changed, in a word. truncation: what its two choices mean for that.
    """
    return [
        io.Combo.Input(
            "norm",
            options=list(NORMS),
            advanced=True,
            tooltip="What epsilon bounds: the largest change, the root mean square, or the mean.",
        ),
        io.Combo.Input("truncation", options=TRUNCATIONS, advanced=True, tooltip=f"For L-inf. {truncation}"),
        io.Combo.Input(
            "step_rule",
            options=STEP_RULES,
            advanced=True,
            tooltip=f"How the {moved} moves along the gradient. APGD sets its own step size; FGSM makes a single step.",
        ),
        io.Float.Input(
            "step_size",
            default=0.1,
            min=0.001,
            max=2.0,
            step=0.01,
            advanced=True,
            tooltip="Size of one step of PGD, MI-FGSM and Adam, as a fraction of the budget's radius: of epsilon, or "
            "of 0.4 epsilon when truncating.",
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
            min=0.01,
            max=2.0,
            step=0.05,
            advanced=True,
            tooltip="Standard deviation of the noise that a search starts from, as a fraction of the budget's radius "
            "(see step_size). Never 0: at the default result itself there is no direction away from it.",
        ),
    ]


def time_limit_input() -> io.Input:
    """When to end with the best so far."""
    return io.Float.Input(
        "time_limit",
        default=0.0,
        min=0.0,
        max=86_400.0,
        step=1.0,
        advanced=True,
        tooltip="Stop after this many seconds and keep the best so far. 0 sets no limit.",
    )
