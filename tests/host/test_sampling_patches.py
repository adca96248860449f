"""What users put on their models: replaced where that is the same function, refused with the reason where it is not."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn


@pytest.fixture(scope="module")
def tools(comfy) -> SimpleNamespace:
    import provoke.core.errors as errors
    from provoke.host.sampling import inside, lean, patches
    from provoke.tools import tiny
    from provoke.tools.tiny_weights import fill

    return SimpleNamespace(tiny=tiny, fill=fill, errors=errors, inside=inside, lean=lean, patches=patches)


@pytest.fixture
def run(tools) -> Callable[..., Any]:
    """run(model, body, family=..., notes=...): a KSampler's inputs, entered."""

    def enter(model: Any, body: Callable[[Any], Any], family: str = "sd15", steps: int = 2, **options: Any) -> Any:
        import comfy.samplers
        from comfy_extras.nodes_custom_sampler import Noise_RandomNoise

        with torch.inference_mode():
            sampling = model.get_model_object("model_sampling")
            sigmas = options.pop("sigmas", comfy.samplers.calculate_sigmas(sampling, "normal", steps))
        tiny = tools.tiny
        positive = options.pop("positive", tiny.conditioning(family, seed=1))
        negative = options.pop("negative", tiny.conditioning(family, seed=2))
        guider = options.pop("guider", None) or tools.inside.guider_of(model, positive, negative, 3.0)
        noise = options.pop("noise", Noise_RandomNoise(5))
        latent = options.pop("latent", tiny.empty_latent(family))
        sampler = options.pop("sampler", "euler")
        sampler = comfy.samplers.sampler_object(sampler) if isinstance(sampler, str) else sampler
        return tools.inside.inside(guider, noise, sampler, sigmas, latent, body, **options)

    return enter


def by_noise(handle: Any) -> Tensor:
    leaf = handle.noise.clone().requires_grad_(True)
    out = handle.sample(noise=leaf)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(3))
    return torch.autograd.grad((out * weight).sum(), leaf)[0]


def error_of(handle: Any, gradient: Tensor, step: float = 3e-3) -> float:
    """Relative L2 error of directional derivatives, random ways and blocks."""
    noise, rng = handle.noise, torch.Generator().manual_seed(0)
    ways = [torch.randn(noise.shape, generator=rng) for _ in range(16)]
    for block in ((slice(None), slice(1, 2)), (..., slice(0, 4), slice(0, 4))):
        one = torch.zeros(noise.shape)
        one[block] = torch.randn(one[block].shape, generator=rng)
        ways.append(one)
    with torch.no_grad():
        change = [handle.sample(noise=noise + step * w) - handle.sample(noise=noise - step * w) for w in ways]
    weight = torch.randn(change[0].shape, generator=torch.Generator().manual_seed(3))
    measured = torch.stack([(c.double() * weight).sum() for c in change]) / (2 * step)
    claimed = torch.stack([(gradient.double() * w).sum() for w in ways])
    return float((measured - claimed).norm() / measured.norm())


def right(handle: Any) -> float:
    return error_of(handle, by_noise(handle))


# ---------------------------------------------------------------------------------------------- replaced


