"""Learn Token (Adversarial Token Embedding): vectors in the place of a word that bring something into every picture.

generator: the text encoder, the sampler, the VAE's decoder, for many prompts and seeds. variable: the token's vectors
in every text encoder. objective: any, and the prompt's own CLIP score. budget: a box in multiples of the vocabulary's
standard deviation, or its lengths. step rule: Adam or signed steps. Source: SAGE (arXiv 2306.00974).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from comfy_execution.graph_utils import ExecutionBlocker
from torch import Tensor

from ..host.api import io, schema
from ..host.sampling.handle import Conditioning, Sampling
from ..host.sampling.tokens import Token, without
from . import adversarial_token_report, adversarial_token_settings, sampler_search, sampler_sockets
from .adversarial_token_report import Rendered
from .adversarial_token_settings import TokenSettings
from .embedding_files import Embedding, EmbeddingSocket
from .objective import Parts, scored_one_by_one
from .prompted import Prompted, first_inputs, taken
from .sampler_search import Plan
from .sampler_sockets import SearchSettings
from .token_search import TokenSearch


class AdversarialToken(io.SearchNode):
    """KSampler's words, with the prompts as text."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ProvokeAdversarialToken",
            display_name="Learn Token (Adversarial Token Embedding)",
            category="Provoke/search",
            description="Learns vectors that stand in a prompt like a word and bring something into its pictures: for "
            "one prompt or for all (universal), with any seed. No weight is changed; the result is an ordinary "
            "embedding for any workflow.",
            search_aliases=[
                "provoke", "textual inversion", "embedding", "adversarial token", "universal token", "SAGE", "learn",
                "prompt tuning",
            ],
            inputs=[
                *first_inputs("The text encoder that the token is for. All of its parts that read embedding files get "
                              "vectors (SDXL: two, SD 3: three)."),
                *sampler_sockets.search_inputs(steps=60),
                *adversarial_token_settings.inputs(),
            ],
            outputs=[
                io.Conditioning.Output(
                    "conditioning",
                    is_output_list=True,
                    tooltip="Each prompt with the token, for any sampler: what CLIP Text Encode gives for `prompt` "
                    "once the embedding is saved.",
                ),
                EmbeddingSocket.Output("embedding", tooltip="The token's vectors, for Save Embedding."),
                io.String.Output(
                    "prompt",
                    is_output_list=True,
                    tooltip="Each prompt with embedding:name. Save Embedding calls it otherwise where that name is "
                    "taken: for CLIP Text Encode use its own prompt output.",
                ),
                io.Image.Output("images", tooltip="KSampler's pictures with the token, prompt by prompt."),
                io.Image.Output("unperturbed", tooltip="KSampler's pictures of the prompts without the token."),
                io.Float.Output(
                    "scores", is_output_list=True, tooltip="The objective's score of each prompt with the token."
                ),
                io.Custom("LOSS_MAP").Output("loss", tooltip="For Plot Loss Graph: minus the score at every step."),
                io.String.Output(
                    "report", tooltip="How far the token went, what it did beside a random one, and what it cost."
                ),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, clip: Any, **inputs: Any) -> io.NodeOutput:
        began = time.monotonic()
        sockets, search, rest = taken(inputs)
        settings = TokenSettings.taken(rest)
        host = Prompted(clip, sockets, settings.conditioning, settings.entry)
        return Learn(host, settings, search).outputs(began)


@dataclass(frozen=True)
class Learn:
    """One run of the node."""

    host: Prompted
    settings: TokenSettings
    search: SearchSettings

    def outputs(self, began: float) -> io.NodeOutput:
        """Learns, and renders again by the host's own path: its text encoder, its sampler."""
        s, host = self.settings, self.host
        usual = [host.text(without(line, s.placeholder)) for line in self._lines]
        plain = [host.pictures(one) for one in usual]
        if s.epsilon == 0 or self.search.search_steps == 0:
            return self._untouched(usual, plain)
        made: list[TokenSearch] = []

        def plan(sampling: Sampling, _: Callable[[], Tensor]) -> Plan:  # its usual pictures are those of each prompt
            made.append(TokenSearch(sampling, s, self.search, usual))
            return made[0].plan()

        graph = host.graph(usual[0])
        found = sampler_search.run(graph, self.search, plan, judges=s.climbed.held, clip=host.clip)
        token, rows = made[0].token, found.selection.variable
        by_token, by_chance = (self._all_said(token, one) for one in (rows, made[0].by_chance(rows)))
        mine, chance = ([host.pictures(one) for one in positives] for positives in (by_token, by_chance))
        three = (self._judged(mine, plain), self._judged(chance, plain), self._judged(plain, plain))
        report = adversarial_token_report.describe(self.search, s, found, token, three, time.monotonic() - began)
        vectors = {key: value.detach().cpu().clone() for key, value in token.vectors(rows).items()}
        embedding = Embedding(vectors, s.called, tuple(self._lines), s.placeholder)
        return io.NodeOutput(
            by_token, embedding, embedding.said(embedding.name), torch.cat(mine), torch.cat(plain), three[0].means,
            found.loss_map, report,
        )  # fmt: skip

    def _untouched(self, usual: list[Conditioning], plain: list[Tensor]) -> io.NodeOutput:
        """Zero effect is zero: the prompts themselves, as the host encodes them."""
        s, nothing = self.settings, ExecutionBlocker(None)
        why = "epsilon is 0" if s.epsilon == 0 else "search_steps is 0"
        report = f"search     none: {why}, so these are the prompts without a token, and there is no embedding"
        texts, images = [without(line, s.placeholder) for line in self._lines], torch.cat(plain)
        return io.NodeOutput(
            usual, nothing, texts, images, images, self._judged(plain, plain).means, nothing, report
        )  # fmt: skip

    @property
    def _lines(self) -> list[str]:
        return self.settings.lines

    def _all_said(self, token: Token, rows: Tensor) -> list[Conditioning]:
        """The same for every prompt with the token in it."""
        vectors = {key: value.detach().cpu() for key, value in token.vectors(rows).items()}
        said = [token.tokens(line, self.settings.placeholder, vectors) for line in self._lines]
        return [self.host.tokens(tokens) for tokens in said]

    def _judged(self, images: list[Tensor], plain: list[Tensor]) -> Rendered:
        """Scores of every prompt's pictures; those without a token are what an objective may compare with."""

        def scores(parts: Parts) -> list[Tensor]:
            found = []
            for line, *both in zip(self._lines, images, plain, strict=True):
                mine, usual = (one.movedim(-1, 1).float().clone() for one in both)
                prompt = without(line, self.settings.placeholder)
                found.append(scored_one_by_one(parts, mine, usual, prompt=prompt).total)
            return found

        own = scores(self.settings.likeness) if self.settings.keep_scorer is not None else []
        return Rendered(scores(self.settings.objective), own)
