"""What arrives on an image model's socket: for each kind a differentiable function and the host's own call."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, Protocol

import comfy.model_management
import comfy.sd
import torch
from spandrel import ImageModelDescriptor, MaskedImageModelDescriptor, ModelTiling
from torch import Tensor, nn

from ..core.errors import ProvokeError
from .memory import Managed, Residence, Unmanaged, without_dynamic_memory

MAT_SIZE = 512  # the only size that a MAT model takes


def at_least_float32(x: Tensor) -> Tensor:
    """float32; float64 stays, for those who measure."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class Kind(Protocol):
    """One kind of image model.

    `run` is differentiable and takes any picture size: x B 3 H W float32 in [0, 1], mask B 1 H W in {0, 1} with 1 =
    hole or None -> B 3 (scale H) (scale W) float32. `plain` runs in inference mode: B H W 3 -> B h w 3, as the host
    computes it.
    """

    name: str
    scale: int
    module: nn.Module
    residence: Residence
    masked: bool
    host_tiles: bool  # whether the host's own node cuts large pictures into tiles
    tiles: bool  # whether smaller tiles make sense at all
    minimum: int  # pixels of a side; smaller pictures are padded

    @property
    def half(self) -> bool:
        """float16: cotangents are scaled."""
        ...

    def crop(self, height: int, width: int) -> tuple[slice, slice]:
        """The rows and columns that the model uses. Raises ProvokeError for sizes that it cannot take."""
        ...

    def run(self, x: Tensor, mask: Tensor | None) -> Tensor: ...

    def plain(self, image: Tensor, mask: Tensor | None) -> Tensor: ...

    def probe_size(self, height: int, width: int) -> tuple[int, int]:
        """A small size, at most height x width, that `run` takes."""
        ...

    def padded(self, height: int, width: int) -> int:
        """Pixels that the model computes for a picture of this size."""
        ...


def recognise(model: object) -> Kind:
    """The kind of an object from an UPSCALE_MODEL, INPAINT_MODEL or VAE socket.

    Raises:
        ProvokeError: an object that none of them knows, or a model that is not for RGB pictures.
    """
    if isinstance(model, ImageModelDescriptor):
        return Upscaler(model)
    if isinstance(model, MaskedImageModelDescriptor):
        return Inpainter(model)
    if isinstance(model, nn.Module) and getattr(model, "model_arch", None) == "MAT":
        return Mat(model)
    if isinstance(model, comfy.sd.VAE):
        return RoundTrip(model)
    what = f"{type(model).__module__}.{type(model).__qualname__}"
    if isinstance(model, torch.jit.ScriptModule):
        what = "a TorchScript module, which is compiled and cannot be made differentiable from outside"
    raise ProvokeError(
        f"The image model is of an unknown kind: {what}",
        "an upscale or restoration model, an inpainting model loaded by spandrel (LaMa) or MAT, or a VAE",
        "connect Load Upscale Model, Load Inpaint Model (LaMa as .safetensors or .pth) or Load VAE",
    )


class _Spandrel:
    """What image and masked descriptors share."""

    host_tiles = False
    tiles = True
    masked = False

    def __init__(self, descriptor: Any) -> None:
        self.minimum = int(descriptor.size_requirements.minimum)
        self.descriptor, self.module, self.scale = descriptor, descriptor.model, int(descriptor.scale)
        if descriptor.input_channels != 3 or descriptor.output_channels not in (1, 3):
            raise ProvokeError(
                f"The model {descriptor.architecture.name} takes {descriptor.input_channels} and gives "
                f"{descriptor.output_channels} colour channels",
                "a model for RGB pictures (3 channels in); the host's own upscale node fails on others as well",
                "choose an RGB model in the loader node",
            )
        # Only the newest loaders (UpscaleModelLoader.execute since host 0.30) hang a patcher on the descriptor.
        patcher = getattr(descriptor, "patcher", None)
        self.residence: Residence = Unmanaged(self.module) if patcher is None else Managed(patcher)

    @property
    def half(self) -> bool:
        return self._dtype == torch.float16

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.module.parameters()).dtype

    def crop(self, height: int, width: int) -> tuple[slice, slice]:
        return slice(0, height), slice(0, width)

    def probe_size(self, height: int, width: int) -> tuple[int, int]:
        return min(height, 64), min(width, 64)

    def padded(self, height: int, width: int) -> int:
        right, below = self.descriptor.size_requirements.get_padding(width, height)
        return (height + below) * (width + right)

    def _each(self, *arguments: Tensor) -> Tensor:
        """One picture after the other, as tiled_scale_multidim calls a model: spandrel promises no more than a batch of
        1 (its DRUNet appends a noise map of that size), and a picture's result must not depend on its neighbours."""
        outputs = [
            self.descriptor._call_fn(self.module, *(self._pad(self._cast(a[i : i + 1])) for a in arguments))
            for i in range(len(arguments[0]))
        ]
        return self._finish(outputs[0] if len(outputs) == 1 else torch.cat(outputs), *arguments[0].shape[-2:])

    def _cast(self, x: Tensor) -> Tensor:
        """To the model's type; always a copy, for models that write into their input."""
        return x.to(self._dtype, copy=True)

    def _pad(self, x: Tensor) -> Tensor:
        """As spandrel's `pad_tensor`: to the right and below, reflected as far as that goes, then replicated."""
        height, width = x.shape[-2:]
        right, below = self.descriptor.size_requirements.get_padding(width, height)
        mirrored = (0, min(right, width - 1), 0, min(below, height - 1))
        if any(mirrored):
            x = nn.functional.pad(x, mirrored, "reflect")
        rest = (0, right - mirrored[1], 0, below - mirrored[3])
        return nn.functional.pad(x, rest, "replicate") if any(rest) else x

    def _finish(self, output: Tensor, height: int, width: int) -> Tensor:
        """Clamped and cropped as the descriptor's `__call__` does (that one is `@torch.inference_mode()`)."""
        output = at_least_float32(output.clamp(0, 1)[..., : height * self.scale, : width * self.scale])
        # a model with one output channel: tiled_scale_multidim writes it into all three
        return output if output.shape[1] == 3 else output.expand(-1, 3, -1, -1)


