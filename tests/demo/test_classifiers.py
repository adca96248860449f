"""The demo classifiers load as folders of transformers, and are right on backgrounds that no training showed."""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification

from provoke.demo.training.classifiers import KINDS, blurred, disturbed
from provoke.demo.vision_models import (
    CLASSIFIERS,
    EDGE,
    JUDGE,
    LABELS,
    SEARCHED,
    edge_map,
    edge_strength,
    normalise,
    thin_edge_map,
)
from provoke.demo.world import SHAPES, render, sample

TRAINED = (*SEARCHED, JUDGE, EDGE)


@functools.cache
def load(name: str) -> Any:
    torch.set_num_threads(1)
    model = AutoModelForImageClassification.from_pretrained(CLASSIFIERS / name, dtype=torch.float32)
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize("name", TRAINED)
def test_right_on_backgrounds_that_no_training_showed(name: str) -> None:
    scenes = sample(384, torch.Generator().manual_seed(99), part="held out", objects=1)
    images, shapes = render(scenes), scenes.shape[:, 0]
    classes = shapes if name == EDGE else scenes.colour[:, 0] * len(SHAPES) + shapes
    with torch.no_grad():
        found = load(name)(normalise(edge_map(images) if name == EDGE else images)).logits.argmax(1)
    assert float((found == classes).float().mean()) >= (0.90 if name == EDGE else 0.97)


@pytest.mark.parametrize("name", TRAINED)
def test_names_of_the_classes(name: str) -> None:
    names = load(name).config.id2label
    assert tuple(names[index] for index in range(len(names))) == (SHAPES if name == EDGE else LABELS)


def test_four_families_small_and_the_judge_is_none_of_those_searched() -> None:
    assert len({KINDS[name.removeprefix("provoke-demo-")]().model_type for name in (*SEARCHED, JUDGE)}) == 4
    assert JUDGE not in SEARCHED
    for name in TRAINED:
        assert 40_000 < sum(weight.numel() for weight in load(name).parameters()) < 600_000
        assert (CLASSIFIERS / name / "model.safetensors").stat().st_size < 1_000_000
        assert (CLASSIFIERS / name / "README.md").is_file()


@pytest.mark.parametrize("name", TRAINED)
def test_the_preprocessor_does_what_normalise_does(name: str) -> None:
    pixels = (torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(0)) * 255).byte().numpy()
    prepared = AutoImageProcessor.from_pretrained(CLASSIFIERS / name)(pixels, return_tensors="pt")["pixel_values"]
    wanted = normalise(torch.from_numpy(pixels).movedim(-1, 0)[None] / 255)
    torch.testing.assert_close(prepared, wanted, rtol=0, atol=1e-5)
    assert json.loads((CLASSIFIERS / name / "preprocessor_config.json").read_text())["size"]["height"] == 64


def test_an_edge_is_where_a_picture_steps() -> None:
    image = torch.zeros(1, 3, 64, 64)
    image[:, 0, :, 32:] = 0.8  # red alone: a channel is enough
    magnitude, across, down = edge_strength(image)
    assert float(magnitude.max()) == pytest.approx(0.8, abs=1e-5)
    assert float(across.max()) == pytest.approx(0.8, abs=1e-5)
    assert float(down.abs().max()) < 1e-5
    edges = edge_map(image)
    assert edges.shape == image.shape
    assert edges[0, 0].sum(0).nonzero()[:, 0].tolist() == [31, 32]
    assert thin_edge_map(image)[0, 0].sum(0).nonzero()[:, 0].tolist() in ([31], [32])
    assert float(edge_map(image, 0.9).sum()) == 0
    assert float(edge_map(torch.full((1, 3, 64, 64), 0.7)).sum()) == 0


def test_disturbed_pictures_stay_pictures_and_a_blur_of_nothing_is_nothing() -> None:
    rng = torch.Generator().manual_seed(3)
    images = render(sample(8, rng, objects=1))
    for _ in range(5):
        changed = disturbed(images, rng)
        assert changed.shape == images.shape
        assert 0 <= float(changed.min()) <= float(changed.max()) <= 1
    torch.testing.assert_close(blurred(images, torch.zeros(8, 1, 1, 1)), images)
