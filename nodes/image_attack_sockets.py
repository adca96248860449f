"""The sockets and widgets that every attack on an image model shares.

Nothing may be added to `inputs()`: workflows store widget values by position, and each method's own widgets follow
these. A new one is appended to every node after its own (the schema snapshot test holds this).
"""

from __future__ import annotations

from ..host.api import io
from .attack_settings import METHODS
from .attack_sockets import ball_inputs, time_limit_input


def inputs() -> list[io.Input]:
    """What comes in, in the order of `AttackSettings`."""
    return [
        io.MultiType.Input(
            "model",
            types=[io.UpscaleModel, io.Custom("INPAINT_MODEL"), io.Vae],
            tooltip="The frozen image model: from Load Upscale Model (upscalers, restorers, inpainters of one "
            "picture), an inpaint model (needs the mask), or a VAE (encode and decode).",
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
            "(L-inf), the root mean square (L2) or the mean (L1). 2 to 8 is hard to see. 0 gives the model's own "
            "result.",
        ),
        io.Int.Input(
            "steps",
            default=40,
            min=0,
            max=10_000,
            tooltip="Steps of the search. Each costs two to three runs of the model a result (random: one; with "
            "smoothing: about twice the copies). 0 gives the model's own result.",
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
            options=METHODS,
            advanced=True,
            tooltip="gradient searches. random keeps the best of steps + 1 random changes: works on any model, also "
            "one without a gradient, and is the baseline that the gradient has to beat.",
        ),
        *ball_inputs(
            moved="input",
            truncation="truncate keeps the change like Gaussian noise cut at epsilon: least visible. clip lets every "
            "pixel go to epsilon (classic PGD): a little stronger, three times the visible noise.",
        ),
        io.Float.Input(
            "stop_at_score",
            default=0.0,
            min=-2550.0,
            max=2550.0,
            step=0.5,
            advanced=True,
            tooltip="Stop the results of an image as soon as their score reaches this many 8-bit levels: change plus "
            "contrast plus diversity, each times its weight (of an objective or a similarity: 255 times it; away from "
            "an objective: minus that). 0 uses all steps.",
        ),
        time_limit_input(),
        io.Mask.Input(
            "mask",
            optional=True,
            tooltip="The hole that the model fills in (1 = hole): its pixels are never changed, and the results are "
            "compared inside it.",
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
        io.Image.Output(
            "difference",
            tooltip="The change of the input around mid grey, amplified until it shows (the report says how much).",
        ),
        io.Custom("LOSS_MAP").Output("loss", tooltip="For Plot Loss Graph: minus the objective at every step."),
        io.String.Output("report", tooltip="What was changed, by how much, what it did and what it cost, measured."),
        io.Image.Output(
            "comparison",
            tooltip="All in one picture, a row for each result (24 at most): the input before and after, their "
            "difference amplified so many times, the result before and after.",
        ),
    ]
