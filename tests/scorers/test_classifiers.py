"""Classifiers: a folder of transformers, several, zero-shot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from provoke.scorers.classifiers import Ensemble, ZeroShot, load_classifier
from provoke.scorers.load import load_scorer

from .conftest import DEMO, Folders

WEIGHTS = DEMO / "weights" / "provoke_classifiers"
NAMES = ("provoke-demo-resnet", "provoke-demo-convnext")


@pytest.mark.parametrize("name", [None, *NAMES])
def test_transformers_own_pipeline(
    name: str | None, folders: Folders, photos: list[Image.Image], as_tensor: Callable[[Image.Image], Tensor]
) -> None:
    import transformers
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    folder = WEIGHTS / name if name else folders.classifier()
    model: Any = transformers.AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32).eval()
    processor = ViTImageProcessorPil.from_pretrained(folder)
    classifier = load_classifier(folder)
    assert classifier.labels == tuple(model.config.id2label.values())
    with torch.no_grad():
        for photo in photos:
            wanted = model(**processor(photo, return_tensors="pt")).logits
            found = classifier.logits(as_tensor(photo))
            assert float(functional.cosine_similarity(found, wanted).min()) > 0.999
            assert float((found.softmax(1) - wanted.softmax(1)).abs().max()) < (1e-3 if name is None else 1e-2)


def test_the_gradient(folders: Folders, finite_difference_error: Callable[..., float]) -> None:
    image = 0.2 + 0.6 * torch.rand(2, 3, 50, 81, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for folder in (folders.classifier(), *(WEIGHTS / name for name in NAMES)):
        assert finite_difference_error(load_classifier(folder, torch.float64).logits, image) < 1e-6
    zero = ZeroShot(load_scorer(DEMO / "weights" / "provoke_clip" / "first", torch.float64), ["red circle", "ring"])
    assert finite_difference_error(zero.logits, image) < 1e-6
    ensemble = Ensemble([load_classifier(WEIGHTS / name, torch.float64) for name in NAMES])
    assert finite_difference_error(ensemble.logits, image) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = [load_classifier(WEIGHTS / NAMES[0], kind).logits(image) for kind in (torch.float32, dtype)]
    assert found[1].dtype == torch.float32
    torch.testing.assert_close(found[0], found[1], atol=0.05 if dtype == torch.float16 else 0.5, rtol=0)


def test_zero_shot_on_the_world() -> None:
    from provoke.demo.vision_models import LABELS
    from provoke.demo.world import SHAPES, render, sample

    scenes = sample(64, torch.Generator().manual_seed(5), part="held out", objects=1)
    classes = scenes.colour[:, 0] * len(SHAPES) + scenes.shape[:, 0]
    judge = ZeroShot(load_scorer(DEMO / "weights" / "provoke_clip" / "first"), LABELS, "a {}")
    with torch.no_grad():
        assert float((judge.logits(render(scenes)).argmax(1) == classes).float().mean()) > 0.95


def test_zero_shot_words() -> None:
    scorer = load_scorer(DEMO / "weights" / "provoke_clip" / "first")
    for labels in ([], ["cat"], ["cat", "cat "], ["cat", ""]):
        with pytest.raises(ValueError, match="at least two words"):
            ZeroShot(scorer, labels)
    with pytest.raises(ValueError, match="template"):
        ZeroShot(scorer, ["cat", "dog"], "a photo")
    judge = ZeroShot(scorer, ["red circle", "{}"], "a {}")
    with torch.no_grad():
        image = torch.rand(1, 3, 64, 64)
        wanted = scorer.scale * scorer.encode_images(image) @ scorer.encode_texts(["a red circle", "a {}"]).T
        torch.testing.assert_close(judge.logits(image), wanted)


def test_an_ensemble_matches_labels_by_name(folders: Folders) -> None:
    a = load_classifier(folders.classifier(("cat", "coffee", "rocket")))
    b = load_classifier(folders.classifier(("rocket", "cat", "coffee"), seed=1))
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        both = Ensemble([a, b])
        each = both.member_logits(image)
        torch.testing.assert_close(each[0], a.logits(image))
        torch.testing.assert_close(each[1], b.logits(image)[:, [1, 2, 0]])
        torch.testing.assert_close(both.logits(image).exp(), each.softmax(-1).mean(0))
    assert both.labels == a.labels
    with pytest.raises(ValueError, match=r"only the first has \['cat'\], only the second \['dog'\]"):
        Ensemble([a, load_classifier(folders.classifier(("dog", "coffee", "rocket")))])
    with pytest.raises(ValueError, match="no classifiers"):
        Ensemble([])
