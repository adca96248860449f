"""Driving a search inside the host: its progress bar, its preview, its cancel; and the curve on its node (live.py)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import comfy.model_management
import comfy.utils
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .live import charted

S = TypeVar("S")

PREVIEW_INTERVAL = 0.25  # seconds: the bar sends every picture it is given, so the throttle has to be here
PREVIEW_SIZE = 512  # pixels, the longer side of what goes to the browser


def check_cancelled() -> None:
    """Raises the host's `InterruptProcessingException` when the user has pressed *Cancel*.

    It is an Exception in host 0.18 and a BaseException since: never catch Exception around this without raising again.
    """
    comfy.model_management.throw_exception_if_processing_interrupted()


def drive(steps: Iterator[S], total: int, preview: Callable[[S], Tensor | None]) -> S:
    """Runs a step generator to its end and shows every step in the host.

    Args:
        steps: the generator; closed in any case, so that what it holds is freed when the user cancels.
        total: how many steps are expected; fewer or more do no harm.
        preview: the picture to show for a step, 1 H W C in [0, 1], or None; asked only when a picture is due.

    Returns: the last step.
    Raises: the host's InterruptProcessingException on cancel; RuntimeError if the generator gives no step.
    """
    bar = comfy.utils.ProgressBar(total)
    last: list[S] = []
    previewed = -PREVIEW_INTERVAL
    shown = charted(steps, total)
    try:
        for done, step in enumerate(shown, start=1):
            last[:] = [step]
            due = time.monotonic() - previewed >= PREVIEW_INTERVAL
            picture = _preview(preview(step)) if due and bar.hook is not None else None
            if picture is not None:
                previewed = time.monotonic()
            bar.update_absolute(min(done, total), total, picture)
            check_cancelled()  # the bar polls only when a server is there, and not in every update
    finally:
        shown.close()
        close = getattr(steps, "close", None)
        if close is not None:
            close()
    if not last:
        raise RuntimeError("the search gave no step")
    return last[0]


def _preview(image: Tensor | None) -> tuple[str, Image.Image, int] | None:
    """1 H W C in [0, 1] -> what `ProgressBar.update_absolute` takes: format, PIL picture, longest side."""
    if image is None:
        return None
    picture = image[:1, ..., :3].detach().float().movedim(-1, 1)  # 1 H W C -> 1 C H W
    longest = max(picture.shape[-2:])
    if longest > PREVIEW_SIZE:  # made small before it leaves the GPU
        size = [max(1, round(side * PREVIEW_SIZE / longest)) for side in picture.shape[-2:]]
        picture = torch.nn.functional.interpolate(picture, size=size, mode="area")
    levels = picture[0].movedim(0, -1).clamp(0, 1).mul(255).round().byte().cpu()
    return "JPEG", Image.fromarray(np.asarray(levels)), PREVIEW_SIZE
