"""The loader of vision-language models, from the model folder."""

from __future__ import annotations

from ..host import judges
from ..host.api import io, schema
from ..host.judges import Held
from .load_judges import chained, listed, loaded
from .objective import VlmSocket


class LoadVlm(io.ComfyNode):
    """A BLIP-2 or LLaVA of a folder of models/provoke_vlm."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ProvokeLoadVlm",
            display_name="Load VLM",
            category="Provoke/load",
            description="A judge that reads a whole sentence: does it match a picture? A transformers folder in "
            "models/provoke_vlm with a BLIP-2 (Blip2ForImageTextRetrieval: matching; Blip2ForConditionalGeneration "
            "with an OPT: captions) or a LLaVA (captions). Those named provoke-demo-... know the demo world.",
            search_aliases=["provoke", "BLIP-2", "BLIP2", "LLaVA", "vision language model", "ITM", "caption", "judge"],
            inputs=[
                io.Combo.Input(
                    "vlm",
                    options=listed(judges.VLM_FOLDER),
                    tooltip="A folder in models/provoke_vlm.",
                ),
                VlmSocket.Input(
                    "together_with",
                    optional=True,
                    tooltip="Another one that has a loss which this one lacks: a matching and a captioning model "
                    "become one judge.",
                ),
            ],
            outputs=[
                VlmSocket.Output("vlm", tooltip="For VLM Inversion Sampler and Objective: Matches the Text (VLM)."),
                io.String.Output("losses", tooltip="What it can say of a picture and a text, a line each."),
            ],
        )

    @classmethod
    def execute(cls, vlm: str, together_with: Held | None = None) -> io.NodeOutput:
        from ..scorers.load_vlm import load_vlm
        from ..scorers.vlm import LOSSES, Together

        held = chained(loaded(judges.VLM_FOLDER, vlm, load_vlm), together_with, Together)
        return io.NodeOutput(held, "\n".join(f"{kind}: {LOSSES[kind]}" for kind in held.judge.kinds))
