"""Any objective as a measurement, and what is best by it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..core.agreement import Votes
from ..core.errors import ProvokeError
from ..core.objectives import at_size
from ..host.api import io, schema
from .objective import ObjectiveSocket, Parts, Scores, ScoresSocket, pictures, scored_one_by_one


class ScoreImages(io.ComfyNode):
    """Applies an objective to pictures, as they are."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ProvokeScoreImages",
            display_name="Score Images",
            category="Provoke/measure",
            description="Measures pictures by any objective: a figure for each, in words and as numbers.",
            search_aliases=["provoke", "clip score", "evaluate", "metric", "rank", "aesthetic"],
            inputs=[
                io.Image.Input("images", tooltip="The pictures to measure."),
                ObjectiveSocket.Input("objective", tooltip="What is measured."),
                io.Image.Input(
                    "default",
                    optional=True,
                    tooltip="For objectives that compare (distance, direction): one picture, or one for each.",
                ),
            ],
            outputs=[
                ScoresSocket.Output("scores", tooltip="For Pick Best."),
                io.Float.Output("values", is_output_list=True, tooltip="The figures, one for each picture."),
                io.String.Output("report", tooltip="The figures in words, the parts of a sum one by one."),
            ],
        )

    @classmethod
    def execute(cls, images: Tensor, objective: Parts, default: Tensor | None = None) -> io.NodeOutput:
        batch = pictures(images, "images")
        reference = None if default is None else at_size(pictures(default, "default"), batch)
        scores = scored_one_by_one(objective, batch, reference)
        return io.NodeOutput(scores, scores.total.tolist(), _report(scores))


class PickBest(io.ComfyNode):
    """The best k of pictures or latents, by their scores."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ProvokePickBest",
            display_name="Pick Best",
            category="Provoke/measure",
            description="Keeps the best pictures (and the latents that belong to them), the best first.",
            search_aliases=["provoke", "top k", "select", "rank", "sort", "best of"],
            inputs=[
                ScoresSocket.Input("scores", tooltip="From Score Images."),
                io.Int.Input("keep", default=1, min=1, max=4096, tooltip="How many to keep."),
                io.Combo.Input("best", options=["highest", "lowest"], tooltip="Which scores are the best."),
                io.Image.Input("images", optional=True, tooltip="The pictures that were scored."),
                io.Latent.Input("latents", optional=True, tooltip="The latents that they were decoded from."),
            ],
            outputs=[
                io.Image.Output("images", tooltip="The best pictures, the best first; a black one if none came in."),
                io.Latent.Output("latents", tooltip="Their latents; an empty one if none came in."),
                io.String.Output("report", tooltip="Which ones they are, and their scores."),
            ],
        )

    @classmethod
    def execute(
        cls,
        scores: Scores,
        keep: int,
        best: str,
        images: Tensor | None = None,
        latents: dict[str, Any] | None = None,
    ) -> io.NodeOutput:
        count = len(scores.total)
        for name, came in (
            ("images", None if images is None else len(images)),
            ("latents", None if latents is None else len(latents["samples"])),
        ):
            if came not in (None, count):
                raise ProvokeError(
                    f"{name} has {came} entries for {count} scores",
                    "one for each score",
                    f"connect what was scored to {name}",
                )
        if images is None and latents is None:
            raise ProvokeError("Neither images nor latents came in", "what was scored", "connect images or latents")
        # equal scores keep their order; a score that is no number is never the best
        ranked = scores.total.nan_to_num(-torch.inf) if best == "highest" else -scores.total.nan_to_num(torch.inf)
        order = ranked.argsort(descending=True, stable=True)[:keep]
        lines = [f"number {index + 1}: {scores.total[index]:.4g}" for index in order.tolist()]
        return io.NodeOutput(
            torch.zeros(1, 64, 64, 3) if images is None else images[order.to(images.device)],
            {"samples": torch.zeros(1, 4, 8, 8)} if latents is None else _picked(latents, order, count),
            "\n".join(lines),
        )


def _picked(latents: dict[str, Any], order: Tensor, count: int) -> dict[str, Any]:
    """A LATENT of some of its entries: samples, and with them mask and batch_index, as *Latent From Batch* does."""
    kept = dict(latents)
    samples = latents["samples"]
    kept["samples"] = samples[order.to(samples.device)]
    numbers = latents.get("batch_index", list(range(count)))
    kept["batch_index"] = [numbers[index] for index in order.tolist()]
    mask = latents.get("noise_mask")
    if mask is not None and len(mask) == count:
        kept["noise_mask"] = mask[order.to(mask.device)]
    return kept


def _report(scores: Scores) -> str:
    lines = [f"mean     {float(scores.total.mean()):.4f} of {len(scores.total)}"]
    for index, total in enumerate(scores.total.tolist()):
        line = f"image {index + 1}  {total:.4f}"
        if len(scores.terms) > 1:
            parts = (f"{value[index]:.4f} x {scores.weights[name]:g}" for name, value in scores.terms.items())
            line += "  = " + " + ".join(parts)
        lines.append(line)
        lines += [_votes(votes, index) for votes in scores.votes.values()]
    if scores.agreed is not None:
        lines.append(f"agreed   on {int(scores.agreed.sum())} of {len(scores.total)}: every judge says what is wanted")
    if scores.denied is not None:
        lines.append(f"denied   on {int(scores.denied.sum())} of {len(scores.total)}: every judge says the opposite")
    return "\n".join(["measured " + ", ".join(scores.terms), *lines])


def _votes(votes: Votes, index: int) -> str:
    """What each judge of one part says of a picture, in words."""
    each = {name: float(value[index]) for name, value in votes.items()}
    yes = sum(value > 0 for value in each.values())
    no = sum(value < 0 for value in each.values())
    said = "all agree" if yes == len(each) else "none says so" if no == len(each) else f"{yes} of {len(each)} say so"
    return f"  {said}: " + ", ".join(f"{name} {value:+.4g}" for name, value in each.items())
