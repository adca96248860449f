"""The language model: a small GPT-2 that writes captions of the demo world, one word of a caption at a time.

It reads the captions of the training part only, with all synonyms, openings and orders; that it also writes held-out
combinations, and how likely it finds them, is measured. Its tokenizer is the CLIPs' (demo/tokenizer.py).
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from .. import captions
from ..checker import wilson
from ..tokenizer import CONTEXT, END, FOLDER, START
from ..vlm_models import LANGUAGE, LONGEST
from ..world import sample

BAR = 0.95
HIDDEN = -100  # cross_entropy's ignore_index


class Words:
    """Captions to ids, without a tokenizer: every word of captions.WORDS is one token."""

    def __init__(self) -> None:
        known = json.loads((FOLDER / "vocab.json").read_text(encoding="utf-8"))
        self.ids = {word: known[f"{word}</w>"] for word in captions.WORDS}
        self.start, self.end, self.size = known[START], known[END], len(known)

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """N texts -> ids N L int64, from the start to the end and padded with the end; and the mask N L."""
        rows = [[self.start, *(self.ids[word] for word in text.split()), self.end] for text in texts]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [self.end] * (longest - len(row)) for row in rows])
        lengths = torch.tensor([len(row) for row in rows])
        return ids, (torch.arange(longest) < lengths[:, None]).long()


def tokenizer_files(*extra: str) -> dict[str, Any]:
    """The tokenizer as JSON files by name, with `extra` special tokens behind all others."""
    made = transformers.CLIPTokenizer.from_pretrained(str(FOLDER))
    made.add_tokens([transformers.AddedToken(token, normalized=False, special=True) for token in extra])
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": CONTEXT,
        **{f"{kind}_token": END for kind in ("eos", "pad", "unk")},
        "bos_token": START,
    }
    return {"tokenizer.json": json.loads(made.backend_tokenizer.to_str()), "tokenizer_config.json": settings}


def says(text: str) -> bool:
    """Whether a text is a caption of this world: it can be read, and two objects differ."""
    try:
        facts = captions.parse(text)
    except ValueError:
        return False
    return len(set(facts.objects)) == len(facts.objects)


def next_words(logits: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """Mean cross-entropy of every token behind the first, in nats: logits N L V, ids and mask N L."""
    wanted = ids.masked_fill(mask == 0, HIDDEN)[:, 1:]
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), wanted.flatten(), ignore_index=HIDDEN)


@torch.no_grad()
def free(net: Any, count: int, seed: int) -> list[str]:
    """Samples at temperature 1 from all words, from the start alone. The global generator is left as it was."""
    tokenizer = transformers.CLIPTokenizer.from_pretrained(str(FOLDER))
    start = torch.full((count, 1), tokenizer.bos_token_id, device=net.device)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        ids = net.generate(
            start,
            attention_mask=torch.ones_like(start),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=LONGEST,
            pad_token_id=tokenizer.pad_token_id,
        )
    return [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]


class Language:
    """State and steps of the language model's training; loop.py drives it."""

    name = LANGUAGE.name
    folder = LANGUAGE.parent.name
    steps = 2000
    batch = 96
    rate = 3e-3
    look = 45

    def __init__(self, seed: int, device: torch.device) -> None:
        self.device, self.words = device, Words()
        settings = transformers.GPT2Config(
            vocab_size=self.words.size,
            n_positions=CONTEXT,
            n_embd=64,
            n_layer=4,
            n_head=4,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=self.words.start,
            eos_token_id=self.words.end,
            pad_token_id=self.words.end,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net: Any = transformers.GPT2LMHeadModel(settings)
            net.to(device).train()
        self.net = net
        self.modules: dict[str, nn.Module] = {"net": net, "average": copy.deepcopy(net).eval().requires_grad_(False)}
        groups = [
            {"params": [p for p in net.parameters() if p.dim() > 1], "weight_decay": 0.01},
            {"params": [p for p in net.parameters() if p.dim() < 2], "weight_decay": 0.0},
        ]
        self.optimizers = {"net": torch.optim.AdamW(groups, lr=self.rate, betas=(0.9, 0.98))}
        self.generators = {"captions": torch.Generator().manual_seed(seed + 1)}
        self.config = {**net.config.to_dict(), "architectures": [type(net).__name__], "dtype": "float16"}
        self.files = {
            **tokenizer_files(),
            "generation_config.json": {
                "bos_token_id": self.words.start,
                "eos_token_id": self.words.end,
                "pad_token_id": self.words.end,
                "do_sample": True,
                "top_k": 0,
                "max_new_tokens": LONGEST,
            },
        }

    def _read(self, net: nn.Module, texts: Sequence[str]) -> Tensor:
        ids, mask = (part.to(self.device) for part in self.words(texts))
        return next_words(net(input_ids=ids, attention_mask=mask).logits, ids, mask)

    def step(self, progress: float) -> dict[str, float]:
        """One update; `progress` runs from 0 to 1 over the training."""
        optimizer, rng = self.optimizers["net"], self.generators["captions"]
        for group in optimizer.param_groups:
            cosine = 0.5 * (1 + math.cos(math.pi * progress))
            group["lr"] = self.rate * (0.01 + 0.99 * cosine) * min(1, progress * 30 + 0.02)
        texts = captions.captions(sample(self.batch, rng, part="train"), rng)
        # plain products: the fused attention's way back is slow on short texts
        with torch.autocast(self.device.type, torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            loss = self._read(self.net, texts)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        optimizer.step()
        return {"nats": float(loss.detach())}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """The share of 1024 free samples that are captions of this world (and its Wilson lower end); the nats of a
        token in captions of the training part and of held-out combinations."""
        average = self.modules["average"]
        right = sum(map(says, free(average, 1024, seed=7)))
        figures = {"captions": right / 1024, "captions_low": wilson(right, 1024)[0]}
        for name, part in (("nats_train", "train"), ("nats_held_out", "held out")):
            rng = torch.Generator().manual_seed(11)
            figures[name] = float(self._read(average, captions.captions(sample(512, rng, part=part), rng)))
        return figures

    def failings(self, figures: dict[str, float]) -> list[str]:
        """Why these weights may not be exported; empty when they pass."""
        low = figures["captions_low"]
        return [] if low >= BAR else [f"captions: {low:.4f} at least, {BAR} wanted"]

    def weights(self) -> dict[str, Tensor]:
        """What is exported: the averaged weights, without the head, which is the embedding."""
        return {k: v for k, v in self.modules["average"].state_dict().items() if k != "lm_head.weight"}
