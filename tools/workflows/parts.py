"""What the templates have in common: the demo's models or a checkpoint, two prompts, a latent, pictures at the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..canvas import Canvas, Node, Wire


@dataclass(frozen=True)
class Start:
    """The sockets that every sampler wants."""

    model: Wire
    clip: Wire
    vae: Wire
    positive: Wire
    negative: Wire
    latent: Wire

    def sampled(self) -> dict[str, Any]:
        """The inputs of a node in the KSampler form."""
        names = ("model", "positive", "negative")
        return {**{name: getattr(self, name) for name in names}, "latent_image": self.latent, "vae": self.vae}


def encoded(canvas: Canvas, clip: Wire, prompt: str, negative: str = "") -> tuple[Wire, Wire]:
    """The two prompts."""
    first = canvas.add("CLIPTextEncode", title="Prompt", size=(320, 130), clip=clip, text=prompt)
    title = "Negative" if negative else "Negative (empty)"
    second = canvas.add("CLIPTextEncode", title=title, size=(320, 130), clip=clip, text=negative)
    return first["CONDITIONING"], second["CONDITIONING"]


def demo(canvas: Canvas, prompt: str, kind: str = "20 steps", count: int = 1) -> Start:
    """The demo world's models, and prompts in their words."""
    models = canvas.add("ProvokeLoadDemoModels", model=kind)
    latent = canvas.add("EmptyLatentImage", width=64, height=64, batch_size=count)
    positive, negative = encoded(canvas, models["CLIP"], prompt)
    return Start(models["MODEL"], models["CLIP"], models["VAE"], positive, negative, latent["LATENT"])


FEW: dict[str, Any] = {"steps": 6, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple"}
"""The settings with which the demo's model is quick, and still draws what it is told nearly always."""


def decoded(canvas: Canvas, samples: Wire, vae: Wire) -> Wire:
    """The pictures of a latent."""
    return canvas.add("VAEDecode", size=(220, 60), samples=samples, vae=vae)["IMAGE"]


def saved(canvas: Canvas, images: Wire, prefix: str, shows: str, title: str | None = None) -> Node:
    """Pictures that are kept."""
    return canvas.add("SaveImage", title=title, shows=shows, images=images, filename_prefix=f"provoke/{prefix}")


def seen(
    canvas: Canvas, images: Wire, shows: str, title: str | None = None, size: tuple[int, int] | None = None
) -> Node:
    """Pictures that are only looked at. size: of the node on the page, in pixels; without it the usual one."""
    return canvas.add("PreviewImage", title=title, shows=shows, size=size, images=images)


def told(canvas: Canvas, text: Wire, title: str = "Report", height: int = 360) -> Node:
    """A text."""
    return canvas.add("PreviewAny", title=title, size=(560, height), source=text)


def read(canvas: Canvas, images: Wire, title: str = "What the picture shows") -> Node:
    """What the demo world's checker says of pictures."""
    readings = canvas.add("ProvokeReadDemoScene", size=(240, 110), image=images)
    return canvas.add("PreviewAny", title=title, size=(420, 160), source=readings["readings"])


@dataclass(frozen=True)
class File:
    """A published file of weights, and where the host looks for it."""

    name: str
    folder: str
    url: str

    def model(self) -> list[dict[str, str]]:
        """As the page reads it, which then offers to get a file that is missing."""
        return [{"name": self.name, "url": self.url, "directory": self.folder}]


HUB = "https://huggingface.co/"
SD15 = File(
    "v1-5-pruned-emaonly-fp16.safetensors",
    "checkpoints",
    HUB + "Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/v1-5-pruned-emaonly-fp16.safetensors",
)
SDXL = File(
    "sd_xl_base_1.0.safetensors",
    "checkpoints",
    HUB + "stabilityai/stable-diffusion-xl-base-1.0/resolve/main/sd_xl_base_1.0.safetensors",
)
TURBO = File(
    "sd_xl_turbo_1.0_fp16.safetensors",
    "checkpoints",
    HUB + "stabilityai/sdxl-turbo/resolve/main/sd_xl_turbo_1.0_fp16.safetensors",
)
FLUX = File(
    "flux1-dev-fp8.safetensors", "checkpoints", HUB + "Comfy-Org/flux1-dev/resolve/main/flux1-dev-fp8.safetensors"
)
VISION_G = File(
    "clip_vision_g.safetensors",
    "clip_vision",
    HUB + "comfyanonymous/clip_vision_g/resolve/main/clip_vision_g.safetensors",
)
UPSCALER = File(
    "RealESRGAN_x4plus.safetensors",
    "upscale_models",
    HUB + "Comfy-Org/Real-ESRGAN_repackaged/resolve/main/RealESRGAN_x4plus.safetensors",
)
CLIP_L = "clip-vit-large-patch14"
"""A folder of models/provoke_clip, as the help of Load CLIP Scorer says how to fill it."""
GPT2 = "gpt2"
"""A folder of models/provoke_language."""
VLMS = ("blip2-itm-vit-g", "blip2-opt-2.7b")
"""Two folders of models/provoke_vlm."""


def checkpoint(canvas: Canvas, file: File, prompt: str, size: int, negative: str = "", latents: int = 1) -> Start:
    """An ordinary checkpoint, its prompts, and a latent of `size` pixels a side."""
    loaded = canvas.add("CheckpointLoaderSimple", models=file.model(), ckpt_name=file.name)
    latent = canvas.add("EmptyLatentImage", width=size, height=size, batch_size=latents)
    positive, second = encoded(canvas, loaded["CLIP"], prompt, negative)
    return Start(loaded["MODEL"], loaded["CLIP"], loaded["VAE"], positive, second, latent["LATENT"])


def needs(*what: str) -> dict[str, Any]:
    """The mark of a template that runs only where these files are: what tests and the demo leave out."""
    return {"needs": list(what)}
