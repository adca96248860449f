"""The two CLIPs' weights: small, quick to load, and above their bars on held-out scenes."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import torch

from provoke.demo.captions import canonical
from provoke.demo.clip_models import WEIGHTS, encode_pictures, encode_words, load_clip
from provoke.demo.training import clip, clip_measure
from provoke.demo.world import render, sample

TRAINED = ("first", "second")
LIMIT = 6_000_000  # bytes
LONGEST = 19  # tokens of the longest caption


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module", params=TRAINED)
def model(request: pytest.FixtureRequest) -> Any:
    return load_clip(request.param)


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", TRAINED)
def test_files_are_small_and_have_a_card(name: str) -> None:
    file = WEIGHTS / name / "model.safetensors"
    assert file.stat().st_size < LIMIT
    assert json.loads((file.parent / "config.json").read_text(encoding="utf-8")) == clip.config(name)
    card = (WEIGHTS / "README.md").read_text(encoding="utf-8")
    for word in (f"clip-{name}", "seed", "Held-out", "Licence"):
        assert word in card


def test_loading_is_quick() -> None:
    start = time.perf_counter()
    for name in TRAINED:
        load_clip(name)
    assert time.perf_counter() - start < 2


def test_the_bars_on_held_out_scenes(model: Any) -> None:
    figures = clip_measure.figures(model, rng(21), scenes=512)
    assert not [name for name, bar in clip_measure.BARS.items() if figures[name] < bar], figures


def test_untrained_positions_are_nought(model: Any) -> None:
    """A padding state is then that of an end that stands nowhere."""
    assert not model.positional_embedding[LONGEST:].any()
    assert (model.positional_embedding[:LONGEST].norm(dim=1) > 0).all()


def test_a_picture_has_a_gradient(model: Any) -> None:
    scene = sample(1, rng(5), objects=2)
    image = render(scene).requires_grad_(True)
    alike = (encode_pictures(model, image) * encode_words(model, [canonical(scene[0])])).sum()
    (gradient,) = torch.autograd.grad(alike, image)
    assert gradient.isfinite().all()
    assert gradient.norm() > 0
