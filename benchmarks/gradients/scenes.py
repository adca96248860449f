"""The graphs whose gradients are measured: a user's objects around a tiny model of each family, as on sockets.

Everything is made by the host's own nodes, in inference mode as its executor has it. Nothing here knows of gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...tools import tiny

FAMILIES = ("sd15", "sd2v", "sdxl", "sd3", "flux", "wan")
UNETS = ("sd15", "sd2v", "sdxl")  # 4 latent channels; their text encoders can be made tiny
FLAT = ("sd15", "sd2v", "sdxl", "sd3", "flux")  # pictures
STEPS = 3  # one more where nothing else is special
CFG = 3.0
DTYPES = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}


@dataclass(frozen=True)
class Scene:
    """One graph: `family`, what is special about it (a key of SETTINGS), and how its weights are stored ("fp32", or
    another key of DTYPES, computed in float32 by the host's manual cast)."""

    family: str
    setting: str = "plain"
    dtype: str = "fp32"

    @property
    def name(self) -> str:
        return f"{self.family}-{self.setting.replace(',', '').replace(' ', '_')}-{self.dtype}"


@dataclass(frozen=True)
class Graph:
    """What a node of ours gets on its sockets, and what of it is a variable."""

    guider: Any
    latent: dict[str, Any]
    sigmas: Tensor
    noise: Any
    sampler: Any
    vae: Any = None
    clip: Any = None


@dataclass(frozen=True)
class _Parts:
    """A graph while it is being put together."""

    family: str
    model: Any
    positive: Any
    negative: Any
    latent: dict[str, Any]
    denoise: float = 1.0
    vae: Any = None
    clip: Any = None
    guider: Callable[[Any, Any, Any], Any] | None = None
    steps: int = STEPS


def _plain(p: _Parts) -> _Parts:
    return replace(p, steps=STEPS + 1)


def _mask() -> Tensor:
    """1 H W: the right half, with a soft edge, is sampled."""
    mask = torch.zeros(1, 64, 64)
    mask[..., 32:] = 1
    mask[..., 24:32] = 0.5
    return mask


def _image(p: _Parts) -> _Parts:
    return replace(p, latent=tiny.picture_latent(p.family, seed=4), denoise=0.6)


def _masked(p: _Parts) -> _Parts:
    return replace(p, latent=tiny.picture_latent(p.family, seed=4, mask=_mask()))


def _batch(p: _Parts) -> _Parts:
    positive = tiny.conditioning(p.family, seed=1, batch=2)
    return replace(p, positive=positive, latent=tiny.empty_latent(p.family, batch=2))


def _lora(p: _Parts) -> _Parts:
    return replace(p, model=tiny.lora(p.model))


def _hook(p: _Parts) -> _Parts:
    hook = tiny.lora_hook(p.model)  # the host makes the patched weights anew in every evaluation: slow, so few steps
    return replace(p, positive=tiny.hooked(p.positive, hook), steps=2)


def _keyframes(p: _Parts) -> _Parts:
    hook = tiny.lora_hook(p.model, keyframes=((0.0, 1.0), (0.3, 0.3), (0.6, 0.0)))
    return replace(p, positive=tiny.hooked(p.positive, hook))


def _hooks(p: _Parts) -> _Parts:
    """Another LoRA on either side."""
    one, other = (tiny.lora_hook(p.model, seed=seed) for seed in (0, 1))
    return replace(p, positive=tiny.hooked(p.positive, one), negative=tiny.hooked(p.negative, other), steps=2)


def _regions(p: _Parts) -> _Parts:
    return replace(p, positive=tiny.regional(p.positive, tiny.conditioning(p.family, seed=3)))


def _control(p: _Parts, **part: float) -> _Parts:
    positive, negative = tiny.with_control(p.positive, p.negative, tiny.controlnet(), tiny.hint(), **part)
    return replace(p, positive=positive, negative=negative)


def _control_early(p: _Parts) -> _Parts:
    return _control(p, end=0.5)


def _control_chain(p: _Parts) -> _Parts:
    second = tiny.controlnet(seed=5)
    positive, negative = tiny.with_control(p.positive, p.negative, second, tiny.hint(seed=6), strength=0.7)
    return _control(replace(p, positive=positive, negative=negative))


def _everything(p: _Parts) -> _Parts:
    """Two pictures, a mask, regions, a hook and a ControlNet in one."""
    latent = tiny.picture_latent(p.family, seed=4, batch=2, mask=_mask())
    return replace(_control(_hook(_regions(replace(p, latent=latent)))), steps=2)


def _words(p: _Parts) -> _Parts:
    clip = tiny.clip_for(p.family)
    with torch.inference_mode():
        (positive,) = _node("CLIPTextEncode").encode(clip, "a photo of a cat")
        (negative,) = _node("CLIPTextEncode").encode(clip, "blurry")
    return replace(p, positive=positive, negative=negative, clip=clip)


def _pictures(p: _Parts) -> _Parts:
    """Paler than a VAE's usually are: differences across the edge of [0, 1], where pictures are clamped, are wrong."""
    vae = tiny.video_vae() if p.family == "wan" else tiny.vae()
    decoder = vae.first_stage_model.decoder
    (decoder.head[2] if p.family == "wan" else decoder.conv_out).weight.mul_(0.1)
    return replace(p, vae=vae)


def _basic(p: _Parts) -> _Parts:
    import comfy_extras.nodes_custom_sampler as nodes

    return replace(p, guider=lambda model, positive, negative: nodes.BasicGuider.execute(model, positive).args[0])


def _dual(p: _Parts) -> _Parts:
    import comfy_extras.nodes_custom_sampler as nodes

    middle = tiny.conditioning(p.family, seed=7)

    def guider(model: Any, positive: Any, negative: Any) -> Any:
        return nodes.DualCFGGuider.execute(model, positive, middle, negative, 3.0, 2.0, "regular").args[0]

    return replace(p, guider=guider)


def _windows(p: _Parts) -> _Parts:
    """Five latent frames, in windows of three that overlap."""
    import comfy_extras.nodes_context_windows as nodes

    made = nodes.WanContextWindowsManualNode.execute(
        p.model, context_length=9, context_overlap=5, context_schedule="standard_static", context_stride=1,
        closed_loop=False, fuse_method="pyramid", freenoise=False,
    )  # fmt: skip
    return replace(p, model=made.args[0], latent=tiny.empty_latent(p.family, frames=5))


_MADE: dict[str, tuple[Callable[[_Parts], _Parts], tuple[str, ...]]] = {
    "plain": (_plain, FAMILIES),
    "image to image": (_image, FAMILIES),
    "mask": (_masked, FAMILIES),
    "batch 2": (_batch, FAMILIES),
    "LoRA": (_lora, FAMILIES),
    "hook": (_hook, FAMILIES),
    "keyframes": (_keyframes, ("sd15", "sd3", "flux")),
    "two hooks": (_hooks, ("sd15", "flux")),
    "regions": (_regions, FLAT),
    "ControlNet": (_control, ("sd15",)),
    "ControlNet first half": (_control_early, ("sd15",)),
    "two ControlNets": (_control_chain, ("sd15",)),
    "everything": (_everything, ("sd15",)),
    "words": (_words, UNETS),
    "pictures": (_pictures, (*UNETS, "wan")),
    "BasicGuider": (_basic, ("sd3", "flux")),
    "DualCFGGuider": (_dual, ("sd15", "sd3")),
    "context windows": (_windows, ("wan",)),
}
SETTINGS = tuple(_MADE)
NOTES = {
    "plain": "CFG 3",
    "image to image": "a latent of a picture, denoise 0.6",
    "mask": "inpainting: a mask with a soft edge",
    "batch 2": "two latents, two positive embeddings",
    "LoRA": "an ordinary LoRA on the model",
    "hook": "a LoRA hook on the positive only",
    "keyframes": "the same, its strength changing twice on the way",
    "two hooks": "another LoRA hook on either side",
    "regions": "two prompts, one with an area, one with a mask",
    "ControlNet first half": "ends at 0.5",
    "two ControlNets": "chained",
    "everything": "batch 2, mask, regions, hook and ControlNet at once",
    "words": "embeddings of two tokens, through the text encoder",
    "pictures": "the objective is on the decoded picture",
    "context windows": "windows of 3 latent frames in 5",
}
"""What a setting is, where its name does not say it all."""


def scenes() -> list[Scene]:
    """All of them: every setting in float32, and the plain one with every other storage type."""
    found = [Scene(family, setting) for setting, (_, families) in _MADE.items() for family in families]
    found += [Scene(family, "plain", dtype) for dtype in DTYPES if dtype != "fp32" for family in FAMILIES]
    return [*found, Scene("sd15", "hook", "fp8"), Scene("flux", "hook", "bf16")]


def build(scene: Scene, sampler: str = "euler", steps: int | None = None, *, tokens: int = 7, width: int = 1) -> Graph:
    """The objects of a scene; equal scenes give equal ones. tokens: of a prompt. width: of the model, see tiny.py."""
    stored = DTYPES[scene.dtype]
    more: dict[str, Any] = {} if stored is None else {"dtype": stored, "manual_cast": torch.float32}
    model = tiny.model(scene.family, width=width, **more)
    positive, negative = (tiny.conditioning(scene.family, seed=seed, tokens=tokens) for seed in (1, 2))
    start = _Parts(scene.family, model, positive, negative, tiny.empty_latent(scene.family))
    with torch.inference_mode():
        return assemble(_MADE[scene.setting][0](start), sampler, steps)


def assemble(p: _Parts, sampler: str, steps: int | None) -> Graph:
    """The sockets that a sampler node has."""
    import comfy.samplers
    import comfy_extras.nodes_custom_sampler as nodes

    from ...host.sampling.inside import guider_of

    guider = guider_of(p.model, p.positive, p.negative, CFG)
    if p.guider is not None:
        guider = p.guider(p.model, p.positive, p.negative)
    levels = p.model.get_model_object("model_sampling")
    count = p.steps if steps is None else steps
    whole = comfy.samplers.calculate_sigmas(levels, "normal", round(count / p.denoise))
    return Graph(
        guider, p.latent, whole[-count - 1 :], nodes.Noise_RandomNoise(5), comfy.samplers.sampler_object(sampler),
        vae=p.vae, clip=p.clip,
    )  # fmt: skip


def by_host(graph: Graph) -> Tensor:
    """The latent that the host's SamplerCustomAdvanced gives."""
    import comfy_extras.nodes_custom_sampler as nodes

    with torch.inference_mode():
        out = nodes.SamplerCustomAdvanced.execute(graph.noise, graph.guider, graph.sampler, graph.sigmas, graph.latent)
    return out.args[0]["samples"]


def _node(name: str) -> Any:
    import nodes

    return getattr(nodes, name)()
