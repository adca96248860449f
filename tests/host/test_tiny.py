"""The tiny models are what the tests of sampling stand on: genuine, reproducible, and alive to every input."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

FAMILIES = ("sd15", "sd2v", "sdxl", "sd3", "flux", "wan")
POOLED = ("sdxl", "sd3", "flux")
UNETS = ("sd15", "sd2v", "sdxl")
WORDS = ("a photo of a cat", "a drawing of two dogs")


@pytest.fixture(scope="module")
def tiny(comfy: ModuleType) -> ModuleType:
    from provoke.tools import tiny

    return tiny


@pytest.fixture(scope="module")
def models(tiny: ModuleType) -> dict[str, Any]:
    return {family: tiny.model(family) for family in FAMILIES}


def change(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


def sample(model: Any, positive: Any, negative: Any, latent: dict[str, Any], seed: int = 1, steps: int = 3) -> Tensor:
    """The host's KSampler: Euler, guidance 3."""
    import nodes

    with torch.inference_mode():
        (out,) = nodes.common_ksampler(model, seed, steps, 3.0, "euler", "normal", positive, negative, latent)
    return out["samples"]


def sides(tiny: ModuleType, family: str) -> tuple[Any, Any]:
    return tiny.conditioning(family, seed=1), tiny.conditioning(family, seed=2)


def altered(condition: Any, **values: Any) -> Any:
    """The conditioning with other things beside the text; `text` is the text."""
    text = values.pop("text", condition[0][0])
    return [[text, condition[0][1] | values]]


def test_families(tiny: ModuleType) -> None:
    assert tiny.FAMILIES == FAMILIES


def test_parametrisations(models: dict[str, Any]) -> None:
    from comfy import model_sampling

    kinds = {"sd15": model_sampling.EPS, "sd2v": model_sampling.V_PREDICTION, "sdxl": model_sampling.EPS}
    for family in FAMILIES:
        found = models[family].get_model_object("model_sampling")
        assert isinstance(found, kinds.get(family, model_sampling.CONST))
        assert isinstance(found, model_sampling.V_PREDICTION) == (family == "sd2v")  # a subclass of EPS


@pytest.mark.parametrize("family", FAMILIES)
def test_sampling_is_sane_and_repeats(tiny: ModuleType, models: dict[str, Any], family: str) -> None:
    latent = tiny.empty_latent(family)
    first = sample(models[family], *sides(tiny, family), latent)
    assert first.shape == latent["samples"].shape
    assert torch.isfinite(first).all()
    assert 0.5 < float(first.std()) < 50
    again = sample(tiny.model(family), *sides(tiny, family), latent)
    assert torch.equal(first, again)
    assert change(sample(models[family], *sides(tiny, family), latent, seed=2), first) > 0.1
    assert change(sample(tiny.model(family, seed=1), *sides(tiny, family), latent), first) > 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_every_input_matters(tiny: ModuleType, models: dict[str, Any], family: str) -> None:
    model, (positive, negative), latent = models[family], sides(tiny, family), tiny.empty_latent(family)
    other, first = tiny.conditioning(family, seed=3), sample(models[family], *sides(tiny, family), latent)
    assert change(sample(model, altered(positive, text=other[0][0]), negative, latent), first) > 0.05
    one_token = positive[0][0].clone()
    one_token[:, 2] = other[0][0][:, 2]
    assert change(sample(model, altered(positive, text=one_token), negative, latent), first) > 0.01
    if family in POOLED:
        pooled = altered(positive, pooled_output=other[0][1]["pooled_output"])
        assert change(sample(model, pooled, negative, latent), first) > 0.005
    if family == "flux":
        assert change(sample(model, altered(positive, guidance=1.0), negative, latent), first) > 0.01


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_as_the_executor_leaves_them(models: dict[str, Any], family: str) -> None:
    parameters = list(models[family].model.diffusion_model.parameters())
    assert all(p.is_inference() and not p.requires_grad for p in parameters)
    assert all(torch.isfinite(p).all() for p in parameters)
    assert sum(p.numel() for p in parameters) < 1_400_000


@pytest.mark.parametrize("family", FAMILIES)
def test_storage_types(tiny: ModuleType, models: dict[str, Any], family: str) -> None:
    latent = tiny.empty_latent(family)
    exact = sample(models[family], *sides(tiny, family), latent)
    for stored, near in ((torch.float16, 0.01), (torch.bfloat16, 0.05), (torch.float8_e4m3fn, 0.5)):
        model = tiny.model(family, dtype=stored, manual_cast=torch.float32)
        assert stored in {p.dtype for p in model.model.diffusion_model.parameters()}
        assert 0 < change(sample(model, *sides(tiny, family), latent), exact) < near


@pytest.mark.parametrize("family", FAMILIES)
def test_wider(tiny: ModuleType, models: dict[str, Any], family: str) -> None:
    wide = tiny.model(family, width=2)
    count = [sum(p.numel() for p in m.model.diffusion_model.parameters()) for m in (wide, models[family])]
    assert count[0] > 2.5 * count[1]
    latent = tiny.empty_latent(family, batch=2)
    out = sample(wide, *sides(tiny, family), latent, steps=2)
    assert torch.isfinite(out).all()
    changed = sample(wide, tiny.conditioning(family, seed=3), tiny.conditioning(family, seed=2), latent, steps=2)
    assert change(changed, out) > 0.01


