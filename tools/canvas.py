"""A saved workflow (the page's format) written down as code: nodes by their inputs' names, stacked in titled groups.

What a person would drag together on the page, for the templates and blueprints that a script makes. Widgets that are
not named get their defaults, so that a template never lags behind a schema that grew.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .workflow import Definitions, WorkflowError, widgets

TOP = 460  # where the groups begin, below the note
GAP, MARGIN, HEAD = 40, 20, 80
COLOURS = ("#3f789e", "#a1309b", "#88A", "#8A8", "#B58B2A", "#b06634")
WIDE, LINE, TEXT = 320, 24, 120
OUTSIDE = -10  # the node that stands for a subgraph's inputs, as the page numbers it
# Nodes that show something: what they take. Newer hosts gave the first two an output, which older ones do not have.
SHOWN = {"SaveImage": (420, 420), "PreviewImage": (300, 300), "PreviewAny": (420, 200)}
PLAIN = {"SaveImage", "PreviewImage"}


@dataclass(frozen=True)
class Wire:
    """An output of a node."""

    node: int
    slot: int
    type: str


@dataclass
class Node:
    """A node on the canvas. `node["IMAGE"]` is its output of that name."""

    id: int
    saved: dict[str, Any]

    def __getitem__(self, output: str) -> Wire:
        for slot, socket in enumerate(self.saved["outputs"]):
            if socket["name"] == output:
                return Wire(self.id, slot, str(socket["type"]))
        names = [socket["name"] for socket in self.saved["outputs"]]
        raise WorkflowError(f"{self.saved['type']} has no output {output!r}, but {names}")


@dataclass
class Canvas:
    """A workflow in the making.

    `definitions` is the answer of /object_info. `group` begins a titled group to the right of the last, `column` a
    column within it, `add` stacks a node there.
    """

    definitions: Definitions
    nodes: list[dict[str, Any]] = field(default_factory=list)
    links: list[list[Any]] = field(default_factory=list)
    groups: list[dict[str, Any]] = field(default_factory=list)
    shows: dict[str, str] = field(default_factory=dict)
    _at: tuple[int, int] = (0, 0)
    _width: int = 0

    def note(self, words: str, *, size: tuple[int, int] = (440, 380)) -> None:
        """The note at the top left: what this is, what to press, what to try."""
        saved = self._saved("MarkdownNote", "What this does", size, [], [], [words])
        saved["pos"] = [0, 0]
        del saved["properties"]["Node name for S&R"]

    def group(self, title: str) -> None:
        """Begin a group to the right of the last one."""
        right = max((box["bounding"][0] + box["bounding"][2] for box in self.groups), default=-2 * MARGIN)
        self._at, self._width = (right + 2 * MARGIN, TOP), 0
        colour = COLOURS[len(self.groups) % len(COLOURS)]
        box = [right + MARGIN, TOP - HEAD, 2 * MARGIN, HEAD]
        number = len(self.groups) + 1
        self.groups.append({"id": number, "title": title, "bounding": box, "color": colour, "flags": {}})

    def column(self) -> None:
        """Begin a column within the group."""
        self._at, self._width = (self._at[0] + self._width + GAP, TOP), 0

    def add(
        self,
        kind: str,
        *,
        title: str | None = None,
        shows: str | None = None,
        size: tuple[int, int] | None = None,
        models: list[dict[str, str]] | None = None,
        **inputs: Any,
    ) -> Node:
        """Put a node below the last. `inputs` are wires and widget values, by name.

        `shows` says what its picture shows, `models` which files its widgets name (the page offers to get them).
        Raises WorkflowError for an unknown node or input.
        """
        if kind not in self.definitions:
            raise WorkflowError(f"{kind!r} is no node of this ComfyUI")
        definition = self.definitions[kind]
        sockets, values = self._inputs(kind, definition, inputs)
        outputs = [
            {"name": name, "type": of if isinstance(of, str) else "COMBO", "links": []}
            for name, of in zip(definition.get("output_name", []), definition.get("output", []), strict=True)
            if kind not in PLAIN
        ]
        size = size or SHOWN.get(kind) or self._size(definition, sockets, outputs, values)
        saved = self._saved(kind, title, size, sockets, outputs, values)
        saved["pos"] = list(self._at)
        if models:
            saved["properties"]["models"] = models
        for socket in sockets:
            self._connect(saved, socket)
        self._stack(size)
        if shows:
            self.shows[str(saved["id"])] = shows
        return Node(saved["id"], saved)

    def graph(self, **provoke: Any) -> dict[str, Any]:
        """The workflow. `provoke` goes into `extra.provoke` beside what the pictures show."""
        about = {**({"shows": self.shows} if self.shows else {}), **provoke}
        for node in self.nodes:
            for output in node["outputs"]:
                output["links"] = output["links"] or None
        return {
            "last_node_id": len(self.nodes),
            "last_link_id": len(self.links),
            "nodes": self.nodes,
            "links": self.links,
            "groups": self.groups,
            "config": {},
            "extra": {"ds": {"scale": 0.6, "offset": [60, 60]}, "provoke": about},
            "version": 0.4,
        }

    def _inputs(
        self, kind: str, definition: dict[str, Any], given: dict[str, Any]
    ) -> tuple[list[dict[str, Any]], list[Any]]:
        """The sockets, with the wire of each under "link" for now, and the widgets' values by position."""
        declared = {name: spec for part in ("required", "optional") for name, spec in _part(definition, part)}
        if unknown := set(given) - set(declared):
            raise WorkflowError(f"{kind} has no inputs {sorted(unknown)}, but {sorted(declared)}")
        places = widgets(definition)
        named = {place.name for place in places}
        sockets: list[dict[str, Any]] = []
        values: list[Any] = []
        for name, spec in declared.items():
            wire = given.get(name) if isinstance(given.get(name), Wire) else None
            of = spec[0] if isinstance(spec[0], str) else "COMBO"
            if name not in named:
                sockets.append({"name": name, "type": of, "link": wire})
            elif wire is not None:
                sockets.append({"name": name, "type": of, "widget": {"name": name}, "link": wire})
        for place in places:
            value = given.get(place.name) if place.name else None
            if place.name is None:
                values.append("fixed" if isinstance(values[-1], int) else "image")
            elif place.name in given and not isinstance(value, Wire):
                values.append(value)
            else:
                values.append(place.default)
        return sockets, values

    def _connect(self, saved: dict[str, Any], socket: dict[str, Any]) -> None:
        """Turn the wire of a socket into a link."""
        wire = socket["link"]
        if not isinstance(wire, Wire):
            return
        number = len(self.links) + 1
        self.links.append([number, wire.node, wire.slot, saved["id"], saved["inputs"].index(socket), wire.type])
        socket["link"] = number
        if wire.node != OUTSIDE:
            self.nodes[wire.node - 1]["outputs"][wire.slot]["links"].append(number)

    def _saved(
        self, kind: str, title: str | None, size: tuple[int, int], inputs: Any, outputs: Any, values: Any
    ) -> dict[str, Any]:
        number = len(self.nodes) + 1
        saved = {"id": number, "type": kind, "pos": [0, 0], "size": list(size), "flags": {}, "order": number - 1}
        saved |= {"mode": 0, "inputs": inputs, "outputs": outputs, "properties": {"Node name for S&R": kind}}
        saved["widgets_values"] = values
        if title:
            saved["title"] = title
        self.nodes.append(saved)
        return saved

    @staticmethod
    def _size(definition: dict[str, Any], sockets: Any, outputs: Any, values: list[Any]) -> tuple[int, int]:
        """Large enough for the sockets, the widgets and the texts of several lines, in pixels of the page."""
        specs = [spec for part in ("required", "optional") for _, spec in _part(definition, part)]
        texts = sum(len(spec) > 1 and bool(spec[1].get("multiline")) for spec in specs)
        lines = max(len(sockets), len(outputs))
        return (400 if len(values) > 8 else WIDE), 40 + LINE * (lines + len(values)) + TEXT * texts

    def _stack(self, size: tuple[int, int]) -> None:
        """Move on to below the node that was added, and let its group grow around it."""
        left, top = self._at
        self._width = max(self._width, size[0])
        if self.groups:
            box = self.groups[-1]["bounding"]
            box[2] = max(box[2], left + size[0] + MARGIN - box[0])
            box[3] = max(box[3], top + size[1] + MARGIN - box[1])
        self._at = (left, top + size[1] + GAP + 20)


def _part(definition: dict[str, Any], part: str) -> list[tuple[str, list[Any]]]:
    """The inputs of a part ("required", "optional") in the page's order."""
    members = definition["input"].get(part) or {}
    order = (definition.get("input_order") or {}).get(part) or list(members)
    return [(name, members[name]) for name in order]
