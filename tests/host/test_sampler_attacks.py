"""Both attacks on a sampler, in both forms, on the host's own objects: what a user gets, promises, refusals."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from provoke.core.errors import GradientError, ProvokeError
from provoke.tools.inprocess import execute

from .sampler_graph import SamplerGraph, outputs

QUICK: dict[str, Any] = {"search_steps": 3, "count": 2, "epsilon": 0.3}
VARY = ("UntargetedAttackSampler", "UntargetedAttackSamplerCustom")
STEER = ("ClipTargetedAttackSampler", "ClipTargetedAttackSamplerCustom")


def run(nodes: ModuleType, one: SamplerGraph, node: str = VARY[0], **choices: Any) -> SimpleNamespace:
    """The node's outputs by name; `results` in either form."""
    found = outputs(nodes, one, node, **{**QUICK, **choices})
    return SimpleNamespace(**{"results": getattr(found, "output", None), **vars(found)})


def masked(tiny: ModuleType, batch: int = 1) -> dict[str, Any]:
    mask = torch.zeros(batch, 64, 64)
    mask[:, 16:48, 8:40] = 1
    return tiny.picture_latent("sd15", batch=batch, mask=mask)


CASES: dict[str, Callable[[Callable[..., SamplerGraph], ModuleType], SamplerGraph]] = {
    "conditioning": lambda graph, tiny: graph(),
    "latent": lambda graph, tiny: graph(latent=tiny.picture_latent("sd15"), denoise=0.6),
    "control image": lambda graph, tiny: graph(control=True),
}


# ---------------------------------------------------------------------------------------------- what comes out


@pytest.mark.parametrize("node", VARY)
def test_results_are_the_hosts_for_the_exported_conditionings(nodes, graph, node: str) -> None:
    one = graph()
    before = one.plain()
    out = run(nodes, one, node)
    assert torch.equal(out.unperturbed["samples"], before)
    assert out.results["samples"].shape == (2, 4, 8, 8)
    assert len(out.positive) == 2
    for conditioning, result in zip(out.positive, out.results["samples"], strict=True):
        assert conditioning[0][0].shape == one.positive[0][0].shape
        assert torch.equal(one.plain(positive=conditioning)[0], result)
    assert not torch.equal(out.results["samples"][0], out.results["samples"][1])
    assert not out.positive[0][0][0].requires_grad
    assert out.latent is one.latent
    assert type(out.control_image).__name__ == "ExecutionBlocker"
    assert len(out.loss["loss"]) == 4
    for word in ("perturbed  the positive conditioning", "epsilon 0.3 of the RMS", "image 1", "diversity", "cost"):
        assert word in out.report
    assert torch.equal(one.plain(), before)
    if node.endswith("Custom"):
        assert out.denoised_output["samples"].shape == (2, 4, 8, 8)


@pytest.mark.parametrize("node", VARY)
def test_the_latent_is_moved_outside_the_hole_only(nodes, graph, tiny, node: str) -> None:
    one = graph(latent=masked(tiny), denoise=0.7)
    before = one.plain()
    out = run(nodes, one, node, perturb="latent")
    moved = out.latent["samples"] - one.latent["samples"]
    hole = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    hole[..., 2:6, 1:5] = True
    assert out.latent["samples"].shape == (2, 4, 8, 8)
    assert float(moved[hole.expand_as(moved)].abs().max()) == 0
    assert float(moved[~hole.expand_as(moved)].abs().max()) > 0
    for samples, result in zip(out.latent["samples"], out.results["samples"], strict=True):
        assert torch.equal(one.plain(latent={**one.latent, "samples": samples[None]})[0], result)
    assert "where the mask has it sampled" in out.report
    assert out.positive[0] is one.positive or torch.equal(out.positive[0][0][0], one.positive[0][0])
    assert torch.equal(one.plain(), before)


