"""The demo's BLIP-2 (Li et al. 2023, arXiv 2301.12597), in its two stages: matching first, then captions.

Stage one trains what both share, the vision tower, the queries and the Q-Former, by matching and contrast:
- for a while the vision tower alone, by what covers each patch: a vision transformer that is told its patches learns
  shapes in a minute, one that had to find them from captions learned no more than colours in eight;
- then all of it. Every picture brings captions that differ from its own in one fact, as in clip.py. Linear readers say
  the facts from the queries' answers and from a caption's first state; they and the patches fade, but do not vanish:
  stage two needs the facts in the queries' answers.
Stage two is in blip2_captioning.py.
Pictures are disturbed, and a share of them comes back from the VAE with some noise in its latents, as generated
pictures do. No caption, right or wrong, states a combination that is held out.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from .. import world
from ..tokenizer import CONTEXT
from ..vision_models import MEAN, STD, normalise
from ..vlm_models import IMAGE, MATCHING, QUERIES
from ..world import render
from . import blip2_measure, clip, vae
from .blip2_data import PATCH, PATCHES, Stream, patches
from .language import Words, tokenizer_files

WIDTH = 96
ALONE = 0.15  # of stage one: the vision tower alone
PARTS = 3  # of a batch of captions, by length
BAR = 0.85


def settings() -> transformers.Blip2Config:
    """The configuration of both stages."""
    words = Words()
    text = transformers.OPTConfig(
        vocab_size=words.size + 1,
        hidden_size=64,
        word_embed_proj_dim=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=192,
        max_position_embeddings=CONTEXT,
        dropout=0.0,
        bos_token_id=words.start,
        eos_token_id=words.end,
        pad_token_id=words.end,
    )
    return transformers.Blip2Config(
        vision_config={
            "hidden_size": WIDTH,
            "intermediate_size": 2 * WIDTH,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "image_size": world.SIZE,
            "patch_size": PATCH,
            "initializer_range": 0.02,
        },
        qformer_config={
            "vocab_size": words.size + 1,
            "hidden_size": WIDTH,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "intermediate_size": 128,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "max_position_embeddings": CONTEXT,
            "pad_token_id": words.end,
            "use_qformer_text_input": True,
        },
        text_config=text.to_dict(),
        num_query_tokens=QUERIES,
        image_text_hidden_size=64,
        image_token_index=words.size,
    )


def files() -> dict[str, Any]:
    """What lies beside the weights of both: tokenizer, preparation of pictures, processor."""
    return {
        **tokenizer_files(IMAGE),
        "preprocessor_config.json": {
            "image_processor_type": "BlipImageProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "size": {"height": world.SIZE, "width": world.SIZE},
            "resample": 2,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": [MEAN] * 3,
            "image_std": [STD] * 3,
        },
        "processor_config.json": {"processor_class": "Blip2Processor", "num_query_tokens": QUERIES},
    }


def places() -> Tensor:
    """1 65 WIDTH: sines and cosines of a patch's row and column, nought for the class token."""
    side, count = world.SIZE // PATCH, WIDTH // 4
    angles = torch.arange(side)[:, None] * (0.7 ** torch.arange(count) * 1.5)
    waves = torch.cat((angles.sin(), angles.cos()), 1)  # side, WIDTH / 2
    grid = torch.cat((waves[:, None].expand(-1, side, -1), waves[None].expand(side, -1, -1)), 2)
    return functional.pad(grid.reshape(1, side * side, WIDTH), (0, 0, 1, 0))


def start(net: Any) -> None:
    """Where the library's own beginning does not do: its queries are all nought, and so would stay alike."""
    with torch.no_grad():
        nn.init.normal_(net.query_tokens, std=0.5)
        net.vision_model.embeddings.position_embedding.copy_(places())
        for layer in net.vision_model.encoder.layers:
            # keys like queries: patches first look at those near to them (after Trockman & Kolter 2023, 2305.09828)
            query, key, _ = layer.self_attn.qkv.weight.chunk(3)
            nn.init.normal_(query, std=WIDTH**-0.5)
            key.copy_(query)


