"""The two CLIPs' training: what it says, that a text's length changes nothing, that it goes on where it stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from provoke.demo.captions import parse
from provoke.demo.clip_models import (
    NAMES,
    Tokenizer,
    build,
    encode_tokens,
    load_clip,
    text_states,
)
from provoke.demo.training import clip, loop
from provoke.demo.world import Facts, sample, split


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module", params=NAMES)
def random_model(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    return build(clip.config(request.param)).eval()


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_training_says_nothing_that_is_held_out() -> None:
    stream = clip.Stream(0)
    scenes = list(sample(300, rng(0), part="train"))
    told_wrong = [stream.wrong(scene) for scene in scenes]
    assert max(map(len, told_wrong)) == clip.WRONG
    assert sum(map(len, told_wrong)) > 1.8 * len(scenes)  # seldom is all that is wrong held out
    for scene, wrong in zip(scenes, told_wrong, strict=True):
        for facts, text in zip(wrong, stream.said(wrong), strict=True):
            told = parse(text)
            assert told.ordered() == facts.ordered()
            assert (told.relation is None and told.background is None) or split(told) == "train"
            plain = scene.facts.ordered()
            assert (told.ordered().objects, told.ordered().relation) != (plain.objects, plain.relation) or (
                told.background not in (None, plain.background)
            )


def test_the_truth_of_equal_facts_is_equal() -> None:
    one = Facts((("red", "circle"), ("blue", "square")), "left of", "white")
    other = Facts((("blue", "square"), ("red", "circle")), "right of", "white")
    assert clip.truth(one) == clip.truth(other)
    numbers = {clip.truth(scene.facts)[0] for scene in sample(4000, rng(1))}
    orders = {(s.facts.ordered().objects, s.facts.ordered().relation) for s in sample(4000, rng(1))}
    assert len(numbers) == len(orders)


def test_a_batch_is_what_its_captions_say() -> None:
    batch = clip.Stream(3).batch(32)
    tokenizer = Tokenizer()
    assert batch.images.shape == (32, 3, 64, 64)
    assert len(batch.tokens) == len(batch.texts) > 32
    for row, answers in zip(batch.tokens.tolist(), batch.texts.tolist(), strict=True):
        words = [tokenizer.decoder[i].removesuffix("</w>") for i in row[1 : row.index(tokenizer.eot_token_id)]]
        assert clip.truth(parse(" ".join(words))) == tuple(answers)
    assert (batch.texts[:32, 0] == batch.pictures[:, 0]).all()


@torch.no_grad()
def test_positions_behind_a_text_change_nothing(random_model: Any) -> None:
    """So that training may cut captions, and whatever is learned there is harmless."""
    texts = ["a red circle", "there is a blue ring to the left of a green disc on a black background"]
    long, short = Tokenizer()(texts), Tokenizer()(texts, 20)
    torch.testing.assert_close(text_states(random_model, short), text_states(random_model, long)[:, :20])
    torch.testing.assert_close(encode_tokens(random_model, short), encode_tokens(random_model, long))
    # open_clip's own way of pooling takes the highest id, which is the end
    torch.testing.assert_close(encode_tokens(random_model, long), random_model.encode_text(long, normalize=True))


@torch.no_grad()
def test_training_encodes_as_everyone_does() -> None:
    trainer = clip.Clip(0, torch.device("cpu"), name="first")
    tokens = clip.Stream(4).batch(24).tokens
    torch.testing.assert_close(trainer.encoded(tokens)[0], encode_tokens(trainer.net, tokens), atol=1e-5, rtol=0)


def test_a_training_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """The same two steps, with a checkpoint between them and without."""
    once, stopped = (clip.Clip(0, torch.device("cpu"), name="first") for _ in range(2))
    for trainer in (once, stopped):
        trainer.batch = 8
        trainer.step(0.0)
    loop.save_checkpoint(stopped, tmp_path, {"step": 1})
    resumed = clip.Clip(0, torch.device("cpu"), name="first")
    resumed.batch = 8
    assert loop.load_checkpoint(resumed, tmp_path) == {"step": 1}
    assert resumed.step(0.1) == once.step(0.1)


def test_the_two_share_no_seed_and_no_family() -> None:
    first, second = (clip.Clip(0, torch.device("cpu"), name=name) for name in NAMES)
    assert type(first.modules["net"].visual) is not type(second.modules["net"].visual)
    assert not torch.equal(first.generators["stream"].get_state(), second.generators["stream"].get_state())


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"'second'.*config\.json"):
        load_clip("second", tmp_path)
