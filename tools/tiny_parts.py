"""What goes with the tiny models of tiny.py: text encoders, VAEs, ControlNet, LoRA, hooks and regions of the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .tiny_weights import CARRIED, fill, write

Conditioning = list[list[Any]]


def _encoder(model: Any, tokenizer: Any, dtype: torch.dtype, seed: int, widths: dict[str, int]) -> Any:
    """A CLIP of the host; the sizes of its text models go in by name (SDClipModel reads them from model_options)."""
    import comfy.sd
    from comfy.supported_models_base import ClipTarget

    options: dict[str, Any] = {"dtype": dtype}
    for name, width in widths.items():
        sizes = {"hidden_size": width, "intermediate_size": 2 * width}
        options[f"{name}_model_config"] = sizes | {"num_hidden_layers": 3, "num_attention_heads": 2}
    made = comfy.sd.CLIP(ClipTarget(tokenizer, model), model_options=options)
    fill(made.cond_stage_model, seed=seed)
    return made


@torch.inference_mode()
def clip(*, seed: int = 0, width: int = 32, dtype: torch.dtype = torch.float32) -> Any:
    """A CLIP: SD1's CLIP-L with the host's tokenizer, three layers; conditioning is B 77 width."""
    from comfy.sd1_clip import SD1ClipModel, SD1Tokenizer

    return _encoder(SD1ClipModel, SD1Tokenizer, dtype, seed, {"clip_l": width})


@torch.inference_mode()
def clip_for(family: str, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """The CLIP whose conditioning fits model(family): sd15 (CLIP-L), sd2v (CLIP-H), sdxl (CLIP-L and CLIP-G).

    KeyError for the other families: the host pads or fixes the text widths of theirs to sizes that are not tiny.
    """
    from comfy.sd1_clip import SD1ClipModel, SD1Tokenizer
    from comfy.sdxl_clip import SDXLClipModel, SDXLTokenizer
    from comfy.text_encoders.sd2_clip import SD2ClipModel, SD2Tokenizer

    model, tokenizer, names = {
        "sd15": (SD1ClipModel, SD1Tokenizer, ("clip_l",)),
        "sd2v": (SD2ClipModel, SD2Tokenizer, ("clip_h",)),
        "sdxl": (SDXLClipModel, SDXLTokenizer, ("clip_l", "clip_g")),
    }[family]
    return _encoder(model, tokenizer, dtype, seed, dict.fromkeys(names, 32))


def _vae(net: nn.Module, seed: int, scaled: dict[str, float], config: dict[str, Any] | None = None) -> Any:
    """Through the host's class VAE, which finds the architecture in the state dict unless a config is given."""
    import comfy.sd

    made = comfy.sd.VAE(sd=fill(net, seed=seed, scaled=scaled).state_dict(), config=config)
    made.first_stage_model.requires_grad_(False)
    return made


@torch.inference_mode()
def vae(*, seed: int = 0, channels: int = 32) -> Any:
    """A VAE: AutoencoderKL, 4 latent channels, 8 times smaller. channels: a multiple of 32 (GroupNorm)."""
    from comfy.ldm.models.autoencoder import AutoencoderKL

    sizes = {
        "double_z": True, "z_channels": 4, "resolution": 64, "in_channels": 3, "out_ch": 3, "ch": channels,
        "ch_mult": [1, 1, 1, 1], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0,
    }  # fmt: skip
    config = {"params": {"embed_dim": 4, "ddconfig": sizes}}
    return _vae(AutoencoderKL(**config["params"]), seed, {"decoder.conv_out.weight": 0.5}, config)


@torch.inference_mode()
def taesd(*, seed: int = 0) -> Any:
    """A VAE: TAESD, 4 latent channels. The host fixes its size (64 channels, 2.4 million parameters)."""
    from comfy.taesd.taesd import TAESD

    net = TAESD()
    end = len(net.taesd_decoder) - 1
    made = _vae(net, seed, {f"taesd_decoder.{end}.weight": 0.2})
    made.first_stage_model.taesd_decoder[end].bias.add_(0.5)  # its pictures are in [0, 1]: mid-grey
    return made


@torch.inference_mode()
def video_vae(*, seed: int = 0, channels: int = 8) -> Any:
    """A VAE: Wan 2.1's, 16 latent channels; T latent frames are 4 T - 3 pictures, 8 times larger."""
    from comfy.ldm.wan.vae import WanVAE

    # dim_mult, num_res_blocks and temperal_downsample are what comfy.sd.VAE assumes; dim it reads from the weights
    net = WanVAE(channels, 16, [1, 2, 4, 4], 2, [], [False, True, True])
    return _vae(net, seed, {"decoder.head.2.weight": 0.6})


