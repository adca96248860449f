"""What pictures of the demo world show, by a program that has learned nothing."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import Tensor

from ..core.errors import ProvokeError
from ..host.api import io, schema
from .demo_access import demo


class ReadDemoScene(io.ComfyNode):
    """Reads pictures back into words, or says why one is no clean scene."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ProvokeReadDemoScene",
            display_name="Read Demo Scene",
            category="Provoke/demo",
            description="Says what pictures of the demo world show (objects, colours, shapes, how they lie), or why "
            "one is not a clean scene. Not a model but a measurement, so no attack on a network fools it.",
            search_aliases=["provoke", "checker", "verify", "caption", "ground truth", "count shapes"],
            inputs=[
                io.Image.Input("image", tooltip="Pictures of 64 x 64 pixels, such as the demo models make."),
            ],
            outputs=[
                io.String.Output("readings", tooltip="A line for each picture."),
                io.String.Output("summary", tooltip="How many are clean scenes, and how often each was read."),
                io.Int.Output("clean", tooltip="How many pictures are clean scenes."),
                io.Int.Output("different", tooltip="How many different things the clean ones show."),
            ],
        )

    @classmethod
    def execute(cls, image: Tensor) -> io.NodeOutput:
        if image.ndim != 4 or tuple(image.shape[1:]) != (64, 64, 3):
            raise ProvokeError(
                f"The image is {tuple(image.shape)} (B H W C)",
                "pictures of the demo world: 64 x 64, RGB",
                "connect what a demo model made; another picture cannot be read",
            )
        readings = demo("checker").read(image.movedim(-1, 1).float().cpu())
        lines = [_line(reading) for reading in readings]
        shown = Counter(line for line, reading in zip(lines, readings, strict=True) if reading.clean)
        clean = sum(shown.values())
        summary = "\n".join(
            [f"{clean} of {len(lines)} are clean scenes", *(f"{n} x {line}" for line, n in shown.most_common())]
        )
        return io.NodeOutput("\n".join(lines), summary, clean, len(shown))


def _line(reading: Any) -> str:
    """A checker's Reading in words."""
    if not reading.clean:
        return f"no clean scene: {reading.reason}"
    facts = reading.facts.ordered()
    if len(facts.objects) == 2 and facts.relation is None:
        first, second = (f"a {colour} {shape}" for colour, shape in facts.objects)
        return f"{first} and {second}, diagonally, on {facts.background}"
    return str(demo("captions").canonical(facts, background=True))
