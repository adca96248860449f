"""Memory: measured, asked for, and what happens when it runs out; and what the cost attributes say, counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

pytestmark = pytest.mark.usefixtures("executor")
CLIP = Path(__file__).resolve().parents[2] / "demo" / "weights" / "provoke_clip" / "second"


class Greedy(nn.Module):
    """Fails as a full GPU does, where told to: in the forward with a graph, in the backward, or without a graph."""

    forward_limit = backward_limit = plain_limit = 10**9  # pixels, those of the graphs that are still alive included
    alive = 0

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), nn.Conv2d(8, 3, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.shape[-1] * x.shape[-2]
        if pixels + Greedy.alive > Greedy.forward_limit if x.requires_grad else pixels > Greedy.plain_limit:
            raise torch.OutOfMemoryError("too large")
        return 0.5 + 0.2 * Full.apply(self.net(x))


class Graph:
    """Counted for as long as a graph holds it."""

    def __init__(self, pixels: int) -> None:
        self.pixels = pixels
        Greedy.alive += pixels

    def __del__(self) -> None:
        Greedy.alive -= self.pixels


class Full(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.graph = Graph(x.shape[-1] * x.shape[-2])
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        if Greedy.alive > Greedy.backward_limit:
            raise torch.OutOfMemoryError("too large")
        return gradient


@pytest.mark.parametrize(
    ("limits", "note", "cost"),
    [
        ({}, None, 2.0),
        ({"forward_limit": 150 * 140}, "gradient with one image at a time", 3.0),
        ({"backward_limit": 150 * 140}, "gradient with one image at a time", 3.0),
        ({"forward_limit": 128 * 128}, "gradient with 128 px tiles", None),
        ({"backward_limit": 128 * 128}, "gradient with 128 px tiles", None),
        ({"plain_limit": 128 * 128}, "picture with 128 px tiles", None),
        ({"forward_limit": 1}, None, None),
    ],
)
def test_out_of_memory_steps_down(
    limits: dict[str, int],
    note: str | None,
    cost: float | None,
    host: SimpleNamespace,
    build: Any,
    photo: Callable[..., Tensor],
    monkeypatch: Any,
) -> None:
    image, model = photo(2, 150, 140), build.descriptor(Greedy())
    x = image.movedim(-1, 1).clone()
    with host.open(model, image) as opened:
        output, pullback = opened.vjp(x)
        weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
        expected = pullback(weight)
    with host.open(model, image) as opened:
        for name, limit in limits.items():
            monkeypatch.setattr(Greedy, name, limit)
        if limits.get("forward_limit") == 1:
            with pytest.raises(host.errors.ProvokeError, match="128 px tiles"):
                opened.vjp(x)[1](weight)
            return
        output, pullback = opened.vjp(x)
        gradient = pullback(weight)
        assert float((gradient - expected).abs().max() / expected.abs().max()) < 1e-4
        assert torch.allclose(opened.vjp(x)[1](weight), gradient)
        assert float((opened(x) - output).abs().max()) < 1e-5
        assert Greedy.alive == 0  # no graph is left
        assert opened.notes == ([] if note is None else [n for n in opened.notes if n.startswith("out of memory")])
        if note is not None:
            assert note in opened.notes[-1]
        if cost is not None:
            assert opened.vjp_cost == cost


def test_short_memory_is_seen_before_it_fails(
    host: SimpleNamespace, build: Any, photo: Callable[..., Tensor], monkeypatch: Any
) -> None:
    import comfy.model_management as mm

    image, model = photo(2, 150, 140), build.compact()
    with host.open(model, image) as opened:
        one = opened._finding.bytes_per_pixel * 150 * 140
    for free, tile, single in ((3 * one, None, False), (1.5 * one, None, True), (0.5 * one, 128, True)):
        monkeypatch.setattr(
            mm,
            "get_free_memory",
            lambda *a, free=free, torch_free_too=False, **k: (free, free) if torch_free_too else free,
        )
        with host.open(model, image) as opened:
            assert (opened._backward.rung.tile, opened._backward.rung.single) == (tile, single)
            assert opened.notes == (
                []
                if not single
                else [
                    f"memory is short: gradient with {opened._backward.rung.words}"
                    + (" (approximate for models that look further than the tiles' overlap)" if tile else "")
                ]
            )


def test_the_host_is_asked_before_any_graph_lives(
    host: SimpleNamespace, build: Any, photo: Callable[..., Tensor], monkeypatch: Any
) -> None:
    import comfy.model_management as mm

    image, vae = photo(2, 64, 64), build.vae()
    asked: list[tuple[int, float]] = []
    full: set[bool] = set()
    load = mm.load_models_gpu
    monkeypatch.setattr(
        mm,
        "load_models_gpu",
        lambda m, memory_required=0, force_full_load=False, **k: (
            asked.append((len(m), memory_required)),
            full.add(force_full_load),
            load(m, force_full_load=force_full_load, **k),
        ),
    )
    with host.open(vae, image, samples=3) as opened:
        needed = opened._finding.bytes_per_pixel * image[..., 0].numel()
        count = len(asked)
        for _ in range(2):
            output, pullback = opened.vjp(image.movedim(-1, 1))
            pullback(torch.ones_like(output))
        assert len(asked) == count  # none inside the loop
    assert asked[-1] == (1, pytest.approx(needed * 3 * host.memory.MARGIN))
    assert full == {True}  # a model in parts cannot be saved for backward


def test_room_is_asked_for_the_judges_too(
    host: SimpleNamespace, build: Any, photo: Callable[..., Tensor], monkeypatch: Any
) -> None:
    """While the model's graph waits, the judge's is made: for every picture of the search, one copy of each."""
    import comfy.model_management as mm

    from provoke.host import judges
    from provoke.scorers.load import load_scorer

    image, vae = photo(2, 64, 64), build.vae()
    held = judges.manage(load_scorer(CLIP))
    look = judges.room([held], 1)
    assert look > 100_000
    # counted each time: small tensors of the moment, by 0.1 %, may be among what is alive at once, or not
    assert judges.room([held], 6) == pytest.approx(6 * look, rel=0.01)
    asked: list[float] = []
    load = mm.load_models_gpu

    def heard(models: Any, memory_required: float = 0, **more: Any) -> None:
        asked.append(memory_required)
        load(models, **more)

    monkeypatch.setattr(mm, "load_models_gpu", heard)
    needed = []
    for also in ((), (held,)):
        with host.open(vae, image, samples=3, also=also):
            needed.append(asked[-1])
    assert needed[1] - needed[0] == pytest.approx(6 * look * host.memory.MARGIN, rel=0.01)


def test_bytes_kept_are_counted_once(host: SimpleNamespace) -> None:
    with torch.inference_mode(False):
        net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Sigmoid(), nn.Conv2d(8, 3, 1)).requires_grad_(False)
        x = torch.rand(1, 3, 32, 32)
        kept = host.memory.bytes_kept(lambda leaf: net(leaf).square(), x, net)
    assert (
        kept == (8 + 3) * 32 * 32 * 4
    )  # the sigmoid's output (saved by two) and what is squared; no weights, no input


def test_the_most_that_is_kept_at_one_time(host: SimpleNamespace) -> None:
    """Two halves one after the other are one half; what a checkpoint computes again in its backward counts."""
    from provoke.host.checkpoint import checkpoint

    with torch.inference_mode(False):
        net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Sigmoid(), nn.Conv2d(8, 3, 1)).requires_grad_(False)
        x = torch.rand(1, 3, 32, 32)
        whole = host.memory.most_kept(lambda leaf: net(leaf).square(), x, net)
        assert whole == host.memory.bytes_kept(lambda leaf: net(leaf).square(), x, net) == (8 + 3) * 32 * 32 * 4

        def again(leaf: Tensor) -> Tensor:
            (out,) = checkpoint(lambda part: (net(part).square(),), leaf, around=lambda piece: piece())
            return out

        # beside them the copy that the piece is given
        assert host.memory.bytes_kept(again, x, net) < whole <= host.memory.most_kept(again, x, net) <= 1.3 * whole

        def halves(leaf: Tensor) -> Tensor:
            def pulled(part: Tensor) -> Tensor:
                other = part.detach().requires_grad_(True)
                return torch.autograd.grad(net(other).square().sum(), other)[0]

            return leaf * torch.cat([pulled(part) for part in leaf.chunk(2, dim=2)], 2)

        assert host.memory.most_kept(halves, x, net) < 0.8 * whole


def test_costs_are_what_is_counted(host: SimpleNamespace, build: Any, photo: Callable[..., Tensor]) -> None:
    image = photo(2, 150, 290)
    x = image.movedim(-1, 1).clone()
    with host.open(build.compact(), image) as opened:
        with FlopCounterMode(display=False) as once:
            opened(x)
        for _ in range(4):  # whole, one image at a time, 256 px, 128 px
            with FlopCounterMode(display=False) as counted:
                output, pullback = opened.vjp(x)
                pullback(torch.ones_like(output))
            ratio = counted.get_total_flops() / once.get_total_flops()
            assert opened.vjp_cost == pytest.approx(ratio, rel=0.01)
            if opened._backward.rung.tile != 128:
                opened._backward.step_down()
        assert opened.vjp_cost > 3.5
        opened._forward.step_down()
        opened._forward.step_down()
        with FlopCounterMode(display=False) as counted:
            opened(x)
        assert opened.forward_cost == pytest.approx(counted.get_total_flops() / once.get_total_flops(), rel=0.01)
        assert opened.forward_cost > 1.2


def test_what_dynamic_memory_can_evict_is_free(host: SimpleNamespace) -> None:
    class Patcher:
        load_device = torch.device("cpu")

        def get_free_memory(self, device: torch.device) -> int:
            return 7

    assert host.memory.Managed(Patcher()).free() == 7
    assert host.memory.Managed(SimpleNamespace(load_device=torch.device("cpu"))).free() > 7
    assert host.memory.Unmanaged(nn.Conv2d(3, 3, 1)).free() > 7


def test_a_vae_under_dynamic_memory_is_replaced(host: SimpleNamespace) -> None:
    """A backward must not find its weights evicted."""
    other = object()

    class Dynamic:
        cached_patcher_init: object = ("loader", ())

        def is_dynamic(self) -> bool:
            return True

        def get_non_dynamic_delegate(self) -> object:
            return other

    assert host.memory.without_dynamic_memory(Dynamic(), "VAE") is other
    plain = SimpleNamespace(is_dynamic=lambda: False)
    assert host.memory.without_dynamic_memory(plain, "VAE") is plain
    Dynamic.cached_patcher_init = None
    with pytest.raises(host.errors.ProvokeError, match="dynamic VRAM"):
        host.memory.without_dynamic_memory(Dynamic(), "VAE")


def test_out_of_memory_on_the_cpu_is_recognised(host: SimpleNamespace) -> None:
    words = "[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: not enough memory: you tried to allocate"
    assert host.memory.is_out_of_memory(RuntimeError(words))
    assert not host.memory.is_out_of_memory(RuntimeError("shapes"))


def test_padding_counts(host: SimpleNamespace, build: Any, photo: Callable[..., Tensor]) -> None:
    """A model that pads everything to its minimum: as many bytes as without it, and no smaller tiles."""
    from spandrel import ModelTiling, SizeRequirements

    image = photo(1, 300, 20)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Sigmoid(), nn.Conv2d(8, 3, 1), nn.Sigmoid())
    with host.open(build.descriptor(net), image) as opened:
        per_pixel = opened._finding.bytes_per_pixel
        assert [rung.tile for rung in opened._backward._rungs] == [None, None, 256, 128]
    padding = build.descriptor(net, size_requirements=SizeRequirements(minimum=256, multiple_of=16))
    with host.open(padding, image) as opened:
        assert opened._finding.bytes_per_pixel == pytest.approx(per_pixel, rel=0.05)
        whole = host.memory.RUNGS[0]
        assert opened._needed(whole, 1) == pytest.approx(per_pixel * 304 * 256, rel=0.05)
        assert [rung.tile for rung in opened._backward._rungs] == [None, None, 256]
    with host.open(build.descriptor(net, tiling=ModelTiling.INTERNAL), image) as opened:
        assert [rung.tile for rung in opened._backward._rungs] == [None, None]
