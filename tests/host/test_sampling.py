"""Entering the user's sampling: the host's own result, its objects untouched, and what happens when it goes wrong."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Container
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

STEPS, CFG, SEED = 3, 3.0, 5


@pytest.fixture(scope="module")
def tools(comfy) -> SimpleNamespace:
    """What the tests build with: tiny genuine objects, and the parts of host.sampling."""
    import provoke.core.errors as errors
    from provoke.host.sampling import evaluations, generator, handle, inside, routes
    from provoke.tools import tiny

    return SimpleNamespace(
        tiny=tiny, errors=errors, inside=inside, evaluations=evaluations, generator=generator, handle=handle,
        routes=routes,
    )  # fmt: skip


class Graph:
    """A KSampler's inputs, in both forms."""

    def __init__(self, tools: SimpleNamespace, family: str, **changes: Any) -> None:
        import comfy.samplers

        self._tools, tiny = tools, tools.tiny
        self.model = changes.get("model") or tiny.model(family)
        self.positive = changes.get("positive") or tiny.conditioning(family, seed=1)
        self.negative = changes.get("negative") or tiny.conditioning(family, seed=2)
        self.latent = changes.get("latent") or tiny.empty_latent(family, batch=changes.get("batch", 1))
        self.seed = changes.get("seed", SEED)
        self.sampler, self.denoise = changes.get("sampler", "euler"), changes.get("denoise", 1.0)
        with torch.inference_mode():
            own = comfy.samplers.KSampler(
                self.model, STEPS, self.model.load_device, self.sampler, "normal", self.denoise, {}
            )
            self.sigmas = own.sigmas

    def plain(self) -> Tensor:
        import nodes

        with torch.inference_mode():
            out = nodes.common_ksampler(
                self.model, self.seed, STEPS, CFG, self.sampler, "normal", self.positive, self.negative, self.latent,
                denoise=self.denoise,
            )  # fmt: skip
        return out[0]["samples"].clone()

    def inside(self, body: Callable[[Any], Any], **options: Any) -> Any:
        import comfy.samplers
        from comfy_extras.nodes_custom_sampler import Noise_RandomNoise

        inside = self._tools.inside
        guider = inside.guider_of(self.model, self.positive, self.negative, CFG)
        sampler = comfy.samplers.sampler_object(self.sampler)
        return inside.inside(guider, Noise_RandomNoise(self.seed), sampler, self.sigmas, self.latent, body, **options)


@pytest.fixture
def graph(tools) -> Callable[..., Graph]:
    return lambda family="sd15", **changes: Graph(tools, family, **changes)


def value(handle: Any) -> Tensor:
    with torch.no_grad():
        return handle.sample()


def weight(like: Tensor) -> Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(3))


def by_noise(handle: Any, **options: Any) -> Tensor:
    """The gradient of <weight, latent> by the noise."""
    leaf = handle.noise.clone().requires_grad_(True)
    out = handle.sample(noise=leaf, **options)
    return torch.autograd.grad((out * weight(out)).sum(), leaf)[0]


# ---------------------------------------------------------------------------------------------- the same result


@pytest.mark.parametrize("family", ["sd15", "sd2v", "sdxl", "sd3", "flux", "wan"])
def test_the_hosts_own_result_and_the_next_one(graph, family: str) -> None:
    one = graph(family)
    before = one.plain()
    inner = one.inside(lambda handle: (by_noise(handle), value(handle))[1])
    assert float((inner - before).abs().max()) <= 1e-4
    assert not inner.is_inference()
    assert torch.equal(one.plain(), before)


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "dpmpp_2m_sde", "heun", "ddim", "uni_pc", "euler_cfg_pp"])
def test_parity_by_sampler_with_a_mask_and_part_of_the_schedule(graph, tools, sampler: str) -> None:
    mask = torch.zeros(2, 64, 64)
    mask[:, 16:, :40] = 1
    latent = tools.tiny.picture_latent("sd15", batch=2, mask=mask)
    one = graph(sampler=sampler, latent=latent, denoise=0.7)
    before = one.plain()
    assert float((one.inside(value) - before).abs().max()) <= 1e-4
    assert torch.equal(one.plain(), before)