def test_torch_compile_is_left_out(run, tools) -> None:
    """The host's own wrapper, and a compiled module in the model's place, as other packs do it."""
    from comfy.patcher_extension import WrappersMP

    model = tools.tiny.model("sd15")
    expected = run(model, by_noise)
    wrapped = model.clone()

    def compiled(executor: Any, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("the compiled model ran")

    wrapped.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "torch.compile", compiled)
    notes: list[str] = []
    assert torch.equal(run(wrapped, by_noise, notes=notes), expected)
    assert "the model without torch.compile" in notes
    assert wrapped.wrappers[WrappersMP.APPLY_MODEL]["torch.compile"] == [compiled]

    class Optimized(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self._orig_mod = inner

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            raise AssertionError("the compiled model ran")

    patched = model.clone()
    patched.add_object_patch("diffusion_model", Optimized(model.model.diffusion_model))
    assert torch.equal(run(patched, by_noise), expected)


def test_an_attention_without_a_graph_is_replaced(run, tools) -> None:
    """What SageAttention nodes put into the model."""
    model = tools.tiny.model("sd15")
    expected = run(model, by_noise)
    patched = model.clone()
    cut = lambda function, *args, **kwargs: function(*args, **kwargs).detach()  # noqa: E731
    options = patched.model_options["transformer_options"]
    options["optimized_attention_override"] = cut
    notes: list[str] = []
    assert torch.allclose(run(patched, by_noise, notes=notes), expected, rtol=1e-4, atol=1e-5)
    assert any("attention" in note for note in notes)
    assert patched.model_options["transformer_options"]["optimized_attention_override"] is cut


@pytest.fixture
def sage(monkeypatch: pytest.MonkeyPatch, comfy) -> list[str]:
    """ComfyUI started with --use-sage-attention: a stand-in for the kernel, which returns tensors without a graph."""
    import comfy.cli_args
    import comfy.ldm.modules.attention as attention
    from torch.nn.functional import scaled_dot_product_attention as exact

    calls: list[str] = []

    def kernel(q: Tensor, k: Tensor, v: Tensor, tensor_layout: str = "HND", sm_scale: Any = None, **_: Any) -> Tensor:
        calls.append("kernel")
        with torch.no_grad():
            if tensor_layout == "NHD":
                q, k, v = (x.transpose(1, 2) for x in (q, k, v))
            out = exact(q, k, v, scale=sm_scale)
            return out.transpose(1, 2) if tensor_layout == "NHD" else out

    monkeypatch.setattr(comfy.cli_args.args, "use_sage_attention", True)
    monkeypatch.setattr(attention, "sageattn", kernel, raising=False)
    monkeypatch.setattr(attention, "SAGE_ATTENTION_SUPPORTS_MASK", True, raising=False)
    unets = [sys.modules[name] for name in ("comfy.ldm.modules.attention", "comfy.ldm.flux.math")]
    for module in unets:
        monkeypatch.setattr(module, "optimized_attention", attention.attention_sage)
    return calls


@pytest.mark.parametrize("family", ["sd15", "flux"])
def test_sage_attention_is_swapped_for_the_run(run, tools, sage: list[str], family: str) -> None:
    import comfy.ldm.modules.attention as attention

    kernel = attention.sageattn
    notes: list[str] = []
    assert run(tools.tiny.model(family), right, family, notes=notes) <= 0.01
    assert not sage
    assert any("has no backward" in note for note in notes)
    assert attention.sageattn is kernel


def test_flash_attention_is_swapped_for_the_run(run, tools, monkeypatch: pytest.MonkeyPatch) -> None:
    import comfy.cli_args
    import comfy.ldm.modules.attention as attention

    def kernel(*args: Any, **kwargs: Any) -> Tensor:
        raise AssertionError("the kernel without a backward ran")

    monkeypatch.setattr(comfy.cli_args.args, "use_flash_attention", True)
    monkeypatch.setattr(attention, "flash_attn_wrapper", kernel, raising=False)
    monkeypatch.setattr(attention, "optimized_attention", attention.attention_flash)
    assert run(tools.tiny.model("sd15"), right) <= 0.01
    assert attention.flash_attn_wrapper is kernel


def test_multi_gpu_clones_are_left_out(run, tools) -> None:
    model = tools.tiny.model("sd15").clone()
    model.set_additional_models("multigpu", [tools.tiny.model("sd15", seed=3)])
    notes: list[str] = []
    run(model, by_noise, notes=notes)
    assert any("one GPU" in note for note in notes)
    assert len(model.get_additional_models_with_key("multigpu")) == 1


# ---------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize("node", ["EasyCacheNode", "LazyCacheNode"])
def test_speed_caches_are_refused(run, tools, node: str) -> None:
    import comfy_extras.nodes_easycache as caches

    model = tools.tiny.model("sd15")
    with torch.inference_mode():
        cached = getattr(caches, node).execute(model, 0.2, 0.15, 0.95, False).args[0]
    with pytest.raises(tools.errors.GradientError, match=r"skips evaluations.*bypass the (Easy|Lazy)Cache node"):
        run(cached, by_noise)


@pytest.mark.parametrize("steps", [1, 2, 3, 6])
@pytest.mark.parametrize("momentum", [0.5, 0.05])
def test_a_patch_with_a_memory_is_refused(run, tools, steps: int, momentum: float) -> None:
    """APG of the host, whose momentum goes from one step to the next and starts anew when sigma rises."""
    from comfy_extras.nodes_apg import APG

    with torch.inference_mode():
        moving = APG.execute(tools.tiny.model("sd15"), 1.0, 15.0, momentum).args[0]
    with pytest.raises(tools.errors.GradientError, match=r"keeps something from one step to the next.*sampler_"):
        run(moving, by_noise, steps=steps)


def test_a_patch_without_a_memory_is_welcome(run, tools) -> None:
    from comfy_extras.nodes_apg import APG

    with torch.inference_mode():
        still = APG.execute(tools.tiny.model("sd15"), 1.0, 15.0, 0.0).args[0]
    assert run(still, right) <= 0.01


@pytest.mark.parametrize("node", ["PerturbedAttentionGuidance", "CFGZeroStar", "CFGNorm"])
@pytest.mark.parametrize("sampler", ["euler", "euler_cfg_pp"])
def test_guidance_nodes(run, tools, node: str, sampler: str) -> None:
    """Post-CFG functions that look at all that the host gives them."""
    from comfy_extras import nodes_cfg, nodes_pag

    place = nodes_pag if hasattr(nodes_pag, node) else nodes_cfg
    model = tools.tiny.model("sd15")
    with torch.inference_mode():
        arguments = {"PerturbedAttentionGuidance": (3.0,), "CFGNorm": (1.0,)}.get(node, ())
        patched = getattr(place, node).execute(model, *arguments).args[0]
    assert run(patched, right, sampler=sampler) <= 0.01


def test_patches_that_draw(run, tools) -> None:
    """HyperTile draws the size of its tiles in every layer: as in the host's run, and the same in the backward."""
    from comfy_extras.nodes_hypertile import HyperTile

    import nodes

    tiny = tools.tiny
    with torch.inference_mode():
        made = HyperTile.execute(tiny.model("sd15"), 32, 2, 1, False)
        tiled = getattr(made, "args", made)[0]  # a tuple, in a class that promises NodeOutput
        latent = tiny.empty_latent("sd15", height=16, width=16)
        positive, negative = tiny.conditioning("sd15", seed=1), tiny.conditioning("sd15", seed=2)
        expected = nodes.common_ksampler(tiled, 5, 2, 3.0, "euler", "normal", positive, negative, latent)[0]["samples"]

    def body(handle: Any) -> tuple[Tensor, float]:
        with torch.no_grad():
            plain = handle.sample()
        return plain, right(handle)

    plain, error = run(tiled, body, latent=latent)
    assert float((plain - expected).abs().max()) <= 1e-4
    assert error <= 0.01


def test_a_patch_that_jumps_is_refused(run, tools) -> None:
    """Token merging: which tokens are one changes with every step, and no gradient says so."""
    from comfy_extras.nodes_tomesd import TomePatchModel

    with torch.inference_mode():
        merged = TomePatchModel.execute(tools.tiny.model("sd15"), 0.3).args[0]
    with pytest.raises(tools.errors.GradientError, match=r"jumps.*attn1_patch.*bypass the nodes that merge"):
        run(merged, by_noise, latent=tools.tiny.empty_latent("sd15", height=16, width=16))


def test_a_patch_with_many_small_jumps_is_refused(run, tools) -> None:
    """From far away its stairs are a slope, on which differences agree; on a step it is nearly flat."""

    def stairs(n: Tensor, context: Tensor, value: Tensor, extra: Any) -> tuple[Tensor, Tensor, Tensor]:
        step = (n * 2000).floor() / 2000
        return step + 0.1 * (n - step), context, value

    model = tools.tiny.model("sd15").clone()
    model.set_model_attn1_patch(stairs)
    with pytest.raises(tools.errors.GradientError, match=r"(jumps|wrong gradient).*attn1_patch"):
        run(model, by_noise)


def test_a_patch_that_cuts_is_refused(run, tools) -> None:
    """It computes the right thing under no_grad: nothing but finite differences can tell."""

    class Cut:
        def __call__(self, n: Tensor, context: Tensor, value: Tensor, extra: Any) -> tuple[Tensor, Tensor, Tensor]:
            return n.detach(), context, value

    model = tools.tiny.model("sd15").clone()
    model.set_model_attn1_patch(Cut())
    with pytest.raises(tools.errors.GradientError, match=r"wrong gradient \(finite differences disagree.*attn1_patch"):
        run(model, by_noise)
    assert run(model, by_noise, check=False).abs().max() > 0  # who asks for it gets it


def test_a_patch_that_cuts_at_one_moment_is_refused(run, tools) -> None:
    """On for a part of the schedule, as range nodes do it: the other noises that have to agree are of that moment."""
    import comfy.samplers

    model = tools.tiny.model("sd15").clone()
    steps = 4
    moment = float(
        comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", steps)[steps // 2]
    )
    asked: set[bool] = set()

    def cut(n: Tensor, context: Tensor, value: Tensor, extra: Any) -> tuple[Tensor, Tensor, Tensor]:
        now = abs(float(extra["sigmas"][0]) - moment) < 1e-3 * moment
        asked.add(now)
        return (n.detach() if now else n), context, value

    model.set_model_attn1_patch(cut)
    with pytest.raises(tools.errors.GradientError, match=r"wrong gradient \(finite differences disagree.*attn1_patch"):
        run(model, by_noise, steps=steps)
    assert asked == {True, False}


def test_a_patch_that_cuts_the_text_is_refused(run, tools) -> None:
    """The gradient by the latent is right, that by the conditioning is not."""
    model = tools.tiny.model("sd15").clone()
    model.set_model_attn2_patch(lambda n, context, value, extra: (n, context.detach(), value.detach()))
    with pytest.raises(tools.errors.GradientError, match="wrong gradient by the conditioning"):
        run(model, by_noise)


def test_a_guider_with_a_second_model_is_refused(run, tools) -> None:
    model = tools.tiny.model("sd15")
    guider = tools.inside.guider_of(model, tools.tiny.conditioning("sd15"), tools.tiny.conditioning("sd15"), 3.0)
    guider.uncond_model_patcher = tools.tiny.model("sd15", seed=3)
    with pytest.raises(tools.errors.GradientError, match=r"runs a second model \(uncond_model_patcher\)"):
        run(model, by_noise, guider=guider)


def test_noise_that_a_node_changes_is_refused(run, tools) -> None:
    from comfy.patcher_extension import WrappersMP

    model = tools.tiny.model("sd15").clone()

    def shuffled(executor: Any, guider: Any, sigmas: Any, extra: Any, callback: Any, noise: Tensor, *rest: Any) -> Any:
        return executor(guider, sigmas, extra, callback, noise.flip(-1), *rest)

    model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, "freenoise", shuffled)
    with pytest.raises(tools.errors.ProvokeError, match="changes the noise"):
        run(model, by_noise)


