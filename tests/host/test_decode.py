"""Decoding as a differentiable function: the host's pixels, their gradient, and all ways to it in less memory."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytestmark = pytest.mark.usefixtures("executor")

KINDS = ("kl", "taesd", "wan")
PARITY, BAR, SAME = 1e-4, 0.01, 1e-4
INSIDE = "checkpoints inside the decoder"
FRAMES = "one frame's graph at a time"


@pytest.fixture(scope="module")
def vaes(comfy: Any) -> dict[str, Any]:
    from provoke.tools import tiny

    return {"kl": tiny.vae(), "taesd": tiny.taesd(), "wan": tiny.video_vae()}


def latent_for(kind: str, batch: int = 1, height: int = 4, width: int = 3, frames: int = 4) -> Tensor:
    """In normal mode, of a size that VAEs see."""
    shape = (batch, 16, frames, height, width) if kind == "wan" else (batch, 4, height, width)
    with torch.inference_mode(False):
        return torch.randn(shape, generator=torch.Generator().manual_seed(3))


@contextmanager
def opened(host: SimpleNamespace, vae: Any, half: bool = False) -> Iterator[Any]:
    import comfy.model_management as mm

    from provoke.host.decode import Decoder

    notes: list[str] = []
    decoder = Decoder(vae, notes)
    mm.load_models_gpu([decoder.patcher], force_full_load=True)
    with host.gradients.gradient_session(decoder.module):
        yield decoder


def weight_for(pictures: Tensor) -> Tensor:
    return torch.randn(pictures.shape, generator=torch.Generator().manual_seed(5))


def gradient(decoder: Any, latent: Tensor) -> Tensor:
    leaf = latent.clone().requires_grad_(True)
    pictures = decoder(leaf)
    return torch.autograd.grad(pictures, leaf, weight_for(pictures))[0]


def apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


def stand_on(decoder: Any, latent: Tensor, words: str) -> None:
    """As if memory had run out until there."""
    ladder = decoder._way(latent)._gradient
    while ladder.rung.words != words:
        ladder.step_down()


@pytest.fixture
def full(monkeypatch: Any) -> Callable[[nn.Module, str, int], None]:
    """full(module, method, n): the first n calls with a graph run out of memory."""

    def make(module: nn.Module, name: str, count: int, graph: bool = True) -> None:
        function = getattr(module, name)
        left = [count]

        def fails(*args: Any, **kwargs: Any) -> Any:
            if torch.is_grad_enabled() is graph and left[0] > 0:
                left[0] -= 1
                raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes")
            return function(*args, **kwargs)

        monkeypatch.setattr(module, name, fails, raising=True)

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_the_hosts(kind: str, host: SimpleNamespace, vaes: dict[str, Any]) -> None:
    latent = latent_for(kind, batch=2)
    vae = vaes[kind]
    expected = vae.decode(latent)
    expected = expected.reshape(-1, *expected.shape[-3:]).movedim(-1, 1)
    with opened(host, vae) as decoder:
        pictures = decoder(latent)
        assert pictures.dtype == torch.float32
        assert not pictures.is_inference()
        assert pictures.shape == expected.shape
        assert float((pictures - expected).abs().max()) < PARITY
        assert decoder.notes == []
        with torch.inference_mode():
            assert torch.equal(decoder(latent.clone()), pictures)
            assert torch.equal(decoder.plain(latent).movedim(-1, 1), expected)
    assert float(expected.std()) > 0.02  # not a grey picture


@pytest.mark.parametrize("kind", KINDS)
def test_gradients(
    kind: str, host: SimpleNamespace, vaes: dict[str, Any], finite_difference_error: Callable[..., float]
) -> None:
    import comfy.sd

    latent, vae, step = latent_for(kind, batch=2, frames=3), vaes[kind], 1e-3
    if kind == "taesd":  # piecewise linear: the step must be smaller than what lies between two kinks
        vae, step = comfy.sd.VAE(sd=vae.first_stage_model.state_dict(), dtype=torch.float64), 1e-6
        vae.first_stage_model.requires_grad_(False)
    with opened(host, vae) as decoder:
        found = gradient(decoder, latent)
        weight = weight_for(decoder(latent))
        error = finite_difference_error(lambda z: decoder(z), latent.to(vae.vae_dtype), weight, found, step)
        assert error < BAR, error
        assert bool(found.flatten(2).norm(dim=2).all())  # every channel of both


@pytest.mark.parametrize(("kind", "words"), [("kl", INSIDE), ("taesd", INSIDE), ("wan", FRAMES)])
@pytest.mark.parametrize("how", ["asked", "failed"])
def test_finer_checkpoints(
    kind: str, words: str, how: str, host: SimpleNamespace, vaes: dict[str, Any], full: Any
) -> None:
    """The same gradient, exactly, and less is kept for it."""
    latent = latent_for(kind, batch=2, frames=5)
    with opened(host, vaes[kind]) as decoder:
        expected = gradient(decoder, latent)
        way = decoder._way(latent)
        if how == "asked":
            stand_on(decoder, latent, words)
        else:
            full(decoder.module, "decode", 1)
        found = gradient(decoder, latent)
        assert apart(found, expected) < SAME
        assert decoder.notes == [f"out of memory: gradient with {words}"]
        keeps = {rung.words: way._needed(rung) for rung in way._functions}
        # all but one block of TAESD's are small
        assert keeps[words] < (0.9 if kind == "taesd" else 0.6) * keeps["the whole decode in one graph"], keeps
    assert not [m for m in decoder.module.modules() if "forward" in vars(m)]


@pytest.mark.parametrize("frames", [1, 2, 3, 4])
def test_frames_are_cut_where_the_host_cuts_them(frames: int, host: SimpleNamespace, comfy: Any) -> None:
    """Wan 2.1 in pairs, of which the last may be single; Wan 2.2 one by one."""
    import comfy.ldm.wan.vae
    import comfy.ldm.wan.vae2_2

    from provoke.host.frames import decode_by_frames, is_by_frames
    from provoke.tools.tiny_weights import fill

    older = comfy.ldm.wan.vae.WanVAE(8, 16, [1, 2, 4, 4], 1, [], [False, True, True])
    newer = comfy.ldm.wan.vae2_2.WanVAE(8, 8, 16, [1, 2, 4, 4], 1, [], [False, True, True])
    latent = latent_for("wan", height=2, width=2, frames=frames)
    for module in (older, newer):
        fill(module, seed=0)
        assert is_by_frames(module)
        with host.gradients.gradient_session(module):
            found = []
            for decode in (module.decode, lambda z, m=module: decode_by_frames(m, z, host.inplace.Guard().run, False)):
                leaf = latent.clone().requires_grad_(True)
                pixels = decode(leaf)
                found.append((pixels.detach(), torch.autograd.grad(pixels, leaf, weight_for(pixels))[0]))
            assert torch.equal(found[1][0], found[0][0])
            assert apart(found[1][1], found[0][1]) < 1e-5


def test_memory_is_seen_before_it_fails(host: SimpleNamespace, vaes: dict[str, Any], monkeypatch: Any) -> None:
    latent = latent_for("kl", height=40, width=40)
    with opened(host, vaes["kl"]) as decoder:
        way = decoder._way(latent)
        asked = []
        for rung in way._gradient._rungs:
            monkeypatch.setattr(decoder._residence, "free", lambda rung=rung: 1.3 * way._needed(rung))
            gradient(decoder, latent)
            asked.append(way._gradient.rung.words)
        assert asked == ["the whole decode in one graph", INSIDE, "256 px tiles", "128 px tiles"]
        assert len(decoder.notes) == 3
        assert all("memory is short" in note for note in decoder.notes)


@pytest.mark.parametrize(("kind", "bar"), [("taesd", 0.9), ("kl", 0.8), ("wan", 0.75)])
def test_tiles(kind: str, bar: float, host: SimpleNamespace, vaes: dict[str, Any]) -> None:
    """The smallest: random weights look far, and KL normalises over the whole picture."""
    latent = latent_for(kind, height=24, width=4 if kind == "wan" else 20, frames=2)
    with opened(host, vaes[kind]) as decoder:
        expected = gradient(decoder, latent)
        stand_on(decoder, latent, "128 px tiles")
        found = gradient(decoder, latent)
        cosine = float(nn.functional.cosine_similarity(found.flatten(), expected.flatten(), dim=0))
        assert cosine > bar, cosine
        assert "approximate" in decoder.notes[-1]


def test_a_halo_as_wide_as_the_model_looks_is_exact(
    host: SimpleNamespace, vaes: dict[str, Any], monkeypatch: Any
) -> None:
    """TAESD looks 19 latent pixels far."""
    from provoke.host import decode

    monkeypatch.setattr(decode, "TILES", (host.memory.Rung("480 px tiles", tile=480),))
    monkeypatch.setattr(decode, "HALO", 3)
    latent = latent_for("taesd", height=62)
    with opened(host, vaes["taesd"]) as decoder:
        expected = gradient(decoder, latent)
        stand_on(decoder, latent, "480 px tiles")
        assert apart(gradient(decoder, latent), expected) < SAME


def test_the_value_in_tiles(host: SimpleNamespace, vaes: dict[str, Any], full: Any) -> None:
    latent = latent_for("taesd", height=24, width=20)
    with opened(host, vaes["taesd"]) as decoder:
        expected = decoder(latent)
        full(decoder.module, "decode", 1, graph=False)
        pictures = decoder(latent)
        assert float((pictures - expected).abs().max()) < 0.05
        assert len(decoder.notes) == 1
        assert decoder.notes[0].startswith("out of memory: picture with 128 px tiles (approximate")


def test_out_of_memory_to_the_end(host: SimpleNamespace, vaes: dict[str, Any], full: Any) -> None:
    latent = latent_for("kl")
    with opened(host, vaes["kl"]) as decoder:
        decoder(latent)
        full(decoder.module, "decode", 99)
        with pytest.raises(host.errors.ProvokeError, match="Out of memory: the gradient"):
            gradient(decoder, latent)


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_latent_is_kept(kind: str, host: SimpleNamespace, vaes: dict[str, Any]) -> None:
    latent = latent_for(kind)
    kept: list[Tensor] = []
    with opened(host, vaes[kind]) as decoder:
        decoder(latent)
        leaf = latent.clone().requires_grad_(True)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t):
            pictures = decoder(leaf)
        assert sum(t.nbytes for t in kept) == latent.nbytes
        gc.collect()
        before = {id(t) for t in gc.get_objects() if issubclass(type(t), Tensor)}
        torch.autograd.grad(pictures, leaf, weight_for(pictures))
        del pictures
        gc.collect()
        left = [t for t in gc.get_objects() if issubclass(type(t), Tensor) and id(t) not in before]
        assert not left


@pytest.mark.parametrize("kind", KINDS)
def test_afterwards_everything_is_as_before(kind: str, host: SimpleNamespace, vaes: dict[str, Any]) -> None:
    vae, latent = vaes[kind], latent_for(kind, height=24, frames=2)
    module = vae.first_stage_model
    weights = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    attributes = [set(vars(m)) for m in module.modules()], set(vars(vae))
    picture = vae.decode(latent)
    with opened(host, vae) as decoder:
        for words in [rung.words for rung in decoder._way(latent)._gradient._rungs]:
            stand_on(decoder, latent, words)
            gradient(decoder, latent)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in module.state_dict().items())
    assert ([set(vars(m)) for m in module.modules()], set(vars(vae))) == attributes
    assert not any(p.requires_grad for p in module.parameters())
    assert torch.equal(vae.decode(latent), picture)


@pytest.mark.parametrize(("kind", "words"), [("kl", INSIDE), ("wan", FRAMES), ("taesd", "128 px tiles")])
def test_cancel_in_the_backward(kind: str, words: str, host: SimpleNamespace, vaes: dict[str, Any]) -> None:
    import comfy.model_management as mm

    latent = latent_for(kind, height=24, frames=3)
    with opened(host, vaes[kind]) as decoder:
        stand_on(decoder, latent, words)
        notes = list(decoder.notes)
        leaf = latent.clone().requires_grad_(True)
        pictures = decoder(leaf)
        conv = [m for m in decoder.module.modules() if isinstance(m, nn.Conv2d | nn.Conv3d)][-1]
        handle = conv.register_forward_pre_hook(lambda *_: mm.interrupt_current_processing(True))
        try:
            with pytest.raises(mm.InterruptProcessingException):
                torch.autograd.grad(pictures.sum(), leaf)
        finally:
            handle.remove()
            mm.interrupt_current_processing(False)
        assert decoder.notes == notes
        assert not [m for m in decoder.module.modules() if "forward" in vars(m)]
        assert bool(gradient(decoder, latent).isfinite().all())


def test_half_precision_does_not_underflow(host: SimpleNamespace, vaes: dict[str, Any], monkeypatch: Any) -> None:
    """Cotangents of 1e-7, as those of a mean over a picture, in float16."""
    import comfy.sd

    latent = latent_for("kl")
    with opened(host, vaes["kl"]) as decoder:
        expected = gradient(decoder, latent)
    made = vaes["kl"].first_stage_model
    config = {"params": {"embed_dim": 4, "ddconfig": _sizes()}}
    vae = comfy.sd.VAE(sd=made.state_dict(), config=config, dtype=torch.float16)
    vae.first_stage_model.requires_grad_(False)
    with opened(host, vae) as decoder:
        assert decoder._half
        leaf = latent.clone().requires_grad_(True)
        pictures = decoder(leaf)
        found = torch.autograd.grad(pictures, leaf, 1e-8 * weight_for(pictures))[0] * 1e8
    assert apart(found, expected) < 0.05


def _sizes() -> dict[str, Any]:
    return {
        "double_z": True, "z_channels": 4, "resolution": 64, "in_channels": 3, "out_ch": 3, "ch": 32,
        "ch_mult": [1, 1, 1, 1], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0,
    }  # fmt: skip


def test_a_tiny_video_vae_is_not_cut_in_time(host: SimpleNamespace, comfy: Any) -> None:
    """TAEHV frame by frame detaches what a frame sees of the one before it."""
    import comfy.sd
    from comfy.taesd.taehv import TAEHV

    from provoke.tools.tiny_weights import fill

    vae = comfy.sd.VAE(sd=fill(TAEHV(16), seed=0).state_dict())
    vae.first_stage_model.requires_grad_(False)
    latent = latent_for("wan", height=2, width=2, frames=2)
    expected = vae.decode(latent)
    with opened(host, vae) as decoder:
        leaf = latent.clone().requires_grad_(True)
        pictures = decoder(leaf)
        assert float((pictures.detach() - expected[0].movedim(-1, 1)).abs().max()) < PARITY
        last = torch.autograd.grad(pictures[-1].sum(), leaf)[0]
        assert float(last[:, :, 0].norm()) > 0.01 * float(last[:, :, 1].norm())  # the first frame counts
        assert [note for note in decoder.notes if "cut" in note] == []
        assert any("in one piece" in note for note in decoder.notes)
    assert vae.first_stage_model.parallel is False


def test_refusals(host: SimpleNamespace, vaes: dict[str, Any], monkeypatch: Any) -> None:
    from provoke.host.decode import Decoder

    vae, error = vaes["kl"], host.errors.ProvokeError
    with opened(host, vae) as decoder:
        with pytest.raises(error, match="cannot decode a latent"):
            decoder(latent_for("wan", frames=1)[:, :, 0])
        with pytest.raises(error, match="The latent is"):
            decoder(torch.zeros(4, 4, 4))
        assert decoder(latent_for("kl")[:, :, None]).shape == (1, 3, 32, 24)  # as VAE.decode takes it
    with monkeypatch.context() as patch:
        patch.setattr(vae, "output_channels", 2)
        with pytest.raises(error, match="not for pictures"):
            Decoder(vae, [])
    with monkeypatch.context() as patch:
        patch.setattr(vae, "latent_dim", 1)
        with pytest.raises(error, match="not for pictures"):
            Decoder(vae, [])
    with monkeypatch.context() as patch:
        patch.setattr(vae, "first_stage_model", None)
        with pytest.raises(RuntimeError, match="VAE is invalid"):
            Decoder(vae, [])
