"""The host's samplers with gradients: right for every one of them, the same value, and the host's own left alone.

The full figures are in benchmarks/gradients/samplers.json; this is the same code with fewer directions and steps.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch

KINDS = ("eps", "v", "flow")
SEEDED = ("euler_ancestral", "dpmpp_sde", "dpmpp_2m_sde", "er_sde", "sa_solver", "lcm")


@pytest.fixture(scope="module")
def ours(comfy: ModuleType) -> ModuleType:
    from provoke.host.sampling import samplers

    return samplers


@pytest.fixture(scope="module")
def bench(comfy: ModuleType) -> ModuleType:
    import provoke.benchmarks.gradients.samplers as bench

    return bench


@pytest.fixture(scope="module")
def ksampler(comfy: ModuleType) -> Callable[..., Any]:
    import comfy.samplers

    return comfy.samplers.ksampler


def run(bench: ModuleType, twin: Any, kind: str = "eps", seed: int = 7, steps: int = 4) -> torch.Tensor:
    """One image of a twin, without the reseeding of `bench.by_us`."""
    guider, sigmas = bench.Guider(kind), bench.levels(kind, steps).float()
    args = {**bench.extra_args(), "seed": seed}
    x = bench.randn(*bench.SHAPE, seed=8).float().requires_grad_(True) * sigmas[0]
    return twin(bench.Denoiser(guider, sigmas), x, sigmas, args)


def test_every_sampler_of_the_widget_is_decided(ours: ModuleType, bench: ModuleType) -> None:
    """A newer host's new sampler must be measured: this fails until it is."""
    assert {name for name in bench.samplers() if name not in ours.WRONG} == {*ours.right(), "euler_pp", "lcm_upscale"}
    assert not ours._MEASURED & set(ours.WRONG)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_and_values_of_all(ours: ModuleType, bench: ModuleType, kind: str) -> None:
    """By the noise and by the conditioning, at 7 directions; bit for bit the host's KSAMPLER.sample."""
    off, other = {}, []
    for name, sampler in bench.samplers().items():
        if name in ours.WRONG:
            continue
        twin = ours.differentiable(sampler)
        assert twin.name == name
        found = bench.errors(twin, kind, steps=4, random=4)
        if not max(found.values()) < bench.BAR:
            off[name] = found
        if not bench.same_value(sampler, twin, kind, steps=5):
            other.append(name)
    assert not off
    assert not other


def test_the_refused_one_is_wrong(ours: ModuleType, bench: ModuleType) -> None:
    """Should a host cure it, it can be allowed."""
    twin = bench.unchecked(bench.samplers()["dpm_adaptive"])
    assert max(bench.errors(twin, "eps", steps=4, random=4).values()) > bench.BAR


