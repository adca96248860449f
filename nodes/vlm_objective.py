"""What a vision-language model says of a picture and a text, as an objective for every method."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..core import semantic
from ..core.errors import ProvokeError
from ..core.objectives import Objective
from ..host.api import io, schema
from ..host.judges import Held
from .load_judges import in_words
from .objective import PROMPT, Parts, Situation, Term, VlmSocket
from .objectives import objective_output, region_input

NAMES = {"matching": "log p(match)", "contrastive": "cosine - 1", "caption": "log p(caption), a token"}


def weight_inputs() -> list[io.Input]:
    """How much each of a VLM's losses counts. Nothing may be added here: workflows store widgets by position."""
    return [
        io.Float.Input(
            "matching",
            default=1.0,
            min=0.0,
            max=100.0,
            step=0.05,
            tooltip="Weight of log p(the text matches), in nats, by the matching head (BLIP-2's). Left out where the "
            "VLM has none.",
        ),
        io.Float.Input(
            "caption",
            default=1.0,
            min=0.0,
            max=100.0,
            step=0.05,
            tooltip="Weight of log p(the text as the picture's caption), in nats, the mean of its tokens. Left out "
            "where the VLM writes no captions.",
        ),
        io.Float.Input(
            "contrastive",
            default=0.0,
            min=0.0,
            max=100.0,
            step=0.05,
            advanced=True,
            tooltip="Weight of the cosine of the picture's and the text's vectors (no unit). Left out where the VLM "
            "has none.",
        ),
    ]


def vlm_parts(vlm: Held, text: str, weights: dict[str, float], region: Tensor | None = None) -> Parts:
    """A term for each loss that the VLM has and that has a weight.

    Raises: ProvokeError for an empty or too long text, or where nothing is left.
    """
    if PROMPT not in text:
        in_words(vlm.judge.check, text)
    kinds = [kind for kind in vlm.judge.kinds if weights.get(kind)]
    if not kinds:
        raise ProvokeError(
            f"{vlm.judge.name} has the losses {', '.join(vlm.judge.kinds)}, and their weights are 0",
            "a weight above 0 for one of them",
            "raise that weight, or load a VLM with the loss that you want",
        )

    def make(kind: str) -> Callable[[Situation], Objective]:
        def objective(situation: Situation) -> Objective:
            said = situation.told(text)
            return semantic.likelihood(situation.seen_by(lambda image: vlm.judge.loss(kind, image, said)))

        return objective

    return Parts(
        tuple(
            Term(f"{NAMES[kind]} of '{text.strip()}'", make(kind), weights[kind], held=(vlm,), region=region)
            for kind in kinds
        )
    )


class VlmObjective(io.ComfyNode):
    """Matching and caption likelihood of a text."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ProvokeVlmObjective",
            display_name="Objective: Matches the Text (VLM)",
            category="Provoke/objective",
            description="How well a picture matches a sentence by a vision-language model, which minds what belongs "
            "to what and where: the log probability that the text matches, and that it is the picture's caption. At "
            "most 0.",
            search_aliases=["provoke", "BLIP-2", "LLaVA", "ITM", "caption likelihood", "image text matching", "loss"],
            inputs=[
                VlmSocket.Input("vlm", tooltip="From Load VLM."),
                io.String.Input(
                    "text",
                    multiline=True,
                    default="",
                    tooltip="What the picture is to show, in a sentence. In Learn Token and Search Prompt, prompt in "
                    "braces stands for each prompt.",
                ),
                *weight_inputs(),
                region_input(),
            ],
            outputs=objective_output(),
        )

    @classmethod
    def execute(cls, vlm: Held, text: str, region: Tensor | None = None, **weights: float) -> io.NodeOutput:
        return io.NodeOutput(vlm_parts(vlm, text, weights, region))
