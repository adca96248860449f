"""A public-domain photo that comes with the pack, with a hole for the demo inpainter."""

from __future__ import annotations

from ..host.api import io, schema
from .demo_access import demo

PHOTOS = ("chelsea", "chelsea-eye", "coffee", "coffee-table", "rocket")  # named here: the demo folder may be missing


class DemoPhoto(io.ComfyNode):
    """Gives the photo, the hole, and the photo with the hole painted as the demo inpainter expects it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ProvokeDemoPhoto",
            display_name="Demo Photo",
            category="Provoke/demo",
            description="A small public-domain photo with a hole in it, to try the nodes without any download. The "
            "demo models (provoke-demo-... in Load Upscale Model) have never seen it.",
            search_aliases=["provoke", "example image", "sample photo", "test image", "inpainting example"],
            inputs=[
                io.Combo.Input("photo", options=list(PHOTOS), tooltip="Which photo (160 pixels or so a side)."),
            ],
            outputs=[
                io.Image.Output("image", tooltip="The photo, 8-bit levels, RGB."),
                io.Mask.Output("hole", tooltip="1 inside the hole, 0 outside."),
                io.Image.Output(
                    "holed",
                    tooltip="The photo with the hole painted in the colour that provoke-demo-inpainter fills in "
                    "(magenta).",
                ),
            ],
        )

    @classmethod
    def execute(cls, photo: str) -> io.NodeOutput:
        photos = demo("photos")
        image, hole = photos.load_photo(photo), photos.hole(photo)
        return io.NodeOutput(image, hole, photos.mark_hole(image, hole))
