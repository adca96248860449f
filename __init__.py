"""Provoke: coax frozen generators into images that they would never give you by themselves (a ComfyUI node pack)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .host.api import ComfyExtension

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> ComfyExtension:
    """The host calls this once when it loads the pack."""
    from .nodes import Provoke

    return Provoke()
