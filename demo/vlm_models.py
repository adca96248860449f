"""The demo world's vision-language and language models: ordinary folders of `transformers`, read without a network.

    model = load_matching()                          # Blip2ForImageTextRetrieval
    inputs = prompt(["a red circle"])                # ids and mask, the places of the picture in front
    model(pixel_values=normalise(image), **inputs, use_image_text_matching_head=True).logits_per_image  # B 2: no, yes

The vocabulary is that of the demo's CLIPs (demo/tokenizer.py), with the same ids; the two BLIP-2 know one token more,
`<image>`, behind all others. Needs transformers.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from .tokenizer import FOLDER

_WEIGHTS = Path(__file__).resolve().parent / "weights"
LANGUAGE = _WEIGHTS / "provoke_language" / "provoke-demo-gpt2"
MATCHING = _WEIGHTS / "provoke_vlm" / "provoke-demo-blip2-itm"
CAPTIONING = _WEIGHTS / "provoke_vlm" / "provoke-demo-blip2-opt"

IMAGE = "<image>"  # the token whose places the picture's queries take
QUERIES = 8  # of the Q-Former, for one picture
LONGEST = 24  # tokens that a caption may have: the world's longest has 19


def _loaded(kind: Any, folder: Path) -> Any:
    """A model of the class `kind` in float32 on the CPU, frozen. FileNotFoundError where its files are missing."""
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"The demo model '{folder.name}' is not complete: {folder / name} is missing.")
    model = kind.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    return model.eval().requires_grad_(False)


def load_language(folder: Path = LANGUAGE) -> Any:
    """GPT2LMHeadModel: writes captions of the world."""
    return _loaded(transformers.GPT2LMHeadModel, folder)


def load_matching(folder: Path = MATCHING) -> Any:
    """Blip2ForImageTextRetrieval: does a caption fit a picture, by the matching head or the contrastive ones."""
    return _loaded(transformers.Blip2ForImageTextRetrieval, folder)


def load_captioning(folder: Path = CAPTIONING) -> Any:
    """Blip2ForConditionalGeneration: says what a picture shows."""
    return _loaded(transformers.Blip2ForConditionalGeneration, folder)


@functools.cache
def tokenizer() -> Any:
    """The tokenizer of the two BLIP-2, as it lies in their folders; but for IMAGE that of all."""
    made = transformers.CLIPTokenizer.from_pretrained(str(FOLDER), local_files_only=True)
    made.add_tokens([transformers.AddedToken(IMAGE, normalized=False, special=True)])
    return made


def prompt(texts: Sequence[str]) -> dict[str, Tensor]:
    """`input_ids` and `attention_mask`, N x (QUERIES + L), as Blip2Processor makes them: the picture's places first."""
    made = tokenizer()(list(texts), padding=True, return_tensors="pt")
    places = made["input_ids"].new_full((len(texts), QUERIES), tokenizer().convert_tokens_to_ids(IMAGE))
    return {
        "input_ids": torch.cat((places, made["input_ids"]), 1),
        "attention_mask": torch.cat((torch.ones_like(places), made["attention_mask"]), 1),
    }


def match(model: Any, pixels: Tensor, texts: Sequence[str]) -> Tensor:
    """The log-odds that each text fits its picture, by the matching head: pixels B 3 64 64 -> B. Differentiable.

    The pixels are normalised as `vision_models.normalise` does; one text for each picture.
    """
    inputs = {name: value.to(pixels.device) for name, value in prompt(texts).items()}
    no, yes = model(pixel_values=pixels, **inputs, use_image_text_matching_head=True).logits_per_image.unbind(1)
    return yes - no


def contrast(model: Any, pixels: Tensor, texts: Sequence[str]) -> Tensor:
    """The cosine of each text with the query of its picture that is nearest to it: B. Differentiable. As `match`."""
    inputs = {name: value.to(pixels.device) for name, value in prompt(texts).items()}
    return model(pixel_values=pixels, **inputs, use_image_text_matching_head=False).logits_per_image.diagonal()


@torch.no_grad()
def written(model: Any, pixels: Tensor, **how: Any) -> list[str]:
    """A caption for each picture, greedy where `how` (of `generate`) says nothing else."""
    how = {"do_sample": False, "max_new_tokens": LONGEST, **how}
    ids = model.generate(pixel_values=pixels, **how)
    return [text.strip() for text in tokenizer().batch_decode(ids, skip_special_tokens=True)]
