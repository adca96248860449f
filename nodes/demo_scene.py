"""Pictures of the demo world: coloured shapes, of which a program can say what they show."""

from __future__ import annotations

import torch

from ..host.api import io, schema
from .demo_access import demo

OBJECTS = {"one or two": None, "one": 1, "two": 2}
QUESTIONS = ("nothing", "an object (for the inpainter)", "the colours (for the coloriser)")


class DemoScene(io.ComfyNode):
    """Random scenes that no demo model has seen, whole or with something missing."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ProvokeDemoScene",
            display_name="Demo Scene",
            category="Provoke/demo",
            description="Pictures of one or two coloured shapes, 64 x 64 pixels, with captions that are true of them. "
            "The pack's demo models know this world alone, so every effect can be tried without a download. The "
            "combinations shown here were held out of their training.",
            search_aliases=["provoke", "shapes", "toy dataset", "test image", "synthetic", "inpainting example"],
            inputs=[
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**64 - 1,
                    control_after_generate=True,
                    tooltip="Which scenes are drawn. Equal seeds give equal scenes.",
                ),
                io.Int.Input("count", default=4, min=1, max=256, tooltip="How many pictures."),
                io.Combo.Input("objects", options=list(OBJECTS), tooltip="How many shapes a picture shows."),
                io.Combo.Input(
                    "missing",
                    options=list(QUESTIONS),
                    tooltip="What is left out of `image`: nothing, an object (a grey square in its place, which "
                    "provoke-demo-world-inpainter fills), or the colours, which provoke-demo-world-coloriser puts "
                    "back; both in Load Upscale Model.",
                ),
            ],
            outputs=[
                io.Image.Output("image", tooltip="The pictures, with what is missing left out; RGB, 8-bit levels."),
                io.Mask.Output("missing", tooltip="1 where something is missing (all 1 when nothing is)."),
                io.Image.Output("whole", tooltip="The same pictures with nothing missing."),
                io.String.Output("captions", tooltip="What the whole pictures show, a line each."),
            ],
        )

    @classmethod
    def execute(cls, seed: int, count: int, objects: str, missing: str) -> io.NodeOutput:
        world, questions = demo("world"), demo("questions")
        rng = torch.Generator().manual_seed(seed % 2**63)
        scenes = world.sample(count, rng, part="held out", objects=OBJECTS[objects])
        off = questions.levels(questions.random_tints(scenes, rng))
        whole = world.render(scenes)
        if missing == QUESTIONS[1]:
            image, mask = questions.holed(scenes, off), questions.hole(scenes)
        elif missing == QUESTIONS[2]:
            image = questions.uncoloured(scenes, off)
            mask = (world.coverage(scenes).sum(1, keepdim=True) > 0).float()
        else:
            image, mask = whole, torch.ones_like(whole[:, :1])
        said = demo("captions").canonical
        image, whole = ((x * 255).round().div(255).movedim(1, -1) for x in (image, whole))
        return io.NodeOutput(image, mask[:, 0], whole, "\n".join(said(scene, background=True) for scene in scenes))