@torch.inference_mode()
def controlnet(*, seed: int = 0, width: int = 1) -> Any:
    """A CONTROL_NET for model("sd15", width=width). Its zero convolutions are filled, so that the hint matters."""
    import comfy.controlnet
    import comfy.model_management as management
    import comfy.ops
    from comfy.cldm.cldm import ControlNet

    net = ControlNet(
        image_size=32, in_channels=4, hint_channels=3, model_channels=32 * width, num_res_blocks=[1, 1],
        channel_mult=[1, 2], transformer_depth=[1, 1], transformer_depth_middle=1, context_dim=32,
        use_spatial_transformer=True, num_heads=4, legacy=False, dtype=torch.float32, device="cpu",
        operations=comfy.ops.disable_weight_init,
    )  # fmt: skip
    louder = {
        name: 2.0 for name, _ in net.named_parameters() if name.startswith("input_hint_block") and "weight" in name
    }
    zeros = ("zero_convs", "middle_block_out")
    softer = {name: 0.2 for name, _ in net.named_parameters() if name.startswith(zeros) and "weight" in name}
    fill(net, seed=seed, scaled=louder | softer)  # eight SiLU convolutions in a row would leave nothing of the hint
    for parameter in net.zero_convs[0].parameters():
        write(parameter, CARRIED, 0.0)
    return comfy.controlnet.ControlNet(net, load_device=management.get_torch_device(), manual_cast_dtype=None)


@torch.inference_mode()
def hint(batch: int = 1, height: int = 64, width: int = 64, *, seed: int = 0) -> Tensor:
    """A picture to control by: B H W 3 in [0, 1], smooth and random; sizes in pixels."""
    coarse = torch.rand(batch, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(coarse, size=(height, width), mode="bilinear").movedim(1, -1).contiguous()


@torch.inference_mode()
def with_control(
    positive: Conditioning,
    negative: Conditioning,
    control_net: Any,
    hint: Tensor,
    strength: float = 1.0,
    start: float = 0.0,
    end: float = 1.0,
    vae: Any = None,
) -> tuple[Conditioning, Conditioning]:
    """What the host's *Apply ControlNet* gives for both sides. start, end: part of the schedule, 0 to 1."""
    import nodes

    node = nodes.ControlNetApplyAdvanced()
    return node.apply_controlnet(positive, negative, control_net, hint, strength, start, end, vae=vae)


def _lora_weights(model: Any, seed: int, rank: int = 4) -> dict[str, Tensor]:
    """A LoRA file for all attention and feed-forward matrices; at strength 1 its change is as large as they are."""
    rng = torch.Generator().manual_seed(seed)
    weights = {}
    for name, weight in model.model.named_parameters():
        part = name.removesuffix(".weight")
        if weight.ndim == 2 and part != name and any(word in name for word in ("attn", "ff.", "ffn.", "mlp")):
            outputs, inputs = weight.shape
            weights[f"{part}.lora_down.weight"] = torch.randn(rank, inputs, generator=rng) * inputs**-0.5
            weights[f"{part}.lora_up.weight"] = torch.randn(outputs, rank, generator=rng) * rank**-0.5
    return weights


@torch.inference_mode()
def lora(model: Any, *, seed: int = 0, strength: float = 0.5) -> Any:
    """A MODEL with an ordinary LoRA patch, as the host's *Load LoRA* makes it."""
    import comfy.sd

    return comfy.sd.load_lora_for_models(model, None, _lora_weights(model, seed), strength, 0.0)[0]


@torch.inference_mode()
def lora_hook(
    model: Any, *, seed: int = 0, strength: float = 0.5, keyframes: Sequence[tuple[float, float]] = ()
) -> Any:
    """A HookGroup with a LoRA for this model, as *Create Hook LoRA* makes it.

    keyframes: (part of the schedule at which it begins, factor on the strength), as *Create Hook Keyframe* has them.
    """
    import comfy.hooks

    hooks = comfy.hooks.create_hook_lora(_lora_weights(model, seed), strength, 0.0)
    if keyframes:
        group = comfy.hooks.HookKeyframeGroup()
        for start, factor in keyframes:
            group.add(comfy.hooks.HookKeyframe(strength=factor, start_percent=start))
        hooks.set_keyframes_on_hooks(hook_kf=group)
    return hooks


@torch.inference_mode()
def hooked(conditioning: Conditioning, hooks: Any) -> Conditioning:
    """The conditioning with these hooks, as *Cond Set Props* gives it."""
    import comfy.hooks

    (made,) = comfy.hooks.set_conds_props([conditioning], strength=1.0, set_cond_area="default", hooks=hooks)
    return made


@torch.inference_mode()
def regional(first: Conditioning, second: Conditioning, *, height: int = 64, width: int = 64) -> Conditioning:
    """Two prompts side by side: the first has the left half as its area, the second the right half as its mask.

    height, width: of the picture, in pixels. Through the host's *Conditioning (Set Area)*, *(Set Mask)*, *(Combine)*.
    """
    import nodes

    mask = torch.zeros(1, height, width)
    mask[..., width // 2 :] = 1
    (left,) = nodes.ConditioningSetArea().append(first, width // 2, height, 0, 0, 1.0)
    (right,) = nodes.ConditioningSetMask().append(second, mask, "default", 1.0)
    return nodes.ConditioningCombine().combine(left, right)[0]
