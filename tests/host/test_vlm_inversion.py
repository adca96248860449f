"""VLM inversion on the host's own objects: what it promises, its pull against the models' own predictions, refusals."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from provoke.core.errors import GradientError, ProvokeError
from provoke.tools.inprocess import execute

from .sampler_graph import SamplerGraph

SEED = 5
PROMPT = "a red circle left of a blue square"
ITM, OPT = "provoke-demo-blip2-itm", "provoke-demo-blip2-opt"
QUICK: dict[str, Any] = {"steps": 3, "copies": 2, "ema_restarts": "0.5"}


@pytest.fixture(scope="module")
def vlm(nodes: ModuleType) -> Any:
    with torch.inference_mode():
        matching = nodes.LoadVlm.execute(ITM).args[0]
        return nodes.LoadVlm.execute(OPT, matching).args[0]


def inputs(one: SamplerGraph) -> dict[str, Any]:
    """The node's sockets, and its guidance."""
    return {
        "model": one.model, "noise_seed": SEED, "cfg": 3.0, "positive": one.positive, "negative": one.negative,
        "latent_image": one.latent, "vae": one.vae,
    }  # fmt: skip


def advanced(one: SamplerGraph, sampler: Any, **changes: Any) -> tuple[Tensor, Tensor]:
    """SamplerCustomAdvanced's two outputs."""
    from comfy_extras import nodes_custom_sampler as host

    with torch.inference_mode():
        out = host.SamplerCustomAdvanced.execute(**{**one.sockets(), "sampler": sampler, **changes}).args
    return out[0]["samples"].clone(), out[1]["samples"].clone()


def opened(one: SamplerGraph, body: Callable[[Any], Any]) -> Any:
    """Within the sampling, as the node opens it."""
    from provoke.host.sampling.graph import ksampler

    s = one.settings
    with torch.inference_mode():
        made = ksampler(
            one.model, SEED, 4, 3.0, s["sampler_name"], s["scheduler"], one.positive, one.negative, one.latent, 1.0,
            one.vae,
        )  # fmt: skip
        return made.inside(body, gradient=False)


def run(nodes: ModuleType, one: SamplerGraph, vlm: Any, **choices: Any) -> SimpleNamespace:
    output, loss, report = execute(
        nodes.VlmInversionSampler, **inputs(one), **{"vlm": vlm, "prompt": PROMPT, **QUICK, **choices}
    )
    return SimpleNamespace(output=output, samples=output["samples"], loss=loss, report=report)


def sampler(nodes: ModuleType, one: SamplerGraph, vlm: Any, **choices: Any) -> Any:
    return execute(nodes.VlmInversion, vae=one.vae, **{"vlm": vlm, "prompt": PROMPT, **QUICK, **choices})[0]


def state(module: torch.nn.Module) -> list[tuple[str, int, int]]:
    found = [*module.named_parameters(), *module.named_buffers()]
    return [(name, id(tensor), tensor._version if not tensor.is_inference() else 0) for name, tensor in found]


# ---------------------------------------------------------------------------------------------- judge and objective


def test_load_vlm_and_both_together(nodes) -> None:
    with torch.inference_mode():
        matching, said = nodes.LoadVlm.execute(ITM).args
        both, all_said = nodes.LoadVlm.execute(OPT, matching).args
        with pytest.raises(ProvokeError, match="has no loss that"):
            nodes.LoadVlm.execute(OPT, both)
        with pytest.raises(ProvokeError, match="There is no model"):
            nodes.LoadVlm.execute("../" + OPT)
    assert [line.partition(":")[0] for line in said.splitlines()] == ["matching", "contrastive"]
    assert [line.partition(":")[0] for line in all_said.splitlines()] == ["matching", "contrastive", "caption"]
    assert len(both.patchers) == 2


