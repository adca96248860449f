"""Scorers against the libraries' own pipelines, their gradients, and half precision."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from provoke.scorers.load import load_scorer

from .conftest import DEMO, OPEN_CLIP, Folders

TEXTS = ["a red circle", "two green squares left of a ring", "zebra, 42!", ""]
CUSTOM = copy.deepcopy(OPEN_CLIP)  # as open_clip's SigLIP: another tower class, pooling, tokenizer, preprocessing
CUSTOM["model_cfg"] |= {"custom_text": True, "init_logit_bias": -10}
CUSTOM["model_cfg"]["text_cfg"] |= {
    "hf_tokenizer_name": "somewhere/else",
    "tokenizer_kwargs": {"clean": "canonicalize"},
    "no_causal_mask": True,
    "pool_type": "last",
}
CUSTOM["preprocess_cfg"] = {"size": 64, "resize_mode": "squash", "mean": [0.5] * 3, "std": [0.5] * 3}

KINDS: dict[str, Callable[[Folders], Path]] = {
    "open_clip": lambda folders: folders.open_clip(),
    "open_clip, custom text": lambda folders: folders.open_clip(CUSTOM),
    "clip": lambda folders: folders.transformers("clip"),
    "siglip": lambda folders: folders.transformers("siglip"),
    "demo first": lambda folders: DEMO / "weights" / "provoke_clip" / "first",
    "demo second": lambda folders: DEMO / "weights" / "provoke_clip" / "second",
}


@pytest.fixture(params=KINDS)
def folder(request: pytest.FixtureRequest, folders: Folders) -> Path:
    return KINDS[request.param](folders)


def test_open_clips_own_pipeline(
    folders: Folders, photos: list[Image.Image], as_tensor: Callable[[Image.Image], Tensor]
) -> None:
    import open_clip

    for settings in (OPEN_CLIP, CUSTOM):
        folder = folders.open_clip(settings)
        model, prepare = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
        model.eval()
        # not get_tokenizer: where the settings name no tokenizer it takes CLIP's, whatever the vocabulary
        tokenizer = open_clip.tokenizer.HFTokenizer(
            str(folder), context_length=16, **settings["model_cfg"]["text_cfg"].get("tokenizer_kwargs", {})
        )
        with torch.no_grad():
            words = model.encode_text(tokenizer(TEXTS), normalize=True)
            pictures = torch.cat([model.encode_image(prepare(photo)[None], normalize=True) for photo in photos])
        _agree(folder, photos, as_tensor, pictures, words)


def test_the_vocabulary_that_open_clip_brings(folders: Folders) -> None:
    import open_clip

    settings = copy.deepcopy(OPEN_CLIP)
    del settings["model_cfg"]["text_cfg"]["vocab_size"]
    folder = folders.open_clip(settings, tokenizer=False)
    model, _ = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    with torch.no_grad():
        wanted = model.eval().encode_text(open_clip.get_tokenizer(f"local-dir:{folder}")(TEXTS), normalize=True)
    torch.testing.assert_close(load_scorer(folder).encode_texts(TEXTS), wanted)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_transformers_own_pipeline(
    kind: str, folders: Folders, photos: list[Image.Image], as_tensor: Callable[[Image.Image], Tensor]
) -> None:
    import transformers
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    folder = folders.transformers(kind)
    model: Any = transformers.AutoModel.from_pretrained(folder).eval()
    processor = (CLIPImageProcessorPil if kind == "clip" else SiglipImageProcessorPil).from_pretrained(folder)
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(
        TEXTS, padding="max_length", max_length=16, truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        pixels = torch.cat([processor(photo, return_tensors="pt")["pixel_values"] for photo in photos])
        output = model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], pixel_values=pixels)
    scorer = load_scorer(folder)
    _agree(folder, photos, as_tensor, output.image_embeds, output.text_embeds)
    found = scorer.scale * output.image_embeds @ output.text_embeds.T + scorer.bias
    torch.testing.assert_close(found, output.logits_per_image)


def _agree(
    folder: Path,
    photos: list[Image.Image],
    as_tensor: Callable[[Image.Image], Tensor],
    pictures: Tensor,
    texts: Tensor,
    score: float = 1e-3,
) -> None:
    scorer = load_scorer(folder)
    with torch.no_grad():
        found = torch.cat([scorer.encode_images(as_tensor(photo)) for photo in photos])
    assert float((found * pictures).sum(1).min()) > 0.999
    torch.testing.assert_close(scorer.encode_texts(TEXTS), texts, atol=1e-5, rtol=0)
    assert float((found @ texts.T - pictures @ texts.T).abs().max()) < score


@pytest.mark.parametrize("name", ["first", "second"])
def test_the_demos_clips_on_photographs(
    name: str,
    photos: list[Image.Image],
    as_tensor: Callable[[Image.Image], Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Trained weights, unlike those above, and so few pixels that PIL's rounding to 8 bit shows in the scores: with the
    same rounding ours are equal."""
    from open_clip.transform import PreprocessCfg, image_transform_v2

    from provoke.demo.clip_models import encode_words, load_clip
    from provoke.scorers import preprocess

    model = load_clip(name)
    prepare = image_transform_v2(PreprocessCfg(size=64, mean=(0.5,) * 3, std=(0.5,) * 3), is_train=False)
    with torch.no_grad():
        pictures = torch.cat([model.encode_image(prepare(photo)[None], normalize=True) for photo in photos])
    _agree(DEMO / "weights" / "provoke_clip" / name, photos, as_tensor, pictures, encode_words(model, TEXTS), 5e-3)

    def rounded(x: Tensor, **of: Any) -> Tensor:
        # half a level up, as PIL; halving a picture makes many halves, so that float32 would decide by chance
        return ((functional.interpolate(x.double(), **of) * 255 + 0.5 + 1e-6).floor() / 255).to(x.dtype)

    monkeypatch.setattr(preprocess, "functional", SimpleNamespace(interpolate=rounded, pad=functional.pad))
    _agree(DEMO / "weights" / "provoke_clip" / name, photos, as_tensor, pictures, encode_words(model, TEXTS), 1e-3)