class Upscaler(_Spandrel):
    """UPSCALE_MODEL: super resolution, restoration, faces. The host's node is *Upscale Image (using Model)*."""

    host_tiles = True

    def __init__(self, descriptor: ImageModelDescriptor[Any]) -> None:
        super().__init__(descriptor)
        purpose = {"SR": f"x{self.scale} upscaler", "FaceSR": "face restoration"}.get(descriptor.purpose, "restoration")
        self.name = f"{descriptor.architecture.name} {purpose} (UPSCALE_MODEL)"
        # DISCOURAGED (SwinIR, SCUNet): approximate, which the note of a tiled gradient says; better than refusing it
        self.tiles = descriptor.tiling is not ModelTiling.INTERNAL

    def run(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return self._each(x)

    def plain(self, image: Tensor, mask: Tensor | None) -> Tensor:
        model = self.descriptor if self._dtype == torch.float32 else _Float32(self.descriptor)
        return _upscale_node().execute(model, image).args[0]


@dataclass
class _Float32:
    """A half precision descriptor that takes and gives float32, as ImageUpscaleWithModel.execute expects of a model."""

    descriptor: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self.descriptor, name)

    def __call__(self, image: Tensor) -> Tensor:
        return self.descriptor(image.to(self.descriptor.dtype)).float()


def _upscale_node() -> Any:
    """The host's ImageUpscaleWithModel: as registered by the running server (nodes.init_extra_nodes), or imported."""
    registered = getattr(sys.modules.get("nodes"), "NODE_CLASS_MAPPINGS", {}).get("ImageUpscaleWithModel")
    if registered is not None:
        return registered
    from comfy_extras.nodes_upscale_model import ImageUpscaleWithModel

    return ImageUpscaleWithModel


class Inpainter(_Spandrel):
    """A masked spandrel model (LaMa), from whichever loader.

    The host has no node for these. `plain` is the descriptor's own call, one image after the other, at the picture's
    own size. (The node of the INPAINT_MODEL packs shrinks the picture to 256 px first and pastes the fill back; a
    gradient through that would touch only every n-th pixel.)
    """

    masked = True
    tiles = False  # a fill is made from all of what surrounds the hole

    def __init__(self, descriptor: MaskedImageModelDescriptor[Any]) -> None:
        super().__init__(descriptor)
        self.name = f"{descriptor.architecture.name} inpainting (masked model)"

    def run(self, x: Tensor, mask: Tensor | None) -> Tensor:
        assert mask is not None  # open_image_model refuses a masked model without a mask
        return self._each(x, mask)

    def plain(self, image: Tensor, mask: Tensor | None) -> Tensor:
        assert mask is not None
        x = image.movedim(-1, 1).to(self.residence.device, self._dtype)  # B H W C -> B C H W
        hole = mask.to(x)
        results = [self.descriptor(x[i : i + 1], hole[i : i + 1]) for i in range(len(x))]
        return torch.cat(results).float().movedim(1, -1).to(comfy.model_management.intermediate_device())


