"""The demo's BLIP-2, stage two (stage one: blip2.py): a small OPT, to which the queries' answers are the first words.

The vision tower, the queries and the Q-Former are those that stage one has exported, and stay as they are.
"""

from __future__ import annotations

import copy
import math

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from .. import captions
from ..checker import wilson
from ..vision_models import normalise
from ..vlm_models import CAPTIONING, QUERIES, load_matching
from ..world import render
from . import blip2_measure, clip
from .blip2 import BAR, Stage, looked
from .language import next_words


class Captioning(Stage):
    """State and steps of stage two; loop.py drives it. Needs the exported weights of stage one."""

    name = CAPTIONING.name
    steps = 1800
    batch = 32
    rate = 3e-3
    look = 60
    times = 4  # captions for a picture

    def __init__(self, seed: int, device: torch.device) -> None:
        super().__init__(seed + 100, device, transformers.Blip2ForConditionalGeneration)
        shared = load_matching().state_dict()
        mine = {k: v for k, v in shared.items() if k in self.net.state_dict()}
        self.net.load_state_dict(mine, strict=False)
        self.net.requires_grad_(False)
        learning = [*self.net.language_projection.parameters(), *self.net.language_model.parameters()]
        for parameter in learning:
            parameter.requires_grad_(True)
        self.modules: dict[str, nn.Module] = {
            "net": self.net,
            "average": copy.deepcopy(self.net).eval().requires_grad_(False),
        }
        groups = [
            {"params": [p for p in learning if p.dim() > 1], "weight_decay": 0.02},
            {"params": [p for p in learning if p.dim() < 2], "weight_decay": 0.0},
        ]
        self.optimizers = {"net": torch.optim.AdamW(groups, lr=self.rate, betas=(0.9, 0.98))}

    def step(self, progress: float) -> dict[str, float]:
        """One update; `progress` runs from 0 to 1 over the training."""
        net, optimizer, rng = self.net, self.optimizers["net"], self.stream.generator
        for group in optimizer.param_groups:
            cosine = 0.5 * (1 + math.cos(math.pi * progress))
            group["lr"] = self.rate * (0.01 + 0.99 * cosine) * min(1, progress * 30 + 0.02)
        scenes = self.stream.scenes(self.batch)
        images = self.stream.disturbed(render(scenes)).to(self.device)
        facts = self.stream.told(list(scenes)) * self.times
        texts = [
            captions.canonical(f.ordered(), background=True) if self.stream.chance() < clip.USUAL else text
            for f, text in zip(facts, captions.captions(facts, rng), strict=True)
        ]
        ids, mask = (part.to(self.device) for part in self.stream.words(texts))
        with torch.autocast(self.device.type, torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            with torch.no_grad():
                looks = looked(net, net.vision_model(pixel_values=normalise(images)).last_hidden_state)
            loss = self._said(looks.repeat(self.times, 1, 1), ids, mask)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        optimizer.step()
        return {"nats": float(loss.detach())}

    def _said(self, looks: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """The nats of a token of the captions, given the queries' answers: what the model's own forward computes."""
        words = self.net.get_input_embeddings()(ids)
        given = torch.cat((self.net.language_projection(looks).to(words.dtype), words), 1)
        out = self.net.language_model(inputs_embeds=given, attention_mask=functional.pad(mask, (QUERIES, 0), value=1))
        return next_words(out.logits[:, QUERIES:], ids, mask)

    def validate(self) -> dict[str, float]:
        """Of held-out scenes, the share whose greedy caption names every object right; and says all right."""
        found = blip2_measure.captioned(self.modules["average"], torch.Generator().manual_seed(7), 512)
        return {**{kind: right / of for kind, (right, of) in found.items()}, "low": wilson(*found["objects"])[0]}

    def failings(self, figures: dict[str, float]) -> list[str]:
        """Why these weights may not be exported; empty when they pass."""
        return [] if figures["low"] >= BAR else [f"captions: {figures['low']:.3f} at least, {BAR} wanted"]
