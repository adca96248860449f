"""The trainings of the two BLIP-2: what they compute, what they say, and that they go on where they stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from provoke.demo import vlm_models
from provoke.demo.captions import parse
from provoke.demo.training import blip2, blip2_data, loop
from provoke.demo.vision_models import normalise
from provoke.demo.vlm_models import QUERIES
from provoke.demo.world import COLOURS, SHAPES, render, sample, split


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def stage() -> blip2.Matching:
    return blip2.Matching(0, torch.device("cpu"))


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def test_training_computes_what_the_library_does(stage: blip2.Matching) -> None:
    """Captions sorted by length and cut, pictures seen once: the same logits as the model's own forward."""
    net, batch = stage.net, blip2_data.Stream(4).matching(12)
    seen = net.vision_model(pixel_values=normalise(batch.images)).last_hidden_state
    places = torch.full((len(batch.ids), QUERIES), net.config.image_token_id)
    ids = torch.cat((places, batch.ids), 1)
    mask = functional.pad(batch.mask, (QUERIES, 0), value=1)
    pixels = normalise(batch.images)[batch.owner]
    theirs = net(pixel_values=pixels, input_ids=ids, attention_mask=mask, use_image_text_matching_head=True)
    ours = blip2.fits(net, seen, batch.ids, batch.mask, batch.owner)
    torch.testing.assert_close(ours, theirs.logits_per_image, atol=1e-5, rtol=1e-4)
    theirs = net(pixel_values=pixels, input_ids=ids, attention_mask=mask)
    looks = functional.normalize(net.vision_projection(blip2.looked(net, seen)), dim=-1)
    texts = functional.normalize(net.text_projection(blip2.heard(net, batch.ids, batch.mask)), dim=-1)
    alike = torch.einsum("bqd,td->btq", looks, texts).amax(2)
    torch.testing.assert_close(alike[batch.owner], theirs.logits_per_image, atol=1e-5, rtol=1e-4)


def test_the_patches_say_what_covers_them() -> None:
    scenes = sample(64, rng(6), objects=2)
    told = blip2_data.patches(scenes).view(64, 8, 8, 4)
    for index, scene in enumerate(scenes):
        facts = scene.facts.ordered()
        for thing in scene.objects:
            x, y = (int(value // blip2_data.PATCH) for value in thing.centre)
            colour, shape, role, _ = told[index, y, x].tolist()
            if shape == len(SHAPES):  # the hole of a ring
                assert thing.shape == "ring"
                continue
            assert (tuple(COLOURS)[colour], SHAPES[shape]) == (thing.colour, thing.shape)
            assert role == 2 + facts.objects.index((thing.colour, thing.shape))
        assert len(told[index, ..., 3].unique()) == 1


def test_training_says_nothing_that_is_held_out_and_knows_what_is_true() -> None:
    stream = blip2_data.Stream(7)
    batch = stream.matching(48)
    own = torch.arange(48)
    assert batch.true[own, own].all()
    assert not batch.true[batch.owner[48:], torch.arange(48, len(batch.ids))].any()
    assert len(batch.ids) > 120
    for text in vlm_models.tokenizer().batch_decode(batch.ids, skip_special_tokens=True):
        facts = parse(text.strip())
        assert (facts.relation is None and facts.background is None) or split(facts) == "train"


def test_pictures_through_the_vae_are_near_and_not_the_same() -> None:
    images = render(sample(16, rng(8)))
    moved = blip2_data.Stream(9).again(images)
    assert moved.shape == images.shape
    assert 0.0005 < float((moved - images).square().mean()) < 0.02


def test_a_training_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """Across the two parts of stage one."""
    once, stopped = (blip2.Matching(0, torch.device("cpu")) for _ in range(2))
    for trainer in (once, stopped):
        trainer.batch = 8
        trainer.step(0.0)
        trainer.step(0.5)
    loop.save_checkpoint(stopped, tmp_path, {"step": 2})
    resumed = blip2.Matching(0, torch.device("cpu"))
    resumed.batch = 8
    assert loop.load_checkpoint(resumed, tmp_path) == {"step": 2}
    assert resumed.step(0.6) == once.step(0.6)


def test_an_untrained_one_is_not_exported(stage: blip2.Matching) -> None:
    assert stage.failings(stage.validate())


def test_the_queries_do_not_begin_alike(stage: blip2.Matching) -> None:
    """As the library makes them they are all nought, and would get the same gradient for ever."""
    queries = blip2.Matching(1, torch.device("cpu")).net.query_tokens[0].detach()
    assert torch.pdist(queries).min() > 1


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        vlm_models.load_matching(tmp_path)
