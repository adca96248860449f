"""Language models: words and their probabilities against the library's own, several kinds of tokenizer, bad folders."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from provoke.scorers.language import END
from provoke.scorers.load_language import load_language

from .conftest import DEMO, VOCABULARY, Folders
from .test_loading import change, refused

GPT2 = DEMO / "weights" / "provoke_language" / "provoke-demo-gpt2"
SAID = "a red circle left of a blue square"


def bytes_model(folders: Folders, **shard: Any) -> Path:
    """A tiny Llama with random weights and a byte-level BPE of its own, as GPT-2's: words begin with a blank, most are
    several tokens; no start token."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    folder = folders.new()
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<end>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    bpe.train_from_iterator(["a photo of a dog in the snow", "a painting of the house", "it is raining"] * 4, trainer)
    transformers.PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<end>").save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(bpe.get_vocab()), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=64, eos_token_id=0, bos_token_id=None,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder, **shard)
    return folder


def test_words_and_the_end_have_the_librarys_probabilities() -> None:
    import transformers

    found = dict(load_language(GPT2).next_words("a red circle", 24))
    tokenizer = transformers.AutoTokenizer.from_pretrained(GPT2)
    net: Any = transformers.AutoModelForCausalLM.from_pretrained(GPT2, dtype=torch.float32).eval()
    ids = tokenizer("a red circle", return_tensors="pt", add_special_tokens=False)["input_ids"]
    ids = torch.cat([torch.tensor([[tokenizer.bos_token_id]]), ids], 1)
    with torch.no_grad():
        logs = net(ids).logits[0, -1].log_softmax(-1)
    for word in ("on", "left", "above", "to"):
        (token,) = tokenizer(word, add_special_tokens=False)["input_ids"]
        assert found[word] == pytest.approx(float(logs[token]), abs=1e-4)
    ends = [tokenizer.eos_token_id, *(tokenizer(stop, add_special_tokens=False)["input_ids"][0] for stop in ".!?")]
    assert found[END] == pytest.approx(float(logs[ends].logsumexp(0)), abs=1e-4)
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_the_words_of_the_world() -> None:
    judge = load_language(GPT2)
    assert {word for word, _ in judge.next_words("a red", 8)} >= {"circle", "ring", "disc", "pyramid"}
    assert judge.next_words("", 4)[0][0] == "a"
    rare = judge.next_words("a red circle", 24, 0.2)
    assert {word for word, _ in rare} <= {END, "on", "right", "below", "above", "left"}


def test_a_text_has_the_librarys_loss() -> None:
    import transformers

    judge = load_language(GPT2)
    tokenizer = transformers.AutoTokenizer.from_pretrained(GPT2)
    net: Any = transformers.AutoModelForCausalLM.from_pretrained(GPT2, dtype=torch.float32).eval()
    ids = tokenizer(SAID, return_tensors="pt")["input_ids"][:, :-1]
    with torch.no_grad():
        loss = float(net(ids, labels=ids).loss)
    (read,) = judge.read([SAID], ended=False)
    assert -sum(log for log, _ in read) / len(read) == pytest.approx(loss, abs=1e-4)
    assert all(odd >= -1e-6 for _, odd in read)
    several = judge.read(["a red circle", SAID], ended=True)  # padding changes nothing
    torch.testing.assert_close(*map(torch.tensor, (several[1], judge.read([SAID], ended=True)[0])), atol=1e-4, rtol=0)
    assert len(several[1]) == len(read) + 1
    odd = judge.read(["circle red a"], ended=True)[0]
    assert max(gap for _, gap in odd) > 5 > max(gap for _, gap in several[0])


def test_words_of_several_pieces_without_a_start_token(folders: Folders) -> None:
    judge = load_language(bytes_model(folders))
    words = judge.next_words("a photo of a", 40)
    assert END in dict(words)
    for word, log in words:
        assert math.isfinite(log)
        assert not word or word.replace("-", "").replace("'", "").isalpha()
        assert " " not in word
    assert len(words) > 3


def test_in_the_executors_inference_mode_and_without_chance() -> None:
    before = torch.get_rng_state()
    with torch.inference_mode():
        judge = load_language(GPT2)
        first = judge.next_words("a", 5)
    assert first == judge.next_words("a", 5)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    whole, half = (dict(load_language(GPT2, kind).next_words("a red", 8)) for kind in (torch.float32, dtype))
    for word in ("circle", "ring"):
        assert half[word] == pytest.approx(whole[word], abs=0.1)


def test_shards(folders: Folders) -> None:
    whole, parts = bytes_model(folders), bytes_model(folders, max_shard_size="20KB")
    assert (parts / "model.safetensors.index.json").is_file()
    found = [load_language(path).read(["a photo of a dog"], ended=True)[0] for path in (whole, parts)]
    torch.testing.assert_close(*map(torch.tensor, found), atol=1e-5, rtol=0)


def test_what_is_refused(folders: Folders) -> None:
    def copied() -> Path:
        new = folders.new()
        shutil.copytree(GPT2, new, dirs_exist_ok=True)
        return new

    refused(load_language, folders.transformers(), ValueError, "causal language model")
    masked = copied()
    change(masked / "config.json", architectures=["BertForMaskedLM"])
    refused(load_language, masked, ValueError, "BertForMaskedLM")
    pickled = copied()
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    refused(load_language, pickled, ValueError, "pickle")
    bare = copied()
    (bare / "tokenizer_config.json").unlink()
    refused(load_language, bare, FileNotFoundError, "tokenizer_config.json does not exist")
    hostile = copied()
    change(hostile / "config.json", auto_map={"AutoModelForCausalLM": "evil.Model"})
    refused(load_language, hostile, ValueError, "code or files from elsewhere")
    deeper = copied()
    change(deeper / "config.json", n_layer=6)
    refused(load_language, deeper, ValueError, "tensors are missing")
    cut = copied()
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:1000])
    refused(load_language, cut, ValueError, "cannot be read as safetensors")


def test_texts_that_do_not_fit(folders: Folders) -> None:
    judge = load_language(GPT2)
    refused(lambda _: judge.next_words("red " * 100, 3), GPT2, ValueError, "1 to 71")
    foreign = folders.new()
    shutil.copytree(bytes_model(folders), foreign, dirs_exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(GPT2 / name, foreign)
    assert VOCABULARY > 320
    refused(lambda _: load_language(foreign).next_words("a red", 3), foreign, ValueError, "the tokenizer of this model")
