"""Canny: the established implementation's edges forward, the stand-in's gradient backward; a classifier behind it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from provoke.demo.vision_models import EDGE, SEARCHED
from provoke.demo.world import render, sample
from provoke.scorers.classifiers import Ensemble, load_classifier
from provoke.scorers.edges import Canny, of_edges

from .conftest import DEMO, Folders

WEIGHTS = DEMO / "weights" / "provoke_classifiers"
SETTINGS = [(1.0, 0.05, 0.1), (2.0, 0.02, 0.05), (0.6, 0.03, 0.2), (1.0, 0.1, 0.1)]


def scenes(count: int, seed: int = 1) -> Any:
    return sample(count, torch.Generator().manual_seed(seed), part="held out", objects=1)


def reference(plane: np.ndarray, sigma: float, low: float, high: float) -> np.ndarray:
    """scikit-image's, whose Sobel sums where ours averages."""
    from skimage.feature import canny

    return canny(plane, sigma=sigma, low_threshold=4 * low, high_threshold=4 * high, mode="nearest")


@pytest.mark.parametrize(("sigma", "low", "high"), SETTINGS)
def test_the_edges_are_those_of_scikit_image(photos: list[Image.Image], sigma: float, low: float, high: float) -> None:
    planes = [np.array(photo.convert("L")) / 255 for photo in photos]
    planes += [plane.double().numpy() for plane in render(scenes(4)).flatten(0, 1)]
    found = 0
    for plane in planes:
        mine = Canny(sigma, low, high)(torch.from_numpy(plane)[None, None])[0, 0].numpy()
        assert set(np.unique(mine)) <= {0.0, 1.0}
        assert np.array_equal(mine > 0, reference(plane, sigma, low, high))
        found += int(mine.sum())
    assert found > 1000


def test_a_weak_edge_counts_where_a_strong_one_continues_it() -> None:
    """A line that fades out is kept to its end, as far as it is above `low`; one that is weak all along is not."""
    fading = torch.linspace(0.6, 0.1, 64)[None, None, None].expand(1, 1, 32, 64).clone()
    fading[:, :, :16] = 0
    weak = fading.clamp_max(0.12)
    assert float(Canny(1, 0.05, 0.3)(fading)[..., 13:18, 8:56].amax(2).mean()) == 1
    assert float(Canny(1, 0.05, 0.3)(weak).sum()) == 0
    assert float(Canny(1, 0.3, 0.3)(fading)[..., 40:].sum()) == 0


def test_of_several_channels_the_strongest_edge_counts() -> None:
    image = torch.zeros(1, 3, 64, 64)
    image[:, 2, :, 32:] = 0.8
    image[:, 2, :, 31] = 0.3  # no edge in the middle between two pixels: rounding would say which of them has it
    alone = Canny()(image[:, 2:])
    assert torch.equal(Canny()(image), alone)
    assert float(alone.sum()) > 60
    assert float(Canny()(torch.full((1, 3, 64, 64), 0.4)).sum()) == 0


def test_sixteen_levels_make_no_edge_on_flat_ground() -> None:
    """The largest answer to any change by +-16 of 255 levels, in any direction, is below the default `high`."""
    point = torch.zeros(1, 1, 41, 41, dtype=torch.float64)
    point[..., 20, 20] = 1
    _, across, down = Canny()._sobel(point)
    angles = torch.linspace(0, torch.pi, 181, dtype=torch.float64)
    largest = max(float((a.cos() * across + a.sin() * down).abs().sum()) for a in angles)
    assert 16 / 255 * largest < Canny().high < 20 / 255 * largest
    noisy = 0.5 + 16 / 255 * torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(0)).sign()
    assert float(Canny()(noisy).sum()) == 0


def test_the_gradient_is_the_stand_ins(finite_difference_error: Callable[..., float]) -> None:
    image = 0.2 + 0.6 * torch.rand(2, 3, 40, 33, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for canny in (Canny(), Canny(0, 0.2, 0.4, 0.05)):
        assert finite_difference_error(canny.soft, image) < 1e-6
        leaf = image.clone().requires_grad_(True)
        weight = torch.rand(2, 1, 40, 33, dtype=torch.float64)
        (through,) = torch.autograd.grad((canny(leaf) * weight).sum(), leaf)
        (of_soft,) = torch.autograd.grad((canny.soft(leaf) * weight).sum(), leaf)
        torch.testing.assert_close(through, of_soft)
        assert torch.equal(canny(image), canny.hard(image))
    flat = torch.full((1, 3, 16, 16), 0.5, requires_grad=True)
    (still,) = torch.autograd.grad(Canny()(flat).sum(), flat)
    assert bool(still.isfinite().all())


def test_settings_that_make_no_sense() -> None:
    for settings in ((1.0, 0.2, 0.1), (1.0, 0.0, 0.1), (-1.0, 0.1, 0.2), (1.0, 0.1, 0.2, 0.0)):
        with pytest.raises(ValueError, match="low <= high"):
            Canny(*settings)


def test_a_classifier_behind_it_sees_edges_and_nothing_else() -> None:
    some = scenes(96, seed=4)
    images = render(some)
    judge = of_edges(load_classifier(WEIGHTS / EDGE))
    with torch.no_grad():
        answers = judge.logits(images)
        assert float((answers.argmax(1) == some.shape[:, 0]).float().mean()) >= 0.97
        # what leaves the edges as they are leaves the answer as it is
        assert torch.equal(judge.logits(1 - images).argmax(1), answers.argmax(1))
        torch.testing.assert_close(judge.logits(images[:, [2, 0, 1]]), answers)
    leaf = images[:4].clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(judge.logits(leaf).sum(), leaf)
    assert float(gradient.abs().amax()) > 0


def test_edges_are_found_at_the_size_that_the_net_sees() -> None:
    """A large picture gives the edge map of the small one, not a small picture of a large edge map."""
    images = render(scenes(4))
    judge = of_edges(load_classifier(WEIGHTS / EDGE))
    large = images.repeat_interleave(4, 2).repeat_interleave(4, 3)
    with torch.no_grad():
        small = functional.interpolate(large, (64, 64), mode="bilinear", antialias=True)
        torch.testing.assert_close(judge.logits(large), judge.logits(small))
        assert torch.equal(judge.logits(large).argmax(1), judge.logits(images).argmax(1))


def test_half_precision_sees_the_same_edges() -> None:
    images = render(scenes(4))
    with torch.no_grad():
        full, half = (
            of_edges(load_classifier(WEIGHTS / EDGE, kind)).logits(images) for kind in (torch.float32, torch.float16)
        )
    torch.testing.assert_close(full, half, atol=0.05, rtol=0)


def test_what_is_no_single_classifier_is_refused(folders: Folders) -> None:
    both = Ensemble([load_classifier(WEIGHTS / name) for name in SEARCHED[:2]])
    with pytest.raises(ValueError, match="trained on edge maps"):
        of_edges(both)


def test_the_net_is_shared() -> None:
    whole = load_classifier(WEIGHTS / EDGE)
    image: Tensor = render(scenes(1))
    assert of_edges(whole).module is whole.module
    with torch.no_grad():
        before = whole.logits(image)
        of_edges(whole).logits(image)
        assert torch.equal(whole.logits(image), before)