def test_a_model_with_everything_on_it(graph, tools) -> None:
    """LoRA, a hook on one side, ControlNet, regions, a mask, two pictures."""
    tiny = tools.tiny
    model = tiny.lora(tiny.model("sd15"))
    mask = torch.ones(2, 64, 64)
    mask[:, :24] = 0
    first = tiny.hooked(tiny.conditioning("sd15", seed=1), tiny.lora_hook(model, seed=4))
    positive = tiny.regional(first, tiny.conditioning("sd15", seed=6))
    positive, negative = tiny.with_control(positive, tiny.conditioning("sd15", seed=2), tiny.controlnet(), tiny.hint())
    latent = tiny.picture_latent("sd15", batch=2, mask=mask)
    one = graph(model=model, positive=positive, negative=negative, latent=latent)
    before = one.plain()
    inner, gradient = one.inside(lambda handle: (value(handle), by_noise(handle)))
    assert float((inner - before).abs().max()) <= 1e-4
    assert float(gradient.abs().max()) > 0
    assert torch.equal(one.plain(), before)


def test_an_empty_latent_gets_the_models_channels(graph) -> None:
    one = graph("flux", latent={"samples": torch.zeros(1, 4, 8, 8)})
    inner = one.inside(value)
    assert inner.shape == (1, 16, 8, 8)
    assert float((inner - one.plain()).abs().max()) <= 1e-4


# ---------------------------------------------------------------------------------------------- nothing is left


def state_of(model: Any) -> list[tuple[str, int, bool]]:
    tensors = [*model.model.named_parameters(), *model.model.named_buffers()]
    return [(name, tensor.data_ptr(), tensor.is_inference()) for name, tensor in tensors]


def spoil(handle: Any) -> None:
    by_noise(handle)
    raise RuntimeError("in the body")


def test_an_error_in_the_body_leaves_everything_as_it_was(graph, tools) -> None:
    import comfy.model_management as management

    tiny = tools.tiny
    positive, negative = tiny.with_control(
        tiny.conditioning("sd15", seed=1), tiny.conditioning("sd15", seed=2), tiny.controlnet(), tiny.hint()
    )
    one = graph(positive=positive, negative=negative)
    before, tensors = one.plain(), state_of(one.model)
    options = str(one.model.model_options)
    with pytest.raises(RuntimeError, match="in the body"):
        one.inside(spoil)
    assert positive[0][1]["control"].cond_hint is None
    assert str(one.model.model_options) == options
    assert not management.in_training
    assert [name for name, _, inference in state_of(one.model) if not inference] == []
    assert state_of(one.model) == tensors
    assert torch.equal(one.plain(), before)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_cancel_within_a_backward(graph, level: int) -> None:
    """The host's interrupt comes as an exception of its own kind, and nothing stays patched."""
    import comfy.model_management as management

    one = graph("flux")
    before = one.plain()
    forwards = []

    def body(handle: Any) -> None:
        handle.evaluator.ladder.start(level)
        blocks = handle.evaluator.blocks
        leaf = handle.noise.clone().requires_grad_(True)
        out = handle.sample(noise=leaf)
        forwards.append(sum("forward" in vars(block) for block in blocks))
        if level == 0:  # nothing is computed again: the cancel takes effect in the next run
            torch.autograd.grad(out.sum(), leaf)
            management.interrupt_current_processing(True)
            handle.sample(noise=leaf)
        management.interrupt_current_processing(True)
        torch.autograd.grad(out.sum(), leaf)

    try:
        with pytest.raises(management.InterruptProcessingException):
            one.inside(body)
    finally:
        management.interrupt_current_processing(False)
    assert forwards == [0]
    assert not any("forward" in vars(module) for module in one.model.model.modules())
    assert not management.in_training
    assert torch.equal(one.plain(), before)


