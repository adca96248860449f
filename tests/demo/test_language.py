"""The language model: a folder of transformers that writes captions of the world, also ones that it never read."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, CLIPTokenizer

from provoke.demo.captions import WORDS, captions, parse
from provoke.demo.checker import wilson
from provoke.demo.tokenizer import FOLDER
from provoke.demo.training import language, loop
from provoke.demo.vlm_models import LANGUAGE, load_language
from provoke.demo.world import Facts, sample, split

LIMIT = 600_000  # bytes


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model() -> Any:
    return load_language()


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_folder_is_small_and_has_a_card() -> None:
    assert sum(file.stat().st_size for file in LANGUAGE.iterdir()) < LIMIT
    card = (LANGUAGE.parent / "README.md").read_text(encoding="utf-8")
    for word in ("train.py language", "seed", "held-out", "Licence"):
        assert word in card


def test_the_automatic_classes_read_it() -> None:
    start = time.process_time()
    model = AutoModelForCausalLM.from_pretrained(LANGUAGE, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(LANGUAGE, local_files_only=True)
    assert time.process_time() - start < 3
    assert type(model).__name__ == "GPT2LMHeadModel"
    assert model.lm_head.weight is model.transformer.wte.weight
    ids = tokenizer("a red", return_tensors="pt", add_special_tokens=False)["input_ids"]
    ids = torch.cat((torch.tensor([[tokenizer.bos_token_id]]), ids), 1)
    said = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False)
    assert parse(tokenizer.decode(said[0], skip_special_tokens=True)).objects[0][0] == "red"


def test_its_tokens_are_those_of_the_clips() -> None:
    mine = AutoTokenizer.from_pretrained(LANGUAGE, local_files_only=True)
    theirs = CLIPTokenizer.from_pretrained(str(FOLDER))
    assert mine.get_vocab() == theirs.get_vocab()
    texts = [*captions(sample(64, rng(0)), rng(1)), "Zebras, éclairs & 42!", ""]
    assert mine(texts)["input_ids"] == theirs(texts)["input_ids"]


def test_words_are_read_without_a_tokenizer() -> None:
    texts = [*captions(sample(16, rng(2)), rng(3)), *WORDS]
    ids, mask = language.Words()(texts)
    made = CLIPTokenizer.from_pretrained(str(FOLDER))(texts, padding=True, return_tensors="pt")
    assert torch.equal(ids, made["input_ids"])
    assert torch.equal(mask, made["attention_mask"])


def test_free_samples_are_captions_of_this_world(model: Any) -> None:
    said = language.free(model, 768, seed=21)
    right = [text for text in said if language.says(text)]
    assert wilson(len(right), len(said))[0] >= language.BAR, [text for text in said if text not in right]
    assert len(set(right)) > 500  # it has not learned a few by heart
    facts = [parse(text) for text in right]
    held_out = [f for f in facts if f.relation is not None and split(f) == "held out"]
    assert held_out  # what no caption of its training said


def test_what_is_no_caption_of_this_world() -> None:
    assert language.says("there is a red circle left of a blue square on black")
    for text in ("a red", "red circle", "a red circle left of", "a red circle left of a red disc", "zebra", ""):
        assert not language.says(text)


@torch.no_grad()
def test_it_finds_held_out_captions_likely_and_words_in_disorder_not(model: Any) -> None:
    texts = captions(sample(256, rng(5), part="held out"), rng(6))
    reversed_ = [" ".join(text.split()[::-1]) for text in texts]
    nats = []
    for said in (texts, reversed_):
        ids, mask = language.Words()(said)
        nats.append(float(language.next_words(model(input_ids=ids, attention_mask=mask).logits, ids, mask)))
    assert nats[0] < 1.6 < 3 < nats[1]


def test_the_same_seed_says_the_same_and_leaves_the_global_generator_alone(model: Any) -> None:
    before = torch.random.get_rng_state()
    assert language.free(model, 8, seed=3) == language.free(model, 8, seed=3) != language.free(model, 8, seed=4)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_loss_is_the_librarys(model: Any) -> None:
    ids, mask = language.Words()(["a red circle", "a red circle left of a blue square"])
    with torch.no_grad():
        out = model(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100))
    torch.testing.assert_close(language.next_words(out.logits, ids, mask), out.loss)


def test_a_training_goes_on_where_it_stopped(tmp_path: Path) -> None:
    once, stopped = (language.Language(0, torch.device("cpu")) for _ in range(2))
    for trainer in (once, stopped):
        trainer.batch = 8
        trainer.step(0.0)
    loop.save_checkpoint(stopped, tmp_path, {"step": 1})
    resumed = language.Language(0, torch.device("cpu"))
    resumed.batch = 8
    assert loop.load_checkpoint(resumed, tmp_path) == {"step": 1}
    assert resumed.step(0.1) == once.step(0.1)


def test_an_untrained_one_is_not_exported() -> None:
    trainer = language.Language(0, torch.device("cpu"))
    figures = trainer.validate()
    assert figures["captions"] < 0.1
    assert trainer.failings(figures)


def test_the_config_is_that_of_the_training() -> None:
    saved = json.loads((LANGUAGE / "config.json").read_text(encoding="utf-8"))
    made = json.loads(json.dumps(language.Language(0, torch.device("cpu")).config))
    assert {k: v for k, v in saved.items() if k != "transformers_version"} == {
        k: v for k, v in made.items() if k != "transformers_version"
    }


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        load_language(tmp_path)


def test_facts_that_training_may_say() -> None:
    """One object without its ground is never held out; the parser gives the objects in the caption's order."""
    assert parse("above a blue ring is a red disc") == Facts((("red", "circle"), ("blue", "ring")), "above")