class Readers(nn.Module):
    """Linear readers of patches, of the queries' answers and of a caption's first state; and the contrast's scale."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Linear(WIDTH, sum(PATCHES))
        self.queries = nn.Linear(QUERIES * WIDTH, sum(clip.READERS))
        self.texts = nn.Linear(WIDTH, sum(clip.READERS) + sum(clip.SPOKEN))
        self.scale = nn.Parameter(torch.tensor(2.7))  # its logarithm: 15


def by_length(mask: Tensor) -> Iterator[tuple[Tensor, int]]:
    """Rows of like length, and the longest of them, in PARTS."""
    lengths = mask.sum(1)
    for part in lengths.argsort().chunk(PARTS):
        yield part, int(lengths[part].max())


def looked(net: Any, seen: Tensor) -> Tensor:
    """The queries' answers to the vision tower's states B 65 WIDTH: B QUERIES WIDTH."""
    queries = net.query_tokens.expand(len(seen), -1, -1)
    return net.qformer(query_embeds=queries, encoder_hidden_states=seen).last_hidden_state


def heard(net: Any, ids: Tensor, mask: Tensor) -> Tensor:
    """The first state of each caption, without a picture: T WIDTH."""
    states = ids.new_zeros(len(ids), WIDTH, dtype=torch.float32)
    for part, longest in by_length(mask):
        words = net.embeddings(input_ids=ids[part, :longest])
        out = net.qformer(query_embeds=words, query_length=0, attention_mask=mask[part, :longest])
        states = states.index_copy(0, part, out.last_hidden_state[:, 0].float())
    return states


def fits(net: Any, seen: Tensor, ids: Tensor, mask: Tensor, picture: Tensor) -> Tensor:
    """The matching head's two logits for each caption and its picture (the place in `seen`): P 2."""
    logits = seen.new_zeros(len(ids), 2, dtype=torch.float32)
    for part, longest in by_length(mask):
        queries = net.query_tokens.expand(len(part), -1, -1)
        both = net.embeddings(input_ids=ids[part, :longest], query_embeds=queries)
        out = net.qformer(
            query_embeds=both,
            query_length=QUERIES,
            attention_mask=functional.pad(mask[part, :longest], (QUERIES, 0), value=1),
            encoder_hidden_states=seen[picture[part]],
        )
        said = net.itm_head(out.last_hidden_state[:, :QUERIES]).mean(1)
        logits = logits.index_copy(0, part, said.float())
    return logits


class Stage:
    """What both stages share."""

    folder = MATCHING.parent.name
    name: str
    rate: float

    def __init__(self, seed: int, device: torch.device, kind: Any) -> None:
        self.device = device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = kind(settings())
            start(net)
        net.set_attn_implementation("eager")  # the fused attention's way back is slow on short texts
        self.net: Any = net.to(device).train()
        self.stream = Stream(seed + 1, vae.trained().to(device))
        self.generators = {"stream": self.stream.generator}
        config = net.config.to_dict()
        self.config = {**config, "architectures": [kind.__name__], "dtype": "float16"}
        self.files = files()

    def weights(self) -> dict[str, Tensor]:
        """What is exported: the averaged weights, without an output layer that is the embedding."""
        average = self.modules["average"].state_dict()  # type: ignore[attr-defined]
        return {k: v for k, v in average.items() if k != "language_model.lm_head.weight"}


