"""Objects that the pack builds from weights are the host's own, and do what its loaders' objects do."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from provoke.demo.generators import LATENT_RGB, UNET
from provoke.demo.text_tower import host_text_config, host_text_weights, special_tokens
from provoke.demo.tokenizer import FOLDER

CLIP = FOLDER.parent / "first"


@pytest.fixture(scope="module")
def built(comfy: ModuleType) -> dict[str, Any]:
    """A MODEL of random weights and the demo CLIP."""
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    import provoke.host.build as build

    net, rng = UNetModel(**UNET, operations=comfy.ops.disable_weight_init), torch.Generator().manual_seed(0)
    with torch.no_grad():  # the host's operations leave the weights as the memory was
        for weight in net.parameters():
            weight.copy_(torch.randn(weight.shape, generator=rng) * (1 / weight[0].numel()) ** 0.5)
    weights = {name: w.clone() for name, w in net.state_dict().items()}
    config = json.loads((CLIP / "config.json").read_text(encoding="utf-8"))
    with torch.inference_mode():
        model = build.flow_unet(weights, UNET, build.PlainLatent(LATENT_RGB))
        clip = build.clip_text_encoder(
            host_text_weights(load_file(CLIP / "model.safetensors")),
            host_text_config(config),
            FOLDER,
            special_tokens(config),
        )
    return {"model": model, "clip": clip, "weights": weights, "net": net, "build": build}


def encoded(clip: Any, text: str) -> Any:
    from nodes import CLIPTextEncode

    with torch.inference_mode():
        return CLIPTextEncode().encode(clip, text)[0]


def test_the_model_is_a_flow_model_of_the_host(built: dict[str, Any]) -> None:
    from comfy.model_base import BaseModel, ModelType
    from comfy.model_sampling import CONST

    model = built["model"]
    assert type(model.model) is BaseModel
    assert model.model.model_type == ModelType.FLOW
    assert isinstance(model.model.model_sampling, CONST)
    assert float(model.model.model_sampling.sigma_max) == 1
    assert model.get_model_object("latent_format").latent_channels == 4


@torch.no_grad()
def test_one_evaluation_is_the_nets(built: dict[str, Any]) -> None:
    """denoised = x - sigma * flow, the flow asked for at 1000 sigma."""
    model, net = built["model"], built["net"]
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    said = encoded(built["clip"], "a red circle")[0][0].clone().expand(2, -1, -1)
    sigma = torch.tensor([0.3, 0.9])
    got = model.model.apply_model(x, sigma, c_crossattn=said)
    wanted = x - sigma[:, None, None, None] * net(x, 1000 * sigma, context=said)
    torch.testing.assert_close(got, wanted, atol=2e-3, rtol=0)


def test_the_samplers_run_it(built: dict[str, Any]) -> None:
    from nodes import KSampler

    positive, negative = encoded(built["clip"], "a red circle"), encoded(built["clip"], "")
    latent = {"samples": torch.zeros(2, 4, 8, 8)}
    with torch.inference_mode():
        first, again = (
            KSampler().sample(built["model"], 3, 2, 3.0, "euler", "simple", positive, negative, latent)[0]["samples"]
            for _ in range(2)
        )
    assert first.shape == (2, 4, 8, 8)
    assert bool(first.isfinite().all())
    assert torch.equal(first, again)


def test_previews_have_colours(built: dict[str, Any]) -> None:
    import latent_preview
    from comfy.cli_args import LatentPreviewMethod, args

    before = args.preview_method
    args.preview_method = LatentPreviewMethod.Latent2RGB
    try:
        latent_format = built["model"].model.latent_format
        previewer = latent_preview.get_previewer(torch.device("cpu"), latent_format)
        picture = previewer.decode_latent_to_preview(torch.randn(1, 4, 8, 8))
    finally:
        args.preview_method = before
    assert picture.size == (8, 8)


def test_weights_that_do_not_fit_are_named(built: dict[str, Any]) -> None:
    build, weights = built["build"], dict(built["weights"])
    del weights["out.2.bias"]
    with pytest.raises(RuntimeError, match=r"out\.2\.bias"):
        build.flow_unet(weights, UNET, build.PlainLatent())


def test_a_model_without_dynamic_memory_can_be_made_of_it(built: dict[str, Any]) -> None:
    for patcher in (built["model"], built["clip"].patcher):
        make, arguments, *_ = patcher.cached_patcher_init
        again = make(*arguments, disable_dynamic=True)
        mine, theirs = again.model.state_dict(), patcher.model.state_dict()
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_embedding_files_are_found(built: dict[str, Any], tmp_path: Path) -> None:
    from safetensors.torch import save_file

    build = built["build"]
    save_file({"clip_l": torch.randn(2, 128)}, tmp_path / "mine.safetensors")
    config = json.loads((CLIP / "config.json").read_text(encoding="utf-8"))
    with torch.inference_mode():
        clip = build.clip_text_encoder(
            host_text_weights(load_file(CLIP / "model.safetensors")),
            host_text_config(config),
            FOLDER,
            special_tokens(config),
            embeddings=[str(tmp_path)],
        )
    plain, changed = encoded(clip, "a red circle"), encoded(clip, "a red circle embedding:mine")
    assert not torch.equal(plain[0][0], changed[0][0])
    assert changed[0][0].shape == (1, 77, 128)
