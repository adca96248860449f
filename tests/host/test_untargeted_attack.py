"""Vary Result (Untargeted Attack) and Demo Photo on the host's own nodes: what a user gets, and what it promises."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from provoke.core.errors import ProvokeError

QUICK: dict[str, Any] = {
    "epsilon": 4.0,
    "steps": 4,
    "count": 2,
    "seed": 0,
    "method": "gradient",
    "norm": "L-inf",
    "truncation": "truncate",
    "step_rule": "APGD",
    "step_size": 0.25,
    "schedule": "constant",
    "start_noise": 0.5,
    "stop_at_score": 0.0,
    "time_limit": 0.0,
    "diversity": 1.0,
    "variance_weight": 1.0,
}


def attack(nodes: ModuleType, **inputs: Any) -> tuple[Any, ...]:
    """As the executor calls it: in inference mode, widget values by name."""
    with torch.inference_mode():
        return nodes.UntargetedAttack.execute(**{**QUICK, **inputs}).args


@pytest.fixture(scope="module")
def upscaler(nodes: ModuleType) -> Any:
    return load("provoke-demo-upscaler-x2.safetensors")


@pytest.fixture(scope="module")
def inpainter(nodes: ModuleType) -> Any:
    return load("provoke-demo-inpainter.safetensors")


def load(name: str) -> Any:
    from comfy_extras.nodes_upscale_model import UpscaleModelLoader

    with torch.inference_mode():
        return UpscaleModelLoader.execute(name).args[0]


def host(model: Any, image: Tensor) -> Tensor:
    from comfy_extras.nodes_upscale_model import ImageUpscaleWithModel

    with torch.inference_mode():
        return ImageUpscaleWithModel.execute(model, image).args[0]


@pytest.fixture(scope="module")
def photo(nodes: ModuleType) -> dict[str, Tensor]:
    """A 48 x 64 piece around a hole."""
    image, hole, holed = nodes.DemoPhoto.execute("chelsea").args
    y, x = (int(v) for v in hole[0].nonzero().float().mean(0))
    rows, columns = slice(y - 24, y + 24), slice(x - 32, x + 32)
    return {"image": image[:, rows, columns], "hole": hole[:, rows, columns], "holed": holed[:, rows, columns]}


def test_results_differ_and_the_inputs_do_not(nodes: ModuleType, inpainter: Any, photo: dict[str, Tensor]) -> None:
    results, unperturbed, attacked, difference, loss, report, comparison = attack(
        nodes, model=inpainter, image=photo["holed"], mask=photo["hole"], steps=10
    )
    hole = photo["hole"][..., None] > 0.5
    assert results.shape == attacked.shape == difference.shape == (2, 48, 64, 3)
    assert float((attacked - photo["holed"]).abs().max()) <= 4 / 255 + 1e-6
    assert torch.equal(attacked.masked_select(hole), photo["holed"].expand(2, -1, -1, -1).masked_select(hole))
    assert torch.equal(results, host(inpainter, attacked))
    assert torch.equal(unperturbed, host(inpainter, photo["holed"]))
    noise = photo["holed"] + torch.randn_like(photo["holed"]).sign() * (4 / 255) * ~hole
    inside = hole.expand(1, 48, 64, 3)
    by_noise = float((host(inpainter, noise.clamp(0, 1)) - unperturbed)[inside].abs().mean())
    change = [float((result[None] - unperturbed)[inside].abs().mean()) for result in results]
    assert min(change) > 2 * by_noise
    assert float((results[:1] - results[1:])[inside].abs().mean()) >= max(change)
    assert len(loss["loss"]) == 11
    for word in ("UPSCALE_MODEL", "epsilon 4", "APGD", "image 1", "diversity", "cost"):
        assert word in report
    amplified = re.search(r"^difference amplified ([\d.]+) times$", report, re.MULTILINE)
    assert amplified
    change = (attacked - photo["holed"]) * float(amplified[1])
    torch.testing.assert_close(difference, 0.5 + change, rtol=0, atol=5e-3)  # three digits of the factor
    assert float((difference - 0.5).abs().max()) == pytest.approx(0.5, abs=1e-5)
    for row in range(2):
        columns = (photo["holed"][0], attacked[row], difference[row], unperturbed[0], results[row])
        for column, picture in enumerate(columns):
            assert torch.equal(cell(comparison, row, column), (picture * 255).floor().clamp(0, 255) / 255)


def cell(sheet: Tensor, row: int, column: int) -> Tensor:
    """A picture of 48 x 64 as it stands in a comparison, there three times as large: two lines of words below each."""
    top, left = 8 + row * (192 + 2 * 16 + 8) + 24, 8 + column * (192 + 8)
    return sheet[0, top : top + 144, left : left + 192][1::3, 1::3]


def test_the_saved_png_gives_the_reported_result(
    nodes: ModuleType, upscaler: Any, photo: dict[str, Tensor], tmp_path: Path
) -> None:
    """Through the host's own Save Image and Load Image."""
    import folder_paths

    from nodes import LoadImage, SaveImage

    results, _, attacked, *_ = attack(nodes, model=upscaler, image=photo["image"], steps=3)
    with torch.inference_mode():
        saved = SaveImage().save_images(attacked, "attacked")["ui"]["images"]
        for result, file in zip(results, saved, strict=True):
            name = folder_paths.annotated_filepath(f"{file['filename']} [output]")[0]
            loaded = LoadImage().load_image(f"{name} [output]")[0]
            assert torch.equal(host(upscaler, loaded)[0], result)