def test_a_model_that_cannot_go_back_is_refused(run, tools) -> None:
    class OneWay(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *cotangents: Tensor) -> Tensor:
            raise NotImplementedError("no backward for this kernel")

    model = tools.tiny.model("sd15").clone()
    model.set_model_output_block_patch(lambda h, hsp, options: (OneWay.apply(h), hsp))
    with pytest.raises(tools.errors.GradientError, match="runs, but not backwards"):
        run(model, by_noise)


def test_what_is_not_finite_is_refused(run, tools) -> None:
    model = tools.tiny.model("sd15").clone()
    model.set_model_sampler_post_cfg_function(lambda args: args["denoised"] / 0)
    with pytest.raises(tools.errors.GradientError, match="result is not finite"):
        run(model, by_noise)


def test_refusals_of_inputs(run, tools) -> None:
    model, errors = tools.tiny.model("sd15"), tools.errors
    with pytest.raises(errors.ProvokeError, match="at least two values"):
        run(model, by_noise, sigmas=torch.zeros(0))
    with pytest.raises(errors.GradientError, match=r"dpm_adaptive has no right gradient.*Expected.*euler"):
        run(model, by_noise, sampler="dpm_adaptive")

    def body(handle: Any) -> None:
        with pytest.raises(errors.ProvokeError, match=r"The noise is \(2, 4, 8, 8\).*Expected: \(1, 4, 8, 8\)"):
            handle.sample(noise=torch.zeros(2, 4, 8, 8))
        with pytest.raises(errors.ProvokeError, match=r"no conditioning of the name 'middle'.*positive, negative"):
            handle.sample(conditioning={"middle": tools.tiny.conditioning("sd15")})
        with pytest.raises(errors.ProvokeError, match="There is no ControlNet 0"):
            handle.sample(hints={0: tools.tiny.hint()})
        with_control, _ = tools.tiny.with_control(
            tools.tiny.conditioning("sd15"), tools.tiny.conditioning("sd15"), tools.tiny.controlnet(), tools.tiny.hint()
        )
        with pytest.raises(errors.ProvokeError, match="ControlNet that the run was not opened with"):
            handle.sample(conditioning={"positive": with_control})

    run(model, body)