@pytest.mark.parametrize("family", ["sd15", "wan"])
def test_latents_and_masks(tiny: ModuleType, models: dict[str, Any], family: str) -> None:
    mask = torch.zeros(1, 64, 64)
    mask[:, :, 32:] = 1
    assert float(tiny.empty_latent(family)["samples"].abs().max()) == 0
    latent = tiny.picture_latent(family, mask=mask)
    out = sample(models[family], *sides(tiny, family), latent)
    torch.testing.assert_close(out[..., :4], latent["samples"][..., :4], rtol=1e-3, atol=1e-3)
    assert change(out[..., 4:], latent["samples"][..., 4:]) > 0.1


def test_control(tiny: ModuleType, models: dict[str, Any]) -> None:
    latent, (positive, negative), net = tiny.empty_latent("sd15"), sides(tiny, "sd15"), tiny.controlnet()
    free = sample(models["sd15"], positive, negative, latent)
    hints = tiny.hint(), tiny.hint(seed=1)
    held = [sample(models["sd15"], *tiny.with_control(positive, negative, net, h), latent) for h in hints]
    assert 0.1 < change(held[0], free) < 3
    assert change(held[1], held[0]) > 0.01
    early = tiny.with_control(positive, negative, net, hints[0], end=0.3)
    assert change(sample(models["sd15"], *early, latent), held[0]) > 1e-3
    none = tiny.with_control(positive, negative, net, hints[0], strength=0.0)
    assert torch.equal(sample(models["sd15"], *none, latent), free)


@pytest.mark.parametrize("family", FAMILIES)
def test_lora_and_its_hook(tiny: ModuleType, models: dict[str, Any], family: str) -> None:
    model, (positive, negative), latent = models[family], sides(tiny, family), tiny.empty_latent(family)
    free = sample(model, positive, negative, latent)
    hook = tiny.lora_hook(model)
    one_side = sample(model, tiny.hooked(positive, hook), negative, latent)
    both = sample(model, tiny.hooked(positive, hook), tiny.hooked(negative, hook), latent)
    patched = sample(tiny.lora(model), positive, negative, latent)
    assert change(one_side, free) > 0.05
    assert change(one_side, both) > 0.05
    assert change(both, patched) < 1e-4  # a hook on both sides is the LoRA itself
    assert torch.equal(sample(model, positive, negative, latent), free)


def test_keyframes(tiny: ModuleType, models: dict[str, Any]) -> None:
    model, (positive, negative), latent = models["sd2v"], sides(tiny, "sd2v"), tiny.empty_latent("sd2v")
    always = sample(model, tiny.hooked(positive, tiny.lora_hook(model)), negative, latent)
    ending = tiny.lora_hook(model, keyframes=((0.0, 1.0), (0.5, 0.0)))
    assert change(sample(model, tiny.hooked(positive, ending), negative, latent), always) > 0.05


@pytest.mark.parametrize("family", ["sd15", "sd2v", "sdxl", "sd3", "flux"])
def test_regions(tiny: ModuleType, models: dict[str, Any], family: str) -> None:
    (first, second, other), negative = (tiny.conditioning(family, seed=s) for s in (1, 3, 5)), sides(tiny, family)[1]
    latent, model = tiny.empty_latent(family), models[family]
    out = sample(model, tiny.regional(first, second), negative, latent, steps=2)
    for pair, here, there in (((other, second), slice(0, 4), slice(4, 8)), ((first, other), slice(4, 8), slice(0, 4))):
        moved = sample(model, tiny.regional(*pair), negative, latent, steps=2)
        assert change(moved[..., here], out[..., here]) > 0.05
        assert change(moved[..., there], out[..., there]) < 0.05


@pytest.mark.parametrize("family", UNETS)
def test_text(tiny: ModuleType, models: dict[str, Any], family: str) -> None:
    clip = tiny.clip_for(family)
    with torch.inference_mode():
        cat, dogs = (clip.encode_from_tokens_scheduled(clip.tokenize(words)) for words in WORDS)
    assert cat[0][0].shape == (1, 77, tiny.conditioning(family)[0][0].shape[-1])
    assert next(clip.cond_stage_model.parameters()).is_inference()
    assert change(cat[0][0], dogs[0][0]) > 0.05
    assert change(cat[0][1]["pooled_output"], dogs[0][1]["pooled_output"]) > 0.05
    latent = tiny.empty_latent(family)
    out = [sample(models[family], words, tiny.conditioning(family), latent) for words in (cat, dogs)]
    assert change(*out) > 1e-3


def test_clip_sizes(tiny: ModuleType) -> None:
    clip = tiny.clip(width=48, dtype=torch.float16)
    with torch.inference_mode():
        encoded = clip.encode_from_tokens_scheduled(clip.tokenize(WORDS[0]))
    assert encoded[0][0].shape == (1, 77, 48)
    with pytest.raises(KeyError):
        tiny.clip_for("wan")


@pytest.mark.parametrize("kind", ["vae", "taesd", "video_vae"])
def test_pictures(tiny: ModuleType, kind: str) -> None:
    vae = getattr(tiny, kind)()
    video = kind == "video_vae"
    latent = tiny.picture_latent("wan" if video else "sd15")["samples"]
    with torch.inference_mode():
        image = vae.decode(latent)
        other = vae.decode(latent * 0.5)
        back = vae.encode(image[0] if video else image)
    assert image.shape == ((1, 5, 64, 64, 3) if video else (1, 64, 64, 3))
    assert back.shape == latent.shape
    assert float(((image <= 0) | (image >= 1)).float().mean()) < 0.05
    assert float(image.std()) > 0.05
    assert change(other, image) > 0.01
    assert next(vae.first_stage_model.parameters()).is_inference()
