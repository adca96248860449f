"""The demo world's two CLIPs: open_clip's classes and the shared tokenizer.

    model = load_clip("first")
    pictures = encode_pictures(model, images)        # B 3 64 64 in [0,1] -> B D, of length 1
    words = encode_words(model, ["a red circle"])    # -> 1 D

"first" is for searching, and its text tower is the diffusion model's text encoder; "second" is for judging. They share
nothing but the vocabulary. Needs open_clip.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import regex
import torch
from open_clip import CLIP
from open_clip.tokenizer import SimpleTokenizer
from safetensors.torch import load_file
from torch import Tensor

from .tokenizer import BPE, CONTEXT, END, START

WEIGHTS = Path(__file__).resolve().parent / "weights" / "provoke_clip"
NAMES = ("first", "second")


class Tokenizer(SimpleTokenizer):  # type: ignore[misc]
    """open_clip's tokenizer with the demo vocabulary; for any text its ids are those of transformers and the host.

    open_clip repairs mojibake and HTML, transformers only composes characters (NFC) and lowers them one by one: this
    class does the latter. Where open_clip fills up with 0 (which is "!"), this one does with the end, as the host does.
    """

    def __init__(self) -> None:
        super().__init__(str(BPE), context_length=CONTEXT, clean="whitespace")
        for name, old in ((START, "<start_of_text>"), (END, "<end_of_text>")):
            self.encoder[name] = self.encoder.pop(old)
            self.decoder[self.encoder[name]] = name
        self.cache: dict[str, str] = {}
        # open_clip's pattern without IGNORECASE, by which the long s would be an s
        self.pat = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
        self._special = re.compile(f"({re.escape(START)}|{re.escape(END)})")

    def _pieces(self, text: str) -> list[int]:
        # one by one: str.lower knows the Greek final sigma, the other two do not
        text = "".join(letter.lower() for letter in unicodedata.normalize("NFC", text))
        ids: list[int] = []
        for word in regex.findall(self.pat, text):
            spelled = "".join(self.byte_encoder[byte] for byte in word.encode("utf-8"))
            ids += [self.encoder[piece] for piece in self.bpe(spelled).split(" ")]
        return ids

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without start and end."""
        ids: list[int] = []
        for part in self._special.split(text):
            ids += [self.encoder[part]] if part in (START, END) else self._pieces(part)
        return ids

    def __call__(self, texts: str | Sequence[str], context_length: int | None = None) -> Tensor:
        """N x context_length int64, padded with the end; longer texts are cut and still end with it."""
        length = context_length or CONTEXT
        rows = torch.full((1 if isinstance(texts, str) else len(texts), length), self.eot_token_id)
        for row, text in zip(rows, [texts] if isinstance(texts, str) else texts, strict=True):
            ids = [self.sot_token_id, *self.encode(text)][: length - 1]
            row[: len(ids)] = torch.tensor(ids)
        return rows


def build(config: dict[str, Any]) -> CLIP:
    """An open_clip model from the dictionary that lies beside the weights; its parameters are random."""
    return CLIP(**config["model_cfg"])


def load_clip(name: str, folder: Path = WEIGHTS) -> CLIP:
    """The model "first" or "second", in float32 on the CPU, frozen. FileNotFoundError where its files are missing."""
    place = folder / name
    for file in (place / "config.json", place / "model.safetensors"):
        if not file.is_file():
            raise FileNotFoundError(f"The demo CLIP '{name}' is not complete: {file} is missing.")
    model = build(json.loads((place / "config.json").read_text(encoding="utf-8")))
    model.load_state_dict(load_file(place / "model.safetensors"))
    return model.eval().requires_grad_(False)


def prepare(images: Tensor) -> Tensor:
    """Pictures B 3 64 64 in [0,1] as the image towers take them: the towers of both models see [-1,1]."""
    return images * 2 - 1


def encode_pictures(model: CLIP, images: Tensor) -> Tensor:
    """B 3 64 64 in [0,1] -> B D of length 1. Differentiable."""
    return model.encode_image(prepare(images), normalize=True)


def text_states(model: CLIP, tokens: Tensor) -> Tensor:
    """N L -> N L width: the states after the last norm. L may be less than CONTEXT: no position looks ahead."""
    length = tokens.shape[1]
    x = model.token_embedding(tokens) + model.positional_embedding[:length]
    return model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))


def encode_tokens(model: CLIP, tokens: Tensor) -> Tensor:
    """N L -> N D of length 1, from the state at the first end."""
    states = text_states(model, tokens)
    # the end has the highest id, and argmax may give any of equals: the first is where the cumulated count is one
    first = (tokens == model.vocab_size - 1).int().argmax(1)
    pooled = states[torch.arange(len(tokens), device=tokens.device), first] @ model.text_projection
    return torch.nn.functional.normalize(pooled, dim=-1)


def encode_words(model: CLIP, texts: Sequence[str]) -> Tensor:
    """Texts -> N D of length 1."""
    return encode_tokens(model, Tokenizer()(texts).to(model.logit_scale.device))
