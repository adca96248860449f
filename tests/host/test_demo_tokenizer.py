"""The demo vocabulary and the CLIPs' text towers inside the host's own classes."""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from provoke.demo.captions import captions
from provoke.demo.clip_models import (
    Tokenizer,
    build,
    encode_tokens,
    load_clip,
    text_states,
)
from provoke.demo.text_tower import host_text_config, host_text_weights
from provoke.demo.tokenizer import CONTEXT, FOLDER
from provoke.demo.training.clip import config
from provoke.demo.world import sample

OURS = Tokenizer()
SPECIAL = {"start": OURS.sot_token_id, "end": OURS.eot_token_id, "pad": OURS.eot_token_id}


@pytest.fixture(scope="module")
def tokenizer(comfy: ModuleType) -> Any:
    from comfy.sd1_clip import SDTokenizer

    return SDTokenizer(tokenizer_path=str(FOLDER))


def said(count: int, seed: int) -> list[str]:
    rng = torch.Generator().manual_seed(seed)
    return captions(sample(count, rng), rng)


def ids(tokenizer: Any, text: str) -> list[list[int]]:
    """What the host's text encode nodes get for a text without weights."""
    return [[token for token, _ in row] for row in tokenizer.tokenize_with_weights(text, disable_weights=True)]


def test_the_host_finds_start_end_and_padding(tokenizer: Any) -> None:
    assert (tokenizer.start_token, tokenizer.end_token, tokenizer.pad_token) == tuple(SPECIAL.values())
    assert ids(tokenizer, "") == OURS([""]).tolist()


def test_ids_of_captions_are_ours(tokenizer: Any) -> None:
    texts = said(2000, seed=2)
    for text, row in zip(texts, OURS(texts).tolist(), strict=True):
        assert ids(tokenizer, text) == [row]


@settings(max_examples=300, deadline=None)
@given(text=st.text(st.characters(max_codepoint=0x24F), max_size=30))
def test_ids_of_other_texts_are_ours(tokenizer: Any, text: str) -> None:
    # the host reads an escaped parenthesis in its own way before it asks the tokenizer
    text = text.replace("\\", "").replace("\0", "")
    assert ids(tokenizer, text) == OURS([text]).tolist()


def test_the_whole_tokenizer_of_a_model(comfy: ModuleType) -> None:
    """SD1Tokenizer takes the class from tokenizer_data; weights in parentheses work as ever."""
    from comfy.sd1_clip import SD1Tokenizer, SDTokenizer

    mine = functools.partial(SDTokenizer, tokenizer_path=str(FOLDER), embedding_size=128)
    tokens = SD1Tokenizer(tokenizer_data={"clip_l_tokenizer_class": mine}).tokenize_with_weights("a (red:1.5) circle")
    (row,) = tokens["l"]
    assert row[:5] == [
        (SPECIAL["start"], 1.0),
        *((OURS.encode(word)[0], weight) for word, weight in (("a", 1.0), ("red", 1.5), ("circle", 1.0))),
        (SPECIAL["end"], 1.0),
    ]


def host_tower(settings: dict[str, Any], weights: dict[str, torch.Tensor]) -> Any:
    """The host's text encoder with our weights, nothing missing and nothing left over."""
    from comfy.sd1_clip import SD1ClipModel, SDClipModel

    class Tower(SDClipModel):
        def __init__(self, device: str = "cpu", dtype: Any = None, model_options: Any = None) -> None:
            super().__init__(device=device, dtype=dtype, special_tokens=SPECIAL, model_options=model_options or {})

    tower = SD1ClipModel(
        device="cpu",
        dtype=torch.float32,
        clip_model=Tower,
        model_options={"clip_l_model_config": host_text_config(settings)},
    )
    missing, unexpected = tower.load_sd(weights)
    assert (list(missing), list(unexpected)) == ([], [])
    return tower


@pytest.mark.parametrize("name", ["first", "second"])
@torch.no_grad()
def test_the_hosts_tower_gives_our_states(tokenizer: Any, name: str) -> None:
    """Whatever the weights are: here random ones, and position embeddings that are not 0."""
    settings = config(name)
    torch.manual_seed(0)
    model = build(settings).eval()
    _compare(tokenizer, model, host_tower(settings, host_text_weights(model.state_dict())))


@torch.no_grad()
def test_the_first_clips_tower_in_the_host(tokenizer: Any) -> None:
    model = load_clip("first")
    _compare(tokenizer, model, host_tower(config("first"), host_text_weights(model.state_dict())))


def _compare(tokenizer: Any, model: Any, tower: Any) -> None:
    for text in [*said(4, seed=3), "zebra, 42!"]:
        states, pooled = tower.encode_token_weights({"l": tokenizer.tokenize_with_weights(text)})
        tokens = OURS([text])
        assert states.shape == (1, CONTEXT, model.token_embedding.embedding_dim)
        torch.testing.assert_close(states, text_states(model, tokens), atol=1e-4, rtol=0)
        torch.testing.assert_close(
            torch.nn.functional.normalize(pooled, dim=-1),
            encode_tokens(model, tokens),
            atol=1e-4,
            rtol=0,
        )
