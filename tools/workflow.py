"""From a saved workflow (the page's graph: nodes, links, widget values by position) to the prompt that /prompt takes.

The page does this in the browser. This is the same for what templates are made of: widgets, links, reroutes,
primitives, notes, muted and bypassed nodes, dynamic combos. Subgraphs are refused. Where positions and the server's
node definitions do not fit together it raises, as that is how a template breaks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Graph = dict[str, Any]
Definitions = dict[str, Any]
Prompt = dict[str, dict[str, Any]]

NOTES = {"Note", "MarkdownNote"}
VIRTUAL = NOTES | {"Reroute", "PrimitiveNode"}
MUTED, BYPASSED = 2, 4
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COLOR", "COMFY_DYNAMICCOMBO_V3"}
DYNAMIC_COMBO = "COMFY_DYNAMICCOMBO_V3"
# Not output nodes, and yet the page keeps what they show as further values.
SHOWS = {"GetImageSize", "LoadAudio"}
UPLOADS = ("image_upload", "video_upload", "audio_upload", "file_upload")


class WorkflowError(ValueError):
    """A workflow that cannot be turned into a prompt, and why."""


@dataclass(frozen=True)
class Widget:
    """One place in `widgets_values`. `name` None: a helper of the page (control after generate, upload button)."""

    name: str | None
    default: Any = None
    options: tuple[Any, ...] | None = None  # of a dynamic combo


@dataclass(frozen=True)
class Link:
    """A wire of the graph."""

    origin: str
    slot: int
    type: str


def to_prompt(graph: Graph, definitions: Definitions) -> Prompt:
    """Convert a saved workflow, with the answer of /object_info as `definitions`.

    Raises WorkflowError for unknown nodes, subgraphs, values that do not fit a node's widgets and links to nowhere.
    """
    nodes = {str(node["id"]): node for node in graph["nodes"]}
    if graph.get("definitions", {}).get("subgraphs"):
        raise WorkflowError("The workflow has subgraphs, which this converter does not take. Unpack them on the page.")
    wires = _Wires(nodes, dict(map(_link, graph.get("links", []))))
    prompt: Prompt = {}
    for identity, node in nodes.items():
        if node["type"] in VIRTUAL or node.get("mode", 0) in (MUTED, BYPASSED):
            continue
        if node["type"] not in definitions:
            raise WorkflowError(f"Node {identity} is a {node['type']!r}, which this ComfyUI does not have.")
        definition = definitions[node["type"]]
        inputs = _widget_values(node, definition)
        for socket in node.get("inputs") or []:
            if socket.get("link") is None:
                continue
            source = wires.source(socket["link"], f"{socket['name']} of node {identity} ({node['type']})")
            if isinstance(source, _Value):
                inputs[socket["name"]] = _plain(source.value)
            elif source is not None:
                inputs[socket["name"]] = [source.origin, source.slot]
        title = node.get("title") or definition.get("display_name") or node["type"]
        prompt[identity] = {"class_type": node["type"], "inputs": inputs, "_meta": {"title": title}}
    if not prompt:
        raise WorkflowError("The workflow has no node that would run.")
    return prompt


# Wires


@dataclass(frozen=True)
class _Value:
    """What a primitive node puts into the widget that it is wired to."""

    value: Any


class _Wires:
    """Where a link really comes from, through reroutes and bypassed nodes."""

    def __init__(self, nodes: dict[str, dict[str, Any]], links: dict[Any, Link]) -> None:
        self._nodes, self._links = nodes, links

    def source(self, link_id: Any, target: str) -> Link | _Value | None:
        """The node and slot that feed a link; None where nothing does (muted, or a bypass with no matching input)."""
        seen = set()
        while True:
            link = self._links.get(link_id)
            if link is None or link.origin not in self._nodes:
                raise WorkflowError(f"Link {link_id} into {target} does not exist or comes from a missing node.")
            if link_id in seen:
                raise WorkflowError(f"Link {link_id} into {target} goes round in a circle.")
            seen.add(link_id)
            node = self._nodes[link.origin]
            if node.get("mode", 0) == MUTED:
                return None
            if node["type"] == "PrimitiveNode":
                values = node.get("widgets_values") or [None]
                return _Value(values[0])
            if node["type"] == "Reroute":
                following = (node.get("inputs") or [{}])[0].get("link")
            elif node.get("mode", 0) == BYPASSED:
                following = _through(node, link)
            else:
                return link
            if following is None:
                return None
            link_id = following


def _through(node: dict[str, Any], link: Link) -> Any:
    """The link that a bypassed node passes on: the input beside the output if it fits, else the first that does."""
    inputs = node.get("inputs") or []
    outputs = node.get("outputs") or []
    wanted = outputs[link.slot].get("type", link.type) if link.slot < len(outputs) else link.type
    beside = inputs[link.slot : link.slot + 1]
    for socket in beside + inputs:
        if _fits(str(socket.get("type")), str(wanted)):
            return socket.get("link")
    return None


def _fits(first: str, second: str) -> bool:
    """Whether two socket types can be wired: equal, a wildcard, or lists with a common member."""
    if "*" in (first, second):
        return True
    return bool({part.lower() for part in first.split(",")} & {part.lower() for part in second.split(",")})


def _link(raw: Any) -> tuple[Any, Link]:
    """A link as saved: a list in the common format, an object in the newer one."""
    if isinstance(raw, dict):
        return raw["id"], Link(str(raw["origin_id"]), int(raw["origin_slot"]), str(raw.get("type", "*")))
    return raw[0], Link(str(raw[1]), int(raw[2]), str(raw[5]) if len(raw) > 5 else "*")


# Widgets


def _widget_values(node: dict[str, Any], definition: dict[str, Any]) -> dict[str, Any]:
    """Name the values of a node, which a workflow stores by position (or, for some nodes, by name)."""
    saved = node.get("widgets_values")
    if isinstance(saved, dict):
        named = [widget.name for widget in widgets(definition) if widget.name is not None]
        return {name: _plain(saved[name]) for name in named if name in saved}
    values = list(saved or [])
    found: dict[str, Any] = {}
    pending = list(widgets(definition))
    position = 0
    while pending:
        widget = pending.pop(0)
        if position < len(values):
            value = values[position]
        elif widget.name is None:
            continue
        elif widget.default is not None:
            value = widget.default  # an input that was appended after the workflow was saved
        else:
            raise WorkflowError(f"{_called(node)} has no value for its widget {widget.name!r}, nor has that a default.")
        position += 1
        if widget.name is None:
            continue
        found[widget.name] = _plain(value)
        if widget.options is not None:
            pending = [*_nested(node, widget, value), *pending]
    shows = definition.get("output_node") or node["type"] in SHOWS  # the page keeps what they show as further values
    if position < len(values) and not shows:
        names = [widget.name or "(control)" for widget in widgets(definition)]
        raise WorkflowError(f"{_called(node)} has {len(values)} widget values for the widgets {names}: {values!r}.")
    return found


def _nested(node: dict[str, Any], combo: Widget, value: Any) -> list[Widget]:
    """The widgets that a choice of a dynamic combo brings."""
    for option in combo.options or ():
        if option["key"] == value:
            return [
                Widget(f"{combo.name}.{widget.name}" if widget.name else None, widget.default, widget.options)
                for widget in _widgets_of(option.get("inputs", {}))
            ]
    raise WorkflowError(f"{_called(node)}: {value!r} is none of the choices of {combo.name!r}.")


def widgets(definition: dict[str, Any]) -> list[Widget]:
    """The widgets of a node in the page's order, by its entry in /object_info."""
    return list(_widgets_of(definition["input"], definition.get("input_order")))