# ---------------------------------------------------------------------------------------------- weights


def test_cast_weights_are_not_kept(run, tools, monkeypatch: pytest.MonkeyPatch) -> None:
    """fp8 storage: the same gradient, without a copy of the model in float32."""
    import contextlib

    model = tools.tiny.model("sd15", dtype=torch.float8_e4m3fn, manual_cast=torch.float32, width=2)
    body = lambda handle: (handle.bytes_kept(handle.noise, handle.sigmas[0]), by_noise(handle))  # noqa: E731
    lean, gradient = run(model, body)
    with monkeypatch.context() as patch:
        patch.setattr(tools.inside, "lean_casts", lambda *roots: contextlib.nullcontext())
        full, expected = run(model, body)
    assert torch.equal(gradient, expected)
    assert lean < full / 2
    assert not any("forward_comfy_cast_weights" in vars(module) for module in model.model.modules())


class Packed(Tensor):
    """Like GGUF's GGMLTensor: a subclass whose bytes are not the weight."""

    scale: Tensor

    @staticmethod
    def of(weight: Tensor) -> Packed:
        scale = weight.abs().amax() / 127
        packed = (weight / scale).round().to(torch.int8).as_subclass(Packed)
        packed.scale = scale
        return packed

    def __new__(cls, *args: Any, **kwargs: Any) -> Packed:
        return super().__new__(cls, *args, **kwargs)


