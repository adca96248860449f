"""The one import of the host's node API (node_io.py, its half, is for this file alone).

`v0_0_2` re-exports what `latest` has today and is the number that the host promises to keep once a later one appears.
What a running host lacks is dropped here, so that one schema serves all of them. (`advanced`, `tooltip`, `display_name`
of inputs exist in every host since 0.18: they need no filter.)
"""

from __future__ import annotations

import dataclasses
from typing import Any

from comfy_api.v0_0_2 import ComfyExtension, ui

from . import node_io as io

__all__ = ["ComfyExtension", "io", "schema", "ui"]

_FIELDS = frozenset(field.name for field in dataclasses.fields(io.Schema))


def schema(**fields: Any) -> io.Schema:
    """`io.Schema(**fields)` without the fields that the running host's Schema lacks.

    Those are hints to the interface only (0.18.2 has no `has_intermediate_output`); a misspelt field would vanish in
    silence, so a test holds every schema of the pack against the newest host.
    """
    return io.Schema(**{name: value for name, value in fields.items() if name in _FIELDS})
