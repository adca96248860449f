"""The gradient session leaves no trace: deeply, also when something flies out in the middle of a backward pass."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytestmark = pytest.mark.usefixtures("executor")


def state(module: nn.Module) -> dict[str, Any]:
    """Everything that a session could leave behind, identities included."""
    import comfy.model_management as mm

    found: dict[str, Any] = {
        "flag": mm.in_training,
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "random": torch.get_rng_state().tolist(),
        "interrupt": mm.processing_interrupted(),
    }
    for name, m in module.named_modules():
        found[f"{name} training"] = m.training
        found[f"{name} hooks"] = (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
        for key, value in (*m._parameters.items(), *m._buffers.items(), *vars(m).items()):
            if isinstance(value, Tensor):
                kept = (id(value), value.data_ptr(), value.is_inference(), value.requires_grad, value.grad, value.dtype)
                found[f"{name}.{key}"] = kept
    return found


class Interrupted(torch.autograd.Function):
    """Presses *Cancel* in the middle of a backward pass, when told to."""

    pressed = False

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        if Interrupted.pressed:
            import comfy.model_management as mm

            mm.interrupt_current_processing(True)
            mm.throw_exception_if_processing_interrupted()
        return gradient


class Mixed(nn.Module):
    """Parameters, tied ones, buffers, a plain tensor, dropout and a batch norm; scale 1."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.b.weight = self.a.weight
        self.mean = torch.full((1, 3, 1, 1), 0.1)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = Interrupted.apply(self.a(x - self.mean))
        return 0.5 + 0.1 * self.drop(self.c(self.b(torch.tanh(x))))


def node(model: Any, image: Tensor) -> Tensor:
    from comfy_extras.nodes_upscale_model import ImageUpscaleWithModel

    return ImageUpscaleWithModel.execute(model, image).args[0]


@pytest.mark.parametrize("end", ["well", "error", "interrupt"])
@pytest.mark.parametrize("loaded", ["by the executor", "outside", "training"])
def test_nothing_is_left(
    end: str, loaded: str, host: SimpleNamespace, build: Any, photo: Callable[..., Tensor], monkeypatch: Any
) -> None:
    import comfy.model_management as mm

    with torch.inference_mode(loaded == "by the executor"):
        model = build.descriptor(Mixed())
    image = photo(2, 20, 18)
    before = node(model, image)
    if loaded == "training":
        model.model.train()
        model.model.a.eval()
    was = state(model.model)
    assert was[".mean"][2] == (loaded == "by the executor")
    assert was["a.weight"][3]  # wants gradients

    x = image.movedim(-1, 1).clone()
    expected = {"well": (), "error": ZeroDivisionError, "interrupt": mm.InterruptProcessingException}[end]
    try:
        with host.open(model, image) as opened:
            assert not torch.is_inference_mode_enabled()
            assert torch.is_grad_enabled()
            assert mm.in_training
            output, pullback = opened.vjp(x)
            monkeypatch.setattr(Interrupted, "pressed", end == "interrupt")
            gradient = pullback(torch.ones_like(output))
            assert torch.allclose(opened.vjp(x)[1](torch.ones_like(output)), gradient)  # no dropout, the norm is frozen
            assert end != "error" or 1 // 0
    except expected:
        assert end != "well"
    else:
        assert end == "well"

    now = state(model.model)
    assert {key for key in was if was[key] != now[key]} == set()
    assert was.keys() == now.keys()
    model.model.eval()
    assert torch.equal(node(model, image), before)


def test_kept_activations_do_not_keep_the_graph(
    host: SimpleNamespace, build: Any, photo: Callable[..., Tensor]
) -> None:
    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)
            self.register_buffer("last", torch.zeros(1), persistent=False)
            self.mean = torch.zeros(1)

        def forward(self, x: Tensor) -> Tensor:
            self.last = torch.sigmoid(self.conv(x))
            self.mean = self.last.mean()
            return self.last * 1

    model, image = build.descriptor(Keeps()), photo(1, 16, 16)
    with host.open(model, image) as opened:
        opened.vjp(image.movedim(-1, 1))
        assert model.model.last.grad_fn is not None
    assert model.model.last.grad_fn is None
    assert model.model.mean.grad_fn is None


def test_frozen_weights_get_no_gradient(host: SimpleNamespace, build: Any, photo: Callable[..., Tensor]) -> None:
    with torch.inference_mode(False):
        model = build.descriptor(nn.Conv2d(3, 3, 3, padding=1))
    image = photo(1, 16, 16)
    with host.open(model, image) as opened:
        assert not any(p.requires_grad for p in model.model.parameters())
        output, pullback = opened.vjp(image.movedim(-1, 1))
        pullback(torch.ones_like(output))
    assert all(p.requires_grad and p.grad is None for p in model.model.parameters())