@pytest.mark.parametrize("family", ["sd15", "flux"])
@pytest.mark.parametrize("fails", [False, True])
def test_no_graph_stays_alive(graph, family: str, fails: bool) -> None:
    """Not one tensor with a graph more than before, on any rung; autograd's own cycles are not Python's to collect."""
    one = graph(family)

    def body(handle: Any) -> None:
        for level in range(3):
            handle.evaluator.ladder.start(level)
            by_noise(handle)
        if fails:
            spoil(handle)

    def graphs() -> int:
        gc.collect()
        return sum(isinstance(thing, Tensor) and thing.grad_fn is not None for thing in gc.get_objects())

    for _ in range(2):  # what is made once (caches) is not what is looked for
        before = graphs()
        with pytest.raises(RuntimeError, match="in the body") if fails else contextlib.nullcontext():
            one.inside(body)
    assert graphs() == before


def test_a_schedule_of_weights_is_never_kept(graph, tools) -> None:
    """One hook with keyframes on both sides: its weights change between evaluations, past autograd's counters."""
    tiny = tools.tiny
    model = tiny.model("sd15")
    hooks = tiny.lora_hook(model, seed=4, keyframes=((0.0, 1.0), (0.4, 0.2)))
    positive = tiny.hooked(tiny.conditioning("sd15", seed=1), hooks)
    negative = tiny.hooked(tiny.conditioning("sd15", seed=2), hooks)
    one = graph(model=model, positive=positive, negative=negative)
    before = one.plain()

    def body(handle: Any) -> None:
        assert handle.evaluator.needs_checkpoints
        assert handle.evaluator.ladder.rung is tools.evaluations.ONCE
        assert float((value(handle) - before).abs().max()) <= 1e-4
        found = by_noise(handle)
        handle.evaluator.ladder.start(2)
        assert float((by_noise(handle) - found).norm() / found.norm()) <= 1e-5
        rng = torch.Generator().manual_seed(0)
        ways = [torch.randn(found.shape, generator=rng) for _ in range(8)]
        direction = weight(found)
        with torch.no_grad():
            measured = torch.tensor([
                float(((handle.sample(noise=handle.noise + 3e-3 * w) - handle.sample(noise=handle.noise - 3e-3 * w))
                       .double() * direction).sum()) / 6e-3 for w in ways
            ])  # fmt: skip
        claimed = torch.tensor([float((found.double() * w).sum()) for w in ways])
        assert float((measured - claimed).norm() / measured.norm()) <= 0.01

    one.inside(body)
    assert torch.equal(one.plain(), before)


def test_works_in_inference_mode_and_out_of_it(graph) -> None:
    one = graph()
    outside = one.inside(by_noise)
    with torch.inference_mode():
        within = one.inside(by_noise)
        assert torch.is_inference_mode_enabled()
    assert torch.equal(outside, within)
    assert not within.is_inference()


# ---------------------------------------------------------------------------------------------- memory


def test_what_an_evaluation_keeps_is_measured_and_said(graph) -> None:
    notes: list[str] = []
    one = graph()
    kept = one.inside(lambda handle: handle.bytes_kept(handle.noise, handle.sigmas[0]), notes=notes)
    assert kept > 100 * 4 * 64 * 4  # a hundred latents
    assert f"{kept / 2**20:,.1f} MiB each" in notes[-1]