def test_the_objective_scores_what_the_judge_says(nodes, vlm) -> None:
    from provoke.demo.world import render, sample

    images = render(sample(3, torch.Generator().manual_seed(2), objects=2))
    with torch.inference_mode():
        objective = nodes.VlmObjective.execute(vlm, PROMPT, matching=1.0, caption=0.5, contrastive=0.0).args[0]
        _, values, report = nodes.ScoreImages.execute(images.movedim(1, -1), objective).args
        wanted = [-float(vlm.judge.loss("matching", i[None], PROMPT) + 0.5 * vlm.judge.loss("caption", i[None], PROMPT))
                  for i in images]  # fmt: skip
    assert values == pytest.approx(wanted, abs=1e-4)
    assert "log p(match)" in report


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"text": " "}, "The text is empty"),
        ({"text": "red " * 200}, "at most"),
        ({"matching": 0.0, "caption": 0.0}, "their weights are 0"),
    ],
)
def test_objectives_that_are_none(nodes, vlm, choices: dict[str, Any], words: str) -> None:
    with pytest.raises(ProvokeError, match=words):
        execute(nodes.VlmObjective, **{"vlm": vlm, "text": PROMPT, **choices})


def test_latent_search_follows_it(nodes, graph, vlm) -> None:
    """One of the VLM's losses is an ordinary objective for every other method."""
    one = graph()
    objective = execute(nodes.VlmObjective, vlm=vlm, text=PROMPT)[0]
    given = {**inputs(one), "steps": 2, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    outputs = execute(nodes.LatentSearch, **given, objective=objective, direction="satisfy", search_steps=2)
    assert "log p(match)" in outputs[-1]


# ---------------------------------------------------------------------------------------------- what comes out


@pytest.mark.parametrize("family", ["sd15", "sd2v", "sdxl"])
def test_a_latent_like_the_input_that_repeats(nodes, graph, vlm, family: str) -> None:
    one = graph(family)
    out = run(nodes, one, vlm)
    assert out.samples.shape == one.latent["samples"].shape
    assert out.samples.dtype == torch.float32
    assert bool(out.samples.isfinite().all())
    assert len(out.loss["loss"]) == 4
    assert torch.equal(run(nodes, one, vlm).samples, out.samples)
    assert not torch.equal(run(nodes, one, vlm, search_seed=1).samples, out.samples)
    for word in ("judge", "score", "log p(caption)", "kept", "decodes", "evaluations of the model"):
        assert word in out.report
    # four points, and two candidates under two seeds; two copies; SDS once for each of three steps
    assert "8 decodes, 16 looks" in out.report
    assert ", 3 evaluations of the model" in out.report


@pytest.mark.parametrize(
    ("source", "evaluations", "hardest", "batch"),
    [(False, 3, 0, 1), (True, 6, 0, 1), (False, 3, 1, 1), (False, 3, 1, 2)],
)
def test_the_cost_that_is_said_is_what_is_counted(
    nodes, graph, vlm, tiny, monkeypatch: pytest.MonkeyPatch, source: bool, evaluations: int, hardest: int, batch: int
) -> None:
    """One decode a step; of the VLM a look a copy, and one more at each of the hardest; of the model an evaluation, of
    an edit two."""
    from provoke.host.decode import Decoder
    from provoke.scorers.blip2 import Blip2Matching

    counted = {"decodes": 0, "looks": 0, "evaluations": 0}
    one = graph(latent=tiny.picture_latent("sd15", seed=3, batch=batch))

    def counting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counts(*args: Any, **more: Any) -> Any:
            counted[name] += 1
            return function(*args, **more)

        return counts

    monkeypatch.setattr(Decoder, "__call__", counting("decodes", Decoder.__call__))
    monkeypatch.setattr(Blip2Matching, "_loss", counting("looks", Blip2Matching._loss))
    net = type(one.model.model.diffusion_model)
    monkeypatch.setattr(net, "forward", counting("evaluations", net.forward))
    extra = {"source": tiny.conditioning("sd15", seed=7)} if source else {}
    report = run(nodes, one, vlm, copies=4, hardest=hardest, polish=0.0, **extra).report
    measured = 2 + 2 * batch  # both its losses to count the room, and the host's own pictures of the start and the end
    looks = counted.pop("looks") - measured
    assert counted == {"decodes": 8, "evaluations": evaluations}
    # three steps with a gradient; in a batch each latent has its own hardest copy
    assert 32 + 3 * hardest <= looks <= 32 + 3 * hardest * batch
    said = (
        f"8 decodes, {looks} looks of the VLM a latent (with their gradients but for the selection's), {evaluations} "
    )
    assert said in report


def test_no_steps_is_the_latent_itself(nodes, graph, vlm, tiny) -> None:
    one = graph(latent=tiny.picture_latent("sd15", seed=3))
    out = run(nodes, one, vlm, steps=0)
    assert out.output is one.latent
    assert "steps is 0" in out.report


def test_the_host_is_left_as_it_was(nodes, graph, vlm) -> None:
    one = graph()
    roots = [one.model.model, one.vae.first_stage_model, vlm.judge.module]
    before, kept = one.plain(), [state(root) for root in roots]
    options = repr(one.model.model_options)
    random = torch.get_rng_state()
    run(nodes, one, vlm)
    advanced(one, sampler(nodes, one, vlm))
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(one.plain(), before)
    assert [[name for name, *_ in state(root)] for root in roots] == [[name for name, *_ in found] for found in kept]
    assert [state(root) for root in roots] == kept
    assert repr(one.model.model_options) == options
    assert not any(p.grad is not None for root in roots for p in root.parameters())


def test_what_the_mask_keeps_is_bit_for_bit_the_inputs(nodes, graph, vlm, tiny) -> None:
    mask = torch.zeros(1, 64, 64)
    mask[:, :, 32:] = 1
    one = graph(latent=tiny.picture_latent("sd15", seed=3, mask=mask))
    out = run(nodes, one, vlm)
    assert torch.equal(out.samples[..., :4], one.latent["samples"][..., :4])
    assert not torch.equal(out.samples[..., 4:], one.latent["samples"][..., 4:])
    assert out.output["noise_mask"] is one.latent["noise_mask"]


def test_what_the_mask_keeps_of_an_empty_latent_is_what_the_hosts_samplers_keep(
    nodes, graph, vlm, tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In both forms, from the start on: the search sees what comes out, and the score before is that of the start."""
    from provoke.nodes import vlm_inversion

    said: list[str] = []
    monkeypatch.setattr(vlm_inversion, "reported", said.append)
    mask = torch.zeros(1, 64, 64)
    mask[:, :, 32:] = 1
    one = graph(latent=tiny.empty_latent("sd15", mask=mask))
    kept = one.plain()[..., :4]
    torch.testing.assert_close(kept, torch.zeros_like(kept), atol=1e-6, rtol=0)  # rounded there, at every step
    out = run(nodes, one, vlm)
    found, _ = advanced(one, sampler(nodes, one, vlm))
    for samples in (out.samples, found):
        assert not bool(samples[..., :4].any())
        assert bool(samples[..., 4:].any())
    before = [re.findall(r"latent 1  \S+ \((\S+)\)", report) for report in (out.report, *said)]
    assert len(before) == 2
    assert len(before[0]) == 2
    assert [float(value) for value in before[0]] == pytest.approx([float(value) for value in before[1]], rel=1e-2)
    unmasked = run(nodes, graph(), vlm)
    assert re.findall(r"latent 1  \S+ \((\S+)\)", unmasked.report) != before[0]


def test_an_image_does_not_depend_on_its_neighbours(nodes, graph, vlm, tiny) -> None:
    both = tiny.picture_latent("sd15", seed=3, batch=2)
    alone = {"samples": both["samples"][1:2].clone()}
    whole = run(nodes, graph(latent=both), vlm).samples
    torch.testing.assert_close(run(nodes, graph(latent=alone), vlm).samples, whole[1:2], atol=1e-3, rtol=1e-3)


def test_it_goes_on_from_its_own_output(nodes, graph, vlm) -> None:
    one = graph()
    first = run(nodes, one, vlm)
    one.latent = first.output
    again = run(nodes, one, vlm)
    assert again.samples.shape == first.samples.shape
    assert not torch.equal(again.samples, first.samples)
    ended = re.findall(r"latent 1  (\S+) \(", first.report)
    assert re.findall(r"latent 1  \S+ \((\S+)\)", again.report) == ended  # it begins where that one ended
    assert len(ended) == 2
    # a run that does not move gives it back: the latent itself is resumed, not another encoding of its picture
    still = run(nodes, one, vlm, step_size=0.0001, steps=1, warm_up=1.0)
    torch.testing.assert_close(still.samples, first.samples, atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    "choices",
    [
        {"views": "none"},
        {"views": "noise only"},
        {"views": "published, with flips"},
        {"copies": 0},
        {"copies": 3, "hardest": 1},
        {"sds": 0.0},
        {"balance": 0.0},
        {"norms": "as they are"},
        {"weighting": "noise"},
        {"ema_decay": 0.0, "ema_restarts": ""},
        {"polish": 1.0},
        {"contrastive": 1.0, "matching": 0.0},
    ],
)
def test_every_choice_gives_a_picture(nodes, graph, vlm, choices: dict[str, Any]) -> None:
    out = run(nodes, graph(), vlm, **choices)
    assert bool(out.samples.isfinite().all())
    if choices.get("sds") == 0:
        assert ", 0 evaluations of the model" in out.report


def test_an_edit_is_gentler_than_score_distillation(nodes, graph, vlm, tiny) -> None:
    """The same words on both sides: only the VLM is left to pull. Other words: the difference does."""
    one = graph(latent=tiny.picture_latent("sd15", seed=3))
    still = {"balance": 0.0, "update_noise": 0.0, "ema_decay": 0.0}
    usual = run(nodes, one, vlm, **still).samples
    edited = run(nodes, one, vlm, source=tiny.conditioning("sd15", seed=7), **still)
    start = one.latent["samples"]
    assert 0 < float((edited.samples - start).norm()) < float((usual - start).norm())
    assert ", 6 evaluations of the model" in edited.report
    with pytest.raises(ProvokeError, match="the latent is empty"):
        run(nodes, graph(), vlm, source=tiny.conditioning("sd15", seed=7))


# ---------------------------------------------------------------------------------------------- the gradients


def test_the_gradient_through_decode_copies_and_judge(nodes, graph, tiny) -> None:
    """Finite differences by the latent, along random directions and blocks. (The judge in float64, so that the step can
    be small: the picture's clamp and the caption model's ReLUs have corners, and the error falls with the step.)"""
    from provoke.core import inversion
    from provoke.core.inversion import HardExamples
    from provoke.core.problem import Differentiable
    from provoke.host.judges import passed
    from provoke.nodes.objective import Situation
    from provoke.nodes.vlm_objective import vlm_parts

    with torch.inference_mode():
        vlm = nodes.LoadVlm.execute(OPT, nodes.LoadVlm.execute(ITM).args[0]).args[0]
    one, step = graph(latent=tiny.picture_latent("sd15", seed=3)), 3e-4
    errors: dict[str, float] = {}

    def body(sampling: Any) -> None:
        generator = Differentiable(lambda z: sampling.decode(sampling.latent_of(z)).double())
        z = sampling.model_latent
        rng = torch.Generator().manual_seed(2)
        ways = [torch.randn(z.shape, generator=rng) for _ in range(16)]
        channel, corner, line = (torch.zeros_like(z) for _ in range(3))
        channel[:, 1], corner[..., :4, :4], line[:, 0, -1] = 1, 1, 1
        ways += [channel, corner, line]
        with passed(vlm):
            vlm.judge.module.double()
            for kind in ("matching", "caption", "contrastive"):
                objective = vlm_parts(vlm, PROMPT, {kind: 1.0}).build(Situation())
                problem = HardExamples(generator, objective, augment=inversion.views(), copies=1, hardest=0)

                def score(x: Tensor, problem: Any = problem) -> float:
                    return float(problem.evaluate(x, torch.Generator().manual_seed(1), gradient=False).score)

                gradient = problem.evaluate(z, torch.Generator().manual_seed(1), gradient=True).gradient
                claimed = torch.tensor([float((gradient.double() * way).sum()) for way in ways])
                measured = torch.tensor([(score(z + step * w) - score(z - step * w)) / (2 * step) for w in ways])
                errors[kind] = float((claimed - measured).norm() / measured.norm())

    opened(one, body)
    assert max(errors.values()) < 0.02, errors


@pytest.mark.parametrize("family", ["sd15", "sd2v", "sd3"])
def test_the_pull_is_the_models_own_error(graph, family: str) -> None:
    """Against the network's raw output: eps_hat - eps, v_hat - v of a variance-preserving model, and of a flow. With
    guidance, which is linear in all of them."""
    from provoke.core.distillation import Distillation
    from provoke.host.sampling.distillation import Predictor

    one = graph(family)
    errors: list[float] = []

    def body(sampling: Any) -> None:
        model = sampling.evaluator.guider.inner_model
        z = torch.randn(sampling.noise.shape, generator=torch.Generator().manual_seed(4))
        for ratio in (0.2, 1.0, 4.0):
            weight = {"sd15": "noise", "sd2v": "picture", "sd3": "velocity"}[family]
            pull = Distillation(Predictor(sampling), low=ratio, high=ratio, weight=weight)
            found = pull(z, 0.0, torch.Generator().manual_seed(9))
            rng = torch.Generator().manual_seed(9)
            torch.rand((), generator=rng)  # the level
            noise = torch.randn(z.shape[1:], generator=rng)[None]
            alpha = 1 / (1 + ratio) if family == "sd3" else 1 / (1 + ratio**2) ** 0.5
            sigma = ratio * alpha
            mixed = alpha * z + sigma * noise
            level = torch.tensor([sigma if family == "sd3" else ratio])
            when = model.model_sampling.timestep(level).float()

            def raw(conditioning: Any, mixed: Tensor = mixed, when: Tensor = when) -> Tensor:
                text, extra = conditioning[0]
                more = {"y": extra["pooled_output"]} if family == "sd3" else {}
                return model.diffusion_model(mixed, when, context=text, **more)

            with torch.inference_mode():
                yes, no = raw(one.positive), raw(one.negative)
                said = no + 3.0 * (yes - no)
                if family == "sd15":
                    wanted = -(said - noise)
                elif family == "sd3":
                    wanted = -(said - (noise - z))
                else:
                    wanted = -sigma * (said - (alpha * noise - sigma * z))
            errors.append(float((found - wanted).norm() / wanted.norm()))

    opened(one, body)
    assert len(errors) == 3
    assert max(errors) < 2e-3, errors


@pytest.mark.parametrize("family", ["sd15", "sd2v", "sd3", "flux"])
def test_noise_levels_by_their_ratio(graph, family: str) -> None:
    from provoke.host.sampling.distillation import Predictor

    def body(sampling: Any) -> None:
        predictor = Predictor(sampling)
        for ratio in (0.05, 1.0, 9.0):
            sigma = predictor.sigma(ratio)
            wanted = ratio / (1 + ratio) if family in ("sd3", "flux") else ratio
            assert sigma == pytest.approx(wanted, rel=1e-4)
        assert predictor.sigma(1e9) == pytest.approx(float(sampling.model_sampling.sigma_max), rel=1e-4)

    opened(graph(family), body)


# ---------------------------------------------------------------------------------------------- as a SAMPLER


def test_as_a_sampler_of_the_host(nodes, graph, vlm) -> None:
    one = graph()
    made = sampler(nodes, one, vlm)
    found, denoised = advanced(one, made)
    assert found.shape == one.latent["samples"].shape
    assert bool(found.isfinite().all())
    torch.testing.assert_close(found, denoised)
    again, _ = advanced(one, sampler(nodes, one, vlm))
    assert torch.equal(found, again)
    other, _ = advanced(one, sampler(nodes, one, vlm, search_seed=4))
    assert not torch.equal(found, other)


def test_the_samplers_report_is_the_running_nodes(nodes, graph, vlm, monkeypatch: pytest.MonkeyPatch) -> None:
    """In figures that the pictures of its two latents have with the host's own decode: those of the node's report."""
    from provoke.nodes import vlm_inversion
    from provoke.nodes.objective import scored_one_by_one
    from provoke.nodes.vlm_objective import vlm_parts

    said: list[str] = []
    monkeypatch.setattr(vlm_inversion, "reported", said.append)
    one = graph()
    samples, _ = advanced(one, sampler(nodes, one, vlm))
    (report,) = said
    with torch.inference_mode():
        images = one.vae.decode(samples).movedim(-1, 1).float().clone()
        wanted = scored_one_by_one(vlm_parts(vlm, PROMPT, {"matching": 1.0, "caption": 1.0}), images, None)
    for name, value in wanted.terms.items():
        assert f"{name} (of the start)\n  latent 1  {float(value):.4g} (" in report
    assert "8 decodes, 16 looks" in report
    assert ", 3 evaluations of the model" in report
    advanced(one, sampler(nodes, one, vlm, steps=0))
    assert len(said) == 1


def test_the_guiders_guidance_serves_the_pull(nodes, graph, vlm) -> None:
    one, other = graph(), graph()
    one.settings["cfg"], other.settings["cfg"] = 1.0, 20.0
    alone = {"balance": 0.0}
    weak, strong = (advanced(each, sampler(nodes, each, vlm, **alone))[0] for each in (one, other))
    assert not torch.equal(weak, strong)


def test_sigmas_are_the_range(graph) -> None:
    from provoke.host.sampling.inversion import ratios_of

    one = graph("sd3")

    def body(sampling: Any) -> None:
        sampling.sigmas = torch.tensor([0.9, 0.8, 0.5, 0.2, 0.0])
        low, high, end = ratios_of(sampling)
        assert (low, high, end) == pytest.approx((0.25, 9.0, 4.0), rel=1e-3)
        sampling.sigmas = torch.tensor([1.0, 0.5, 0.0])
        assert 100 < ratios_of(sampling)[1] < 1e5
        sampling.sigmas = torch.tensor([0.0, 0.0])
        with pytest.raises(ProvokeError, match="No noise level of SIGMAS is above 0"):
            ratios_of(sampling)

    opened(one, body)


def test_as_a_sampler_with_a_mask_and_without_steps(nodes, graph, vlm, tiny) -> None:
    mask = torch.zeros(1, 64, 64)
    mask[:, :, 32:] = 1
    one = graph(latent=tiny.picture_latent("sd15", seed=3, mask=mask))
    found, _ = advanced(one, sampler(nodes, one, vlm))
    torch.testing.assert_close(found[..., :4], one.latent["samples"][..., :4], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found[..., 4:], one.latent["samples"][..., 4:], atol=1e-3)
    still, _ = advanced(one, sampler(nodes, one, vlm, steps=0))
    torch.testing.assert_close(still, one.latent["samples"], atol=1e-5, rtol=1e-5)


def test_a_sampler_with_nothing_to_begin_from(nodes, graph, vlm) -> None:
    from comfy_extras.nodes_custom_sampler import DisableNoise

    one = graph()
    with pytest.raises(ProvokeError, match="nothing to begin from"):
        advanced(one, sampler(nodes, one, vlm), noise=DisableNoise.execute().args[0])


def test_a_sampler_refuses_what_it_cannot_honour(nodes, graph, vlm, tiny) -> None:
    """A guider with a second model, no noise level, an edit of nothing; a text that cannot be read before it runs."""
    from comfy_extras.nodes_custom_sampler import BasicGuider

    one = graph()
    made = sampler(nodes, one, vlm)
    guider = BasicGuider.execute(one.model, one.positive).args[0]
    guider.other_model = graph().model
    with pytest.raises(GradientError, match="runs a second model"):
        advanced(one, made, guider=guider)
    with pytest.raises(ProvokeError, match="No noise level of SIGMAS is above 0"):
        advanced(one, made, sigmas=torch.tensor([0.0, 0.0]))
    with pytest.raises(ProvokeError, match="the latent is empty"):
        advanced(one, sampler(nodes, one, vlm, source=tiny.conditioning("sd15", seed=7)))
    with pytest.raises(ProvokeError, match="The text is empty"):
        sampler(nodes, one, vlm, prompt=" ")


# ---------------------------------------------------------------------------------------------- memory


def most_in_a_look(vlm: Any, problem: Any, z: Tensor) -> int:
    """The most bytes that autograd keeps at one time in an evaluation with its gradient, the judge's weights apart."""
    from provoke.host.judges import passed
    from provoke.host.memory import most_kept

    def evaluated(x: Tensor) -> Tensor:
        return x * problem.evaluate(x.detach(), torch.Generator().manual_seed(1), gradient=True).gradient

    with torch.inference_mode(False), passed(vlm):
        return most_kept(evaluated, z, vlm.judge.module)


def test_memory_does_not_grow_with_the_copies(nodes, graph, vlm) -> None:
    """Counted with the genuine decoder and judge: ten copies take what three do, and at most a third of what they would
    in one graph."""
    from provoke.core import inversion
    from provoke.core.inversion import HardExamples
    from provoke.core.problem import Differentiable, ImageProblem
    from provoke.nodes.objective import Situation
    from provoke.nodes.vlm_objective import vlm_parts

    found: dict[str, int] = {}

    def body(sampling: Any) -> None:
        generator = Differentiable(lambda z: sampling.decode(sampling.latent_of(z)))
        objective = vlm_parts(vlm, PROMPT, {"matching": 1.0, "caption": 1.0}).build(Situation())

        def at_once(image: Tensor) -> Tensor:
            draw, change = torch.Generator().manual_seed(1), inversion.views()
            return torch.stack([objective(change(image, draw)) for _ in range(10)]).mean(0)

        for copies in (3, 10):
            problem = HardExamples(generator, objective, augment=inversion.views(), copies=copies, hardest=0)
            found[f"{copies} copies"] = most_in_a_look(vlm, problem, sampling.noise)
        found["at once"] = most_in_a_look(vlm, ImageProblem(generator, at_once), sampling.noise)

    opened(graph(), body)
    assert found["10 copies"] <= 1.1 * found["3 copies"]  # (which changes are drawn differs a little)
    assert found["10 copies"] <= found["at once"] / 3


@pytest.mark.parametrize("form", ["node", "SAMPLER"])
def test_the_judges_backward_is_asked_for(nodes, graph, vlm, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    """In the request that loads everything, however many copies; and the decoder's with it."""
    import comfy.model_management as mm

    from provoke.host import judges
    from provoke.host.decode import Decoder
    from provoke.host.memory import MARGIN

    asked: list[float] = []
    load = mm.load_models_gpu

    def heard(models: Any, memory_required: float = 0, **more: Any) -> None:
        if vlm.patchers[0] in models and len(models) > 1 + len(vlm.patchers):
            asked.append(memory_required)
        load(models, memory_required=memory_required, **more)

    one = graph(batch=2)
    look = judges.room([vlm], 2)
    decode = Decoder(one.vae, []).room(one.latent["samples"].shape)
    assert min(look, decode) > 100_000
    monkeypatch.setattr(mm, "load_models_gpu", heard)
    for copies in (1, 4):
        choices = {"copies": copies, "steps": 1}
        _ = run(nodes, one, vlm, **choices) if form == "node" else advanced(one, sampler(nodes, one, vlm, **choices))
    first, *others = asked
    # each time counted anew: small tensors of the moment may be among what is alive at once, or not
    assert first >= 0.99 * (look + decode) * MARGIN
    assert others == pytest.approx([first] * len(others), rel=0.01)


# ---------------------------------------------------------------------------------------------- while it runs


@pytest.mark.parametrize("form", ["node", "SAMPLER"])
def test_cancel_takes_effect_within_a_step_and_leaves_nothing(nodes, graph, vlm, at_progress, form: str) -> None:
    import comfy.model_management as mm

    one = graph()
    before, judge = one.plain(), state(vlm.judge.module)
    heard = at_progress(2, lambda: mm.interrupt_current_processing(True))
    made = sampler(nodes, one, vlm, steps=40)
    with pytest.raises(mm.InterruptProcessingException):
        _ = run(nodes, one, vlm, steps=40) if form == "node" else advanced(one, made)
    assert heard[-1] <= next(value for value in heard if value >= 2) + 1
    mm.interrupt_current_processing(False)
    assert torch.equal(one.plain(), before)
    assert state(vlm.judge.module) == judge


@pytest.mark.parametrize("form", ["node", "SAMPLER"])
def test_stop_keeps_the_best(nodes, graph, vlm, at_progress, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    from provoke.host import stop
    from provoke.nodes import vlm_inversion

    said: list[str] = []
    monkeypatch.setattr(vlm_inversion, "reported", said.append)
    one, made = graph(), sampler(nodes, graph(), vlm, steps=40)
    heard = at_progress(3, lambda: stop.stop(""))
    if form == "node":
        out = run(nodes, one, vlm, steps=40)
        samples, report = out.samples, out.report
    else:
        (samples, _), report = advanced(one, made), said[-1]
    # (the SAMPLER's last call of the host's bar is at its end: it gives out the last prediction)
    assert heard[-1 if form == "node" else -2] <= next(value for value in heard if value >= 3) + 1
    assert "stopped by request, best kept" in report
    assert bool(samples.isfinite().all())


def test_a_time_ends_it_with_what_is_there(nodes, graph, vlm) -> None:
    out = run(nodes, graph(), vlm, steps=4000, time_limit=0.01)
    assert "time limit" in out.report
    assert int(re.search(r"(\d+) decodes", out.report).group(1)) < 20
    assert bool(out.samples.isfinite().all())


def test_the_average_is_shown_now_and_then(nodes, graph, vlm) -> None:
    import comfy.utils

    before, shown = comfy.utils.PROGRESS_BAR_HOOK, list[bool]()

    def hook(value: int, total: int, preview: Any, node_id: Any = None) -> None:
        shown.append(preview is not None)

    comfy.utils.set_progress_bar_global_hook(hook)
    try:
        report = run(nodes, graph(), vlm).report
    finally:
        comfy.utils.set_progress_bar_global_hook(before)
    assert re.search(r"8 decodes and [1-4] for the preview, 16 looks", report)
    assert any(shown)
    assert not all(shown)


# ---------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"sds": 0.0, "balance": 0.0}, "nothing moves the picture"),
        ({"ema_restarts": "40, 100"}, "shares of the run between 0 and 1"),
        ({"ema_restarts": "soon"}, "shares of the run between 0 and 1"),
        ({"prompt": "  "}, "The text is empty"),
        ({"noise_low": 0.9}, "a low end below the high ends"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(nodes, graph, vlm, choices: dict[str, Any], words: str) -> None:
    with pytest.raises(ProvokeError, match=words):
        run(nodes, graph(), vlm, **choices)
