"""The two BLIP-2: real classes and configurations, one vision tower and Q-Former, and their bars on held-out scenes."""

from __future__ import annotations

import json
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
from provoke.demo.training import blip2, blip2_captioning, blip2_data, blip2_measure
from provoke.demo.vision_models import normalise
from provoke.demo.vlm_models import CAPTIONING, MATCHING, QUERIES
from provoke.demo.world import render, sample

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
    net = Blip2ForImageTextRetrieval.from_pretrained(MATCHING, local_files_only=True, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(MATCHING, local_files_only=True)
    inputs = processor(images=shown, text=said, return_tensors="pt")
    assert inputs["input_ids"][0, :QUERIES].tolist() == [net.config.image_token_id] * QUERIES
    with torch.no_grad():
        no, yes = net(**inputs, use_image_text_matching_head=True).logits_per_image[0].tolist()
    exact = normalise((image * 255).round() / 255)
    with torch.no_grad():
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
def test_the_captions_loss_is_the_librarys() -> None:
    stage = blip2_captioning.Captioning(0, torch.device("cpu"))
    scenes = sample(6, rng(2))
    pixels, (ids, mask) = normalise(render(scenes)), stage.stream.words(captions(scenes, rng(3)))
    looks = blip2.looked(stage.net, stage.net.vision_model(pixel_values=pixels).last_hidden_state)
    places = torch.full((len(ids), QUERIES), stage.net.config.image_token_id)
    wanted = ids.masked_fill(mask == 0, -100)
    wanted[:, 0] = -100  # the start is given, not said
    out = stage.net(
        pixel_values=pixels,
        input_ids=torch.cat((places, ids), 1),
        attention_mask=functional.pad(mask, (QUERIES, 0), value=1),
        labels=functional.pad(wanted, (QUERIES, 0), value=-100),
    )
    torch.testing.assert_close(stage._said(looks, ids, mask), out.loss, atol=1e-5, rtol=1e-5)
