"""The host's `io` with two additions, here so that no node has to know of them.

What a node gives out brings along the curve of its search: it lies in the node's `ui` output then, as the pictures of a
preview do: in the history, for whoever reads that, and among the outputs that the page keeps of each tab's workflow.
And what a `SearchNode` has found can be made again: the metadata of the pictures that are saved of it says how
(recipe.py).
"""

from __future__ import annotations

from typing import Any

from comfy_api.v0_0_2 import io as _io

from . import live, recipe


class NodeOutput(_io.NodeOutput):  # type: ignore[misc]
    """As the host's."""

    def __init__(self, *args: Any, ui: Any = None, **rest: Any) -> None:
        super().__init__(*args, ui=live.taken() if ui is None else ui, **rest)


class SearchNode(_io.ComfyNode):  # type: ignore[misc]
    """A ComfyNode that searches: its `execute` leaves a record of what it was given and of what it found."""

    def __init_subclass__(cls, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        own = vars(cls).get("execute")
        # the host's clones of a class have it from that class
        if own is not None and not hasattr(own.__func__, "__wrapped__"):
            cls.execute = classmethod(recipe.recorded(own.__func__))


def __getattr__(name: str) -> Any:
    return getattr(_io, name)
