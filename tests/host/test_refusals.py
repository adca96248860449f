"""What cannot be used is refused, with the reason and what to do; what can be repaired is repaired, with a note."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytestmark = pytest.mark.usefixtures("executor")


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)


class NoGrad(Base):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.conv(x))


class Inference(Base):
    @torch.inference_mode()
    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.conv(x))


class Detached(Base):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.conv(x.detach()))


class Rounded(Base):
    def forward(self, x: Tensor) -> Tensor:
        return torch.round(torch.sigmoid(self.conv(x)) * 255) / 255


class Constant(Base):
    def forward(self, x: Tensor) -> Tensor:
        return torch.full_like(x, 0.5) + 0 * self.conv.bias.sum()


class Infinite(Base):
    def forward(self, x: Tensor) -> Tensor:
        return 0.5 + 0.001 * self.conv(x) + torch.sqrt(0 * x)


class White(Base):
    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 0.5, 3.0, -1.0) * (1 + x)


class Shrinks(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)[..., 1:]


class Overwrites(Base):
    """y = sigmoid(conv) then y += ..., as host models do after a norm; through a view at another offset as well."""

    def forward(self, x: Tensor) -> Tensor:
        y = torch.sigmoid(self.conv(x))
        z = y * y
        y[:, 1:] += 0.1 * x[:, 1:]
        y.mul_(0.5)
        return 0.3 * y + 0.3 * z


class Honest(Overwrites):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.sigmoid(self.conv(x))
        z = y * y
        y = (y + 0.1 * x * torch.tensor([0.0, 1, 1]).view(1, 3, 1, 1)) * 0.5
        return 0.3 * y + 0.3 * z


class Draws(Base):
    """Dropout that is always on."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.conv(nn.functional.dropout(x, 0.5, training=True)))


class HalfDetached(Base):
    """As attention whose weights come from a detached branch."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 + 0.2 * torch.tanh(self.conv(x)) - 0.4 * torch.tanh(self.conv(1 - x.detach().flip(-1)))


class Breaks(torch.autograd.Function):
    """A kernel without a backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        raise NotImplementedError("derivative for attention is not implemented")


class Kernel(Base):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(Breaks.apply(self.conv(x)))


