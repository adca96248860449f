"""The demo weights load as the host loads them, and meet their bars on photos that no training saw."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from spandrel import ImageModelDescriptor, ModelLoader
from torch import Tensor

from provoke.demo import photos
from provoke.demo.training import measure

FOLDER = Path(__file__).resolve().parents[2] / "demo" / "weights" / "upscale_models"
UPSCALER, INPAINTER = "provoke-demo-upscaler-x2", "provoke-demo-inpainter"
LIMIT = 3_000_000  # bytes


def load(name: str) -> ImageModelDescriptor:
    """As Load Upscale Model does; frozen, so that a gradient costs no more than it must."""
    descriptor = ModelLoader().load_from_file(FOLDER / f"{name}.safetensors")
    assert isinstance(descriptor, ImageModelDescriptor)
    descriptor.model.eval().requires_grad_(False)
    return descriptor


def with_gradient(descriptor: ImageModelDescriptor) -> measure.Net:
    """The descriptor's own call without its `inference_mode`."""
    return lambda image: descriptor._call_fn(descriptor.model, image)


def picture(name: str) -> Tensor:
    """A photo as 1 3 H W."""
    return photos.load_photo(name).movedim(-1, 1)


def case(name: str) -> tuple[Tensor, Tensor, Tensor]:
    """(photo 1 3 H W, the same with its hole marked, the hole 1 1 H W)"""
    mask = photos.hole(name)
    return picture(name), photos.mark_hole(photos.load_photo(name), mask).movedim(-1, 1), mask[:, None]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def upscaler() -> ImageModelDescriptor:
    return load(UPSCALER)


@pytest.fixture(scope="module")
def inpainter() -> ImageModelDescriptor:
    return load(INPAINTER)


def test_files_are_small_and_have_a_card() -> None:
    files = [file for file in sorted(FOLDER.glob("*.safetensors")) if "-world-" not in file.stem]  # test_committed.py
    assert [file.stem for file in files] == [INPAINTER, UPSCALER]
    for file in files:
        assert file.stat().st_size < LIMIT
        card = file.with_suffix(".md").read_text(encoding="utf-8")
        for word in ("CC0", "train.py", "seed", "Held-out"):
            assert word in card, f"{file.stem}.md says nothing about {word}"


def test_spandrel_sees_what_was_trained(upscaler: ImageModelDescriptor, inpainter: ImageModelDescriptor) -> None:
    assert (upscaler.architecture.id, upscaler.scale) == ("Compact", 2)
    assert (inpainter.architecture.id, inpainter.scale) == ("NAFNet", 1)
    for descriptor in (upscaler, inpainter):
        assert descriptor.input_channels == descriptor.output_channels == 3
        assert next(descriptor.model.parameters()).dtype == torch.float32


@pytest.mark.parametrize("name", photos.photo_names())
def test_the_upscaler_beats_bicubic(upscaler: ImageModelDescriptor, name: str) -> None:
    truth = picture(name)
    small = measure.halve(truth)
    with torch.no_grad():
        gain = measure.psnr(upscaler(small).clamp(0, 1), truth) - measure.psnr(measure.double(small), truth)
    assert gain >= 0.5


def test_the_fill_is_sharper_than_a_blur(inpainter: ImageModelDescriptor) -> None:
    shown, truth, blurred, masks = [], [], [], []
    for name in ("chelsea", "chelsea-eye", "coffee", "coffee-table"):
        image, marked, hole = case(name)
        with torch.no_grad():
            answer = inpainter(marked).clamp(0, 1)
        error = ((answer - image).square() * (1 - hole)).sum() / (3 * (1 - hole).sum())
        assert float(error) < 1e-3  # the known region comes back (30 dB)
        assert float(((answer - image).abs() * hole).sum() / (3 * hole.sum())) < 0.25
        colour = torch.tensor(photos.HOLE_FILL)[:, None, None]
        assert not bool(
            (((answer - colour).abs().amax(1, keepdim=True) < 0.2) * hole).any()
        )  # nothing left of the mark
        for rows, row in ((shown, answer), (truth, image), (blurred, measure.diffuse(image, hole)), (masks, hole)):
            rows.append(row)
    wanted, hole = torch.cat(truth), torch.cat(masks)
    fill = measure.sharpness(torch.cat(shown), wanted, hole)
    assert 0.35 <= fill <= 2.5
    assert fill >= 2 * measure.sharpness(torch.cat(blurred), wanted, hole)


@pytest.mark.parametrize("name", ["chelsea", "coffee"])
def test_a_tiny_change_of_the_known_region_leads_to_another_fill(inpainter: ImageModelDescriptor, name: str) -> None:
    _, marked, hole = case(name)
    epsilon = 4 / 255
    noise = measure.sign_noise(marked, epsilon, 1 - hole, torch.Generator().manual_seed(1))
    moved = measure.attack(
        with_gradient(inpainter), marked, hole, 1 - hole, epsilon, torch.Generator().manual_seed(1), steps=20
    )
    assert float((moved - marked).abs().max()) <= epsilon + 1e-6
    assert float(((moved - marked).abs() * hole).max()) == 0
    optimised = float(measure.hole_change(inpainter, marked, hole, moved))
    assert optimised >= 2 * float(measure.hole_change(inpainter, marked, hole, noise))


def test_the_same_picture_gives_the_same_result(
    upscaler: ImageModelDescriptor, inpainter: ImageModelDescriptor
) -> None:
    for descriptor in (upscaler, inpainter):
        with torch.no_grad():
            image = picture("chelsea")
            assert torch.equal(descriptor(image), descriptor(image))


def test_training_and_pack_mean_the_same_mark() -> None:
    from provoke.demo.training import data, inpainter

    assert inpainter.HOLE_FILL == photos.HOLE_FILL
    assert "chelsea.png" in data.HELD_OUT
    assert not set(data.HELD_OUT) & set(data.TRAINING)
    assert {row[0] for row in _copies().values()} <= set(data.HELD_OUT)


def _copies() -> dict[str, tuple[str, tuple[int, ...], tuple[int, ...]]]:
    from provoke.demo.training import copy_photos

    return copy_photos.COPIES


def test_the_attack_of_the_measure_stays_in_its_budget_on_any_net() -> None:
    image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    where = torch.ones(2, 1, 16, 16)
    moved = measure.attack(lambda x: x.flip(-1), image, where, where, 0.02, torch.Generator().manual_seed(0), steps=5)
    assert float((moved - image).abs().max()) <= 0.02 + 1e-6