def test_cfg_pp_without_the_split_is_wrong(
    ours: ModuleType, bench: ModuleType, ksampler: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the check above can fail."""
    monkeypatch.setattr(ours, "split_post_cfg", lambda options: (options, []))
    twin = ours.differentiable(ksampler("euler_cfg_pp"))
    assert max(bench.errors(twin, "eps", steps=4, random=4).values()) > 0.1


def test_backward_through_all(ours: ModuleType, bench: ModuleType) -> None:
    """`backward` walks the whole graph, also where `torch.autograd.grad` need not go."""
    for name, sampler in bench.samplers().items():
        if name not in ours.WRONG:
            run(bench, ours.differentiable(sampler)).sum().backward()


OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("euler", {"s_churn": 2.0, "s_noise": 1.1}),
    ("heun", {"s_churn": 2.0}),
    ("dpm_2", {"s_churn": 2.0}),
    ("heunpp2", {"s_churn": 2.0}),
    ("euler_ancestral", {"eta": 0.5, "s_noise": 0.8}),
    ("dpmpp_2s_ancestral", {"eta": 0.0, "s_noise": 1.0}),
    ("dpmpp_sde", {"eta": 0.5, "s_noise": 0.9, "r": 0.3}),
    ("dpmpp_2m_sde", {"eta": 0.0, "solver_type": "heun"}),
    ("dpmpp_3m_sde", {"eta": 0.7, "s_noise": 1.2}),
    ("lms", {"order": 2}),
    ("ipndm_v", {"max_order": 3}),
    ("deis", {"max_order": 4}),
    ("gradient_estimation", {"ge_gamma": 3.0}),
    ("er_sde", {"max_stage": 2, "s_noise": 0.5}),
    ("er_sde", {"noise_scaler": lambda x: x**1.5}),
    ("seeds_2", {"solver_type": "phi_2", "r": 0.7, "eta": 0.3}),
    ("sa_solver", {"use_pece": True, "simple_order_2": True, "predictor_order": 2, "corrector_order": 2}),
    ("sa_solver", {"tau_func": lambda sigma: 0.0}),
]


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_options_arrive(
    ours: ModuleType, bench: ModuleType, ksampler: Callable[..., Any], name: str, options: dict[str, Any]
) -> None:
    sampler = ksampler(name, options)
    twin = ours.differentiable(sampler)
    assert max(bench.errors(twin, "eps", steps=5, random=4).values()) < bench.BAR
    assert bench.same_value(sampler, twin, "eps")
    assert not torch.equal(run(bench, twin, steps=6), run(bench, ours.differentiable(ksampler(name)), steps=6))


@pytest.mark.parametrize("method", ["bilinear", "bicubic", "area", "nearest-exact"])
def test_lcm_upscale(ours: ModuleType, bench: ModuleType, method: str) -> None:
    from comfy_extras.nodes_advanced_samplers import SamplerLCMUpscale

    sampler = SamplerLCMUpscale.execute(1.6, 2, method).args[0]
    twin = ours.differentiable(sampler)
    assert max(bench.errors(twin, "eps", steps=4, random=4).values()) < bench.BAR
    assert bench.same_value(sampler, twin, "eps")


def test_bislerp_is_refused(ours: ModuleType, bench: ModuleType) -> None:
    """And rightly so."""
    from comfy_extras.nodes_advanced_samplers import SamplerLCMUpscale

    sampler = SamplerLCMUpscale.execute(1.5, -1, "bislerp").args[0]
    with pytest.raises(ours.GradientError, match="choose bilinear"):
        ours.differentiable(sampler)
    assert not max(bench.errors(bench.unchecked(sampler), "eps", steps=4, random=2).values()) < bench.BAR


@pytest.mark.parametrize("name", SEEDED)
def test_noise_comes_from_the_seed(
    ours: ModuleType, bench: ModuleType, ksampler: Callable[..., Any], name: str
) -> None:
    """Of extra_args; a second run draws the same, the global generator neither gives it nor moves."""
    twin = ours.differentiable(ksampler(name))
    before = torch.get_rng_state()
    first = run(bench, twin)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(123)
    assert torch.equal(first, run(bench, twin))
    assert not torch.equal(first, run(bench, twin, seed=8))


@pytest.mark.parametrize(("name", "options"), [("heunpp2", {}), ("euler", {"s_churn": 2.0})])
def test_global_noise_repeats(
    ours: ModuleType, bench: ModuleType, ksampler: Callable[..., Any], name: str, options: dict[str, Any]
) -> None:
    """Those that draw from the global generator: the next run draws the same."""
    twin = ours.differentiable(ksampler(name, options))
    before = torch.get_rng_state()
    assert torch.equal(run(bench, twin), run(bench, twin))
    assert torch.equal(before, torch.get_rng_state())


def test_partial_schedules(ours: ModuleType, bench: ModuleType) -> None:
    """Ends above zero (KSampler Advanced with leftover noise), a single step, none at all."""
    noise = bench.randn(*bench.SHAPE, seed=8).float()
    for name, sampler in bench.samplers().items():
        if name in ours.WRONG:
            continue
        sigmas = bench.levels("flow", 8).float()
        for part in (sigmas[2:7], sigmas[-2:], sigmas[:1]):
            try:
                theirs = bench.by_host(sampler, "flow", noise, part.clone())
            except (IndexError, UnboundLocalError):
                continue  # uni_pc and dpm_fast take no schedule so short, in the host either
            twin = ours.differentiable(sampler)
            assert torch.equal(bench.by_us(twin, "flow", noise, None, part), theirs), (name, part)


def test_inputs_are_left_alone(ours: ModuleType, bench: ModuleType, ksampler: Callable[..., Any]) -> None:
    """cfg_pp samplers write into extra_args, uni_pc into sigmas; in a copy."""
    import comfy.samplers

    sigmas = bench.levels("flow", 4).float()
    for name in ("euler_cfg_pp", "uni_pc"):
        args, before = bench.extra_args(), sigmas.clone()
        twin = ours.differentiable(comfy.samplers.sampler_object(name))
        x = bench.randn(*bench.SHAPE, seed=8).float()
        twin(bench.Denoiser(bench.Guider("flow"), sigmas), x, sigmas, args)
        assert args == bench.extra_args()
        assert torch.equal(sigmas, before)


def test_callback(ours: ModuleType, bench: ModuleType, ksampler: Callable[..., Any]) -> None:
    seen: list[dict[str, Any]] = []
    sigmas = bench.levels("eps", 4).float()
    x = bench.randn(*bench.SHAPE, seed=8).float()
    for name in ("euler", "dpm_fast"):
        twin = ours.differentiable(ksampler(name))
        twin(bench.Denoiser(bench.Guider("eps"), sigmas), x, sigmas, bench.extra_args(), seen.append)
        assert {"x", "i", "denoised"} <= seen.pop().keys()
        seen.clear()


def test_cfg_pp_functions_are_told_apart(ours: ModuleType, ksampler: Callable[..., Any]) -> None:
    """Only those of our copies; another pack's and the host's own stay with the model."""

    def other(args: dict[str, Any]) -> Any:
        return args["denoised"]

    given: list[dict[str, Any]] = []

    def model(x: torch.Tensor, sigma: torch.Tensor, model_options: dict[str, Any]) -> torch.Tensor:
        given.append(model_options)
        raise InterruptedError

    ms = type("ModelSampling", (), {})()
    patcher = type("Patcher", (), {"get_model_object": lambda self, name: ms})()
    model.inner_model = type("Guider", (), {"model_patcher": patcher})()  # type: ignore[attr-defined]
    options = {"sampler_post_cfg_function": [other], "transformer_options": {}}
    x, sigmas = torch.zeros(1, 4, 2, 2), torch.tensor([2.0, 1.0, 0.0])
    for call in (ours.differentiable(ksampler("euler_cfg_pp")), ksampler("euler_cfg_pp").sampler_function):
        with pytest.raises(InterruptedError):
            call(model, x, sigmas, {"model_options": options})
    rest, functions = ours.split_post_cfg(given[0])
    assert rest == {**options, "disable_cfg1_optimization": True}
    assert len(functions) == 1
    kept = torch.ones(1)
    assert functions[0]({"denoised": kept, "uncond_denoised": x}) is kept  # the two keys that the host's functions read
    assert ours.split_post_cfg(given[1]) == (given[1], [])
    assert ours.split_post_cfg(options) == (options, [])
    assert len(options["sampler_post_cfg_function"]) == 1


def test_the_host_is_as_it_was(ours: ModuleType, ksampler: Callable[..., Any]) -> None:
    """Its functions are the same objects, still without gradients, and its modules still the ones in sys.modules."""
    import sys

    import comfy.k_diffusion.sampling as sampling

    before = dict(vars(sampling))
    modules = set(sys.modules)
    twin = ours.differentiable(ksampler("euler_ancestral"))
    assert vars(sampling) == before
    assert {name for name in set(sys.modules) - modules if "differentiable" in name} == set()
    assert hasattr(sampling.sample_euler_ancestral, "__wrapped__")
    assert not hasattr(twin._function, "__wrapped__")
    copy = twin._function.__globals__
    assert copy is not vars(sampling)
    assert copy["BrownianTreeNoiseSampler"] is not sampling.BrownianTreeNoiseSampler
    assert copy is ours.differentiable(ksampler("heun"))._function.__globals__  # one copy per process
    assert twin._function.__code__.co_filename == sampling.__file__  # a traceback shows the host's lines


def test_ddim_is_euler_with_noise_of_its_own(ours: ModuleType) -> None:
    import comfy.samplers

    ddim, euler = (ours.differentiable(comfy.samplers.sampler_object(name)) for name in ("ddim", "euler"))
    assert (ddim.name, ddim.random_inpaint) == ("ddim", True)
    assert (euler.name, euler.random_inpaint) == ("euler", False)
    assert ddim._function is euler._function


def foreign(model: Any, x: Any, sigmas: Any, **options: Any) -> Any:
    """A sampler function of another pack."""


def test_refusals(ours: ModuleType, ksampler: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import comfy.k_diffusion.sampling as sampling
    import comfy.samplers

    class Own(comfy.samplers.Sampler):
        pass

    class Derived(comfy.samplers.KSAMPLER):
        pass

    for sampler in (Own(), Derived(sampling.sample_euler), comfy.samplers.KSAMPLER(foreign), None):
        with pytest.raises(ours.GradientError, match=r"Expected: one of: euler, .*KSamplerSelect"):
            ours.differentiable(sampler)
    with pytest.raises(ours.GradientError, match=r"dpm_adaptive .* step sizes follow the image"):
        ours.differentiable(ksampler("dpm_adaptive", {"rtol": 0.1}))
    with pytest.raises(ours.GradientError, match="uni_pc"):
        ours.differentiable(comfy.samplers.KSAMPLER(sampling.sample_euler.__wrapped__))  # not what the module has
    # packs put functions of theirs into the host's module
    monkeypatch.setattr(sampling, "sample_euler", foreign)
    monkeypatch.setattr(sampling, "sample_foreign", foreign, raising=False)
    for name in ("euler", "foreign"):
        with pytest.raises(ours.GradientError, match=r"foreign, which is not a function of ComfyUI's own"):
            ours.differentiable(ksampler(name))


def test_caching_video_sampler_is_refused(ours: ModuleType, ksampler: Callable[..., Any]) -> None:
    """It came with ComfyUI 0.19 or later."""
    import comfy.k_diffusion.sampling as sampling

    if hasattr(sampling, "sample_ar_video"):
        with pytest.raises(ours.GradientError, match=r"ar_video .* keeps caches"):
            ours.differentiable(ksampler("ar_video"))
    else:
        assert "ar_video" not in ours.right()