class Mat:
    """A MAT model as the INPAINT_MODEL packs load it: a module called with picture and hole, 512 px square only."""

    name = "MAT inpainting (INPAINT_MODEL)"
    scale = 1
    masked = True
    host_tiles = False
    tiles = False
    minimum = MAT_SIZE

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        patcher = getattr(module, "patcher", None)
        self.residence: Residence = Unmanaged(module) if patcher is None else Managed(patcher)

    @property
    def half(self) -> bool:
        return next(self.module.parameters()).dtype == torch.float16

    def crop(self, height: int, width: int) -> tuple[slice, slice]:
        if (height, width) != (MAT_SIZE, MAT_SIZE):
            raise ProvokeError(
                f"The picture is {width}x{height} px, but this MAT model works on one size only",
                f"{MAT_SIZE}x{MAT_SIZE} px",
                "scale or crop the image and the mask before this node",
            )
        return slice(0, height), slice(0, width)

    def probe_size(self, height: int, width: int) -> tuple[int, int]:
        return MAT_SIZE, MAT_SIZE

    def padded(self, height: int, width: int) -> int:
        return height * width

    def run(self, x: Tensor, mask: Tensor | None) -> Tensor:
        assert mask is not None
        dtype = next(self.module.parameters()).dtype
        outputs = [  # one picture after the other, as `plain`
            self.module(x[i : i + 1].to(dtype, copy=True), mask[i : i + 1].to(dtype, copy=True)) for i in range(len(x))
        ]
        return (outputs[0] if len(outputs) == 1 else torch.cat(outputs)).float().clamp(0, 1)

    def plain(self, image: Tensor, mask: Tensor | None) -> Tensor:
        assert mask is not None
        x = image.movedim(-1, 1).to(self.residence.device)
        results = [self.run(x[i : i + 1], mask[i : i + 1].to(x)) for i in range(len(x))]
        return torch.cat(results).movedim(1, -1).to(comfy.model_management.intermediate_device())


class RoundTrip:
    """A VAE: encode, then decode. The host's nodes are *VAE Encode* and *VAE Decode*."""

    name = "VAE round trip"
    scale = 1
    masked = False
    host_tiles = False
    tiles = True
    minimum = 0

    def __init__(self, vae: Any) -> None:
        vae.throw_exception_if_invalid()
        if vae.latent_dim != 2 or vae.output_channels != 3 or getattr(vae, "extra_1d_channel", None) is not None:
            raise ProvokeError(
                f"The VAE is for video or sound ({vae.latent_dim}-dimensional latents, {vae.output_channels} channels)",
                "a VAE for RGB pictures (those of SD 1.5, SDXL, SD3, Flux)",
                "connect a picture model's VAE",
            )
        self.vae = vae
        patcher = without_dynamic_memory(vae.patcher, "VAE")
        self.module: nn.Module = patcher.model
        self.residence: Residence = Managed(patcher)

    @property
    def half(self) -> bool:
        return self.vae.vae_dtype == torch.float16

    def crop(self, height: int, width: int) -> tuple[slice, slice]:
        """Where `VAE.vae_encode_crop_pixels` cuts: asked with a picture that holds its own coordinates."""
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        kept = self.vae.vae_encode_crop_pixels(torch.stack([rows, columns, rows], -1)[None])
        if kept.numel() == 0:
            raise ProvokeError(
                f"The picture is {width}x{height} px, smaller than one latent pixel of this VAE",
                f"at least {self._ratio}x{self._ratio} px",
                "use a larger picture",
            )
        top, left = int(kept[0, 0, 0, 0]), int(kept[0, 0, 0, 1])
        return slice(top, top + kept.shape[1]), slice(left, left + kept.shape[2])

    @property
    def _ratio(self) -> int:
        return int(self.vae.spacial_compression_encode())

    def probe_size(self, height: int, width: int) -> tuple[int, int]:
        size = max(64, 2 * self._ratio)
        return min(height, size) // self._ratio * self._ratio, min(width, size) // self._ratio * self._ratio

    def padded(self, height: int, width: int) -> int:
        return height * width

    def run(self, x: Tensor, mask: Tensor | None) -> Tensor:
        vae = self.vae
        net: Any = self.module
        # the calls and casts of VAE.encode and VAE.decode, without their loading, batching and fallback to (cut) tiles
        latent = net.encode(vae.process_input(x).to(vae.vae_dtype)).to(vae.vae_output_dtype())
        decoded = net.decode(latent.to(vae.vae_dtype)).to(torch.float32, copy=True)
        return vae.process_output(decoded)  # writes in place: hence the copy

    def plain(self, image: Tensor, mask: Tensor | None) -> Tensor:
        return self.vae.decode(self.vae.encode(image))