class Matching(Stage):
    """State and steps of stage one; loop.py drives it."""

    name = MATCHING.name
    steps = 2300
    batch = 64
    rate = 1.5e-3
    look = 150

    def __init__(self, seed: int, device: torch.device) -> None:
        super().__init__(seed, device, transformers.Blip2ForImageTextRetrieval)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + 2)
            self.readers = Readers().to(device)
        self.modules: dict[str, nn.Module] = {
            "net": self.net,
            "average": copy.deepcopy(self.net).eval().requires_grad_(False),
            "readers": self.readers,
        }
        seeing = [*self.net.vision_model.parameters(), *self.readers.patches.parameters()]
        known = set(map(id, seeing))
        others = [p for p in [*self.net.parameters(), *self.readers.parameters()] if id(p) not in known]
        groups = [
            {"params": [p for p in these if (p.dim() > 1) == many], "weight_decay": 0.02 * many}
            for these in (seeing, others)
            for many in (True, False)
        ]
        self.optimizers = {"net": torch.optim.AdamW(groups, lr=self.rate, betas=(0.9, 0.98))}

    def _update(self, loss: Tensor) -> None:
        self.optimizers["net"].zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizers["net"].step()

    def step(self, progress: float) -> dict[str, float]:
        """One update; `progress` runs from 0 to 1 over the training."""
        cosine = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))
        warm = [min(1.0, 0.02 + 50 * max(0.0, progress - begin)) for begin in (0.0, 0.0, ALONE, ALONE)]
        for group, now in zip(self.optimizers["net"].param_groups, warm, strict=True):
            group["lr"] = self.rate * cosine * now
        if progress < ALONE:
            return self._patches()
        return self._all((progress - ALONE) / (1 - ALONE))

    def _seen(self, images: Tensor, answers: Tensor) -> tuple[Tensor, Tensor]:
        """The vision tower's states B 65 WIDTH, and how wrong the patches are read."""
        with torch.autocast(self.device.type, torch.bfloat16):
            seen = self.net.vision_model(pixel_values=normalise(images)).last_hidden_state
            said = self.readers.patches(seen[:, 1:]).flatten(0, 1).float()
        return seen, clip._wrongness(said, PATCHES, answers.flatten(0, 1))

    def _patches(self) -> dict[str, float]:
        scenes = self.stream.scenes(self.batch)
        images = self.stream.disturbed(render(scenes)).to(self.device)
        _, wrong = self._seen(images, patches(scenes).to(self.device))
        self._update(wrong)
        return {"patches": float(wrong.detach())}

    def _all(self, progress: float) -> dict[str, float]:
        net, readers = self.net, self.readers
        batch = self.stream.matching(self.batch)
        true = batch.true.to(self.device)
        ids, mask, owner = (part.to(self.device) for part in (batch.ids, batch.mask, batch.owner))
        seen, wrong = self._seen(batch.images.to(self.device), batch.patches.to(self.device))
        own = torch.arange(len(seen), device=self.device)
        # each caption with its picture; some pictures' own also with the next one's
        text = torch.cat((torch.arange(len(ids), device=self.device), own[::2]))
        picture = torch.cat((owner, own.roll(1)[::2]))
        with torch.autocast(self.device.type, torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            looks, states = looked(net, seen), heard(net, ids, mask)
            matched = fits(net, seen, ids[text], mask[text], picture)
            pictures = functional.normalize(net.vision_projection(looks).float(), dim=-1)
            texts = functional.normalize(net.text_projection(states).float(), dim=-1)
            read_looks = readers.queries(looks.flatten(1)).float()
            read_words = readers.texts(states).float()
        fitting = true[picture, text]
        weights = torch.where(fitting, 0.5 / fitting.sum(), 0.5 / (~fitting).sum())
        match_loss = (functional.cross_entropy(matched, fitting.long(), reduction="none") * weights).sum()
        alike = torch.einsum("bqd,td->btq", pictures, texts).amax(2)
        others = true.clone()
        others[own, own] = False  # its own caption is what it is asked for; other true ones are no negatives
        logits = (readers.scale.exp() * alike).masked_fill(others, -1e4)
        contrast = functional.cross_entropy(logits, own) + functional.cross_entropy(logits[:, : len(own)].T, own)
        looks_wrong = clip._wrongness(read_looks, clip.READERS, batch.pictures[:, 1:].to(self.device))
        answers = torch.cat((batch.texts[:, 1:], batch.spoken), 1).to(self.device)
        texts_wrong = clip._wrongness(read_words, (*clip.READERS, *clip.SPOKEN), answers)
        helped = max(0.1, min(1.0, 1.8 - 2 * progress))
        self._update(2 * match_loss + contrast / 2 + helped * (wrong + looks_wrong + texts_wrong))
        with torch.no_grad():
            readers.scale.clamp_(max=math.log(100))
        return {
            "match": float(match_loss.detach()),
            "contrast": float(contrast.detach()) / 2,
            "patches": float(wrong.detach()),
            "queries": float(looks_wrong.detach()),
            "texts": float(texts_wrong.detach()),
        }

    def validate(self) -> dict[str, float]:
        """By kind of wrong caption, the share of held-out scenes whose true one the matching head prefers."""
        found = blip2_measure.choices(self.modules["average"], torch.Generator().manual_seed(7), 256)
        return {**{kind: right / of for kind, (right, of) in found.items()}, "low": blip2_measure.lowest(found)}

    def failings(self, figures: dict[str, float]) -> list[str]:
        """Why these weights may not be exported; empty when they pass."""
        return [] if figures["low"] >= BAR else [f"matching: {figures['low']:.3f} at least, {BAR} wanted"]