def test_the_control_image_lies_on_the_grid_and_gives_the_results(nodes, graph, tiny) -> None:
    one = graph(control=True)
    hint = one.positive[0][1]["control"].cond_hint_original
    out = run(nodes, one, perturb="control image", epsilon_levels=8.0)
    image = out.control_image
    assert image.shape == (2, 64, 64, 3)
    assert torch.equal((image * 255).round() / 255, image)
    assert (
        float((image - hint.movedim(1, -1)).abs().max()) <= 8.5 / 255 + 1e-6
    )  # half a level: the hint is off the grid
    for picture, result in zip(image, out.results["samples"], strict=True):
        positive, negative = tiny.with_control(
            tiny.conditioning("sd15", seed=1), tiny.conditioning("sd15", seed=2), tiny.controlnet(), picture[None]
        )
        assert torch.equal(one.plain(positive=positive, negative=negative)[0], result)
    assert torch.equal(one.positive[0][1]["control"].cond_hint_original, hint)
    assert "note       the control image was rounded to 8-bit levels" in out.report


@pytest.mark.parametrize("node", STEER)
def test_steering_says_how_near_the_target_is(nodes, graph, scorer, node: str) -> None:
    with torch.inference_mode():
        (second,) = nodes.LoadScorer.execute("second").args
    texts = {"target_text": "a blue circle", "source_text": "a red circle"}
    out = run(nodes, graph(), node, scorer=scorer, second_judge=second, **texts)
    for word in ("similarity to the target, first", "the second judge, second", "APGD"):
        assert word in out.report
    same = run(nodes, graph(), node, scorer=scorer, **{**texts, "source_text": "a blue circle"})
    assert "source and target are the same" in same.report
    assert torch.equal(same.results["samples"], same.unperturbed["samples"].expand(2, -1, -1, -1))


def test_several_latents_are_image_major(nodes, graph, tiny) -> None:
    """Each result is that of its own latent: the order is that of the exported conditionings."""
    one = graph(latent=tiny.picture_latent("sd15", batch=2), denoise=0.6)
    out = run(nodes, one, count=3)
    assert out.results["samples"].shape[0] == len(out.positive) == 6
    for k in range(3):
        both = [[torch.cat([out.positive[k][0][0], out.positive[3 + k][0][0]]), out.positive[k][0][1]]]
        assert torch.equal(one.plain(positive=both), out.results["samples"][[k, 3 + k]])


def test_a_latent_does_not_depend_on_its_neighbours(nodes, graph, tiny) -> None:
    latent = tiny.picture_latent("sd15", batch=2)
    together = run(nodes, graph(latent={**latent, "batch_index": [0, 1]}, denoise=0.6))
    alone = run(nodes, graph(latent={"samples": latent["samples"][1:], "batch_index": [1]}, denoise=0.6))
    torch.testing.assert_close(together.results["samples"][2:], alone.results["samples"], rtol=0, atol=2e-3)


def test_pooled_vectors_and_regional_prompts_move_by_a_share_of_themselves(nodes, graph, tiny) -> None:
    first, second = tiny.conditioning("sdxl", seed=1), tiny.conditioning("sdxl", seed=7)
    loud = [[second[0][0] * 10, second[0][1]]]
    one = graph("sdxl", positive=tiny.regional(first, loud))
    out = run(nodes, one, count=1, truncation="clip")
    for before, after in zip(one.positive, out.positive[0], strict=True):
        for old, new in ((before[0], after[0]), (before[1]["pooled_output"], after[1]["pooled_output"])):
            share = float((new - old).abs().max() / old.square().mean().sqrt())
            assert 0.29 < share <= 0.3 + 1e-4


def test_the_texts_adherence_is_kept_and_reported(nodes, graph, scorer) -> None:
    one = graph()
    kept = run(nodes, one, scorer=scorer, keep_text="a red circle", keep=50.0, search_steps=6)
    lost = run(nodes, one, scorer=scorer, keep_text="a red circle", keep=0.0, search_steps=6)
    assert "adherence (similarity to 'a red circle', first)" in kept.report
    assert adherence(kept.report) > adherence(lost.report)


