"""How to make a result again, in the metadata of every picture that is saved of it.

The host's Save Image (and whatever else saves) writes each entry of the hidden EXTRA_PNGINFO as a text of the PNG: the
page's `workflow` is one. Here another one is added, KEY, with a record for every node that has searched: what came in,
what it found, the versions. Nothing else in that metadata is touched, and a prompt without a node of ours stays as it
came. Each prompt has its own copy of it, found again by the prompt's id.

A node whose result the host still has is not executed again, though what saves its pictures may be: so records are
remembered by what decides a node's result (its kind, its values and those of all that is wired to it, as the host's own
cache has it), and a prompt begins with what is known of its nodes. What is executed after all replaces that.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard
from weakref import WeakValueDictionary

import torch
from comfy_execution.graph_utils import is_link
from comfy_execution.utils import get_executing_context

from .report_files import plain
from .versions import device, versions

KEY = "provoke"  # of the PNG's text
FORMAT = "provoke recipe 1"
PREFIX = "Provoke"  # of our nodes' ids
REMEMBERED = 512  # nodes: a few megabytes at most, and more than the host keeps results of

Record = dict[str, Any]


@dataclass(frozen=True)
class Known:
    """A node of a prompt: its kind, and what decides its result ("" where that cannot be said)."""

    kind: str
    key: str


class Metadata(dict[str, Any]):
    """A prompt's EXTRA_PNGINFO: an ordinary dictionary, and what is known of the prompt's nodes."""

    __slots__ = ("__weakref__", "nodes")

    def __init__(self, given: Mapping[str, Any], nodes: dict[str, Known]) -> None:
        super().__init__(given)
        self.nodes = nodes


_prompts: WeakValueDictionary[str, Metadata] = WeakValueDictionary()  # by id, for as long as the host has them
_lock = threading.Lock()  # the server adds prompts while the executor looks at them
_remembered: OrderedDict[str, list[Record]] = OrderedDict()  # by Known.key: a record for each call of the node


# ------------------------------------------------------------------------------------------------ a prompt comes in


def prepared(request: dict[str, Any]) -> dict[str, Any]:
    """For the host's `add_on_prompt_handler`: what somebody wants to queue, with metadata that records can go into.

    As it came where none of our nodes is in it, or where the client sends no metadata: then it wants none.
    """
    prompt, extra = request.get("prompt"), request.get("extra_data")
    given = extra.get("extra_pnginfo") if isinstance(extra, dict) else None
    if not isinstance(prompt, dict) or not isinstance(extra, dict) or not isinstance(given, dict):
        return request
    nodes = _known(prompt)
    if not any(node.kind.startswith(PREFIX) for node in nodes.values()):
        return request
    if _is_ours(given.get(KEY)):  # of another run: somebody has sent a picture's metadata back
        given = {key: value for key, value in given.items() if key != KEY}
    metadata = Metadata(given, nodes)
    for name, node in nodes.items():
        records = _remembered.get(node.key)
        if records:
            _put(metadata, name, records)
    number = request.get("prompt_id")
    number = str(uuid.uuid4()) if number is None else number  # the host would make it up a moment later
    with _lock:
        _prompts[str(number)] = metadata
    return {**request, "prompt_id": number, "extra_data": {**extra, "extra_pnginfo": metadata}}


def register_recipes(server: Any) -> None:
    """On the host's server, if this process has one."""
    if server is not None:
        server.add_on_prompt_handler(prepared)


def keys(prompt_id: str) -> dict[str, str]:
    """What decides the result of each node of a prompt: equal keys, equal results. For as long as the host has the
    prompt; empty for one without metadata or without a node of ours."""
    metadata = _prompts.get(prompt_id)
    return {} if metadata is None else {name: node.key for name, node in metadata.nodes.items() if node.key}


def workflow(prompt_id: str) -> str:
    """The id of the page's workflow that a prompt was queued from; "" where `keys` is empty, or the page has none."""
    metadata = _prompts.get(prompt_id)
    given = {} if metadata is None else metadata.get("workflow")
    return str(given.get("id") or "") if isinstance(given, dict) else ""


def _known(prompt: dict[str, Any]) -> dict[str, Known]:
    """Every node of a prompt, which nobody has looked at yet: it may be any nonsense."""
    nodes = {name: node for name, node in prompt.items() if isinstance(node, dict)}
    inputs = {
        name: given if isinstance(given := node.get("inputs"), dict) else {} for name, node in nodes.items()
    }  # fmt: skip
    kinds = {name: str(node.get("class_type", "")) for name, node in nodes.items()}
    sources = {name: {put[0] for put in inputs[name].values() if is_link(put)} for name in nodes}
    keys: dict[str, str] = {}
    waiting = dict(sources)
    while ready := [name for name, needed in waiting.items() if needed <= keys.keys()]:
        for name in ready:
            wired = {
                put: ["wire", keys[value[0]], value[1]] if is_link(value) else ["value", value]
                for put, value in inputs[name].items()
            }
            said = json.dumps([kinds[name], wired], sort_keys=True, default=str)
            keys[name] = hashlib.sha256(said.encode()).hexdigest()
            del waiting[name]
    return {name: Known(kinds[name], keys.get(name, "")) for name in nodes}  # a circle, or a wire from nowhere: no key


