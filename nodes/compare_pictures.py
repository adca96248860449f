"""Pictures before and after, side by side with their difference: what a sampler method has changed."""

from __future__ import annotations

from torch import Tensor

from ..core.batches import repeated
from ..core.errors import ProvokeError
from ..host.api import io, schema
from ..host.image_models import check_image
from .comparison import ROWS, Pairs


class ComparePictures(io.ComfyNode):
    """A row for each pair: before, after, difference."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ProvokeComparePictures",
            display_name="Compare Pictures",
            category="Provoke/measure",
            description="Puts pictures before and after side by side in one picture, with their difference around mid "
            "grey, amplified, and how far they are apart.",
            search_aliases=["provoke", "compare", "before after", "before and after", "difference", "diff"],
            inputs=[
                io.Image.Input(
                    "before",
                    tooltip="The usual pictures: the decoded `unperturbed` of a sampler method. One for all, as many "
                    "as `after`, or one for the same number of `after` each (picture 1's first).",
                ),
                io.Image.Input(
                    "after",
                    tooltip="The pictures to compare with them, of the same height and width in pixels. The first "
                    f"{ROWS} are drawn.",
                ),
                io.Float.Input(
                    "amplify",
                    default=0.0,
                    min=0.0,
                    max=1000.0,
                    step=0.5,
                    tooltip="How many times the difference is amplified, a factor without a unit. 0: as much as just "
                    "reaches black or white. What goes beyond them is cut off.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "comparison",
                    tooltip="One picture, a row for each of `after`: before, after, difference; below, how many levels "
                    "of 255 they are apart and how many times the difference is amplified.",
                ),
            ],
        )

    @classmethod
    def execute(cls, before: Tensor, after: Tensor, amplify: float) -> io.NodeOutput:
        for name, images in (("before", before), ("after", after)):
            check_image(images, name)
        if before.shape[1:] != after.shape[1:]:
            raise ProvokeError(
                f"before is {_size(before)} and after is {_size(after)} pixels (height x width)",
                "pictures of one size",
                "connect what one sampler gives with and without the search, or resize one of them (Upscale Image)",
            )
        count, rest = divmod(len(after), len(before))
        if rest or not count:
            raise ProvokeError(
                f"before has {_pictures(before)} and after has {_pictures(after)}",
                "one before for all, as many of both, or the same number of after for each before (picture 1's first)",
                "exchange before and after if they are the wrong way round, or connect pictures of one run to both",
            )
        # the rest is not drawn, so it has no say in how much is amplified
        shown = after[:ROWS]
        usual = repeated(before[: -(-len(shown) // count)], count)[: len(shown)]
        return io.NodeOutput(Pairs(usual.float().cpu(), shown.float().cpu(), amplify).sheet(count))


def _size(images: Tensor) -> str:
    return f"{images.shape[1]} x {images.shape[2]}"


def _pictures(images: Tensor) -> str:
    return "1 picture" if len(images) == 1 else f"{len(images)} pictures"