def adherence(report: str) -> float:
    line = report.split("adherence", 1)[1].splitlines()[1]
    scores = [float(part.split()[-1]) for part in line.split(" (")[:-1]]
    return sum(scores) / len(scores)


def test_an_objective_takes_the_place_of_change(nodes, graph, scorer) -> None:
    """Each direction ends beyond where it began: of the same start more of it, and less."""
    (objective,) = execute(nodes.ClipObjective, scorer=scorer, text="a blue circle")
    for direction in ("towards", "away"):
        out = run(nodes, graph(), objective=objective, direction=direction, diversity=0.0, search_steps=8, count=1)
        losses = out.loss["loss"]
        assert losses[-1] < losses[0]
        assert "similarity to 'a blue circle'" in out.report


# ---------------------------------------------------------------------------------------------- promises


@pytest.mark.parametrize("node", [*VARY, *STEER])
@pytest.mark.parametrize("zero", [{"epsilon": 0.0}, {"search_steps": 0}])
def test_zero_effect_is_zero(nodes, graph, tiny, scorer, node: str, zero: dict[str, Any]) -> None:
    one = graph(latent=masked(tiny, 2), denoise=0.7, sampler="euler_ancestral")
    extra = {"scorer": scorer, "target_text": "a blue circle"} if node in STEER else {}
    out = run(nodes, one, node, **zero, **extra)
    plain = one.plain()
    assert torch.equal(out.unperturbed["samples"], plain)
    assert torch.equal(out.results["samples"], plain.repeat_interleave(2, 0))
    assert out.latent is one.latent
    assert torch.equal(out.positive[0][0][0], one.positive[0][0])


def test_no_levels_leave_the_control_image_as_it_is(nodes, graph) -> None:
    one = graph(control=True)
    out = run(nodes, one, perturb="control image", epsilon_levels=0.0)
    assert torch.equal(out.results["samples"], one.plain().repeat_interleave(2, 0))
    assert torch.equal(out.control_image, one.positive[0][1]["control"].cond_hint_original.movedim(1, -1))


@pytest.mark.parametrize("what", list(CASES))
def test_the_host_is_left_as_it_was(nodes, graph, tiny, what: str) -> None:
    import comfy.model_management

    one = CASES[what](graph, tiny)
    before = one.plain()
    weights = {name: (id(p), p.requires_grad) for name, p in one.model.model.named_parameters()}
    run(nodes, one, perturb=what)
    assert torch.equal(one.plain(), before)
    assert {name: (id(p), p.requires_grad) for name, p in one.model.model.named_parameters()} == weights
    assert not getattr(comfy.model_management, "in_training", False)


@pytest.mark.parametrize("what", list(CASES))
def test_the_same_seed_gives_the_same_result(nodes, graph, tiny, what: str) -> None:
    one = CASES[what](graph, tiny)
    a, b, other = (run(nodes, one, perturb=what, search_seed=seed).results["samples"] for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, other)


@pytest.mark.parametrize("step_rule", ["APGD", "PGD", "MI-FGSM", "Adam", "FGSM"])
@pytest.mark.parametrize(
    ("norm", "truncation"), [("L-inf", "truncate"), ("L-inf", "clip"), ("L2", "clip"), ("L1", "clip")]
)
def test_every_choice_searches_within_its_budget(nodes, graph, step_rule: str, norm: str, truncation: str) -> None:
    one = graph()
    chosen = {"step_rule": step_rule, "norm": norm, "truncation": truncation, "schedule": "cosine"}
    out = run(nodes, one, epsilon=0.2, **chosen)
    base = one.positive[0][0]
    for conditioning in out.positive:
        moved = (conditioning[0][0] - base).abs().double() / base.square().mean().sqrt()
        used = {"L-inf": moved.max(), "L2": moved.square().mean().sqrt(), "L1": moved.mean()}[norm]
        assert 0 < float(used) <= 0.2 * (1 + 1e-3)


