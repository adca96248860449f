"""Gradients through real models: against finite differences, and the function against the host's own node."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

pytestmark = pytest.mark.usefixtures("executor")

UPSCALERS = ("compact", "rrdb", "nafnet", "span", "swinir", "drunet")
MASKED = ("lama",)


def weights_like(image: Tensor, seed: int = 5) -> Tensor:
    return torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", [*UPSCALERS, *MASKED, "vae"])
def test_gradient_matches_finite_differences(
    kind: str,
    host: SimpleNamespace,
    build: Any,
    photo: Callable[..., Tensor],
    hole: Callable[..., Tensor],
    finite_difference_error: Callable[..., float],
) -> None:
    """In float64: small steps, so that the activations' kinks do not blur it. (The VAE passes through float32.)"""
    size = (2, 36, 44) if kind == "vae" else (2, 23, 19)
    image, arrived, precise = photo(*size), getattr(build, kind)(), kind != "vae"
    if precise:
        arrived.model.double()
        image = image.double()
    with host.open(arrived, image, hole(*size) if kind in MASKED else None) as model:
        x = image.movedim(-1, 1).clone()
        output, pullback = model.vjp(x)
        weight = weights_like(output)
        gradient = pullback(weight)
        assert gradient.dtype == x.dtype
        assert not gradient.requires_grad
        assert not output.requires_grad
        assert torch.allclose(output, model(x), atol=1e-6)
        error = finite_difference_error(model, x, weight, gradient, step=1e-6 if precise else 2e-3)
    assert error < (0.001 if precise else 0.01)


@pytest.mark.parametrize("kind", UPSCALERS)
@pytest.mark.parametrize("size", [(2, 40, 33), (1, 17, 5)])
def test_upscaler_is_the_hosts_node(
    kind: str, size: tuple[int, int, int], host: SimpleNamespace, build: Any, photo: Callable[..., Tensor]
) -> None:
    from comfy_extras.nodes_upscale_model import ImageUpscaleWithModel

    image, model = photo(*size), getattr(build, kind)()
    node = ImageUpscaleWithModel.execute(model, image).args[0]
    with host.open(model, image) as opened:
        ours, plain = opened(image.movedim(-1, 1)), opened.plain(image)
    assert torch.equal(plain, node)
    assert torch.equal(ImageUpscaleWithModel.execute(model, image).args[0], node)
    assert float((ours.movedim(1, -1) - node).abs().max()) < 1e-5


@pytest.mark.parametrize("size", [(1, 540, 520), (1, 40, 600)])
def test_large_pictures_are_tiled_as_the_hosts_node_does(
    size: tuple[int, int, int], host: SimpleNamespace, build: Any, photo: Callable[..., Tensor]
) -> None:
    """A model that sees the whole tile (NAFNet's channel attention): any other plan would give another picture."""
    from comfy_extras.nodes_upscale_model import ImageUpscaleWithModel

    image, model = photo(*size), build.nafnet()
    node = ImageUpscaleWithModel.execute(model, image).args[0]
    with host.open(model, image) as opened:
        ours, plain = opened(image.movedim(-1, 1)), opened.plain(image)
    assert torch.equal(plain, node)
    assert float((ours.movedim(1, -1) - node).abs().max()) < 1e-5


def test_masked_model_is_its_own_call(
    host: SimpleNamespace, build: Any, photo: Callable[..., Tensor], hole: Callable[..., Tensor]
) -> None:
    image, mask, model = photo(2, 37, 45), hole(2, 37, 45), build.lama()
    own = torch.cat([model(i[None].movedim(-1, 1), m[None, None]) for i, m in zip(image, mask, strict=True)])
    with host.open(model, image, mask) as opened:
        ours, plain = opened(image.movedim(-1, 1)), opened.plain(image)
        twice = opened(image.movedim(-1, 1).repeat_interleave(3, 0))
    assert torch.equal(plain, own.movedim(1, -1))
    assert float((ours - own).abs().max()) < 1e-5
    assert float((twice.unflatten(0, (2, 3)) - own[:, None]).abs().max()) < 1e-5  # image-major, each with its own mask
    outside = mask[:, None].expand_as(ours) == 0
    assert torch.equal(ours[outside], image.movedim(-1, 1)[outside])


@pytest.mark.parametrize("size", [(2, 32, 40), (1, 37, 45)])
def test_vae_is_the_hosts_round_trip(
    size: tuple[int, int, int], host: SimpleNamespace, build: Any, photo: Callable[..., Tensor]
) -> None:
    image, vae = photo(*size), build.vae()
    own = vae.decode(vae.encode(image))
    with host.open(vae, image) as opened:
        ours, plain = opened(image.movedim(-1, 1)), opened.plain(image)
        _, pullback = opened.vjp(image.movedim(-1, 1))
        gradient = pullback(torch.ones_like(ours))
    assert torch.equal(plain, own)
    assert torch.equal(vae.decode(vae.encode(image)), own)
    assert float((ours.movedim(1, -1) - own).abs().max()) < 1e-5
    assert gradient.shape == (size[0], 3, *size[1:])
    if size[1] == 37:  # cropped to 32 x 40 around the middle
        assert not gradient[..., :2, :].any()
        assert not gradient[..., 34:, :].any()
        assert gradient[..., 2:34, 2:42].any()


def test_saturated_pixels_have_no_gradient(host: SimpleNamespace, build: Any, photo: Callable[..., Tensor]) -> None:
    """The clamp is the host's own: what it cuts off cannot be felt."""
    image, model = photo(1, 24, 24), build.compact()
    with host.open(model, image) as opened:
        x = 6 * image.movedim(-1, 1) - 2.5
        output, pullback = opened.vjp(x)
        cut = (output == 0) | (output == 1)
        assert 0.1 < float(cut.float().mean()) < 1
        assert not pullback(cut.float()).any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["compact", "vae"])
def test_half_precision(
    kind: str, dtype: torch.dtype, host: SimpleNamespace, build: Any, photo: Callable[..., Tensor]
) -> None:
    image = photo(1, 32, 32)
    x = image.movedim(-1, 1).clone()
    model = build.vae(dtype) if kind == "vae" else build.compact()
    if kind != "vae":
        model.model.to(dtype)
    with host.open(build.vae() if kind == "vae" else build.compact(), image) as opened:
        output, pullback = opened.vjp(x)
        weight = weights_like(output)
        full = pullback(weight)
    with host.open(model, image) as opened:
        for size in (1.0, 1e-9, 1e9):  # without scaling, float16 would give zeros or infinities
            output, pullback = opened.vjp(x)
            gradient = pullback(weight * size) / size
            assert output.dtype == gradient.dtype == torch.float32
            cosine = torch.nn.functional.cosine_similarity(gradient.flatten(), full.flatten(), dim=0)
            assert float(cosine) > (0.995 if dtype == torch.float16 else 0.95)
        assert float((opened.plain(image).movedim(-1, 1).float() - output).abs().max()) < 2e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_one_image_does_not_see_its_neighbours(
    dtype: torch.dtype, host: SimpleNamespace, build: Any, photo: Callable[..., Tensor]
) -> None:
    image, model = photo(2, 24, 20), build.compact()
    model.model.to(dtype)
    x = image.movedim(-1, 1).clone()
    with host.open(model, image) as opened:
        output, pullback = opened.vjp(x)
        weight = weights_like(output)
        weight[1] *= 1e-6
        both = pullback(weight)
    with host.open(model, image[1:]) as opened:
        _, pullback = opened.vjp(x[1:])
        alone = pullback(weight[1:])
    assert torch.allclose(both[1:], alone, rtol=1e-3, atol=1e-12)