def test_weights_of_a_tensor_subclass(run, tools) -> None:
    """Dequantised in every forward, as GGUF's layers do it: they cannot be aliased, and need not."""
    model = tools.tiny.model("sd15")
    with torch.inference_mode():
        for module in model.model.diffusion_model.modules():
            if isinstance(module, nn.Linear):
                packed = Packed.of(module.weight.data)
                del module.weight
                module.weight = packed

                def forward(self: Any, x: Tensor) -> Tensor:
                    weight = self.weight.as_subclass(Tensor).to(x.dtype) * self.weight.scale.as_subclass(Tensor)
                    return nn.functional.linear(x, weight, self.bias)

                module.forward = types.MethodType(forward, module)
    assert run(model, right) <= 0.01
    assert any(isinstance(module.__dict__.get("weight"), Packed) for module in model.model.diffusion_model.modules())


def quantised(tools, family: str) -> tuple[Any, Any]:
    """A MODEL with fp8 layers, as the host loads them from a "scaled" file, and one with the same weights plain."""
    import comfy.model_patcher
    import comfy.ops
    import comfy.supported_models

    from provoke.tools.tiny import _FAMILIES

    plain = tools.tiny.model(family)
    spec, net = _FAMILIES[family], plain.model.diffusion_model
    sizes = spec.sizes(1)
    with torch.inference_mode():
        config = getattr(comfy.supported_models, spec.config)(sizes)
        config.unet_config.update(sizes)
        config.custom_operations = comfy.ops.mixed_precision_ops({}, torch.float32)
        config.set_inference_dtype(torch.float32, None)
        made = config.get_model({}, device=torch.device("cpu"))
        format_ = torch.tensor(list(json.dumps({"format": "float8_e4m3fn"}).encode()), dtype=torch.uint8)
        linear = {name for name, layer in net.named_modules() if isinstance(layer, nn.Linear)}
        weights: dict[str, Tensor] = {}
        for key, value in net.state_dict().items():
            layer, _, leaf = key.rpartition(".")
            weights[key] = value.clone()
            if layer in linear and leaf == "weight" and not value.shape[0] % 16 and not value.shape[1] % 16:
                scale = (value.abs().amax() / 448).float()
                weights[key] = (value / scale).to(torch.float8_e4m3fn)
                weights |= {f"{layer}.weight_scale": scale, f"{layer}.comfy_quant": format_}
                value.copy_(weights[key].float() * scale)
        assert made.diffusion_model.load_state_dict(weights, strict=False).missing_keys == []
        made.diffusion_model.eval().requires_grad_(False)
        coarse = comfy.model_patcher.CoreModelPatcher(made, plain.load_device, plain.offload_device)
    return coarse, plain