@pytest.mark.parametrize("route", ["exact", "residual", "last steps", "one-step"])
def test_every_route_finds_something_that_the_whole_sampler_confirms(nodes, graph, route: str) -> None:
    one = graph()
    out = run(nodes, one, route=route, count=1)
    assert torch.equal(one.plain(positive=out.positive[0]), out.results["samples"])
    assert not torch.equal(out.results["samples"], out.unperturbed["samples"])
    assert f"route {route}" in out.report


def test_a_shorter_route_is_counted_as_cheaper(nodes, graph) -> None:
    def evaluations(**choices: Any) -> float:
        report = run(nodes, graph(), count=1, **choices).report
        return float(report.split("cost       ")[1].split()[0])

    exact, last, one_step = (evaluations(route=route) for route in ("exact", "last steps", "one-step"))
    # 3 gradients and 1 plain run of 2 evaluations, and 2 runs to select; a kept graph costs 2 forwards
    assert exact == 3 * 4 + 2 + 2 * 2
    assert last == 3 * 3 + 2 + 2 * 2
    assert one_step == 3 * 2 + 1 + 2 * 2


def rows_of(
    what: str, one: SamplerGraph, latents: int, check: Callable[[Any, Any, Tensor, Callable[..., Tensor]], None]
) -> None:
    """Opens the node's own plan, and gives: Sampling, Variable, rows to stand at, the rows' pictures."""
    from provoke.core.objectives import WeightedSum
    from provoke.host.sampling.routes import EXACT
    from provoke.host.sampling.variables import VARIABLES
    from provoke.nodes import sampler_attack

    given = {**one.inputs("KSampler"), **DEFAULTS, "perturb": what}
    graph, search, attack, _ = sampler_attack.taken(given)
    opened = sampler_attack._Opened(
        search, attack, lambda situation: WeightedSum({"mean": (1.0, lambda x: x.mean((1, 2, 3)))}), 1, None, 1
    )

    def body(sampling: Any) -> None:
        with torch.no_grad():
            default = sampling.decode(sampling.sample())
        plan = opened.plan(sampling, default)
        rows = plan.start[:: attack.count]
        assert len(rows) == latents
        check(sampling, VARIABLES[what](sampling), rows, lambda x: sampling.decode(plan.sample(x, EXACT)))

    graph.inside(body)


DEFAULTS: dict[str, Any] = {
    "epsilon": 0.3, "epsilon_levels": 8.0, "count": 2, "search_steps": 3, "search_seed": 0, "method": "gradient",
    "route": "auto", "route_steps": 1, "stop_at_score": 0.0, "time_limit": 0.0, "norm": "L-inf",
    "truncation": "truncate", "step_rule": "APGD", "step_size": 0.1, "schedule": "constant", "start_noise": 0.5,
}  # fmt: skip


def blocks(what: str, variable: Any, shape: torch.Size) -> list[Tensor]:
    """Directions of one latent, one token, the pooled vector, one channel, one region; random ones come beside."""
    rng, found = torch.Generator().manual_seed(1), []
    if what == "conditioning":
        places = [(slice(0, 1),), (slice(None), slice(0, 32))]
        places += [(slice(None), slice(part.start, part.end)) for part in variable._parts]
    else:
        places = [(slice(0, 1),), (slice(None), slice(1, 2)), (..., slice(0, 3), slice(0, 4))]
    for place in places:
        way = torch.zeros(shape)
        way[place] = torch.randn(way[place].shape, generator=rng)
        found.append(way)
    return found


