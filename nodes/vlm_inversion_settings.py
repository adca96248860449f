"""What a VLM inversion is asked to do: the widgets of its two nodes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from ..core import augment, inversion
from ..core.augment import Augmentation
from ..core.distillation import WEIGHTS
from ..core.errors import ProvokeError
from ..host.api import io
from ..host.judges import Held
from .objective import Parts, VlmSocket
from .vlm_objective import vlm_parts, weight_inputs

VIEWS = ["published", "published, with flips", "noise only", "none"]
NORMS = ["balanced", "as they are"]


@dataclass(frozen=True)
class InversionSettings:
    """The widgets of `inputs`, which say the units, and the VLM."""

    vlm: Held
    prompt: str
    steps: int
    search_seed: int
    copies: int
    matching: float
    caption: float
    contrastive: float
    sds: float
    balance: float
    step_size: float
    polish: float
    views: str
    pixel_noise: float
    hardest: int
    norms: str
    weighting: str
    warm_up: float
    last_step: float
    update_noise: float
    ema_decay: float
    ema_restarts: str
    time_limit: float
    noise_high: float = 0.95
    noise_end: float = 0.15
    noise_low: float = 0.05

    def __post_init__(self) -> None:
        if self.sds == 0 and self.balance == 0:
            raise ProvokeError(
                "sds and balance are both 0: nothing moves the picture",
                "a weight above 0 for the model's pull, for the VLM's gradient, or for both",
                "raise sds or balance, or set steps to 0",
            )
        self.restarts  # noqa: B018 (raises for what is no list of shares)

    @classmethod
    def taken(cls, inputs: dict[str, Any]) -> tuple[InversionSettings, dict[str, Any]]:
        """These widgets' values, and the inputs that are left."""
        names = cls.__dataclass_fields__
        own = {name: inputs[name] for name in names if name in inputs}
        return cls(**own), {name: value for name, value in inputs.items() if name not in names}

    @property
    def restarts(self) -> list[int]:
        """After which steps the latent becomes its average. Raises ProvokeError for what is no list of shares."""
        words = self.ema_restarts.replace(",", " ").split()
        try:
            shares = [float(word) for word in words]
        except ValueError:
            shares = [-1.0]
        if not all(0 < share < 1 for share in shares):
            raise ProvokeError(
                f"ema_restarts is {self.ema_restarts!r}",
                "shares of the run between 0 and 1 with commas between them (0.25, 0.625), or nothing",
                "write such a list",
            )
        return [max(1, round(share * self.steps)) for share in shares]

    @property
    def alone(self) -> int:
        """How many of the last steps follow the model alone."""
        return round(self.polish * self.steps) if self.sds > 0 else 0

    @property
    def looks(self) -> int:
        """How many copies of a picture the VLM sees in a step."""
        return self.copies if self.augmentation is not None else 1

    @property
    def augmentation(self) -> Augmentation | None:
        """What each copy is changed by."""
        if self.views == "none" or self.copies == 0:
            return None
        if self.views == "noise only":
            return augment.pixel_noise(self.pixel_noise)
        return inversion.views(noise=self.pixel_noise, flips=self.views == "published, with flips")

    @property
    def parts(self) -> Parts:
        """The VLM's losses as an objective. Raises ProvokeError for a text that it cannot read."""
        weights = {"matching": self.matching, "caption": self.caption, "contrastive": self.contrastive}
        return vlm_parts(self.vlm, self.prompt, weights)


def first_inputs() -> list[io.Input]:
    """The judge and its words."""
    return [
        VlmSocket.Input("vlm", tooltip="The judge that is followed: from Load VLM."),
        io.String.Input(
            "prompt",
            multiline=True,
            default="",
            tooltip="What the picture is to show, in a sentence for the VLM. (The model reads `positive`: use the same "
            "words there, and what makes a good picture.)",
        ),
    ]


