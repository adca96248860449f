"""The host's `io` with one addition: what a node gives out brings along the curve of its search.

It lies in the node's `ui` output then, as the pictures of a preview do: in the history, and with a job that is opened
from there. Here, so that no node has to know.
"""

from __future__ import annotations

from typing import Any

from comfy_api.v0_0_2 import io as _io

from . import live


class NodeOutput(_io.NodeOutput):  # type: ignore[misc]
    """As the host's."""

    def __init__(self, *args: Any, ui: Any = None, **rest: Any) -> None:
        super().__init__(*args, ui=live.taken() if ui is None else ui, **rest)


def __getattr__(name: str) -> Any:
    return getattr(_io, name)