def test_aliases_share_memory_and_ties(host: SimpleNamespace) -> None:
    net = Mixed()
    net.a.weight.some_mark = 7  # the host hangs attributes on parameters
    first = net.a.weight
    with host.gradients.gradient_session(net):
        assert net.a.weight is net.b.weight
        assert net.a.weight is not first
        assert not net.a.weight.is_inference()
        assert net.a.weight.data_ptr() == first.data_ptr()
        assert net.a.weight.some_mark == 7
    assert net.a.weight is first
    assert net.b.weight is first


def test_what_the_host_did_meanwhile_stays(host: SimpleNamespace) -> None:
    """The host loads a model anew (set_attr_param), and moves another one (Module.to writes into .data)."""
    import comfy.utils

    net = Mixed()
    bias, moved = net.c.bias, net.c.weight
    with host.gradients.gradient_session(net) as session:
        with session.as_host():
            comfy.utils.set_attr_param(net, "c.bias", torch.full((3,), 2.0))
        assert net.c.bias.is_inference()
        net.c.weight.data = torch.full((3,), 5.0)
        session.refresh()
        assert not net.c.bias.is_inference()
    assert net.c.bias is not bias
    assert torch.equal(net.c.bias, torch.full((3,), 2.0))
    assert net.c.weight is moved
    assert torch.equal(moved, torch.full((3,), 5.0))


def test_a_move_by_the_host_is_followed(host: SimpleNamespace) -> None:
    """ImageUpscaleWithModel.execute ends with `.to("cpu")` in hosts before 0.30; another type and back moves too."""
    net = Mixed().eval()
    was = {name: id(p) for name, p in net.named_parameters()}
    values = {name: p.clone() for name, p in net.state_dict().items()}
    x = torch.rand(1, 3, 8, 8)
    with host.gradients.gradient_session(net) as session:
        with session.as_host():
            net.to(torch.float64).to(torch.float32)
        session.refresh()
        leaf = x.clone().requires_grad_()
        torch.autograd.grad(net(leaf).sum(), leaf)
        moved = {name: p.data_ptr() for name, p in net.named_parameters()}
    assert {name: id(p) for name, p in net.named_parameters()} == was
    assert {name: p.data_ptr() for name, p in net.named_parameters()} == moved
    assert all(torch.equal(p, values[name]) for name, p in net.state_dict().items())
    assert all(p.requires_grad for p in net.parameters())


def test_graph_kept_by_a_model_is_dropped(host: SimpleNamespace) -> None:
    class Keeps(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            self.last = super().forward(x)
            return self.last

    net = Keeps(3, 3, 1)
    with host.gradients.gradient_session(net):
        net(torch.rand(1, 3, 4, 4).requires_grad_())
        assert net.last.grad_fn is not None
    assert net.last.grad_fn is None


def test_quantised_weights_are_refused(host: SimpleNamespace) -> None:
    class Packed(Tensor):
        pass

    net = nn.Conv2d(3, 3, 1)
    net._buffers["packed"] = torch.zeros(3).as_subclass(Packed)
    before = dict(net._parameters)
    with pytest.raises(host.errors.GradientError, match=r"Packed.*not quantised"), host.gradients.gradient_session(net):
        pass
    assert all(net._parameters[key] is before[key] for key in before)


def test_plain_inside_the_session_is_the_hosts(host: SimpleNamespace, build: Any, photo: Callable[..., Tensor]) -> None:
    """Called between gradients, as a report does; the session goes on afterwards, and its result may enter a graph."""
    image, model = photo(1, 20, 20), build.compact()
    expected = node(model, image)
    x = image.movedim(-1, 1).clone()
    with host.open(model, image) as opened:
        output, pullback = opened.vjp(x)
        plain = opened.plain(image)
        gradient = pullback(torch.ones_like(output))
        assert torch.equal(plain, expected)
        assert not plain.is_inference()
        assert torch.equal(opened.vjp(x)[1](torch.ones_like(output)), gradient)


def test_where_an_unmanaged_model_lives(
    host: SimpleNamespace, build: Any, photo: Callable[..., Tensor], hole: Any
) -> None:
    """INPAINT_MODEL objects have no patcher: nothing of the host's is hung on them."""
    image, model = photo(1, 24, 24), build.lama()
    attributes = set(vars(model)), set(vars(model.model))
    was = state(model.model)
    with host.open(model, image, hole(1, 24, 24)) as opened:
        opened(image.movedim(-1, 1))
    assert (set(vars(model)), set(vars(model.model))) == attributes
    assert state(model.model) == was