def out_of_memory(forward: Callable[..., Any], handle: Any, rungs: Container[int]) -> Callable[..., Any]:
    """A diffusion model's forward that runs out of memory where it makes a graph, on these rungs of the ladder."""
    ladder = handle.evaluator.ladder

    def failing(*args: Any, **kwargs: Any) -> Any:
        out = forward(*args, **kwargs)
        if torch.is_grad_enabled() and out.requires_grad and ladder._rungs.index(ladder.rung) in rungs:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        return out

    return failing


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("family", ["sd15", "flux"])
def test_out_of_memory_steps_down_and_gives_the_same_gradient(graph, tools, family: str, start: int) -> None:
    one = graph(family)
    notes: list[str] = []

    def body(handle: Any) -> tuple[Tensor, Tensor]:
        function = lambda noise: handle.sample(noise=noise)  # noqa: E731
        images = tools.generator.SampledImages(handle, function)
        handle.evaluator.ladder.start(1)
        image, pullback = images.vjp(handle.noise)
        expected = pullback(weight(image))
        handle.evaluator.ladder.start(start)
        net = handle.evaluator.inner_model.diffusion_model
        net.forward = out_of_memory(net.forward, handle, {0, 1})
        try:
            image, pullback = images.vjp(handle.noise)
            return expected, pullback(weight(image))
        finally:
            del net.forward

    expected, found = one.inside(body, notes=notes)
    assert float((found - expected).norm() / expected.norm()) <= 1e-5
    assert any("out of memory" in note and "checkpoints inside the model" in note for note in notes), notes


def test_out_of_memory_to_the_end_is_a_clear_error(graph, tools) -> None:
    one = graph()
    before = one.plain()

    def body(handle: Any) -> None:
        net = handle.evaluator.inner_model.diffusion_model
        net.forward = out_of_memory(net.forward, handle, {0, 1, 2})
        try:
            by_noise(handle)
        finally:
            del net.forward

    with pytest.raises(tools.errors.ProvokeError, match="Out of memory: the gradient of the sampling"):
        one.inside(body)
    assert torch.equal(one.plain(), before)


def test_several_samples_an_image_run_one_after_the_other(graph, tools) -> None:
    """Image-major, each as if it were alone: what a search over candidates needs."""
    one = graph(batch=2)

    def body(handle: Any) -> None:
        images = tools.generator.SampledImages(handle, lambda noise: handle.sample(noise=noise))
        rng = torch.Generator().manual_seed(9)
        many = torch.randn(6, *handle.noise.shape[1:], generator=rng)
        image, pullback = images.vjp(many)
        gradient = pullback(weight(image))
        assert torch.equal(images(many), image)
        for sample in range(3):
            rows = [sample, 3 + sample]  # of image 0 and of image 1
            alone, alone_pullback = images.vjp(many[rows])
            assert torch.equal(alone, image[rows])
            assert torch.allclose(alone_pullback(weight(image)[rows]), gradient[rows], rtol=1e-4, atol=1e-6)
        with pytest.raises(tools.errors.ProvokeError, match="shared out"):
            images(many[:3])

    one.inside(body)


def test_several_prompts_and_seeds_in_one_go(graph, tools) -> None:
    """As the host samples each of them, and a gradient that is the sum of theirs."""
    one = graph()
    other = tools.tiny.conditioning("sd15", seed=8)
    second = graph(model=one.model, positive=other, seed=77)
    expected = torch.cat([one.plain(), second.plain()])

    def body(handle: Any) -> None:
        prompts = [{"positive": handle.conditioning["positive"]}, {"positive": other}]
        seeds = [SEED, 77]
        state = torch.get_rng_state()
        runs = [{"conditioning": p, "noise": handle.noise_of(s)} for p, s in zip(prompts, seeds, strict=True)]
        assert torch.equal(torch.get_rng_state(), state)
        with torch.no_grad():
            assert float((handle.sample_all(runs) - expected).abs().max()) <= 1e-4
        shift = torch.zeros_like(other[0][0], requires_grad=True)
        moved = [{**run, "conditioning": shifted(run["conditioning"], shift)} for run in runs]
        out = handle.sample_all(moved)
        (both,) = torch.autograd.grad((out * weight(out)).sum(), shift)
        single = []
        for run, part in zip(moved, weight(out).split(1), strict=True):
            single.append(torch.autograd.grad((handle.sample(**run) * part).sum(), shift)[0])
        assert torch.allclose(both, sum(single), rtol=1e-4, atol=1e-5)

    def shifted(prompt: dict[str, Any], shift: Tensor) -> dict[str, Any]:
        return {"positive": [[prompt["positive"][0][0] + shift, prompt["positive"][0][1]]]}

    one.inside(body)