def _is_ours(value: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict) and str(value.get("format", "")).startswith("provoke recipe")


# ------------------------------------------------------------------------------------------------- a node is executed


def recorded(execute: Callable[..., Any]) -> Callable[..., Any]:
    """A node's `execute` that leaves a record of what came in and, of what it gives, figures and words.

    Outside of the host's executor, and for a prompt without metadata, it is the same as without.
    """
    parameters = inspect.signature(execute)

    @functools.wraps(execute)
    def executed(node: Any, *values: Any, **named: Any) -> Any:
        _forget_call()
        output = execute(node, *values, **named)
        bound = parameters.bind(node, *values, **named)
        bound.apply_defaults()
        came = dict(list(bound.arguments.items())[1:])  # without the class itself
        for name, parameter in parameters.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                came |= came.pop(name)
        schema = node.define_schema()
        names = [put.id for put in schema.outputs]
        gave = {name: value for name, value in zip(names, output.args, strict=False) if _is_plain(value)}
        inputs = {name: in_words(value) for name, value in came.items() if value is not None}
        _note({"node": schema.node_id, "title": schema.display_name, "inputs": inputs, "gave": gave}, done=True)
        return output

    return executed


def searched(facts: Record) -> None:
    """A search of the running node has ended: what it found. It may be a node of the host, with a sampler of ours."""
    _note({"search": facts}, done=False)


def in_words(value: Any) -> Any:
    """What came in on a socket, as JSON has it.

    A widget's value as it is, an objective or a judge by its name, tensors by their shape, anything else by its type.
    """
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, torch.Tensor):
        return " x ".join(map(str, value.shape))
    if isinstance(value, dict):
        if "samples" in value:  # LATENT
            return f"latent {in_words(value['samples'])}"
        return {str(key): in_words(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        if value and all(isinstance(part, (list, tuple)) and len(part) == 2 for part in value):  # CONDITIONING
            return ", ".join(f"conditioning {in_words(part[0])}" for part in value)
        return [in_words(item) for item in value]
    name = getattr(value, "name", None)
    return name if isinstance(name, str) and name else type(value).__name__


def _is_plain(value: Any) -> bool:
    """A figure, words, or a list of such."""
    items = value if isinstance(value, list) else [value]
    return bool(items) and all(isinstance(item, (str, int, float)) for item in items)


def _here() -> tuple[Metadata, str, int] | None:
    """The metadata of the running prompt, its running node, and which call of it this is (lists make several)."""
    context = get_executing_context()
    metadata = None if context is None else _prompts.get(context.prompt_id)
    return None if context is None or metadata is None else (metadata, context.node_id, context.list_index or 0)


def _forget_call() -> None:
    """This call of the running node, and those after it, are made anew."""
    here = _here()
    if here is not None:
        metadata, name, call = here
        _put(metadata, name, _of(metadata, name)[:call])


def _note(facts: Record, *, done: bool) -> None:
    """Add to the record of this call. done: whether it is complete; it is remembered then."""
    here = _here()
    if here is None:
        return
    metadata, name, call = here
    known = metadata.nodes.get(name)  # none has what a node has expanded into
    records = _of(metadata, name)[: call + 1]
    before = records[call] if len(records) > call else {"node": "" if known is None else known.kind}
    _put(metadata, name, [*records[:call], {**before, **facts}])
    if known is None or not known.key:
        return
    ours = known.kind.startswith(PREFIX)
    if done or not ours:  # the host's node tells nobody when it is through
        _remember(known.key, _of(metadata, name))
        with _lock:
            waiting = list(_prompts.values())
        for prompt in (metadata, *waiting):  # the host computes equal nodes once, here and in prompts that wait
            for other, twin in prompt.nodes.items():
                if twin.key == known.key and not _of(prompt, other):
                    _put(prompt, other, _of(metadata, name))


def _remember(key: str, records: list[Record]) -> None:
    _remembered[key] = records
    _remembered.move_to_end(key)
    while len(_remembered) > REMEMBERED:
        _remembered.popitem(last=False)


def _of(metadata: Metadata, name: str) -> list[Record]:
    told = metadata.get(KEY)
    return told["nodes"].get(name, []) if _is_ours(told) else []


def _put(metadata: Metadata, name: str, records: list[Record]) -> None:
    """In place of those it had: records that other prompts have as well are never changed.

    What somebody else calls KEY stays theirs.
    """
    told = metadata.get(KEY)
    if KEY in metadata and not _is_ours(told):
        return
    nodes = {**(told["nodes"] if told else {}), name: plain(records)}
    if not records:
        del nodes[name]
    if nodes:
        metadata[KEY] = {"format": FORMAT, "versions": versions(), "device": device(), "nodes": nodes}
    else:
        metadata.pop(KEY, None)
