"""Failure Report: what searches found, as a contact sheet and a JSON from which it can be made again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..core.errors import ProvokeError
from ..host import report_files
from ..host.api import io, schema, ui
from ..host.contact_sheet import as_image, contact_sheet
from ..host.output_files import below_output
from .failure_record import Failures, caption
from .objective import Scores, ScoresSocket


class FailureReport(io.ComfyNode):
    """Collects pictures with all that made them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ProvokeFailureReport",
            display_name="Failure Report",
            category="Provoke/measure",
            description="Collects what searches have found: a contact sheet (PNG) and a JSON with the prompt, seed, "
            "scores, what each judge says, the noise's file and the whole workflow, from which it can be made again. "
            "Written below ComfyUI's output folder; files count up, none is ever overwritten.",
            search_aliases=["provoke", "contact sheet", "red team", "log", "export", "grid", "reproduce", "SAGE"],
            is_output_node=True,
            is_input_list=True,
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            inputs=[
                io.Image.Input("images", tooltip="The pictures: batches or lists, 400 at most."),
                io.String.Input(
                    "prompts",
                    multiline=True,
                    default="",
                    tooltip="What was asked for: one prompt for all, or a list with one for each (from Search Prompt).",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="The noise_seed of the run: one for all, or a list.",
                ),
                io.String.Input(
                    "notes", multiline=True, default="", tooltip="Whatever else belongs to it: model, steps, cfg."
                ),
                io.String.Input(
                    "filename_prefix",
                    default="failures/report",
                    tooltip="Name of the files below output; a number is added. Folders are made.",
                ),
                io.String.Input(
                    "embedding",
                    default="",
                    advanced=True,
                    tooltip="A learned embedding that the prompts use, by its name in a prompt; its SHA-256 is kept.",
                ),
                ScoresSocket.Input(
                    "scores", optional=True, tooltip="From Score Images of these pictures: which judge said what."
                ),
                io.Latent.Input(
                    "noise",
                    optional=True,
                    tooltip="The noise that made them, as a latent (from Search Noise or Latent from Noise). It is "
                    "saved beside the report, for Load Latent and Noise from Latent.",
                ),
            ],
            outputs=[
                io.Image.Output("sheet", tooltip="The contact sheet."),
                io.String.Output("json", tooltip="The report's text, as it was written."),
            ],
        )

    @classmethod
    def execute(
        cls,
        images: list[Tensor],
        prompts: list[str],
        seed: list[int],
        notes: list[str],
        filename_prefix: list[str],
        embedding: list[str],
        scores: list[Scores] | None = None,
        noise: list[dict[str, Any]] | None = None,
    ) -> io.NodeOutput:
        failures = Failures.of(images, prompts, seed, scores or [])
        records = failures.records()
        said = "\n".join(note for note in notes if note.strip())
        words = [report_files.embedding(name) for name in dict.fromkeys(embedding) if name.strip()]
        sheet = contact_sheet(failures.pictures, [caption(record) for record in records])

        def report(facts: dict[str, Any]) -> dict[str, Any]:
            return {**facts, "notes": said, "embeddings": words, "pictures": records}

        text, path = report_files.save(report, sheet, _one_noise(noise), filename_prefix[0], _graph(cls))
        place = below_output(path).rpartition("/")
        shown = ui.SavedImages([ui.SavedResult(place[2], place[0], io.FolderType.output)])
        return io.NodeOutput(as_image(sheet), text, ui=shown)


def _one_noise(latents: list[dict[str, Any]] | None) -> Tensor | None:
    """Several latents of one size as a batch."""
    if not latents:
        return None
    samples = [latent["samples"] for latent in latents]
    if any(bool(getattr(one, "is_nested", False)) or one.shape[1:] != samples[0].shape[1:] for one in samples):
        raise ProvokeError(
            "The noises are of different sizes, or a nest of several",
            "latents of one size: they become one file",
            "report each size by itself",
        )
    return torch.cat([one.detach().cpu() for one in samples])


def _graph(node: type[io.ComfyNode]) -> dict[str, Any]:
    """The workflow as the host hands it to a node: what ran (`prompt`), and the page's own (`workflow`)."""
    hidden = node.hidden
    if hidden is None:
        return {}
    return {**(hidden.extra_pnginfo or {}), "prompt": hidden.prompt}