def test_nothing_moved_is_the_same_bits(graph, tools) -> None:
    """The graph's own values, given explicitly: processed anew, with the same result."""
    one = graph(latent=tools.tiny.picture_latent("sd15"), denoise=0.6)

    def body(handle: Any) -> None:
        plain = value(handle)
        leaf = handle.noise.clone().requires_grad_(True)
        same = handle.sample(noise=leaf, latent=handle.latent, conditioning=handle.conditioning, seed=handle.seed)
        assert torch.equal(same.detach(), plain)
        assert torch.equal(same.detach(), one_plain)

    one_plain = one.plain()
    one.inside(body)


# ---------------------------------------------------------------------------------------------- routes


def test_routes(graph, tools) -> None:
    """The whole schedule as a short route is the exact one; shorter ones differ, cost less, and change no picture."""
    routes = tools.routes
    one = graph()

    def body(handle: Any) -> None:
        exact = by_noise(handle)
        assert torch.equal(by_noise(handle, route=routes.Residual(STEPS)), exact)
        leaf = handle.noise.clone().requires_grad_(True)
        short = handle.sample(noise=leaf, route=routes.Residual(1))
        assert torch.equal(short.detach(), value(handle))
        found = by_noise(handle, route=routes.Residual(1))
        halved = by_noise(handle, route=routes.Residual(1, weight=0.5))
        assert torch.allclose(halved, found / 2, rtol=1e-5, atol=1e-8)
        cosine = torch.nn.functional.cosine_similarity(found.flatten(), exact.flatten(), dim=0)
        assert 0.1 < float(cosine) < 0.9999
        with pytest.raises(tools.errors.GradientError, match="last steps only"):
            handle.sample(noise=leaf, route=routes.LastSteps(1))
        assert by_noise(handle, route=routes.OneStep()).abs().max() > 0

    one.inside(body)


def test_a_short_route_is_the_gradient_of_the_run_with_a_frozen_start(graph, tools) -> None:
    """Finite differences of the late part alone, from the latent where the route begins."""
    one = graph()
    late = 2

    def body(handle: Any) -> None:
        positive = handle.conditioning["positive"][0]
        leaf = positive[0].clone().requires_grad_(True)
        embed = lambda e: {"positive": [[e, positive[1]]]}  # noqa: E731
        out = handle.sample(conditioning=embed(leaf), route=tools.routes.LastSteps(late))
        direction = weight(out)
        (found,) = torch.autograd.grad((out * direction).sum(), leaf)
        x = handle._noised(handle.noise, handle.model_latent)
        with torch.no_grad():
            for i in range(STEPS - late):
                x = step(handle, x, i)

            def score(e: Tensor) -> float:
                handle.evaluator.conds = handle._processed(embed(e), handle.noise, handle.model_latent, False)
                y = x
                for i in range(STEPS - late, STEPS):
                    y = step(handle, y, i)
                handle.evaluator.conds = handle._conds
                return float((handle._model_out(y).double() * direction).sum())

            ways = [torch.randn(leaf.shape, generator=torch.Generator().manual_seed(s)) for s in range(8)]
            here = leaf.detach()
            measured = torch.tensor([(score(here + 1e-2 * w) - score(here - 1e-2 * w)) / 2e-2 for w in ways])
        claimed = torch.tensor([float((found * w).sum()) for w in ways])
        assert float((measured - claimed).norm() / measured.norm()) <= 0.01

    def step(handle: Any, x: Tensor, i: int) -> Tensor:
        sigma, after = handle.sigmas[i], handle.sigmas[i + 1]
        return x + (x - handle.denoised(x, sigma)) / sigma * (after - sigma)

    one.inside(body)