@pytest.mark.parametrize("family", ["flux", "sd15"])
def test_quantised_weights(run, tools, family: str) -> None:
    """QuantizedTensor weights, inputs rounded to fp8 in every layer: differences see steps there, so the gradient is
    compared with that of the same weights in float32. What is left is the rounding of the inputs."""
    coarse, plain = quantised(tools, family)
    found = run(coarse, by_noise, family)
    exact = run(plain, by_noise, family)
    assert float((found - exact).norm() / exact.norm()) <= 0.3
    assert float(torch.nn.functional.cosine_similarity(found.flatten(), exact.flatten(), dim=0)) >= 0.95
    assert all(tensor.is_inference() for tensor in coarse.model.diffusion_model.parameters())  # as it was


def test_patches_that_hold_tensors_of_other_nodes(run, tools) -> None:
    """Inference tensors in a closure, where nobody can find them (IP-Adapter and the like)."""
    with torch.inference_mode():
        model = tools.tiny.model("sd15").clone()
        held = 1 + 0.1 * torch.rand(1, 1, 1)
    model.set_model_attn1_patch(lambda q, k, v, extra: (q * held, k, v))

    def body(handle: Any) -> list[float]:
        assert handle.evaluator.hidden
        return [error_at(handle, level) for level in range(3)]

    def error_at(handle: Any, level: int) -> float:
        handle.evaluator.ladder.start(level)
        return right(handle)

    assert max(run(model, body)) <= 0.01


# ---------------------------------------------------------------------------------------------- chains


class Nothing:
    """The host's DisableNoise."""

    seed = 0

    def generate_noise(self, latent: dict[str, Any]) -> Tensor:
        return torch.zeros_like(latent["samples"])