class MakesInference(Base):
    """A table that a forward makes in inference mode and multiplies with."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.inference_mode():
            table = torch.full((1, 3, 1, 1), 0.5)
        return torch.sigmoid(self.conv(x) * table)


class Mat(nn.Module):
    """A stand-in for the MAT of the INPAINT_MODEL packs: a module, one size, constant dropout, a float64 latent."""

    def __init__(self) -> None:
        super().__init__()
        self.model_arch = "MAT"
        self.conv = nn.Conv2d(4, 3, 3, padding=1)
        self.z = torch.randn(1, 3, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        assert image.shape[-2:] == (512, 512)
        style = nn.functional.dropout(torch.ones_like(image) * 0.5, training=True)
        fill = torch.sigmoid(self.conv(torch.cat([image * (1 - mask), mask], 1)) + style + self.z.to(image))
        return image * (1 - mask) + fill * mask


@pytest.mark.parametrize(
    ("module", "error", "words"),
    [
        (NoGrad, "GradientError", r"no gradient.*no_grad"),
        (Inference, "GradientError", r"no gradient.*inference_mode"),
        (Detached, "GradientError", r"no gradient.*detach"),
        (Rounded, "GradientError", r"gradient of zero.*rounding"),
        (Kernel, "GradientError", r"not backwards \(derivative for attention"),
        (MakesInference, "GradientError", r"not backwards \(Inference tensors cannot be saved"),
        (Infinite, "GradientError", r"not finite"),
        (White, "GradientError", r"black or white"),
        (Constant, "ProvokeError", r"does not depend on its input"),
        (Shrinks, "ProvokeError", r"\(1, 3, 20, 19\).*\(1, 3, 20, 20\)"),
    ],
)
def test_models_without_a_gradient(
    module: type[nn.Module], error: str, words: str, host: SimpleNamespace, build: Any, photo: Callable[..., Tensor]
) -> None:
    model = build.descriptor(module())
    with pytest.raises(getattr(host.errors, error), match=words) as caught, host.open(model, photo(1, 20, 20)):
        pass
    assert "To fix it" in str(caught.value)
    assert torch.is_inference_mode_enabled()


def test_overwritten_activations_are_copied(
    host: SimpleNamespace, build: Any, photo: Callable[..., Tensor], finite_difference_error: Callable[..., float]
) -> None:
    image = photo(2, 20, 24)
    x = image.movedim(-1, 1).clone()
    model, honest = build.descriptor(Overwrites()), build.descriptor(Honest())
    honest.model.load_state_dict(model.model.state_dict())
    with host.open(model, image) as opened:
        assert any("overwrites" in note for note in opened.notes)
        output, pullback = opened.vjp(x)
        weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
        gradient = pullback(weight)
        assert finite_difference_error(opened, x, weight, gradient, step=2e-3) < 0.01
        opened._backward.step_down()
        assert torch.allclose(opened.vjp(x)[1](weight), gradient, atol=1e-6)
    with host.open(honest, image) as opened:
        assert opened.notes == []
        assert torch.allclose(opened.vjp(x)[1](weight), gradient, atol=1e-6)


def test_models_that_write_into_their_input(host: SimpleNamespace, build: Any, photo: Callable[..., Tensor]) -> None:
    class Writes(Base):
        def forward(self, x: Tensor) -> Tensor:
            return torch.sigmoid(self.conv(x.sub_(0.5)))

    image = photo(1, 20, 24)
    x = image.movedim(-1, 1).clone()
    with host.open(build.descriptor(Writes()), image) as opened:
        opened(x)
        opened.vjp(x)
    assert torch.equal(x, image.movedim(-1, 1))


def test_random_models_are_held_still(
    host: SimpleNamespace, build: Any, photo: Callable[..., Tensor], finite_difference_error: Callable[..., float]
) -> None:
    image, model = photo(1, 20, 24), build.descriptor(Draws())
    x, state = image.movedim(-1, 1).clone(), torch.get_rng_state()
    with host.open(model, image) as opened:
        assert any("random" in note for note in opened.notes)
        output, pullback = opened.vjp(x)
        weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
        gradient = pullback(weight)
        assert torch.equal(opened(x), output)
        assert torch.equal(opened.plain(image), opened.plain(image))
        assert finite_difference_error(opened, x, weight, gradient, step=2e-3) < 0.01
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("kind", ["upscaler", "tiled upscaler", "mat"])
def test_random_models_in_batches(
    kind: str,
    host: SimpleNamespace,
    build: Any,
    photo: Callable[..., Tensor],
    hole: Callable[..., Tensor],
    finite_difference_error: Callable[..., float],
) -> None:
    """Nobody's result depends on the neighbours or on how it is computed; 530 px are two tiles of the host's node."""
    size = {"upscaler": (150, 24), "tiled upscaler": (24, 530), "mat": (512, 512)}[kind]
    image, masks = photo(3, *size), hole(3, *size)
    model = Mat().eval() if kind == "mat" else build.descriptor(Draws())
    x = image.movedim(-1, 1).clone()
    with host.open(model, image, masks) as opened:
        state = torch.get_rng_state()
        output, pullback = opened.vjp(x)
        weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
        gradient = pullback(weight)
        assert float((opened.plain(image).movedim(-1, 1) - output).abs().max()) < 1e-5
        error = finite_difference_error(opened, x, weight, gradient, step=2e-3, count=2 if kind == "mat" else 8)
        assert error < 0.01
        opened._backward.step_down()
        opened._forward.step_down()
        assert opened.vjp_cost == 3.0
        assert torch.allclose(opened(x), output, atol=1e-6)
        assert torch.allclose(opened.vjp(x)[1](weight), gradient, atol=1e-5)
        with pytest.raises(host.errors.ProvokeError):  # smaller tiles would be another function
            opened._backward.step_down()
        assert torch.equal(torch.get_rng_state(), state)
        assert not (model if kind == "mat" else model.model)._forward_pre_hooks
    for i in range(3):
        with host.open(model, image[i : i + 1], masks[i : i + 1]) as opened:
            assert torch.allclose(opened(x[i : i + 1]), output[i : i + 1], atol=1e-6)


def test_partly_cut_gradients_are_noted(host: SimpleNamespace, build: Any, photo: Callable[..., Tensor]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)  # of one in sixty draws of weights the detached branch makes too little difference
        model = HalfDetached()
    with host.open(build.descriptor(model), photo(1, 40, 40)) as opened:
        assert len(opened.notes) == 1
        assert "part of the gradient seems to be cut" in opened.notes[0]


@pytest.mark.parametrize("kind", ["compact", "rrdb", "nafnet", "span", "swinir", "drunet", "lama", "vae"])
def test_whole_gradients_are_not(
    kind: str, host: SimpleNamespace, build: Any, photo: Callable[..., Tensor], hole: Callable[..., Tensor]
) -> None:
    with host.open(getattr(build, kind)(), photo(1, 64, 64), hole(1, 64, 64)) as opened:
        assert not any("cut" in note for note in opened.notes)


@pytest.mark.parametrize("name", ["upscaler-x2", "inpainter"])
def test_the_demo_models_are_whole(
    name: str, host: SimpleNamespace, photo: Callable[..., Tensor], hole: Callable[..., Tensor]
) -> None:
    from safetensors.torch import load_file
    from spandrel import ModelLoader

    folder = Path(__file__).parents[2] / "demo" / "weights" / "upscale_models"
    model = ModelLoader(device="cpu").load_from_state_dict(load_file(folder / f"provoke-demo-{name}.safetensors"))
    with host.open(model.eval(), photo(1, 64, 64), hole(1, 64, 64)) as opened:
        assert opened.notes == []


def test_mat(
    host: SimpleNamespace, photo: Callable[..., Tensor], hole: Callable[..., Tensor], finite_difference_error: Any
) -> None:
    image, mask, model = photo(1, 512, 512), hole(1, 512, 512), Mat().eval()
    x = image.movedim(-1, 1).clone()
    with host.open(model, image, mask) as opened:
        output, pullback = opened.vjp(x)
        gradient = pullback(torch.ones_like(output))
        assert float((opened.plain(image) - output.movedim(1, -1)).abs().max()) < 1e-5
        assert finite_difference_error(opened, x, torch.ones_like(output), gradient, step=2e-3, count=2) < 0.01
    assert model.z.dtype == torch.float64
    with pytest.raises(host.errors.ProvokeError, match=r"256x512 px.*512x512 px"):
        host.open(model, photo(1, 512, 256), hole(1, 512, 256)).__enter__()


def nan_image(image: Tensor) -> Tensor:
    image = image.clone()
    image[0, 0, 0, 0] = torch.nan
    return image


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda image: image[0], r"\(20, 24, 3\).*B H W 3"),
        (lambda image: torch.cat([image, image[..., :1]], -1), r"\(2, 20, 24, 4\).*alpha"),
        (lambda image: image[:0], r"\(0, 20, 24, 3\)"),
        (lambda image: "photo", r"str"),
        (nan_image, r"NaN.*VAE in float16"),
    ],
)
def test_images(change: Any, words: str, host: SimpleNamespace, build: Any, photo: Callable[..., Tensor]) -> None:
    with pytest.raises(host.errors.ProvokeError, match=words), host.open(build.compact(), change(photo(2, 20, 24))):
        pass


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda mask: None, r"needs a mask"),
        (lambda mask: mask[:, :-1], r"\(2, 23, 24\).*\(2, 24, 24\)"),
        (lambda mask: mask.expand(2, -1, -1)[:, None, :, None], r"The mask is"),
        (lambda mask: mask.repeat(2, 1, 1)[:3], r"The mask is \(3, 24, 24\)"),
        (lambda mask: 0 * mask, r"empty.*[Pp]aint"),
        (lambda mask: 0 * mask + 1, r"whole picture.*invert"),
    ],
)
def test_masks(
    change: Any,
    words: str,
    host: SimpleNamespace,
    build: Any,
    photo: Callable[..., Tensor],
    hole: Callable[..., Tensor],
) -> None:
    with pytest.raises(host.errors.ProvokeError, match=words):
        host.open(build.lama(), photo(2, 24, 24), change(hole(2, 24, 24))).__enter__()


def test_masks_in_every_shape_they_come_in(
    host: SimpleNamespace, build: Any, photo: Callable[..., Tensor], hole: Callable[..., Tensor]
) -> None:
    image, mask, model = photo(2, 24, 24), hole(1, 24, 24), build.lama()
    x, results = image.movedim(-1, 1).clone(), []
    for shaped in (mask, mask[0], mask[:, None], mask.expand(2, -1, -1), mask * 0.9 + 0.05):
        with host.open(model, image, shaped) as opened:
            results.append(opened(x))
    assert all(torch.equal(result, results[0]) for result in results)
    with host.open(build.compact(), image, mask) as opened:
        assert opened.notes == []  # the caller may still use it as the region where results are compared


def test_objects_from_other_sockets(host: SimpleNamespace, build: Any, photo: Callable[..., Tensor]) -> None:
    image = photo(1, 20, 20)
    script = torch.jit.trace(nn.Conv2d(3, 3, 1), torch.rand(1, 3, 4, 4))
    for model, words in (("a string", r"builtins\.str.*Load Upscale Model"), (script, r"TorchScript")):
        with pytest.raises(host.errors.ProvokeError, match=words):
            host.open(model, image).__enter__()
    grey = build.descriptor(nn.Conv2d(1, 1, 1), input_channels=1, output_channels=1)
    with pytest.raises(host.errors.ProvokeError, match=r"takes 1 and gives 1 colour channels.*RGB"):
        host.open(grey, image).__enter__()


def test_one_output_channel_is_shown_in_three(host: SimpleNamespace, build: Any, photo: Callable[..., Tensor]) -> None:
    """tiled_scale_multidim writes it into all three, so the host's node gives a grey picture; so do we."""
    model, image = (
        build.descriptor(nn.Sequential(nn.Conv2d(3, 1, 3, padding=1), nn.Sigmoid()), output_channels=1),
        photo(1, 20, 20),
    )
    with host.open(model, image) as opened:
        output = opened(image.movedim(-1, 1))
        assert output.shape == (1, 3, 20, 20)
        assert float((opened.plain(image) - output.movedim(1, -1)).abs().max()) < 1e-5


def test_other_vaes(host: SimpleNamespace, build: Any, photo: Callable[..., Tensor]) -> None:
    vae = build.vae()
    with pytest.raises(host.errors.ProvokeError, match=r"7x20 px.*8x8"):
        host.open(vae, photo(1, 20, 7)).__enter__()
    vae.latent_dim = 3
    with pytest.raises(host.errors.ProvokeError, match=r"video or sound.*picture"):
        host.open(vae, photo(1, 16, 16)).__enter__()


def test_variables_of_another_shape(host: SimpleNamespace, build: Any, photo: Callable[..., Tensor], hole: Any) -> None:
    with host.open(build.lama(), photo(2, 24, 24), hole(2, 24, 24)) as opened:
        for x in (torch.rand(2, 3, 24, 20), torch.rand(2, 24, 24, 3), torch.rand(3, 3, 24, 24)):
            with pytest.raises(host.errors.ProvokeError):
                opened(x)
