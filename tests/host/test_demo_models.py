"""Load Demo Models: genuine objects, which the host's own nodes run, and pictures that show what the prompt says.

The full figures are in the card; here a few held-out prompts.
"""

from __future__ import annotations

import logging
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from provoke.demo.captions import canonical
from provoke.demo.checker import objects_right, read
from provoke.demo.world import render, sample


@pytest.fixture(scope="module")
def models(comfy: ModuleType) -> tuple[Any, Any, Any]:
    import provoke.nodes

    with torch.inference_mode():
        return provoke.nodes.LoadDemoModels.execute("20 steps").args


def said(clip: Any, text: str) -> Any:
    from nodes import CLIPTextEncode

    return CLIPTextEncode().encode(clip, text)[0]


@pytest.fixture(scope="module")
def few_step(comfy: ModuleType) -> tuple[Any, Any, Any]:
    import provoke.nodes
    from provoke.host.folders import register_model_folders

    register_model_folders()
    with torch.inference_mode():
        return provoke.nodes.LoadDemoModels.execute("4 steps").args


def drawn(
    models: tuple[Any, Any, Any], text: str, seed: int, steps: int = 20, latent: Any = None, cfg: float = 3.0
) -> Tensor:
    """Through the host's own nodes, B 3 64 64."""
    from nodes import EmptyLatentImage, KSampler, VAEDecode

    model, clip, vae = models
    with torch.inference_mode():
        start = latent or EmptyLatentImage().generate(64, 64, 1)[0]
        strength = 0.6 if latent else 1.0
        found = KSampler().sample(
            model, seed, steps, cfg, "euler", "simple", said(clip, text), said(clip, ""), start, denoise=strength
        )[0]
        return VAEDecode().decode(vae, found)[0].movedim(-1, 1).clone()


def test_pictures_show_what_the_prompt_says(models: tuple[Any, Any, Any]) -> None:
    """Eight prompts of one object and eight of two: at least 12 of 16 right."""
    right = 0
    for objects in (1, 2):
        scenes = sample(8, torch.Generator().manual_seed(70 + objects), part="held out", objects=objects)
        pictures = torch.cat([drawn(models, canonical(scene), i) for i, scene in enumerate(scenes)])
        right += int(objects_right(read(pictures), scenes).sum())
    assert right >= 12


def test_the_prompt_matters_and_equal_seeds_give_equal_pictures(models: tuple[Any, Any, Any]) -> None:
    one, same, other = (drawn(models, text, 3, 8) for text in ("a red circle", "a red circle", "a blue square"))
    assert torch.equal(one, same)
    assert float((one - other).abs().mean()) > 0.02


def test_a_picture_can_be_gone_on_with(models: tuple[Any, Any, Any]) -> None:
    """VAE Encode, a mask, and KSampler with less than full denoising: outside the mask the latent stays."""
    from nodes import SetLatentNoiseMask, VAEEncode

    vae = models[2]
    scene = sample(1, torch.Generator().manual_seed(4), objects=1)
    mask = torch.zeros(1, 64, 64)
    mask[:, :, 32:] = 1
    with torch.inference_mode():
        latent = VAEEncode().encode(vae, render(scene).movedim(1, -1))[0]
        masked = SetLatentNoiseMask().set_mask(latent, mask)[0]
    before = latent["samples"].clone()
    picture = drawn(models, "a blue circle", 5, 8, masked)
    with torch.inference_mode():
        after = VAEEncode().encode(vae, picture.movedim(1, -1))[0]["samples"]
    assert float((after - before)[..., :2].abs().mean()) < float((after - before)[..., 5:].abs().mean())


def test_the_custom_sampler_draws_the_same(models: tuple[Any, Any, Any]) -> None:
    from comfy_extras.nodes_custom_sampler import (
        BasicScheduler,
        CFGGuider,
        KSamplerSelect,
        RandomNoise,
        SamplerCustomAdvanced,
    )

    from nodes import EmptyLatentImage, VAEDecode

    model, clip, vae = models
    with torch.inference_mode():
        guider = CFGGuider.execute(model, said(clip, "a pink ring"), said(clip, ""), 3.0).args[0]
        sigmas = BasicScheduler.execute(model, "simple", 6, 1.0).args[0]
        sampler, noise = KSamplerSelect.execute("euler").args[0], RandomNoise.execute(9).args[0]
        latent = EmptyLatentImage().generate(64, 64, 1)[0]
        found = SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, latent).args[0]
        picture = VAEDecode().decode(vae, found)[0].movedim(-1, 1)
    torch.testing.assert_close(picture, drawn(models, "a pink ring", 9, 6), atol=1e-4, rtol=0)


def test_a_foreign_lora_gives_the_hosts_own_warning(
    models: tuple[Any, Any, Any], caplog: pytest.LogCaptureFixture
) -> None:
    import comfy.sd

    lora = {
        "lora_unet_down_blocks_9_attentions_0_proj_in.lora_up.weight": torch.zeros(4, 2),
        "lora_unet_down_blocks_9_attentions_0_proj_in.lora_down.weight": torch.zeros(2, 4),
    }
    disabled = logging.root.manager.disable
    logging.disable(logging.NOTSET)
    try:
        with torch.inference_mode(), caplog.at_level(logging.WARNING):
            changed, _ = comfy.sd.load_lora_for_models(models[0], None, lora, 1.0, 0.0)
    finally:
        logging.disable(disabled)
    assert "not loaded" in caplog.text.lower()
    assert not changed.patches


