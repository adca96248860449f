"""Real host objects, small, from the host's own classes; and the inference mode that its executor runs nodes in."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from .sampler_graph import SamplerGraph


@pytest.fixture
def executor() -> Iterator[None]:
    """execution.py runs every node so."""
    with torch.inference_mode():
        yield


@pytest.fixture(scope="session")
def host(comfy: ModuleType) -> SimpleNamespace:
    """The modules of provoke.host, imported when the host can be."""
    import provoke.core.errors as errors
    import provoke.host as package
    from provoke.host import api, folders, gradients, image_models, inplace, kinds, memory, probe, progress, tiles

    return SimpleNamespace(
        open=image_models.open_image_model,
        errors=errors,
        package=package,
        **{m.__name__.rpartition(".")[2]: m for m in (api, folders, gradients, image_models, inplace, kinds)},
        **{m.__name__.rpartition(".")[2]: m for m in (memory, probe, progress, tiles)},
    )


@pytest.fixture(scope="module")
def nodes(comfy: ModuleType) -> ModuleType:
    """The pack's nodes, with the demo's models in the host's folders."""
    import provoke.nodes
    from provoke.host.folders import register_model_folders

    register_model_folders()
    return provoke.nodes


@pytest.fixture(scope="module")
def tiny(comfy: ModuleType) -> ModuleType:
    """Small genuine objects of the host."""
    from provoke.tools import tiny

    return tiny


@pytest.fixture(scope="module")
def scorer(nodes: ModuleType) -> Any:
    """The demo's first CLIP."""
    with torch.inference_mode():
        return nodes.LoadScorer.execute("first").args[0]


@pytest.fixture
def graph(tiny: ModuleType) -> Callable[..., SamplerGraph]:
    """Makes one of a family, with changes."""
    return lambda family="sd15", **changes: SamplerGraph(tiny, family, **changes)


@pytest.fixture
def at_progress(comfy: ModuleType) -> Iterator[Callable[[int, Callable[[], None]], list[int]]]:
    """Calls something once when the bar has come to a step (a fast one jumps); gives the steps that were heard."""
    import comfy.model_management as mm
    import comfy.utils

    before = comfy.utils.PROGRESS_BAR_HOOK

    def install(step: int, action: Callable[[], None]) -> list[int]:
        heard: list[int] = []

        def hook(value: int, total: int, preview: Any, node_id: Any = None) -> None:
            heard.append(value)
            if value >= step and all(earlier < step for earlier in heard[:-1]):
                action()

        comfy.utils.set_progress_bar_global_hook(hook)
        return heard

    yield install
    comfy.utils.set_progress_bar_global_hook(before)
    mm.interrupt_current_processing(False)