@pytest.mark.parametrize(
    ("what", "family"),
    [("conditioning", "sd15"), ("conditioning", "sdxl"), ("latent", "sd15"), ("control image", "sd15")],
)
def test_the_gradient_by_finite_differences(graph, tiny, what: str, family: str) -> None:
    """Through the node's own function, sampler and decode: random and block directions, two latents."""
    from provoke.host.sampling.generator import SampledImages

    latent = tiny.picture_latent(family, batch=2)
    one = graph(family, latent=latent, denoise=0.6, control=what == "control image")
    seen: list[float] = []

    def check(sampling: Any, variable: Any, rows: Tensor, function: Callable[[Tensor], Tensor]) -> None:
        pictures, pullback = SampledImages(sampling, function).vjp(rows)
        weight = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(3))
        gradient = pullback(weight)
        rng = torch.Generator().manual_seed(2)
        ways = [torch.randn(rows.shape, generator=rng) for _ in range(12)] + blocks(what, variable, rows.shape)

        def score(x: Tensor) -> float:
            with torch.no_grad():
                return float((function(x).double() * weight).sum())

        claimed = torch.tensor([float((gradient.double() * way).sum()) for way in ways])
        errors = []
        for step in (2e-3, 1e-3):  # the larger one meets the pictures' clamp (sdxl), the smaller one rounding (latent)
            measured = torch.tensor([score(rows + step * way) - score(rows - step * way) for way in ways]) / (2 * step)
            errors.append(float((claimed - measured).norm() / measured.norm()))
        seen.append(min(errors))
        assert all(abs(float(value)) > 0 for value in claimed[12:]), "a block that nothing depends on checks nothing"

    rows_of(what, one, 2, check)
    assert seen[0] < 0.01


@pytest.mark.parametrize(
    ("model", "seed", "text", "steps", "cfg"),
    [
        ("20 steps", 103, "a yellow square", 4, 1.0),
        ("4 steps", 3, "a yellow square", 4, 1.0),
        ("4 steps", 311, "a red triangle", 4, 1.0),
        ("20 steps", 7100, "a cyan ring right of a cyan circle", 20, 3.0),
        ("20 steps", 1350, "a blue square below a yellow square", 4, 2.0),
    ],
)
def test_a_sharp_model_is_not_taken_for_one_that_jumps(
    nodes, model: str, seed: int, text: str, steps: int, cfg: float
) -> None:
    """The demo's models follow some texts so steeply that differences of 0.3 % of them say nothing of the gradient; the
    third one's at no distance that float32 can tell, but elsewhere they do. Guidance makes it steeper: the fourth's
    derivative holds for 1e-5 around it, the last one's for less than a jump is told by."""
    from nodes import CLIPTextEncode, EmptyLatentImage
    from provoke.host.sampling.graph import ksampler

    with torch.inference_mode():
        sharp, clip, vae = nodes.LoadDemoModels.execute(model).args
        positive, negative = (CLIPTextEncode().encode(clip, said)[0] for said in (text, ""))
        latent = EmptyLatentImage().generate(64, 64, 1)[0]
    graph = ksampler(sharp, seed, steps, cfg, "euler", "simple", positive, negative, latent, 1.0, vae)
    assert graph.inside(lambda sampling: sampling.steps) == steps


# ---------------------------------------------------------------------------------------------- ending early


def test_cancel_takes_effect_within_a_step_and_leaves_nothing(nodes, graph, at_progress) -> None:
    import comfy.model_management as mm

    one = graph()
    before = one.plain()
    heard = at_progress(2, lambda: mm.interrupt_current_processing(True))
    with pytest.raises(mm.InterruptProcessingException):
        run(nodes, one, search_steps=50)
    assert heard[-1] == next(value for value in heard if value >= 2)
    assert torch.equal(one.plain(), before)


def test_stop_keeps_the_best(nodes, graph, at_progress) -> None:
    from provoke.host import stop

    asked: list[bool] = []
    heard = at_progress(3, lambda: asked.append(stop.stop("")))
    out = run(nodes, graph(), search_steps=50)
    assert asked == [True]
    assert heard[-1] <= next(value for value in heard if value >= 3) + 1
    assert "stopped by request, best kept" in out.report
    assert out.results["samples"].shape[0] == 2