def test_the_few_step_model_shows_what_the_prompt_says(few_step: tuple[Any, Any, Any]) -> None:
    """Four steps without guidance; eight prompts of one object and eight of two: at least 11 of 16 right."""
    right = 0
    for objects in (1, 2):
        scenes = sample(8, torch.Generator().manual_seed(80 + objects), part="held out", objects=objects)
        pictures = [drawn(few_step, canonical(scene), i, 4, cfg=1.0) for i, scene in enumerate(scenes)]
        right += int(objects_right(read(torch.cat(pictures)), scenes).sum())
    assert right >= 11


def test_the_few_step_model_hardly_reacts_to_the_seed(
    models: tuple[Any, Any, Any], few_step: tuple[Any, Any, Any]
) -> None:
    """What two seeds draw is much nearer to each other than with the model that it was made from."""
    texts = ("a red circle", "a cyan triangle", "a blue square left of a yellow ring", "a pink ring above a red circle")
    slow, fast = (
        torch.stack([torch.cat([drawn(which, text, seed, steps, cfg=cfg) for seed in (1, 2)]) for text in texts])
        for which, steps, cfg in ((models, 20, 3.0), (few_step, 4, 1.0))
    )
    apart = [float((pair[:, 0] - pair[:, 1]).abs().mean()) for pair in (slow, fast)]
    assert apart[1] < 0.6 * apart[0]


def test_the_few_step_lora_is_an_ordinary_one(models: tuple[Any, Any, Any], few_step: tuple[Any, Any, Any]) -> None:
    """In the host's own LoRA loader, from the list of its files, it makes the same model."""
    from nodes import LoraLoaderModelOnly

    with torch.inference_mode():
        model = LoraLoaderModelOnly().load_lora_model_only(models[0], "provoke-demo-few-step.safetensors", 1.0)[0]
    by_hand = drawn((model, *models[1:]), "a red ring", 3, 4, cfg=1.0)
    assert torch.equal(by_hand, drawn(few_step, "a red ring", 3, 4, cfg=1.0))
    assert not torch.equal(by_hand, drawn(models, "a red ring", 3, 4, cfg=1.0))


def test_what_is_trained_is_what_the_host_patches(models: tuple[Any, Any, Any]) -> None:
    """The training's own sum of weight and low-rank change, next to the host's patched weights."""
    from provoke.demo.training.few_step import Lora
    from provoke.host import build

    net = models[0].model.diffusion_model
    lora = Lora(net)
    rng = torch.Generator().manual_seed(0)
    for up in lora.ups.values():
        up.data.copy_(0.1 * torch.randn(up.shape, generator=rng))
    with torch.inference_mode():
        patched = build.with_lora(models[0], {name: value.detach() for name, value in lora.exported().items()})
    assert len(patched.patches) == len(lora.names)
    mine = lora.changed(net)
    for name in list(lora.names)[::17]:
        weight = patched.patch_weight_to_device(f"diffusion_model.{name}", return_weight=True)
        torch.testing.assert_close(weight.float(), mine[name].detach(), atol=2e-5, rtol=2e-5)


def test_the_hosts_other_sampler_nodes_run_on_it(models: tuple[Any, Any, Any]) -> None:
    """KSampler (Advanced) in two parts, SamplerCustom, and a latent that was made larger and gone on with."""
    from comfy_extras.nodes_custom_sampler import BasicScheduler, KSamplerSelect, SamplerCustom

    from nodes import EmptyLatentImage, KSampler, KSamplerAdvanced, LatentUpscale, VAEDecode

    model, clip, vae = models
    with torch.inference_mode():
        positive, negative = said(clip, "a green ring"), said(clip, "")
        empty = EmptyLatentImage().generate(64, 64, 1)[0]
        whole = KSampler().sample(model, 5, 6, 3.0, "euler", "simple", positive, negative, empty)[0]
        half = KSamplerAdvanced().sample(
            model, "enable", 5, 6, 3.0, "euler", "simple", positive, negative, empty, 0, 3, "enable"
        )[0]
        rest = KSamplerAdvanced().sample(
            model, "disable", 5, 6, 3.0, "euler", "simple", positive, negative, half, 3, 6, "disable"
        )[0]
        sigmas = BasicScheduler.execute(model, "simple", 6, 1.0).args[0]
        sampler = KSamplerSelect.execute("euler").args[0]
        custom = SamplerCustom.execute(model, True, 5, 3.0, positive, negative, sampler, sigmas, empty).args[0]
        large = LatentUpscale().upscale(whole, "bislerp", 96, 96, "disabled")[0]
        again = KSampler().sample(model, 6, 6, 3.0, "euler", "simple", positive, negative, large, denoise=0.5)[0]
        picture = VAEDecode().decode(vae, again)[0]
    torch.testing.assert_close(rest["samples"], whole["samples"], atol=1e-4, rtol=0)
    torch.testing.assert_close(custom["samples"], whole["samples"], atol=1e-4, rtol=0)
    assert picture.shape == (1, 96, 96, 3)
    assert bool(picture.isfinite().all())