def fill(module: nn.Module, gain: float = 1.5, seed: int = 0) -> nn.Module:
    """Reproducible weights: fan-in scaled, biases and norms small but not trivial. The host's ops leave them unset."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            if p.ndim >= 2 and min(p.shape[:2]) > 0 and p[0].numel() > 1:
                p.copy_(torch.randn(p.shape, generator=rng) * (gain / p[0].numel()) ** 0.5)
            elif name.endswith(("weight", "scale", "gamma", "beta")) and p.ndim > 0:
                p.copy_(0.5 + 0.1 * torch.randn(p.shape, generator=rng))
            else:
                p.copy_(0.1 * torch.randn(p.shape, generator=rng))
        for name, b in module.named_buffers():
            if b.is_floating_point():
                b.copy_((1.0 if "var" in name else 0.0) + 0.1 * torch.rand(b.shape, generator=rng))
    return module


def calm(module: nn.Module) -> nn.Module:
    """Scales the last convolution so that random weights give pictures around mid-grey, off the clamp."""
    convs = [m for m in module.modules() if isinstance(m, nn.Conv2d)]
    last = getattr(module, "ending", convs[-1])
    noise = 0.25 + 0.5 * torch.rand(1, convs[0].in_channels, 32, 32, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        last.weight.mul_(0.05)
        last.weight.mul_(min(1.0, 0.1 / float(module.eval()(noise).std())))
        if last.bias is not None:
            last.bias.add_(0.5 - module(noise).mean())
    return module


class Builder:
    """Makes models as they arrive on sockets."""

    def __init__(self, folder: Path) -> None:
        import folder_paths

        self._folder, self._names = folder, itertools.count()
        folder_paths.add_model_folder_path("upscale_models", str(folder))

    def upscaler(self, module: nn.Module, gain: float = 1.5) -> Any:
        """Through a file and the host's own loader node."""
        from comfy_extras.nodes_upscale_model import UpscaleModelLoader
        from safetensors.torch import save_file

        name = f"tiny-{next(self._names)}.safetensors"
        save_file(calm(fill(module, gain)).state_dict(), self._folder / name)
        with torch.inference_mode():
            return UpscaleModelLoader.execute(name).args[0]

    def compact(self, scale: int = 2, features: int = 8, convs: int = 3) -> Any:
        from spandrel.architectures.Compact import Compact

        return self.upscaler(Compact(num_feat=features, num_conv=convs, upscale=scale))

    def rrdb(self, scale: int = 2, blocks: int = 1) -> Any:
        from spandrel.architectures.ESRGAN import ESRGAN

        return self.upscaler(ESRGAN(num_filters=8, num_blocks=blocks, scale=scale))

    def nafnet(self) -> Any:
        from spandrel.architectures.NAFNet import NAFNet

        return self.upscaler(NAFNet(width=4, middle_blk_num=1, enc_blk_nums=[1, 1], dec_blk_nums=[1, 1]))

    def span(self) -> Any:
        """Writes its weights anew in every forward, and keeps a plain tensor."""
        from spandrel.architectures.SPAN import SPAN

        return self.upscaler(SPAN(num_in_ch=3, num_out_ch=3, feature_channels=8, upscale=2, img_range=1.0), gain=0.4)

    def drunet(self) -> Any:
        """Takes one picture at a time and no more: it appends a noise map."""
        from spandrel.architectures.DRUNet import DRUNet

        return self.upscaler(DRUNet(in_nc=4, out_nc=3, nc=[4, 4, 8, 8], nb=2))

    def swinir(self) -> Any:
        """Attention, windows of 8, a size requirement."""
        from spandrel.architectures.SwinIR import SwinIR

        net = SwinIR(
            img_size=16, embed_dim=12, depths=[2], num_heads=[2], window_size=8, mlp_ratio=2, upscale=2,
            upsampler="pixelshuffledirect",
        )  # fmt: skip
        return self.upscaler(net)

    def descriptor(self, module: nn.Module, *, masked: bool = False, patcher: bool | None = None, **fields: Any) -> Any:
        """Any module as a spandrel descriptor; with a patcher where the host's loader hangs one on it."""
        import inspect

        import comfy.model_management as mm
        import comfy.model_patcher
        from comfy_extras.nodes_upscale_model import UpscaleModelLoader
        from spandrel import Architecture, ImageModelDescriptor, MaskedImageModelDescriptor

        class Tiny(Architecture):
            def load(self, state_dict: dict[str, Tensor]) -> Any:
                raise NotImplementedError

        fields = {"input_channels": 3, "output_channels": 3, "supports_half": True, "supports_bfloat16": True} | fields
        fields |= {"purpose": "Inpainting"} if masked else {"purpose": "SR", "scale": fields.get("scale", 1)}
        kind = MaskedImageModelDescriptor if masked else ImageModelDescriptor
        tiny = Tiny(id=type(module).__name__, detect=lambda _: False)
        made = kind(module, module.state_dict(), architecture=tiny, tags=[], **fields).eval()
        if patcher is None:
            patcher = not masked and "patcher" in inspect.getsource(UpscaleModelLoader)
        if patcher:
            offload = mm.unet_offload_device()
            made.patcher = comfy.model_patcher.CoreModelPatcher(made.model, mm.get_torch_device(), offload)
        return made

    def lama(self) -> Any:
        """A small LaMa as the INPAINT_MODEL packs load it: a masked descriptor without a patcher."""
        from spandrel import SizeRequirements
        from spandrel.architectures.LaMa.__arch.LaMa import FFCResNetGenerator, LaMa

        with torch.inference_mode():
            net = LaMa.__new__(LaMa)
            nn.Module.__init__(net)
            net.model = FFCResNetGenerator(4, 3, ngf=4, n_blocks=2)
            requirements = SizeRequirements(minimum=16, multiple_of=8)
            return self.descriptor(fill(net), masked=True, size_requirements=requirements)

    def vae(self, dtype: torch.dtype | None = None) -> Any:
        """AutoencoderKL with 4 latent channels, 8 times smaller, 32 wide."""
        import comfy.sd
        from comfy.ldm.models.autoencoder import AutoencoderKL

        wide = {"double_z": True, "z_channels": 4, "resolution": 64, "in_channels": 3, "out_ch": 3, "ch": 32}
        shape = {"ch_mult": [1, 1, 1, 1], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0}
        config = {"params": {"embed_dim": 4, "ddconfig": wide | shape}}
        with torch.inference_mode():
            weights = fill(AutoencoderKL(**config["params"])).state_dict()
            weights["decoder.conv_out.weight"] *= 0.2  # keeps most pixels off the clamp
            vae = comfy.sd.VAE(sd=weights, config=config, dtype=dtype)
            vae.first_stage_model.requires_grad_(False)
        return vae