@pytest.mark.parametrize("zero", [{"epsilon": 0.0}, {"steps": 0}])
def test_zero_effect_is_zero(nodes: ModuleType, upscaler: Any, photo: dict[str, Tensor], zero: dict[str, Any]) -> None:
    results, unperturbed, attacked, difference, *_, comparison = attack(
        nodes, model=upscaler, image=photo["image"], **zero
    )
    assert torch.equal(difference, torch.full_like(difference, 0.5))
    assert torch.equal(cell(comparison, 1, 0), cell(comparison, 1, 1))
    assert torch.equal(unperturbed, host(upscaler, photo["image"]))
    assert torch.equal(results, unperturbed.expand(2, -1, -1, -1))
    assert torch.equal(attacked, photo["image"].expand(2, -1, -1, -1))


def test_the_host_is_left_as_it_was(nodes: ModuleType, inpainter: Any, photo: dict[str, Tensor]) -> None:
    import comfy.model_management

    before = host(inpainter, photo["holed"])
    flags = {name: (id(p), p.requires_grad, p.grad) for name, p in inpainter.model.named_parameters()}
    attack(nodes, model=inpainter, image=photo["holed"], mask=photo["hole"])
    assert torch.equal(host(inpainter, photo["holed"]), before)
    assert {name: (id(p), p.requires_grad, p.grad) for name, p in inpainter.model.named_parameters()} == flags
    assert not getattr(comfy.model_management, "in_training", False)


def test_the_same_seed_gives_the_same_result(nodes: ModuleType, upscaler: Any, photo: dict[str, Tensor]) -> None:
    a, b, other = (attack(nodes, model=upscaler, image=photo["image"], seed=seed) for seed in (1, 1, 2))
    assert torch.equal(a[0], b[0])
    assert torch.equal(a[2], b[2])
    assert not torch.equal(a[2], other[2])


def test_the_global_seed_is_untouched(nodes: ModuleType, upscaler: Any, photo: dict[str, Tensor]) -> None:
    state = torch.get_rng_state()
    attack(nodes, model=upscaler, image=photo["image"])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("diversity", [0.0, 1.0])
