"""The loader of vision-language models, from the model folder."""

from __future__ import annotations

from ..host import judges
from ..host.api import io, schema
from ..host.judges import Held
from .load_judges import NOTHING, in_words
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
                    options=judges.entries(judges.VLM_FOLDER) or [NOTHING],
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

        path = judges.resolve(judges.VLM_FOLDER, vlm)
        held = judges.manage(in_words(load_vlm, path, judges.judge_dtype()))
        if together_with is not None:
            members = getattr(together_with.judge, "members", (together_with.judge,))
            held = held.within(in_words(Together, [*members, held.judge]), together_with)
        return io.NodeOutput(held, "\n".join(f"{kind}: {LOSSES[kind]}" for kind in held.judge.kinds))