@pytest.fixture(scope="session")
def build(comfy: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Builder:
    return Builder(tmp_path_factory.mktemp("upscale_models"))


@pytest.fixture(scope="session")
def photo() -> Callable[..., Tensor]:
    """photo(B, H, W): smooth random pictures, B H W 3 in [0.2, 0.8]."""

    def make(batch: int, height: int, width: int, seed: int = 0) -> Tensor:
        rng = torch.Generator().manual_seed(seed)
        coarse = torch.rand(batch, 3, height // 4 + 2, width // 4 + 2, generator=rng)
        image = nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
        return (0.25 + 0.5 * image + 0.05 * torch.rand(image.shape, generator=rng)).movedim(1, -1).contiguous()

    return make


@pytest.fixture(scope="session")
def hole() -> Callable[..., Tensor]:
    """hole(B, H, W): a rectangle that is another one for every image."""

    def make(batch: int, height: int, width: int) -> Tensor:
        mask = torch.zeros(batch, height, width)
        for i in range(batch):
            mask[i, height // 4 + i : height // 4 * 3, width // 4 : width // 4 * 3 - 2 * i] = 1
        return mask

    return make


def directions(shape: torch.Size, count: int, seed: int = 0) -> list[Tensor]:
    """Random directions of the whole input, and blocks: one channel, one image, one region (a check along the
    gradient itself is blind)."""
    rng = torch.Generator().manual_seed(seed)
    out = [torch.randn(shape, generator=rng) for _ in range(count)]
    for block in (
        (slice(None), slice(1, 2)),
        (slice(0, 1),),
        (slice(-1, None),),
        (slice(None), slice(None), slice(0, shape[2] // 3), slice(0, shape[3] // 3)),
    ):
        one = torch.zeros(shape)
        one[block] = torch.randn(one[block].shape, generator=rng)
        out.append(one)
    return [d / d.abs().amax() for d in out]


@pytest.fixture(scope="session")
def finite_difference_error() -> Callable[..., float]:
    """Relative L2 error of the vector of directional derivatives of <weight, f(x)>."""

    def measure(
        function: Callable[[Tensor], Tensor], x: Tensor, weight: Tensor, gradient: Tensor, step: float, count: int = 16
    ) -> float:
        def score(y: Tensor) -> float:
            return float((function(y).double() * weight.double()).sum())

        ways = directions(x.shape, count)
        measured = torch.tensor([(score(x + step * d) - score(x - step * d)) / (2 * step) for d in ways])
        claimed = torch.tensor([float((gradient.double() * d.double()).sum()) for d in ways])
        return float((measured - claimed).norm() / measured.norm())

    return measure
