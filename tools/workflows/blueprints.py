"""Blueprints: each method as one node, with the widgets that matter, and its usual company (decode, objective) inside.

What ComfyUI lists under *Subgraph Blueprints* from a pack's folder `subgraphs/`.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..canvas import OUTSIDE, Canvas, Node, Wire
from ..workflow import WorkflowError

INSIDE = -20  # the node that stands for a subgraph's outputs
SPACE = uuid.UUID("6f9d2b0e-5a0f-4d0e-9a36-70726f766f6b")  # ours, so that every run of the script gives the same ids


@dataclass
class Blueprint:
    """A subgraph in the making: `socket` and `widget` lead inside, `out` leads outside.

    `canvas` is what is inside.
    """

    name: str
    description: str
    canvas: Canvas
    inputs: list[dict[str, Any]] = field(default_factory=list)
    outputs: list[tuple[str, Wire]] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)

    def socket(self, name: str, type_: str) -> Wire:
        """An input of the blueprint, for a node inside."""
        return self._input({"name": name, "type": type_})

    def widget(self, name: str, type_: str, value: Any) -> Wire:
        """A widget of the blueprint, for one of a node inside."""
        self.values.append(value)
        return self._input({"name": name, "type": type_, "widget": {"name": name}})

    def out(self, name: str, wire: Wire) -> None:
        """An output of the blueprint."""
        self.outputs.append((name, wire))

    def graph(self) -> dict[str, Any]:
        """The file: a workflow of one node, whose type is the subgraph that stands in `definitions`."""
        identity = self._id("definition")
        inputs = [{**put, "link": None} for put in self.inputs]
        outputs = [{"name": name, "type": wire.type, "links": None} for name, wire in self.outputs]
        node = {"id": 1, "type": identity, "pos": [0, 0], "size": [340, 120 + 26 * len(inputs)], "flags": {}}
        node |= {"order": 0, "mode": 0, "inputs": inputs, "outputs": outputs, "title": self.name}
        # Where the page keeps promoted widgets by the inputs that they are, "-1" is the blueprint itself.
        node["properties"] = {"proxyWidgets": [["-1", put["name"]] for put in self.inputs if "widget" in put]}
        node["widgets_values"] = self.values
        file = {"id": self._id("file"), "revision": 0, "last_node_id": 1, "last_link_id": 0, "nodes": [node]}
        file |= {"links": [], "groups": [], "definitions": {"subgraphs": [self._definition(identity)]}}
        return {**file, "config": {}, "extra": {}, "version": 0.4}

    def _input(self, put: dict[str, Any]) -> Wire:
        self.inputs.append(put)
        return Wire(OUTSIDE, len(self.inputs) - 1, put["type"])

    def _id(self, what: str) -> str:
        return str(uuid.uuid5(SPACE, f"{self.name}/{what}"))

    def _definition(self, identity: str) -> dict[str, Any]:
        inner = self.canvas.graph()
        keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
        links = [dict(zip(keys, link, strict=True)) for link in inner["links"]]
        for slot, (_, wire) in enumerate(self.outputs):
            number = len(links) + 1
            links.append(dict(zip(keys, (number, wire.node, wire.slot, INSIDE, slot, wire.type), strict=True)))
            feeding = self.canvas.nodes[wire.node - 1]["outputs"][wire.slot]
            feeding["links"] = [*(feeding["links"] or []), number]
        height = max(node["pos"][1] + node["size"][1] for node in inner["nodes"])
        right = max(node["pos"][0] + node["size"][0] for node in inner["nodes"])
        state = {"lastGroupId": 0, "lastNodeId": len(inner["nodes"]), "lastLinkId": len(links), "lastRerouteId": 0}
        return {
            "id": identity,
            "version": 1,
            "state": state,
            "revision": 0,
            "config": {},
            "name": self.name,
            "category": "Provoke",
            "description": self.description,
            "inputNode": {"id": OUTSIDE, "bounding": [-300, height // 2, 160, 40 + 20 * len(self.inputs)]},
            "outputNode": {"id": INSIDE, "bounding": [right + 120, height // 2, 160, 40 + 20 * len(self.outputs)]},
            "inputs": [
                self._end(put["name"], put["type"], slot, links, OUTSIDE) for slot, put in enumerate(self.inputs)
            ],
            "outputs": [self._end(name, wire.type, s, links, INSIDE) for s, (name, wire) in enumerate(self.outputs)],
            "widgets": [],
            "nodes": inner["nodes"],
            "groups": [],
            "links": links,
            "extra": {},
        }

    def _end(self, name: str, type_: str, slot: int, links: list[dict[str, Any]], side: int) -> dict[str, Any]:
        """An input or output of the subgraph, with the links that it has inside."""
        ends = ("origin_id", "origin_slot") if side == OUTSIDE else ("target_id", "target_slot")
        mine = [link["id"] for link in links if (link[ends[0]], link[ends[1]]) == (side, slot)]
        if not mine:
            raise WorkflowError(f"{self.name}: nothing inside is wired to {name!r}")
        return {"id": self._id(f"{side}/{name}"), "name": name, "type": type_, "linkIds": mine}


SAMPLING = {"model": "MODEL", "positive": "CONDITIONING", "negative": "CONDITIONING", "latent_image": "LATENT"}
IMAGE_MODEL = {"model": "UPSCALE_MODEL,INPAINT_MODEL,VAE", "image": "IMAGE", "mask": "MASK"}
STEPS = {"noise_seed": ("INT", 0), "steps": ("INT", 20), "cfg": ("FLOAT", 7.0)}


def _sockets(blueprint: Blueprint, *groups: dict[str, str]) -> dict[str, Any]:
    return {name: blueprint.socket(name, of) for group in groups for name, of in group.items()}


def _widgets(blueprint: Blueprint, **widgets: tuple[str, Any]) -> dict[str, Any]:
    return {name: blueprint.widget(name, of, value) for name, (of, value) in widgets.items()}


def _finish(blueprint: Blueprint, node: Node, decode: str, vae: Wire, **others: str) -> None:
    """Decode what a sampler node gives, and hand out the pictures and whatever else is named."""
    blueprint.canvas.column()
    decoded = blueprint.canvas.add("VAEDecode", size=(220, 60), samples=node[decode], vae=vae)
    blueprint.out("images", decoded["IMAGE"])
    for name, output in others.items():
        blueprint.out(name, node[output])


def vary_result(blueprint: Blueprint) -> None:
    sockets = _sockets(blueprint, IMAGE_MODEL)
    chosen = _widgets(
        blueprint,
        epsilon=("FLOAT", 4.0),
        steps=("INT", 40),
        count=("INT", 4),
        seed=("INT", 0),
        diversity=("FLOAT", 8.0),
    )
    found = blueprint.canvas.add("ProvokeUntargetedAttack", **sockets, **chosen)
    for name in ("results", "difference", "report", "comparison"):
        blueprint.out(name, found[name])


def steer_result(blueprint: Blueprint) -> None:
    sockets = _sockets(blueprint, IMAGE_MODEL, {"scorer": "PROVOKE_SCORER"})
    text = {"target_text": ("STRING", ""), "source_text": ("STRING", "")}
    chosen = _widgets(blueprint, **text, epsilon=("FLOAT", 8.0), steps=("INT", 20), seed=("INT", 0))
    found = blueprint.canvas.add("ProvokeClipTargetedAttack", **sockets, **chosen, count=2, truncation="clip")
    for name in ("results", "difference", "report", "comparison"):
        blueprint.out(name, found[name])


def vary_sampling(blueprint: Blueprint) -> None:
    sockets = _sockets(blueprint, SAMPLING, {"vae": "VAE"})
    chosen = _widgets(blueprint, **STEPS, epsilon=("FLOAT", 0.3), count=("INT", 4))
    found = blueprint.canvas.add("ProvokeUntargetedAttackSampler", **sockets, **chosen)
    _finish(blueprint, found, "results", sockets["vae"], positive="positive", report="report")


def steer_sampling(blueprint: Blueprint) -> None:
    sockets = _sockets(blueprint, SAMPLING, {"vae": "VAE", "scorer": "PROVOKE_SCORER"})
    chosen = _widgets(blueprint, target_text=("STRING", ""), **STEPS, epsilon=("FLOAT", 0.5))
    found = blueprint.canvas.add("ProvokeClipTargetedAttackSampler", **sockets, **chosen, count=1)
    _finish(blueprint, found, "results", sockets["vae"], positive="positive", report="report")


def _similarity(blueprint: Blueprint, words: str = "") -> Wire:
    """The objective of a text, by a scorer outside."""
    scorer = blueprint.socket("scorer", "PROVOKE_SCORER")
    text = blueprint.widget("text", "STRING", words)
    objective = blueprint.canvas.add("ProvokeClipObjective", scorer=scorer, text=text)["objective"]
    blueprint.canvas.column()
    return objective


def search_noise(blueprint: Blueprint) -> None:
    sockets = _sockets(blueprint, SAMPLING, {"vae": "VAE"})
    objective = _similarity(blueprint)
    chosen = _widgets(blueprint, **STEPS, epsilon=("FLOAT", 0.5))
    found = blueprint.canvas.add(
        "ProvokeLatentSearch", **sockets, **chosen, objective=objective, direction="satisfy", route="one-step"
    )
    _finish(blueprint, found, "output", sockets["vae"], noise="noise", noise_latent="noise_latent", report="report")


def best_of_seeds(blueprint: Blueprint) -> None:
    sockets = _sockets(blueprint, SAMPLING, {"vae": "VAE"})
    objective = _similarity(blueprint)
    chosen = _widgets(blueprint, **STEPS, seeds=("INT", 16))
    found = blueprint.canvas.add("ProvokeBestOfSeeds", **sockets, **chosen, objective=objective)
    _finish(blueprint, found, "output", sockets["vae"], seeds="seeds", scores="scores", report="report")


def learn_token(blueprint: Blueprint) -> None:
    sockets = _sockets(blueprint, {"clip": "CLIP", "model": "MODEL", "negative": "CONDITIONING"})
    sockets |= _sockets(blueprint, {"latent_image": "LATENT", "vae": "VAE"})
    objective = _similarity(blueprint)
    prompts = "a photo of a dog\na photo of a house\na photo of a tree"
    chosen = _widgets(blueprint, prompts=("STRING", prompts), name=("STRING", "provoke-token"))
    chosen |= _widgets(blueprint, search_steps=("INT", 60), epsilon=("FLOAT", 6.0))
    found = blueprint.canvas.add("ProvokeAdversarialToken", **sockets, **chosen, objective=objective)
    for name in ("images", "embedding", "prompt", "report"):
        blueprint.out(name, found[name])


def search_prompt(blueprint: Blueprint) -> None:
    sockets = _sockets(blueprint, {"clip": "CLIP", "model": "MODEL", "negative": "CONDITIONING"})
    sockets |= _sockets(blueprint, {"latent_image": "LATENT", "vae": "VAE", "language": "PROVOKE_LANGUAGE"})
    objective = _similarity(blueprint, "{prompt}")  # each picture is compared with its own
    chosen = _widgets(blueprint, template=("STRING", "a photo of a {colour} dog {more:6}"))
    chosen |= _widgets(blueprint, search_steps=("INT", 60), seeds=("INT", 3), keep=("INT", 4))
    # a search without a gradient works with any text encoder and sampler
    found = blueprint.canvas.add(
        "ProvokePromptSearch", **sockets, **chosen, objective=objective, direction="break", method="evolution"
    )
    for name in ("images", "prompts", "scores", "seeds", "report"):
        blueprint.out(name, found[name])


def vlm_inversion(blueprint: Blueprint) -> None:
    sockets = _sockets(blueprint, SAMPLING, {"vae": "VAE", "vlm": "PROVOKE_VLM"})
    chosen = _widgets(blueprint, prompt=("STRING", ""), noise_seed=("INT", 0), cfg=("FLOAT", 30.0))
    chosen |= _widgets(blueprint, steps=("INT", 160), copies=("INT", 10))
    found = blueprint.canvas.add("ProvokeVlmInversionSampler", **sockets, **chosen)
    _finish(blueprint, found, "output", sockets["vae"], latent="output", report="report")


BLUEPRINTS: dict[str, tuple[str, Callable[[Blueprint], None]]] = {
    "Vary a Result (Provoke)": ("Several results of a model that always gives one.", vary_result),
    "Steer a Result (Provoke)": ("The result of a model that always gives one, led to a text.", steer_result),
    "Vary a Sampling (Provoke)": ("Several pictures of one seed, by searched changes of the prompt.", vary_sampling),
    "Steer a Sampling (Provoke)": ("A prompt and seed led to another text.", steer_sampling),
    "Search a Noise (Provoke)": ("An initial noise whose picture matches a text better.", search_noise),
    "Best of Seeds (Provoke)": ("Many seeds, and the best by a text.", best_of_seeds),
    "Learn a Token (Provoke)": ("An embedding that brings a text into other prompts' pictures.", learn_token),
    "Search a Prompt (Provoke)": ("Natural prompts whose pictures do not match a text.", search_prompt),
    "Invert a VLM (Provoke)": ("A picture from what a vision-language model says of it.", vlm_inversion),
}


def made(name: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """A blueprint's file."""
    description, make = BLUEPRINTS[name]
    canvas = Canvas(definitions)
    canvas.group("inside")
    blueprint = Blueprint(name, description, canvas)
    make(blueprint)
    return blueprint.graph()
