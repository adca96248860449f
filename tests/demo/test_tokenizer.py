"""The demo vocabulary: one file set, and the same ids in open_clip, transformers and our own class, for any text."""

from __future__ import annotations

import gzip
import json
import unicodedata
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer
from transformers import CLIPTokenizer

from provoke.demo.captions import WORDS, captions
from provoke.demo.clip_models import Tokenizer
from provoke.demo.tokenizer import BPE, CONTEXT, END, FOLDER, START, learn, vocabulary, write
from provoke.demo.world import sample

OURS, THEIRS, PLAIN = Tokenizer(), CLIPTokenizer.from_pretrained(str(FOLDER)), SimpleTokenizer(str(BPE))


def inner(text: str) -> list[int]:
    """transformers' ids without start and end."""
    return THEIRS(text)["input_ids"][1:-1]


def said(count: int, seed: int) -> list[str]:
    rng = torch.Generator().manual_seed(seed)
    return captions(sample(count, rng), rng)


def test_the_committed_files_are_what_the_script_writes(tmp_path: Path) -> None:
    write(tmp_path, WORDS)
    assert sorted(file.name for file in FOLDER.iterdir()) == sorted(file.name for file in tmp_path.iterdir())
    for file in tmp_path.iterdir():
        if file != tmp_path / BPE.name:  # the compressed bytes may differ between versions of zlib
            assert file.read_text(encoding="utf-8") == (FOLDER / file.name).read_text(encoding="utf-8")
    assert gzip.decompress((tmp_path / BPE.name).read_bytes()) == gzip.decompress(BPE.read_bytes())
    assert not gzip.decompress(BPE.read_bytes()).endswith(b"\n")


def test_ids_follow_clips_scheme() -> None:
    known = json.loads((FOLDER / "vocab.json").read_text(encoding="utf-8"))
    size = 512 + len(learn(WORDS)) + 2
    assert known == vocabulary(learn(WORDS)) == THEIRS.get_vocab()
    assert sorted(known.values()) == list(range(size))
    assert (known[START], known[END]) == (size - 2, size - 1)
    assert OURS.vocab_size == PLAIN.vocab_size == len(THEIRS) == size
    assert THEIRS("")["input_ids"] == [OURS.sot_token_id, OURS.eot_token_id] == [size - 2, size - 1]
    assert THEIRS.pad_token_id == OURS.eot_token_id


@pytest.mark.parametrize("word", WORDS)
def test_every_word_of_the_captions_is_one_token(word: str) -> None:
    assert len(OURS.encode(word)) == len(PLAIN.encode(word)) == len(inner(word)) == 1


def test_all_agree_on_captions() -> None:
    texts = said(4000, seed=1)
    for text, ids in zip(texts, THEIRS(texts)["input_ids"], strict=True):
        assert OURS.encode(text) == PLAIN.encode(text) == ids[1:-1]
        assert len(ids) == 2 + len(text.split()) <= CONTEXT


@settings(max_examples=1000, deadline=None)
@given(st.text(st.characters(max_codepoint=127), max_size=60))
@example("it's 'S a_b  <start_of_text> &amp; R2D2\t\x1c\x1f\x00")
@example(f"a {START}red{END} circle")
def test_all_agree_on_ascii(text: str) -> None:
    assert OURS.encode(text) == inner(text)


@settings(max_examples=1500, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=40))
@example("ΟΔΟΣ İstanbul ſ 'ſ K ﬀ 'ﬀ")
@example("a\u0301 \u00e9 fullwidth ＡＢＣ “quoted” Ã© 日本語 ५ Ⅷ 😀")
def test_all_agree_on_any_text(text: str) -> None:
    assert OURS.encode(text) == inner(text)


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("abcdefghijklmnopqrstuvwxyz ,.!?0123456789"), max_size=200))
def test_open_clips_own_class_agrees_on_plain_text(text: str) -> None:
    assert PLAIN.encode(text) == inner(text)


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=40))
def test_nothing_is_unknown(text: str) -> None:
    """The pieces spell the text again, so that no two words are the same to the tower for want of a token."""
    pieces = OURS.encode(text)
    spelled = bytes(OURS.byte_decoder[letter] for i in pieces for letter in OURS.decoder[i].removesuffix("</w>"))
    # what the pieces leave out is white space
    told = "".join(letter.lower() for letter in unicodedata.normalize("NFC", text))
    if START not in text and END not in text:
        assert spelled.decode() == "".join(word for word in OURS.pat.findall(told))


def test_a_batch_is_padded_with_the_end_and_cut_before_it() -> None:
    short, long = OURS(["a red circle", "circle " * 100])
    assert short.tolist() == [OURS.sot_token_id, *OURS.encode("a red circle"), *[OURS.eot_token_id] * (CONTEXT - 4)]
    assert len(long) == CONTEXT
    assert long[-1] == OURS.eot_token_id
    assert (long == OURS.eot_token_id).sum() == 1
    padded = THEIRS(["a red circle", "circle " * 100], padding="max_length", truncation=True, max_length=CONTEXT)
    assert padded["input_ids"] == [short.tolist(), long.tolist()]
    assert OURS("a red circle", context_length=6).shape == (1, 6)
