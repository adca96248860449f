"""Conditionings as files: what a search has found can be kept and shared."""

from __future__ import annotations

from typing import Any

from ..host import conditioning_files
from ..host.api import io, schema

NOTHING = "(none saved yet)"
CHOICES = ("refuse", "leave out")


class SaveConditioning(io.ComfyNode):
    """Into output/conditioning, as safetensors."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ProvokeSaveConditioning",
            display_name="Save Conditioning",
            category="Provoke/search",
            description="Saves a conditioning with all its entries, masks, areas and percentages as a safetensors "
            "file in output/conditioning. Files count up; none is ever overwritten.",
            search_aliases=["provoke", "export conditioning", "store prompt", "safetensors", "embedding"],
            is_output_node=True,
            inputs=[
                io.Conditioning.Input("conditioning", tooltip="What is saved."),
                io.String.Input(
                    "filename_prefix",
                    default="found",
                    tooltip="Name of the file below output/conditioning; a number is added. Folders are made.",
                ),
                io.Combo.Input(
                    "cannot_be_saved",
                    options=list(CHOICES),
                    advanced=True,
                    tooltip="What to do about ControlNets, hooks and other objects, which a file cannot hold: refuse "
                    "to save, or save the rest and say what is missing.",
                ),
            ],
            outputs=[
                io.Conditioning.Output("conditioning", tooltip="The conditioning as it came in."),
                io.String.Output("report", tooltip="Where it was saved, and what was left out."),
            ],
        )

    @classmethod
    def execute(cls, conditioning: list[Any], filename_prefix: str, cannot_be_saved: str) -> io.NodeOutput:
        path, left = conditioning_files.save(
            conditioning, filename_prefix, leave_out=cannot_be_saved == CHOICES[1]
        )  # fmt: skip
        report = f"saved as output/{conditioning_files.below_output(path)}" + (
            f"; left out: {', '.join(left)}" if left else ""
        )
        return io.NodeOutput(conditioning, report)


class LoadConditioning(io.ComfyNode):
    """From input, input/conditioning or output/conditioning."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ProvokeLoadConditioning",
            display_name="Load Conditioning",
            category="Provoke/load",
            description="Loads a conditioning that Save Conditioning has written: from output/conditioning, or from "
            "the input folder (or its subfolder conditioning), where you put what you were sent.",
            search_aliases=["provoke", "import conditioning", "open prompt", "safetensors", "embedding"],
            inputs=[
                io.Combo.Input(
                    "conditioning",
                    options=conditioning_files.listed() or [NOTHING],
                    tooltip="The file. Those that end in [output] were saved here.",
                ),
            ],
            outputs=[io.Conditioning.Output("conditioning", tooltip="For any sampler, in place of a prompt.")],
        )

    @classmethod
    def fingerprint_inputs(cls, conditioning: str) -> str:
        return conditioning_files.fingerprint(conditioning)

    @classmethod
    def execute(cls, conditioning: str) -> io.NodeOutput:
        return io.NodeOutput(conditioning_files.load(conditioning_files.resolve(conditioning)))