def test_stop_counts_before_the_first_step(nodes, graph, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the model loads or is looked at."""
    from provoke.host import stop
    from provoke.nodes import sampler_search

    asked: list[bool] = []
    plain = sampler_search.plain_pictures
    monkeypatch.setattr(
        sampler_search, "plain_pictures", lambda sampling: asked.append(stop.stop("")) or plain(sampling)
    )
    out = run(nodes, graph(), search_steps=50)
    assert asked == [True]
    assert "stopped by request, best kept" in out.report
    assert not stop.stop("")


def test_a_preview_is_shown(nodes, graph, comfy: ModuleType) -> None:
    import comfy.utils

    before, shown = comfy.utils.PROGRESS_BAR_HOOK, list[Any]()
    comfy.utils.set_progress_bar_global_hook(lambda value, total, preview, node_id=None: shown.append(preview))
    try:
        run(nodes, graph())
    finally:
        comfy.utils.set_progress_bar_global_hook(before)
    pictures = [preview[1] for preview in shown if preview is not None]
    assert pictures
    assert pictures[0].size == (128, 64)  # two results side by side


def test_limits(nodes, graph) -> None:
    assert "reached the target score" in run(nodes, graph(), search_steps=50, stop_at_score=0.001).report
    assert "time limit" in run(nodes, graph(), search_steps=1000, time_limit=0.5).report


# ---------------------------------------------------------------------------------------------- without a gradient


def test_random_needs_no_gradient(nodes, graph) -> None:
    one = graph(sampler="dpm_adaptive")
    with pytest.raises(GradientError, match="dpm_adaptive has no right gradient"):
        run(nodes, one)
    out = run(nodes, one, method="random")
    assert "best of random changes" in out.report
    assert torch.equal(one.plain(positive=out.positive[0])[0], out.results["samples"][0])
    assert not torch.equal(out.results["samples"][0], out.results["samples"][1])


def test_a_model_that_is_cut_is_refused_in_words_and_can_be_varied_at_random(nodes, graph, tiny) -> None:
    model = tiny.model("sd15")
    model.set_model_unet_function_wrapper(
        lambda function, given: function(given["input"].detach(), given["timestep"], **given["c"]).detach()
    )
    one = graph(model=model)
    with pytest.raises(GradientError, match="carries no gradient"):
        run(nodes, one)
    assert run(nodes, one, method="random").results["samples"].shape[0] == 2


@pytest.mark.parametrize(
    ("changes", "choices", "words"),
    [
        ({}, {"perturb": "control image"}, "no ControlNet"),
        ({}, {"perturb": "latent"}, "nothing of the latent image is left"),
        ({"denoise": 0.5}, {"perturb": "latent"}, "latent image is empty"),
        ({"control": True}, {"perturb": "control image", "epsilon_levels": 0.5}, "whole levels"),
        ({}, {"keep_text": "a red circle"}, "no scorer"),
        ({"denoise": 0.0}, {}, "no step"),
    ],
)
def test_bad_input_is_refused_in_words(nodes, graph, changes: Any, choices: Any, words: str) -> None:
    with pytest.raises(ProvokeError, match=words):
        run(nodes, graph(**changes), **choices)


def test_numbers_that_are_none_and_conditionings_that_are_nothing(nodes, graph, tiny) -> None:
    positive = tiny.conditioning("sd15", seed=1)
    for factor, words in ((0.0, "all zero"), (float("nan"), "not finite|NaN")):
        with pytest.raises(ProvokeError, match=words):
            run(nodes, graph(positive=[[positive[0][0] * factor, positive[0][1]]]))


def test_a_latent_of_the_wrong_kind(nodes, graph) -> None:
    one = graph(latent={"samples": torch.randn(1, 16, 8, 8)}, denoise=0.5)
    with pytest.raises(Exception, match=r"channels|16"):
        run(nodes, one)
    assert graph().plain().shape == (1, 4, 8, 8)
