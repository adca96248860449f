"""Vision-language judges against the libraries' own losses, their gradients, half precision, and bad folders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from provoke.scorers.load_vlm import load_vlm
from provoke.scorers.vlm import CAPTION, CONTRASTIVE, MATCHING, Together

from .conftest import DEMO, TEXT, VISION, VOCABULARY, Folders
from .test_loading import change, refused

DEMOS = DEMO / "weights" / "provoke_vlm"
ITM, OPT = DEMOS / "provoke-demo-blip2-itm", DEMOS / "provoke-demo-blip2-opt"
SAID = "a red circle left of a blue square"
IMAGE = VOCABULARY  # the picture's token, behind all others


def llava(folders: Folders, **shard: Any) -> Path:
    """A LLaVA with random weights: CLIP's tower, a language model of two layers, the demo's tokenizer."""
    import transformers

    folder = folders.new()
    torch.manual_seed(0)
    language = {"vocab_size": VOCABULARY + 1, "max_position_embeddings": 96, "num_key_value_heads": 2}
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**VISION),
        text_config=transformers.LlamaConfig(**TEXT, **language),
        image_token_index=IMAGE,
        vision_feature_layer=-2,
    )
    transformers.LlavaForConditionalGeneration(config).save_pretrained(folder, **shard)
    transformers.CLIPImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}).save_pretrained(
        folder
    )
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(OPT / name, folder)
    return folder


KINDS: dict[str, Callable[[Folders], Path]] = {
    "matching": lambda folders: ITM,
    "captioning": lambda folders: OPT,
    "llava": llava,
}


@pytest.fixture(params=KINDS)
def folder(request: pytest.FixtureRequest, folders: Folders) -> Path:
    return KINDS[request.param](folders)


def pictures(count: int = 2) -> Tensor:
    from provoke.demo.world import render, sample

    return render(sample(count, torch.Generator().manual_seed(3), objects=2))


def test_blip2s_own_losses(photos: list[Image.Image], as_tensor: Callable[[Image.Image], Tensor]) -> None:
    """The library's processor (PIL, 8 bits), its forward and its loss, on photographs and on the world's pictures."""
    import transformers

    levels = [Image.fromarray((p.movedim(0, -1) * 255).round().byte().numpy()) for p in pictures()]
    for folder in (ITM, OPT):
        processor: Any = transformers.AutoProcessor.from_pretrained(folder)
        model: Any = transformers.AutoModelForImageTextToText if folder is OPT else None
        kind = transformers.Blip2ForConditionalGeneration if model else transformers.Blip2ForImageTextRetrieval
        net: Any = kind.from_pretrained(folder, dtype=torch.float32).eval()
        judge = load_vlm(folder)
        # (a photograph is a hundred times the towers' 64 pixels: PIL's rounding in between is what differs there)
        for picture in levels:
            inputs = processor(images=picture, text=SAID, return_tensors="pt")
            ours = as_tensor(picture)
            with torch.no_grad():
                if folder is OPT:
                    labels = inputs["input_ids"].clone()
                    labels[:, :9] = -100  # eight places and the start
                    wanted = {CAPTION: net(**inputs, labels=labels).loss}
                else:
                    logits = net(**inputs, use_image_text_matching_head=True).logits_per_image
                    cosine = net(**inputs, use_image_text_matching_head=False).logits_per_image
                    wanted = {MATCHING: -logits.log_softmax(1)[0, 1], CONTRASTIVE: 1 - cosine[0, 0]}
                for name, value in wanted.items():
                    assert float((judge.loss(name, ours, SAID)[0] - value).abs()) < 1e-3, name


def test_llavas_own_loss(folders: Folders) -> None:
    """Its own forward with the text put together word by word, and labels for the caption alone."""
    import transformers

    from provoke.scorers.llava import BEFORE, QUESTION

    folder = llava(folders)
    net: Any = transformers.LlavaForConditionalGeneration.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    said = ids(SAID)
    whole = [tokenizer.bos_token_id, *ids(BEFORE), *[IMAGE] * 16, *ids(QUESTION), *said]
    given = torch.tensor([whole])
    labels = given.clone()
    labels[:, : -len(said)] = -100
    judge, image = load_vlm(folder), pictures(1)
    with torch.no_grad():
        wanted = net(input_ids=given, pixel_values=judge.preprocess(image), labels=labels).loss
        assert float((judge.loss(CAPTION, image, SAID)[0] - wanted).abs()) < 1e-5


def test_true_captions_cost_less_than_wrong_ones() -> None:
    from provoke.demo.captions import canonical, negatives
    from provoke.demo.world import render, sample

    whole = sample(8, torch.Generator().manual_seed(9), part="held out", objects=2)
    both = Together([load_vlm(ITM), load_vlm(OPT)])
    assert both.kinds == (MATCHING, CONTRASTIVE, CAPTION)
    for kind in both.kinds:
        right = 0
        for scene, image in zip(whole, render(whole), strict=True):
            wrong = negatives(scene, torch.Generator().manual_seed(0))["colour changed"]
            with torch.no_grad():
                mine, other = (float(both.loss(kind, image[None], canonical(s))) for s in (scene, wrong))
            right += mine < other
        assert right >= 7, kind


def test_shape_and_what_it_says(folder: Path) -> None:
    judge = load_vlm(folder)
    for size in ((64, 64), (1, 1), (31, 200)):
        for kind in judge.kinds:
            found = judge.loss(kind, torch.rand(2, 3, *size), SAID)
            assert found.shape == (2,)
            assert found.dtype == torch.float32
            assert bool((found >= 0).all())
    assert not any(p.requires_grad for p in judge.module.parameters())


def test_a_picture_is_judged_by_itself(folder: Path) -> None:
    judge, images = load_vlm(folder), pictures(3)
    with torch.no_grad():
        for kind in judge.kinds:
            alone = torch.cat([judge.loss(kind, image[None], SAID) for image in images])
            torch.testing.assert_close(judge.loss(kind, images, SAID), alone, atol=1e-4, rtol=1e-4)


def test_the_gradient(
    folder: Path, finite_difference_error: Callable[..., float], monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.models.llama import modeling_llama as llama

    def normed(self: Any, x: Tensor) -> Tensor:
        # the library's own rounds to float32, and differences this small would be its rounding
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)

    monkeypatch.setattr(llama.LlamaRMSNorm, "forward", normed)
    judge = load_vlm(folder, torch.float64)
    image = 0.2 + 0.6 * torch.rand(2, 3, 50, 81, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for kind in judge.kinds:
        assert finite_difference_error(lambda x, k=kind: judge.loss(k, x, SAID), image) < 1e-5, kind


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(folder: Path, dtype: torch.dtype) -> None:
    """Close to float32, in value and gradient, also where the cotangent is far below what float16 holds."""
    image = pictures(2)
    judges = [load_vlm(folder, kind) for kind in (torch.float32, dtype)]
    for kind in judges[0].kinds:
        results = []
        for judge in judges:
            leaf = image.clone().requires_grad_(True)
            losses = judge.loss(kind, leaf, SAID)
            assert losses.dtype == torch.float32
            (1e-8 * losses.sum()).backward()
            assert leaf.grad is not None
            results.append((losses.detach(), 1e8 * leaf.grad.double()))
        score, relative = (0.03, 0.1) if dtype == torch.float16 else (0.3, 0.5)
        assert float((results[0][0] - results[1][0]).abs().max()) < score * (1 + float(results[0][0].max()))
        wanted, found = (gradient.flatten(1) for _, gradient in results)
        assert float(((found - wanted).norm(dim=1) / wanted.norm(dim=1)).max()) < relative, kind


def test_in_the_executors_inference_mode(folder: Path) -> None:
    """What was loaded there can be used in a graph afterwards."""
    with torch.inference_mode():
        judge = load_vlm(folder)
    leaf = pictures(1).requires_grad_(True)
    judge.loss(judge.kinds[0], leaf, SAID).sum().backward()
    assert leaf.grad is not None
    assert bool(leaf.grad.any())


def test_shards(folders: Folders) -> None:
    whole, parts = llava(folders), llava(folders, max_shard_size="40KB")
    assert (parts / "model.safetensors.index.json").is_file()
    with torch.no_grad():
        image = pictures(1)
        found = [load_vlm(path).loss(CAPTION, image, SAID) for path in (whole, parts)]
    torch.testing.assert_close(*found)


def copied(folder: Path, folders: Folders) -> Path:
    new = folders.new()
    shutil.copytree(folder, new, dirs_exist_ok=True)
    return new


def test_what_is_refused(folders: Folders) -> None:
    other = copied(ITM, folders)
    change(other / "config.json", architectures=["Blip2Model"])
    refused(load_vlm, other, ValueError, "'blip-2' and the class Blip2Model.*Blip2ForImageTextRetrieval")
    refused(load_vlm, folders.transformers(), ValueError, "'clip'")
    pickled = copied(OPT, folders)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    refused(load_vlm, pickled, ValueError, "pickle")
    bare = copied(OPT, folders)
    (bare / "tokenizer_config.json").unlink()
    refused(load_vlm, bare, FileNotFoundError, "tokenizer_config.json does not exist")
    wrong = copied(ITM, folders)
    settings = json.loads((wrong / "config.json").read_text())
    settings["qformer_config"]["num_hidden_layers"] = 4
    (wrong / "config.json").write_text(json.dumps(settings))
    refused(load_vlm, wrong, ValueError, "tensors are missing")
    old = copied(OPT, folders)
    change(old / "config.json", image_token_index=None)
    refused(load_vlm, old, ValueError, "image_token_index")


def test_texts_and_losses_that_do_not_fit() -> None:
    judge = load_vlm(OPT)
    refused(lambda _: judge.check(" "), OPT, ValueError, "The text is empty")
    refused(lambda _: judge.check("red " * 100), OPT, ValueError, "at most 77")
    refused(lambda _: judge.loss(MATCHING, pictures(1), SAID), OPT, ValueError, "has no matching loss")
    refused(lambda _: Together([judge, load_vlm(OPT)]), OPT, ValueError, "has no loss that .* lacks")


def test_a_matching_model_saved_before_the_pictures_places(folders: Folders) -> None:
    """Its ids have none, and it gives the same."""
    old = copied(ITM, folders)
    change(old / "config.json", image_token_index=None)
    image = pictures(2)
    with torch.no_grad():
        for kind in (MATCHING, CONTRASTIVE):
            found = [load_vlm(path).loss(kind, image, SAID) for path in (ITM, old)]
            torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)