def inputs() -> list[io.Input]:
    """What both nodes have. Nothing may be added here: a new widget is appended to each node after its own."""
    number = partial(io.Float.Input, advanced=True)
    return [
        io.Int.Input(
            "steps",
            default=160,
            min=0,
            max=10_000,
            tooltip="Gradient steps. Each decodes the latent once (with its gradient), asks the VLM `copies` times and "
            "the model once. 0 gives the latent as it came.",
        ),
        io.Int.Input(
            "search_seed",
            default=0,
            min=0,
            max=0xFFFFFFFFFFFFFFFF,
            control_after_generate=io.ControlAfterGenerate.fixed,
            tooltip="Seed of the search's own chance: the copies, the noise of SDS and of the moves.",
        ),
        io.Int.Input(
            "copies",
            default=10,
            min=0,
            max=64,
            tooltip="How many randomly changed copies of the picture the VLM sees in each step, one after the other: "
            "more cost time, not memory. 0: the picture itself, and with it the VLM's blind spots.",
        ),
        *weight_inputs(),
        io.Float.Input(
            "sds",
            default=1.0,
            min=0.0,
            max=100.0,
            step=0.05,
            tooltip="Weight of the model's pull (score distillation): what keeps the picture one of its kind. 0: the "
            "VLM alone, without the model.",
        ),
        io.Float.Input(
            "balance",
            default=0.5,
            min=0.0,
            max=100.0,
            step=0.1,
            tooltip="The VLM's gradient is scaled to so many times the norm of the model's pull (without one, to so "
            "much, root mean square). 0: the model alone.",
        ),
        io.Float.Input(
            "step_size",
            default=0.1,
            min=0.0001,
            max=10.0,
            step=0.005,
            tooltip="Share of the pull that one step goes: at 0.1 and weighting picture a tenth of the way to "
            "what the model predicts.",
        ),
        io.Float.Input(
            "polish",
            default=0.25,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Share of the steps, at the end, that follow the model alone (0.0625 as published).",
        ),
        io.Combo.Input(
            "views",
            options=VIEWS,
            advanced=True,
            tooltip="How the copies are changed. published: turned up to 30 degrees and shifted, perspective, colour, "
            "a part erased, noise. Flips are left out: left and right are part of what a sentence says.",
        ),
        number(
            "pixel_noise",
            default=0.1,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Standard deviation of the noise on each copy, in units of the picture (1 is from black to white).",
        ),
        io.Int.Input(
            "hardest",
            default=0,
            min=0,
            max=64,
            advanced=True,
            tooltip="Follow only so many of the copies, those that the VLM likes least. Cheaper: the others are looked "
            "at without a gradient. 0: all of them.",
        ),
        io.Combo.Input(
            "norms",
            options=NORMS,
            advanced=True,
            tooltip="balanced: the VLM's gradient is scaled to the pull's norm. as they are: it is taken times "
            "`balance`, whatever its size.",
        ),
        io.Combo.Input(
            "weighting",
            options=list(WEIGHTS),
            advanced=True,
            tooltip="What the pull weighs by noise level: the distance from the predicted picture itself, or what that "
            "is in the model's noise (eps) or velocity (flow) prediction; the last is DreamFusion's.",
        ),
        number(
            "warm_up",
            default=0.0625,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Share of the steps over which the step size rises to its full (10 of 160 as published).",
        ),
        number(
            "last_step",
            default=0.5,
            min=0.0,
            max=1.0,
            step=0.05,
            tooltip="The last step's size as a share of the full one, reached by a cosine.",
        ),
        number(
            "update_noise",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Noise in every move: its standard deviation, in the latent's (in the model's space).",
        ),
        number(
            "ema_decay",
            default=0.95,
            min=0.0,
            max=0.999,
            step=0.01,
            tooltip="How much of the average of the latents stays in each step (no unit). 0: no average.",
        ),
        io.String.Input(
            "ema_restarts",
            default="0.25, 0.625",
            advanced=True,
            tooltip="When the latent becomes its average, as shares of the run (after steps 40 and 100 of 160). "
            "Empty: never.",
        ),
        number(
            "time_limit",
            default=0.0,
            min=0.0,
            max=86_400.0,
            step=1.0,
            tooltip="Stop after this many seconds and keep the best of what is there. 0 sets no limit.",
        ),
    ]


def range_inputs() -> list[io.Input]:
    """Where SDS draws its noise levels, for the node that has no SIGMAS."""
    number = partial(io.Float.Input, min=0.001, max=0.999, step=0.01, advanced=True)
    return [
        number(
            "noise_high",
            default=0.95,
            tooltip="The highest noise level that the model is asked at, as a share of noise (a flow model's time; in "
            "SD 1.5 0.92 is t = 950). At high levels it minds what is where.",
        ),
        number("noise_end", default=0.15, tooltip="What the highest level has fallen to at the end (annealing)."),
        number("noise_low", default=0.05, tooltip="The lowest noise level. At low levels it minds details alone."),
    ]