def test_an_image_does_not_depend_on_its_neighbours(
    nodes: ModuleType, upscaler: Any, photo: dict[str, Tensor], diversity: float
) -> None:
    """Diversity couples the results of one image, never two images."""
    batch = torch.cat([photo["image"].flip(1), photo["image"]])
    alone = attack(nodes, model=upscaler, image=photo["image"], diversity=diversity)
    together = attack(nodes, model=upscaler, image=batch, diversity=diversity)
    assert together[0].shape[0] == 4  # image-major: two of the first image, then two of the second
    torch.testing.assert_close(together[2][2:], alone[2], rtol=0, atol=1.01 / 255)
    assert float((together[2][2:] != alone[2]).float().mean()) < 1e-3
    torch.testing.assert_close(together[1][1:], alone[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("step_rule", ["APGD", "PGD", "MI-FGSM", "Adam", "FGSM"])
@pytest.mark.parametrize(
    ("norm", "truncation"), [("L-inf", "truncate"), ("L-inf", "clip"), ("L2", "clip"), ("L1", "clip")]
)
def test_every_choice_searches_within_its_budget(
    nodes: ModuleType, upscaler: Any, photo: dict[str, Tensor], step_rule: str, norm: str, truncation: str
) -> None:
    chosen = {"step_rule": step_rule, "norm": norm, "truncation": truncation, "schedule": "cosine"}
    results, unperturbed, attacked, *_ = attack(nodes, model=upscaler, image=photo["image"], epsilon=2.0, **chosen)
    moved = (attacked - photo["image"]).abs().double() * 255
    used = {"L-inf": moved.amax((1, 2, 3)), "L2": moved.square().mean((1, 2, 3)).sqrt(), "L1": moved.mean((1, 2, 3))}
    assert float(used[norm].max()) <= 2.0 + 1e-3
    assert float(used[norm].min()) > 0
    torch.testing.assert_close(attacked, (attacked * 255).round() / 255, rtol=0, atol=0)
    assert float((results - unperturbed).abs().mean()) > 0


def test_random_needs_no_gradient_and_stays_in_the_budget(
    nodes: ModuleType, upscaler: Any, photo: dict[str, Tensor]
) -> None:
    _, _, attacked, _, loss, report, _ = attack(
        nodes, model=upscaler, image=photo["image"], method="random", truncation="clip"
    )
    assert float((attacked - photo["image"]).abs().max()) <= 4 / 255 + 1e-6
    assert not torch.equal(attacked[0], attacked[1])
    assert "random" in report
    assert len(loss["loss"]) == 5


def cut(descriptor: Any) -> Any:
    """A model that no gradient comes through."""
    import copy

    blind = copy.deepcopy(descriptor)
    forward = blind.model.forward
    blind.model.forward = torch.no_grad()(forward)
    return blind


def test_a_model_without_a_gradient_can_be_varied_at_random(
    nodes: ModuleType, upscaler: Any, photo: dict[str, Tensor]
) -> None:
    blind = cut(upscaler)
    with pytest.raises(ProvokeError, match="gradient"):
        attack(nodes, model=blind, image=photo["image"])
    results, unperturbed, *_ = attack(nodes, model=blind, image=photo["image"], method="random", truncation="clip")
    assert float((results - unperturbed).abs().mean()) > 0
    for zero in ({"epsilon": 0.0}, {"steps": 0}):
        results, *_ = attack(nodes, model=blind, image=photo["image"], **zero)
        assert torch.equal(results[:1], host(upscaler, photo["image"]))


def test_pictures_off_the_grid_are_rounded_first_and_that_is_said(
    nodes: ModuleType, upscaler: Any, photo: dict[str, Tensor]
) -> None:
    """Resized and sharpened pictures: fractional levels, values outside [0, 1]; and a mask that keeps most of it."""
    image = photo["image"] * 1.3 - 0.1
    allowed = torch.zeros(1, 48, 64)
    allowed[:, :, :20] = 1
    results, unperturbed, attacked, difference, _, report, _ = attack(
        nodes, model=upscaler, image=image, perturb_mask=allowed
    )
    assert torch.equal(attacked, (attacked * 255).round() / 255)
    assert torch.equal(results, host(upscaler, attacked))
    assert torch.equal(unperturbed, host(upscaler, image))
    assert "rounded to 8-bit levels" in report
    assert float((difference[:, :, 20:] - 0.5).abs().max()) == 0


def test_stopping_at_a_score_takes_the_results_of_an_image_together(
    nodes: ModuleType, upscaler: Any, photo: dict[str, Tensor]
) -> None:
    losses, report = attack(nodes, model=upscaler, image=photo["image"], steps=30, stop_at_score=6.0)[4:6]
    assert "reached the target score" in report
    assert len(losses["loss"]) < 31
    assert -losses["loss"][-1] * 255 >= 6.0 or max(-loss for loss in losses["loss"]) * 255 >= 6.0


def test_perturb_mask_is_honoured(nodes: ModuleType, upscaler: Any, photo: dict[str, Tensor]) -> None:
    allowed = torch.zeros(1, 48, 64)
    allowed[:, :, :20] = 1
    _, _, attacked, *_ = attack(nodes, model=upscaler, image=photo["image"], perturb_mask=allowed)
    moved = (attacked - photo["image"]).abs()
    assert float(moved[:, :, 20:].max()) == 0
    assert float(moved[:, :, :20].max()) > 0


def test_stops(nodes: ModuleType, upscaler: Any, photo: dict[str, Tensor]) -> None:
    report = attack(nodes, model=upscaler, image=photo["image"], steps=50, stop_at_score=0.1)[5]
    assert "reached the target score" in report
    report = attack(nodes, model=upscaler, image=photo["image"], steps=1000, time_limit=0.2)[5]
    assert "time limit" in report


def test_bad_input_is_refused_in_words(nodes: ModuleType, upscaler: Any, photo: dict[str, Tensor]) -> None:
    image = photo["image"]
    for inputs, words in (
        ({"mask": torch.zeros(1, 8, 8)}, "mask is .*resize"),
        ({"mask": torch.zeros(1, 48, 64)}, "mask is empty"),
        ({"epsilon": 0.5}, "whole levels"),
        ({"diversity": 0.0, "count": 1, "variance_weight": 1.0, "perturb_mask": torch.zeros(1, 9, 9)}, "perturb_mask"),
        ({"perturb_mask": torch.zeros(1, 48, 64)}, "empty"),
        ({"mask": torch.ones(1, 48, 64)}, "empty"),
        ({"image": torch.full_like(image, float("nan"))}, "NaN"),
        ({"image": image[..., :1]}, "RGB"),
        ({"model": object()}, "Expected"),
    ):
        with pytest.raises(ProvokeError, match=words):
            attack(nodes, **{"model": upscaler, "image": image, **inputs})


def test_demo_photos_are_on_the_8_bit_grid(nodes: ModuleType) -> None:
    from provoke.demo.photos import photo_names

    for name in photo_names():
        image, hole, holed = nodes.DemoPhoto.execute(name).args
        assert image.shape == holed.shape
        assert hole.shape == image.shape[:3]
        assert torch.equal(holed, (holed * 255).round() / 255)
        assert 0.01 < float(hole.mean()) < 0.3