def _widgets_of(inputs: dict[str, Any], order: dict[str, list[str]] | None = None) -> Iterator[Widget]:
    upload = False
    for section in ("required", "optional"):
        members = inputs.get(section) or {}
        for name in (order or {}).get(section) or members:
            kind, options = members[name][0], (members[name][1:] or [{}])[0] or {}
            if not _is_widget(kind, options):
                continue
            yield Widget(name, _default(kind, options), tuple(options["options"]) if kind == DYNAMIC_COMBO else None)
            if options.get("control_after_generate", kind == "INT" and name in ("seed", "noise_seed")):
                yield Widget(None)
            upload = upload or any(options.get(key) for key in UPLOADS)
        if section == "required" and upload:
            yield Widget(None)  # the button stands after the required widgets, and is saved like one


def _is_widget(kind: Any, options: dict[str, Any]) -> bool:
    if isinstance(kind, list):
        return True  # a combo in the older notation
    if options.get("forceInput") or options.get("rawLink"):
        return False
    return kind in WIDGETS or options.get("widgetType") in WIDGETS or bool(options.get("socketless"))


def _default(kind: Any, options: dict[str, Any]) -> Any:
    if "default" in options:
        return options["default"]
    if isinstance(kind, list):
        return kind[0] if kind else None
    if options.get("options"):
        return options["options"][0]["key"] if kind == DYNAMIC_COMBO else options["options"][0]
    return {"INT": 0, "FLOAT": 0.0, "STRING": "", "BOOLEAN": False, "IMAGECOMPARE": ""}.get(kind)


def _plain(value: Any) -> Any:
    """A list as a value must not be read as a wire."""
    return {"__value__": value} if isinstance(value, list) else value


def _called(node: dict[str, Any]) -> str:
    return f"Node {node['id']} ({node['type']})"