@pytest.mark.parametrize("family", ["wan", "sd15"])
def test_two_models_over_one_schedule(run, tools, family: str) -> None:
    """Wan 2.2's high and low noise: one run inside the other, all models in one request."""
    import comfy.samplers

    import nodes

    tiny = tools.tiny
    high, low = tiny.model(family), tiny.model(family, seed=7)
    positive, negative = tiny.conditioning(family, seed=1), tiny.conditioning(family, seed=2)
    latent = tiny.empty_latent(family)
    with torch.inference_mode():
        first = nodes.KSamplerAdvanced().sample(
            high, "enable", 5, 4, 3.0, "euler", "normal", positive, negative, latent, 0, 2, "enable"
        )[0]
        expected = nodes.KSamplerAdvanced().sample(
            low, "disable", 0, 4, 3.0, "euler", "normal", positive, negative, first, 2, 10000, "disable"
        )[0]["samples"]
        sigmas = comfy.samplers.calculate_sigmas(high.get_model_object("model_sampling"), "normal", 4)

    def outer(a: Any) -> tuple[float, float]:
        with torch.no_grad():
            start = a.sample()

        def inner(b: Any) -> tuple[float, float]:
            both = SimpleNamespace(noise=a.noise, sample=lambda noise: b.sample(latent=a.sample(noise=noise)))
            with torch.no_grad():
                parity = float((both.sample(a.noise) - expected).abs().max())
            return parity, error_of(both, by_noise(both))

        return run(
            low, inner, family, sigmas=sigmas[2:], noise=Nothing(), latent={"samples": start},
            also=[a.evaluator.model_patcher],
        )  # fmt: skip

    parity, error = run(high, outer, family, sigmas=sigmas[:3], also=[low])
    assert parity <= 1e-4
    assert error <= 0.01


@pytest.mark.parametrize("lora", [False, True])
def test_two_runs_on_one_models_weights_are_refused(run, tools, lora: bool) -> None:
    """The inner one would load its LoRA into the module that the outer one's graph goes through."""
    model = tools.tiny.model("sd15")
    other = tools.tiny.lora(model) if lora else model

    def outer(a: Any) -> None:
        with pytest.raises(tools.errors.ProvokeError, match="share a model's weights"):
            run(other, by_noise)
        by_noise(a)  # and goes on

    run(model, outer)
    run(other, by_noise)


def test_a_t2i_adapter(run, tools) -> None:
    """It keeps features and not only the hint, and its network is in nobody's list of models."""
    import comfy.controlnet

    tiny = tools.tiny

    class Adapter(nn.Module):
        unshuffle_amount, xl = 8, False

        def __init__(self) -> None:
            super().__init__()
            self.unshuffle, self.mix = nn.PixelUnshuffle(8), nn.Conv2d(192, 32, 1)

        def forward(self, x: Tensor) -> dict[str, list[Tensor | None]]:
            return {"input": [torch.tanh(self.mix(self.unshuffle(x))), None]}

    with torch.inference_mode():
        net = tools.fill(Adapter()).requires_grad_(False)
        adapter = comfy.controlnet.T2IAdapter(net, 3, 8, "nearest-exact")
    positive, negative = tiny.with_control(
        tiny.conditioning("sd15", seed=1), tiny.conditioning("sd15", seed=2), adapter, tiny.hint()
    )

    def body(handle: Any) -> tuple[float, float]:
        hint = handle.controls[0].cond_hint_original
        with torch.no_grad():
            before, other = handle.sample(), handle.sample(hints={0: 1 - hint})
            assert torch.equal(handle.sample(), before)
        by_hint = SimpleNamespace(noise=hint, sample=lambda noise: handle.sample(hints={0: noise}))
        return float((other - before).abs().max()), error_of(by_hint, by_noise(by_hint))

    effect, error = run(tools.tiny.model("sd15"), body, positive=positive, negative=negative)
    assert effect > 1e-2
    assert error <= 0.01
    assert adapter.cond_hint is None


def test_short_routes_with_churn(run, tools) -> None:
    """Churn evaluates a little above the step's sigma; that is still the step's evaluation."""
    import comfy.samplers

    from provoke.host.sampling.routes import LastSteps

    sampler = comfy.samplers.ksampler("euler", {"s_churn": 4.0})

    def body(handle: Any) -> float:
        entry = handle.conditioning["positive"][0]
        leaf = entry[0].clone().requires_grad_(True)
        out = handle.sample(conditioning={"positive": [[leaf, entry[1]]]}, route=LastSteps(1))
        return float(torch.autograd.grad(out.sum(), leaf)[0].abs().max())

    assert run(tools.tiny.model("sd15"), body, steps=5, sampler=sampler) > 1e-6
