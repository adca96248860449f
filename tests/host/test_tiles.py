"""Tile plans: the host's own to the letter, the halo's exact where it may be, and their adjoints."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytestmark = pytest.mark.usefixtures("executor")


def nothing() -> None:
    pass


@pytest.mark.parametrize("scale", [1, 2, 4])
@pytest.mark.parametrize("size", [(65, 64), (70, 200), (64, 121), (127, 90), (30, 177)])
def test_the_hosts_plan_to_the_letter(size: tuple[int, int], scale: int, host: SimpleNamespace) -> None:
    """With a function that looks at the whole tile: every position, ramp and edge shows."""
    import comfy.utils

    def function(x: Tensor, mask: Tensor | None = None) -> Tensor:
        return nn.functional.interpolate(x, scale_factor=scale) * x.mean() + torch.linspace(0, 1, x.shape[-1] * scale)

    x = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    expected = comfy.utils.tiled_scale(x, function, 64, 64, overlap=8, upscale_amount=scale)
    tiles = host.tiles
    axes = [tiles.host_axis(length, scale, 64, 8) for length in size]
    plan = tiles.Plan(axes[0], axes[1], *size, scale)
    ours = torch.cat([tiles.blend(plan, function, one, None, nothing) for one in x.split(1)])
    assert float((ours - expected).abs().max()) < 1e-5


@pytest.mark.parametrize("length", [1, 31, 128, 129, 200, 511, 512, 513, 993, 1400])
@pytest.mark.parametrize("scale", [1, 3])
def test_weights_sum_to_one(length: int, scale: int, host: SimpleNamespace) -> None:
    tiles = host.tiles
    outer = tiles.host_axis(length, scale)
    for axis in (outer, tiles.halo_axis(length, scale, 128), tiles.nested_axis(outer, scale, 256)):
        total = torch.zeros(length * scale)
        for span in axis:
            assert 0 <= span.start < span.stop <= length
            total[span.target] += span.weight
        assert torch.allclose(total, torch.ones_like(total), atol=1e-6)


def test_adjoint_is_the_transpose(host: SimpleNamespace) -> None:
    tiles, rng = host.tiles, torch.Generator().manual_seed(0)
    with torch.inference_mode(False):
        net = nn.Conv2d(3, 3, 5, padding=2).double().requires_grad_(False)
        x = torch.rand(1, 3, 90, 130, generator=rng, dtype=torch.float64)
        plan = tiles.Plan(tiles.host_axis(90, 1, 64, 8), tiles.halo_axis(130, 1, 48, 8), 90, 130, 1)
        leaf = x.clone().requires_grad_()
        out = tiles.blend(plan, lambda t, m: net(t), leaf, None, nothing)
        direction = torch.rand(out.shape, generator=rng, dtype=torch.float64)
        (whole,) = torch.autograd.grad(out, leaf, direction)

        def tile_vjp(t: Tensor, m: Tensor | None, cotangent_of: Callable[[Tensor], Tensor]) -> Tensor:
            t = t.detach().requires_grad_()
            y = net(t)
            return torch.autograd.grad(y, t, cotangent_of(y))[0]

        ours = tiles.adjoint(plan, tile_vjp, x, None, direction, nothing)
    assert torch.allclose(ours, whole, atol=1e-12)


@pytest.mark.parametrize(("kind", "size"), [("compact", (300, 200)), ("rrdb", (20, 132)), ("compact", (530, 100))])
def test_small_tiles_give_the_untiled_gradient(
    kind: str, size: tuple[int, int], host: SimpleNamespace, build: Any, photo: Callable[..., Tensor]
) -> None:
    """In float64: in float32 a rounding error may put an activation on the other side of its kink."""
    image, model = photo(1, *size).double(), getattr(build, kind)()
    model.model.double()
    x = image.movedim(-1, 1).clone()
    with host.open(model, image) as opened:
        output, pullback = opened.vjp(x)
        weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
        whole = pullback(weight)
        assert opened.vjp_cost == 2.0
        tried = []
        while opened._backward.rung.tile != 128:
            opened._backward.step_down()
            tiled_output, pullback = opened.vjp(x)
            gradient = pullback(weight)
            assert torch.equal(tiled_output, opened(x))
            assert float((gradient - whole).abs().max() / whole.abs().max()) < 1e-4
            tried.append(opened._backward.rung.tile)
        assert tried == [None, *(tile for tile in (512, 256, 128) if tile < max(size))]
        while opened._forward.rung != opened._backward.rung:
            opened._forward.step_down()
        assert float((opened(x) - output).abs().max()) < 1e-4


def test_masks_are_cut_along(
    host: SimpleNamespace, build: Any, photo: Callable[..., Tensor], hole: Callable[..., Tensor]
) -> None:
    """A fill without memory beyond its pixel: tiles are exact, if each has its own part of the mask. (Masked models get
    none: real ones look at all that surrounds the hole.)"""

    class Fill(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(0.7))

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return x * (1 - mask) + mask * self.weight * (1 - x.flip(1)) ** 2

    image, mask = photo(2, 150, 140), hole(2, 150, 140)
    x = image.movedim(-1, 1).repeat_interleave(2, 0)
    with host.open(build.descriptor(Fill(), masked=True), image, mask) as opened:
        output, pullback = opened.vjp(x)
        whole = pullback(torch.ones_like(output))
        opened._backward.step_down()
        with pytest.raises(host.errors.ProvokeError, match="one image at a time"):
            opened._backward.step_down()
        assert torch.allclose(opened.vjp(x)[1](torch.ones_like(output)), whole, atol=1e-6)
        kind, holes = opened._kind, opened._holes(len(x))
        plan = host.tiles.smaller_plan(opened._base, 128)
        assert len(plan) == 9
        assert torch.allclose(host.tiles.blend(plan, kind.run, x, holes, nothing), output, atol=1e-6)