def test_shape_length_and_what_it_says(folder: Path) -> None:
    scorer = load_scorer(folder)
    for size in ((64, 64), (1, 1), (31, 200)):
        found = scorer.encode_images(torch.rand(2, 3, *size))
        torch.testing.assert_close(found.norm(dim=1), torch.ones(2))
    texts = scorer.encode_texts(TEXTS)
    assert texts.shape == (len(TEXTS), found.shape[1])
    torch.testing.assert_close(texts.norm(dim=1), torch.ones(len(TEXTS)))
    assert scorer.size == (64, 64)
    assert scorer.input_dtype == torch.float32
    assert not any(p.requires_grad for p in scorer.module.parameters())
    assert not scorer.module.training


def test_the_gradient(folder: Path, finite_difference_error: Callable[..., float]) -> None:
    scorer = load_scorer(folder, torch.float64)
    image = 0.2 + 0.6 * torch.rand(2, 3, 50, 81, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert finite_difference_error(scorer.encode_images, image) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(folder: Path, dtype: torch.dtype) -> None:
    """Close to float32, in value and gradient, also where the cotangent is far below what float16 holds."""
    image = torch.rand(2, 3, 70, 64, generator=torch.Generator().manual_seed(0))
    results = []
    for kind in (torch.float32, dtype):
        scorer = load_scorer(folder, kind)
        leaf = image.clone().requires_grad_(True)
        scores = scorer.encode_images(leaf) @ scorer.encode_texts(TEXTS).T
        assert scores.dtype == torch.float32
        (1e-8 * scores.square().sum()).backward()
        assert leaf.grad is not None
        results.append((scores.detach(), 1e8 * leaf.grad.double()))
    score, relative = (2e-3, 0.05) if dtype == torch.float16 else (2e-2, 0.25)
    assert float((results[0][0] - results[1][0]).abs().max()) < score
    wanted, found = (gradient.flatten(1) for _, gradient in results)
    assert float(((found - wanted).norm(dim=1) / wanted.norm(dim=1)).max()) < relative


def test_in_the_executors_inference_mode(folder: Path) -> None:
    """What was loaded and encoded there can be used in a graph afterwards."""
    before = torch.random.get_rng_state()
    with torch.inference_mode():
        scorer = load_scorer(folder)
        texts = scorer.encode_texts(TEXTS)
    assert torch.equal(torch.random.get_rng_state(), before)
    leaf = torch.rand(1, 3, 64, 64, requires_grad=True)
    (scorer.encode_images(leaf) @ texts.T).sum().backward()
    assert leaf.grad is not None
    assert bool(leaf.grad.any())


def test_a_single_file_beside_its_settings(folders: Folders) -> None:
    folder = folders.open_clip()
    one = folders.new() / "mine.safetensors"
    one.write_bytes((folder / "open_clip_model.safetensors").read_bytes())
    one.with_suffix(".json").write_bytes((folder / "open_clip_config.json").read_bytes())
    (one.parent / "tokenizer").mkdir()
    folders.tokenizer(one.parent / "tokenizer")
    torch.testing.assert_close(load_scorer(one).encode_texts(TEXTS), load_scorer(folder).encode_texts(TEXTS))
    assert load_scorer(one).name == "mine"


def test_sharded_weights(folders: Folders) -> None:
    whole, parts = folders.transformers(), folders.transformers(max_shard_size="30KB")
    assert not (parts / "model.safetensors").exists()
    torch.testing.assert_close(load_scorer(parts).encode_texts(TEXTS), load_scorer(whole).encode_texts(TEXTS))
