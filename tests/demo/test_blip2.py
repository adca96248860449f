"""The two BLIP-2: real classes and configurations, one vision tower and Q-Former, and their bars on held-out scenes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.nn import functional
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    Blip2ForConditionalGeneration,
    Blip2ForImageTextRetrieval,
    CLIPTokenizer,
)

from provoke.demo import vlm_models
from provoke.demo.captions import canonical, captions, parse
from provoke.demo.checker import wilson
from provoke.demo.tokenizer import FOLDER
from provoke.demo.training import blip2, blip2_captioning, blip2_data, blip2_measure, loop
from provoke.demo.vision_models import normalise
from provoke.demo.vlm_models import CAPTIONING, MATCHING, QUERIES
from provoke.demo.world import COLOURS, SHAPES, render, sample, split

LIMIT = 3_000_000  # bytes, both folders


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def matching() -> Any:
    return vlm_models.load_matching()


@pytest.fixture(scope="module")
def captioning() -> Any:
    return vlm_models.load_captioning()


@pytest.fixture(scope="module")
def stage() -> blip2.Matching:
    return blip2.Matching(0, torch.device("cpu"))


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def picture(seed: int) -> tuple[torch.Tensor, str]:
    scene = sample(1, rng(seed), part="held out", objects=2)
    return render(scene), canonical(scene[0])


def test_the_folders_are_small_and_have_a_card() -> None:
    assert sum(file.stat().st_size for folder in (MATCHING, CAPTIONING) for file in folder.iterdir()) < LIMIT
    card = (MATCHING.parent / "README.md").read_text(encoding="utf-8")
    for word in ("train.py blip2-matching", "train.py blip2-captioning", "seed", "Held-out", "Licence"):
        assert word in card


def test_the_librarys_own_loading_is_enough() -> None:
    """Processor, model and generation as the library's documentation shows them, from a picture file's pixels."""
    image, said = picture(3)
    shown = Image.fromarray((image[0].movedim(0, -1) * 255).round().byte().numpy())
    start = time.perf_counter()
    net = Blip2ForImageTextRetrieval.from_pretrained(MATCHING, local_files_only=True, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(MATCHING, local_files_only=True)
    assert time.perf_counter() - start < 3
    inputs = processor(images=shown, text=said, return_tensors="pt")
    assert inputs["input_ids"][0, :QUERIES].tolist() == [net.config.image_token_id] * QUERIES
    with torch.no_grad():
        no, yes = net(**inputs, use_image_text_matching_head=True).logits_per_image[0].tolist()
    exact = normalise((image * 255).round() / 255)
    assert float(vlm_models.match(net, exact, [said])) == pytest.approx(yes - no, abs=1e-3)
    writer = AutoModelForImageTextToText.from_pretrained(CAPTIONING, local_files_only=True, dtype=torch.float32).eval()
    assert isinstance(writer, Blip2ForConditionalGeneration)
    processor = AutoProcessor.from_pretrained(CAPTIONING, local_files_only=True)
    ids = writer.generate(**processor(images=shown, return_tensors="pt"), max_new_tokens=24)
    text = processor.batch_decode(ids, skip_special_tokens=True)[0].strip()
    assert parse(text)
    assert text == vlm_models.written(writer, exact)[0]


@pytest.mark.parametrize("folder", [MATCHING, CAPTIONING], ids=lambda folder: folder.name)
def test_tokens_are_those_of_the_clips_and_one_for_pictures(folder: Path) -> None:
    mine, theirs = AutoTokenizer.from_pretrained(folder), CLIPTokenizer.from_pretrained(str(FOLDER))
    assert (
        mine.get_vocab() == {**theirs.get_vocab(), vlm_models.IMAGE: len(theirs)} == vlm_models.tokenizer().get_vocab()
    )
    texts = [*captions(sample(64, rng(0)), rng(1)), "Zebras, éclairs & 42!", ""]
    assert mine(texts)["input_ids"] == theirs(texts)["input_ids"] == vlm_models.tokenizer()(texts)["input_ids"]
    saved = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert saved["image_token_index"] == len(theirs)
    assert saved["num_query_tokens"] == QUERIES


def test_both_see_with_the_same_eyes(matching: Any, captioning: Any) -> None:
    one, other = matching.state_dict(), captioning.state_dict()
    shared = one.keys() & other.keys()
    assert {"query_tokens", "vision_model.embeddings.patch_embedding.weight"} <= shared
    assert {k for k in other if k not in shared and not k.startswith("language_")} == set()
    for name in shared:
        assert torch.equal(one[name], other[name]), name


def test_the_true_caption_beats_the_wrong_ones(matching: Any) -> None:
    found = blip2_measure.choices(matching, rng(31), 384)
    assert {"relation flipped", "colours swapped", "shapes swapped", "colour changed", "shape changed"} <= found.keys()
    assert blip2_measure.lowest(found) >= blip2.BAR, found


def test_the_true_caption_wins_on_pictures_that_are_not_quite_right(matching: Any) -> None:
    stream = blip2_data.Stream(5)
    found = blip2_measure.choices(matching, rng(32), 256, change=stream.again)
    assert blip2_measure.lowest(found) >= 0.80, found


def test_captions_name_every_object(captioning: Any) -> None:
    found = blip2_measure.captioned(captioning, rng(33), 384)
    assert wilson(*found["objects"])[0] >= blip2.BAR, found


def test_the_match_has_the_gradient_that_differences_say(matching: Any) -> None:
    """In double precision, along ten directions in the picture's own pixels."""
    image, said = picture(8)
    net = vlm_models.load_matching().double()
    image = image.double().requires_grad_(True)
    (gradient,) = torch.autograd.grad(vlm_models.match(net, normalise(image), [said]).sum(), image)
    assert gradient.isfinite().all()
    assert gradient.norm() > 0
    for seed in range(10):
        way = torch.randn(image.shape, generator=rng(seed), dtype=torch.float64)
        with torch.no_grad():
            ahead, behind = (vlm_models.match(net, normalise(image + h * way), [said]) for h in (1e-5, -1e-5))
        assert float((ahead - behind) / 2e-5) == pytest.approx(float((gradient * way).sum()), rel=1e-4, abs=1e-6)


def test_a_captions_likelihood_has_a_gradient(captioning: Any) -> None:
    image, said = picture(9)
    image.requires_grad_(True)
    inputs = vlm_models.prompt([said])
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == captioning.config.image_token_id, -100)
    loss = captioning(pixel_values=normalise(image), **inputs, labels=labels).loss
    (gradient,) = torch.autograd.grad(loss, image)
    assert gradient.isfinite().all()
    assert gradient.norm() > 0


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


@torch.no_grad()
def test_the_captions_loss_is_the_librarys() -> None:
    stage = blip2_captioning.Captioning(0, torch.device("cpu"))
    scenes = sample(6, rng(2))
    pixels, (ids, mask) = normalise(render(scenes)), stage.stream.words(captions(scenes, rng(3)))
    looks = blip2.looked(stage.net, stage.net.vision_model(pixel_values=pixels).last_hidden_state)
    places = torch.full((len(ids), QUERIES), stage.net.config.image_token_id)
    out = stage.net(
        pixel_values=pixels,
        input_ids=torch.cat((places, ids), 1),
        attention_mask=functional.pad(mask, (QUERIES, 0), value=1),
        labels=functional.pad(ids.masked_fill(mask == 0, -100), (QUERIES, 0), value=-100),
    )
    torch.testing.assert_close(stage._said(looks, ids, mask), out.loss, atol=1e-5, rtol=1e-5)


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
