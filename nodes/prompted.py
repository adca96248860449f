"""KSampler's form with the prompt as text: the sockets of nodes that write prompts themselves, and the host's part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..core.errors import ProvokeError
from ..host.api import io
from ..host.sampling.graph import Graph, SeedNoise
from ..host.sampling.handle import Conditioning
from ..host.sampling.text import Tokens
from ..host.sampling.tokens import by_host, in_place
from . import sampler_sockets
from .sampler_sockets import SearchSettings


def first_inputs(clip: str) -> list[io.Input]:
    """The text encoder (its tooltip: what it has to be) and KSampler's form without the prompt."""
    sampler = [put for put in sampler_sockets.ksampler_inputs() if put.id != "positive"]
    return [io.Clip.Input("clip", tooltip=clip), *sampler]


def entry_input() -> io.Input:
    """Which part of `conditioning_input` the prompts replace."""
    return io.Int.Input(
        "entry",
        default=1,
        min=1,
        max=1000,
        advanced=True,
        tooltip="Which entry (region) of the connected conditioning gets the prompt; the others stay as they are.",
    )


def conditioning_input() -> io.Input:
    """What the prompts stand in."""
    return io.Conditioning.Input(
        "conditioning",
        optional=True,
        tooltip="A conditioning whose extras are kept: regions, masks, ControlNets, hooks, guidance. Its text is "
        "replaced by the prompts.",
    )


def taken(inputs: dict[str, Any]) -> tuple[dict[str, Any], SearchSettings, dict[str, Any]]:
    """KSampler's sockets, the search's widgets, and what is left of a node's inputs."""
    sockets = {name: inputs[name] for name in sampler_sockets.KSAMPLER if name in inputs}
    search, rest = SearchSettings.taken({name: value for name, value in inputs.items() if name not in sockets})
    return sockets, search, rest


@dataclass(frozen=True)
class Prompted:
    """clip: the text encoder. sockets: KSampler's, without positive. conditioning, entry: one whose extras are kept,
    and which of its entries (from 1) gets the prompt."""

    clip: Any
    sockets: dict[str, Any]
    conditioning: Conditioning | None
    entry: int

    def text(self, prompt: str) -> Conditioning:
        """CLIPTextEncode's, in the place of the connected conditioning's entry."""
        return self.tokens(self.clip.tokenize(prompt))

    def tokens(self, tokens: Tokens) -> Conditioning:
        """The same of tokens, some of them embeddings."""
        return in_place(self.conditioning, self.entry, by_host(self.clip, tokens))

    def graph(self, positive: Conditioning) -> Graph:
        return sampler_sockets.graph_of({**self.sockets, "positive": positive})[0]

    def pictures(self, positive: Conditioning, seed: int | None = None) -> Tensor:
        """The host's own pictures, B H W C, at noise_seed or another seed."""
        graph = self.graph(positive)
        graph = graph if seed is None else graph.with_noise(SeedNoise(seed))
        return graph.pictures(graph.rendered().output)


def check_entry(conditioning: Conditioning | None, entry: int) -> None:
    """Raises ProvokeError where there is no such entry."""
    if conditioning is not None and not 0 < entry <= len(conditioning):
        raise ProvokeError(
            f"entry is {entry}, and the conditioning has {len(conditioning)} entries",
            f"1 to {len(conditioning)}",
            "choose the entry (region) whose text is to be replaced by the prompt",
        )
