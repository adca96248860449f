"""Search Noise in both forms on the host's own objects: what a user gets, what it promises, what it refuses."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from provoke.core.errors import ProvokeError
from provoke.tools.inprocess import defaults, execute

from .sampler_graph import SEED, SamplerGraph, outputs

QUICK: dict[str, Any] = {"search_steps": 3, "epsilon": 0.5}
BOTH = ("LatentSearch", "LatentSearchCustom")


@pytest.fixture(scope="module")
def objective(nodes: ModuleType, scorer: Any) -> Any:
    with torch.inference_mode():
        return nodes.ClipObjective.execute(scorer, "a red circle").args[0]


def run(nodes: ModuleType, one: SamplerGraph, node: str = BOTH[0], **choices: Any) -> SimpleNamespace:
    """The node's outputs by name."""
    return outputs(nodes, one, node, **{**QUICK, **choices})


# ---------------------------------------------------------------------------------------------- what comes out


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
@pytest.mark.parametrize("node", BOTH)
def test_the_noise_gives_the_result_again(nodes, graph, objective, node: str, family: str) -> None:
    """In SamplerCustomAdvanced, bit for bit."""
    one = graph(family)
    out = run(nodes, one, node, objective=objective)
    assert torch.equal(out.output["samples"], one.with_noise(out.noise))
    assert torch.equal(out.unperturbed["samples"], one.plain())
    assert not torch.equal(out.output["samples"], out.unperturbed["samples"])
    assert torch.equal(out.noise.generate_noise(out.output), out.noise_latent["samples"])
    assert out.noise.seed == SEED
    assert out.noise_latent["samples"].device.type == "cpu"
    if node.endswith("Custom"):
        assert out.denoised_output["samples"].shape == out.output["samples"].shape
    for word in ("break", "move phases", "Gaussian?", "spectrum", "evaluations of the model"):
        assert word in out.report


def test_save_latent_carries_the_noise_to_another_graph(nodes, graph, objective, comfy) -> None:
    """Save Latent, the file moved to the input folder, Load Latent, Noise from Latent: the same picture."""
    import shutil
    from pathlib import Path

    import folder_paths

    from nodes import LoadLatent, SaveLatent

    one = graph()
    out = run(nodes, one, objective=objective)
    with torch.inference_mode():
        saved = SaveLatent().save(out.noise_latent, "shared")["ui"]["latents"][0]
    file = Path(folder_paths.get_output_directory()) / saved["subfolder"] / saved["filename"]
    shutil.copy(file, folder_paths.get_input_directory())
    with torch.inference_mode():
        loaded = LoadLatent().load(file.name)[0]
        noise = nodes.NoiseFromLatent.execute(loaded, SEED).args[0]
    assert torch.equal(one.with_noise(noise), out.output["samples"])


@pytest.mark.parametrize("sampler", ["euler_ancestral", "dpmpp_2m_sde"])
def test_stochastic_samplers_draw_the_same_on_their_way(nodes, graph, objective, sampler: str) -> None:
    one = graph(sampler=sampler)
    out = run(nodes, one, objective=objective)
    assert torch.equal(out.output["samples"], one.with_noise(out.noise))


@pytest.mark.parametrize("node", BOTH)
@pytest.mark.parametrize("zero", [{"epsilon": 0.0}, {"search_steps": 0}])
def test_zero_effect_is_zero(nodes, graph, objective, node: str, zero: dict[str, Any]) -> None:
    one = graph()
    out = run(nodes, one, node, objective=objective, **zero)
    assert torch.equal(out.output["samples"], one.plain())
    assert torch.equal(one.with_noise(out.noise), one.plain())
    assert "none" in out.report


def test_several_seeds_and_latents_are_image_major_and_the_best_come_first(nodes, graph, objective) -> None:
    one = graph(batch=2)
    out = run(nodes, one, objective=objective, count=3, keep=2, direction="satisfy")
    assert out.output["samples"].shape[0] == out.noise_latent["samples"].shape[0] == len(out.scores) == 4
    alone = run(nodes, one, objective=objective, direction="satisfy")
    assert len(alone.scores) == 2
    assert alone.output["samples"].shape[0] == 2
    # each result is near a seed of its own: noise_seed, noise_seed + 1, noise_seed + 2
    from comfy.sample import prepare_noise

    seeds = torch.stack([prepare_noise(one.latent["samples"], SEED + k) for k in range(3)], 1)  # latent, seed
    for row, z in enumerate(out.noise_latent["samples"]):
        away = (seeds[row // 2] - z).square().mean((1, 2, 3)).sqrt()
        assert float(away.min()) <= 0.5 + 1e-4
        assert float(away.sort().values[1]) > 1
    whole = {"samples": one.latent["samples"].repeat_interleave(2, 0)}
    torch.testing.assert_close(one.with_noise(out.noise, whole), out.output["samples"], rtol=1e-5, atol=1e-4)


def test_a_latent_of_a_batch_keeps_its_number(nodes, graph, objective) -> None:
    one = graph()
    one.latent = {**one.latent, "batch_index": [3]}
    out = run(nodes, one, objective=objective)
    assert torch.equal(out.unperturbed["samples"], one.plain())
    assert torch.equal(out.output["samples"], one.with_noise(out.noise))
    with pytest.raises(ProvokeError, match="number 0 of a batch"):
        out.noise.generate_noise({**one.latent, "batch_index": [0]})


def test_several_noises_of_a_numbered_latent_are_all_in_the_noise(nodes, graph, objective) -> None:
    one = graph()
    one.latent = {**one.latent, "batch_index": [3]}
    out = run(nodes, one, objective=objective, count=2, keep=2, search_steps=1)
    assert out.output["batch_index"] == [3, 3]
    assert torch.equal(out.noise.generate_noise(out.output), out.noise_latent["samples"])


def test_a_number_with_several_rows_gives_them_all_or_is_refused(comfy) -> None:
    from provoke.host.noise import FoundNoise

    rows = torch.randn(4, 4, 8, 8)
    noise = FoundNoise(rows, SEED, [3, 3, 5, 6])
    assert torch.equal(noise.generate_noise({"samples": rows, "batch_index": [3, 3, 5, 6]}), rows)
    assert torch.equal(noise.generate_noise({"samples": rows[:2], "batch_index": [6, 5]}), rows[[3, 2]])
    with pytest.raises(ProvokeError, match="2 rows for number 3"):
        noise.generate_noise({"samples": rows[:1], "batch_index": [3]})


@pytest.mark.parametrize("what", ["picture", "region"])
def test_an_objective_may_have_one_for_each_latent(nodes, graph, what: str) -> None:
    """In the search, in the scores after it, in Best of Seeds and in Score Images: the same figures."""
    one = graph(batch=2)
    masks = torch.zeros(2, 64, 64)
    masks[0, :32], masks[1, 32:] = 1, 1
    own = {"picture": torch.rand(2, 64, 64, 3, generator=torch.Generator().manual_seed(1)), "region": masks}[what]
    wanted = nodes.DistanceObjective.execute("mean absolute (L1)", **{what: own}).args[0]
    found = run(nodes, one, objective=wanted, direction="satisfy", count=2, keep=2, search_steps=1)
    output, _, _, scores, _ = execute(nodes.BestOfSeeds, **one.inputs("KSampler"), objective=wanted, seeds=2, keep=2)
    usual = one.vae.decode(one.plain())
    for latent, figures in ((found.output, found.scores), (output, scores)):
        assert len(figures) == 4
        images = one.vae.decode(latent["samples"])
        _, values, _ = execute(nodes.ScoreImages, images=images, objective=wanted, default=usual)
        assert values == pytest.approx(figures, abs=1e-5)
        for row, image in enumerate(images):
            apart = (image - (own if what == "picture" else usual)[row // 2]).abs().mean(-1)
            weight = torch.ones(64, 64) if what == "picture" else masks[row // 2]
            assert figures[row] == pytest.approx(float((apart * weight).sum() / weight.sum()), abs=1e-4)


@pytest.mark.parametrize(("judged", "copies"), [(True, 1), (False, 1), (True, 0)])
def test_without_a_judge_it_starts_beside_the_usual_noise_and_sees_the_picture_itself(
    nodes, objective, judged: bool, copies: int
) -> None:
    """At the usual noise the gradient of a distance is zero."""
    from provoke.host.judges import judging
    from provoke.nodes import latent_search
    from provoke.nodes.latent_search_settings import LatentSettings
    from provoke.nodes.sampler_sockets import SearchSettings

    wanted = objective if judged else nodes.DistanceObjective.execute("mean absolute (L1)").args[0]
    search, rest = SearchSettings.taken(defaults(nodes.LatentSearch))
    settings = LatentSettings.taken({**rest, "objective": wanted, "copies": copies})
    noise = torch.randn(1, 4, 8, 8)
    sampling = SimpleNamespace(noise=noise, seed=SEED, noise_of=lambda seed: noise)
    with judging(*wanted.held):
        plan = latent_search.make_plan(sampling, torch.zeros(1, 3, 64, 64), settings, search)
    assert torch.equal(plan.start, noise) == judged
    assert (plan.augment is not None) == (judged and copies > 0)


@pytest.mark.parametrize(("count", "words"), [(1, "of the seed's own picture"), (2, "of noise_seed's picture")])
def test_the_report_says_which_picture_is_the_usual_one(nodes, graph, objective, count: int, words: str) -> None:
    assert words in run(nodes, graph(), objective=objective, count=count, search_steps=1).report


def test_a_masked_picture_is_searched_too(nodes, graph, tiny, objective) -> None:
    mask = torch.zeros(1, 64, 64)
    mask[:, 16:48, 8:40] = 1
    one = graph(latent=tiny.picture_latent("sd15", batch=1, mask=mask), denoise=0.8)
    out = run(nodes, one, objective=objective)
    assert torch.equal(out.output["samples"], one.with_noise(out.noise))


# ---------------------------------------------------------------------------------------------- what is promised


def test_the_host_is_left_as_it_was(nodes, graph, objective) -> None:
    import comfy.model_management

    one = graph()
    before, state = one.plain(), torch.get_rng_state()
    run(nodes, one, objective=objective)
    after = one.plain()
    assert torch.equal(after, before)
    assert not comfy.model_management.in_training
    torch.set_rng_state(state)


def test_the_same_seed_gives_the_same_result(nodes, graph, objective) -> None:
    one = graph()
    a, b, other = (run(nodes, one, objective=objective, search_seed=seed, count=2) for seed in (1, 1, 2))
    assert torch.equal(a.noise_latent["samples"], b.noise_latent["samples"])
    assert not torch.equal(a.noise_latent["samples"], other.noise_latent["samples"])


@pytest.mark.parametrize("budget", ["turn each channel", "turn", "move phases", "clamp (SAGE)", "ball"])
@pytest.mark.parametrize("step_rule", ["steepest", "momentum", "Adam", "signed (SAGE)", "clipped SGD (ReNO)"])
def test_every_choice_searches_within_its_budget(nodes, graph, objective, budget: str, step_rule: str) -> None:
    one = graph()
    out = run(nodes, one, objective=objective, budget=budget, step_rule=step_rule, epsilon=0.3, step_size=0.4)
    from comfy.sample import prepare_noise

    moved = (out.noise_latent["samples"] - prepare_noise(one.latent["samples"], SEED)).abs()
    most = float(moved.max()) if budget.startswith("clamp") else float(moved.square().mean().sqrt())
    assert 0 < most <= 0.3 + 1e-4


@pytest.mark.parametrize("budget", ["ball and chi prior (ReNO)", "ball and regulariser (DNO)"])
def test_a_prior_holds_the_noise_back(nodes, graph, objective, budget: str) -> None:
    """Its length stays nearer to that of a true sample's than without (or equal, where nothing pulled)."""
    from provoke.core.priors import chi, dno

    prior, rng = (chi if "chi" in budget else dno), torch.Generator().manual_seed(0)
    one, wide = graph(), {"epsilon": 2.0, "step_size": 0.5, "search_steps": 6}
    free, held = (
        run(nodes, one, objective=objective, budget=name, prior_weight=10.0, **wide).noise_latent["samples"]
        for name in ("ball", budget)
    )
    assert float(prior(held, rng)) > float(prior(free, rng))


@pytest.mark.parametrize("method", ["gradient", "random"])
def test_without_an_objective_it_moves_away_from_the_usual_picture(nodes, graph, method: str) -> None:
    out = run(nodes, graph(), method=method)
    assert "likeness" in out.report
    assert float(out.scores[0]) < 0


@pytest.mark.parametrize("route", ["exact", "residual", "one-step"])
def test_every_route_finds_a_better_noise(nodes, graph, objective, route: str) -> None:
    """Better than the seed's own by the objective, on the host's pictures, and each route another one."""
    one = graph()
    usual = run(nodes, one, objective=objective, direction="satisfy", search_steps=0)
    out = run(nodes, one, objective=objective, route=route, direction="satisfy")
    assert all(found > before for found, before in zip(out.scores, usual.scores, strict=True))
    assert f"route {route}" in out.report
    exact = run(nodes, one, objective=objective, route="exact", direction="satisfy")
    assert torch.equal(out.output["samples"], exact.output["samples"]) == (route == "exact")


@pytest.mark.parametrize("family", ["sd15", "sd2v", "sdxl"])
def test_the_gradient_by_finite_differences(nodes, graph, family: str) -> None:
    """By the noise, through the node's own function and the decode: random and block directions."""
    from provoke.host.sampling.generator import SampledImages
    from provoke.nodes import latent_search, sampler_sockets
    from provoke.nodes.latent_search_settings import LatentSettings
    from provoke.nodes.sampler_sockets import SearchSettings

    inputs = {**defaults(nodes.LatentSearch), **graph(family).inputs("KSampler")}
    one, rest = sampler_sockets.graph_of(inputs)
    search, rest = SearchSettings.taken(rest)
    settings = LatentSettings.taken(rest)
    errors: list[float] = []

    def body(sampling: Any) -> None:
        from provoke.host.sampling.routes import EXACT
        from provoke.nodes.sampler_search import plain_pictures

        plan = latent_search.make_plan(sampling, plain_pictures(sampling), settings, search)
        function = lambda rows: sampling.decode(plan.sample(rows, EXACT))  # noqa: E731
        rows = plan.start
        pictures, pullback = SampledImages(sampling, function).vjp(rows)
        weight = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(3))
        gradient = pullback(weight)
        rng = torch.Generator().manual_seed(2)
        ways = [torch.randn(rows.shape, generator=rng) for _ in range(16)]
        channel, corner, line = (torch.zeros_like(rows) for _ in range(3))
        channel[:, 1], corner[..., :4, :4], line[:, 0, -1] = 1, 1, 1
        ways += [channel, corner, line]

        def score(x: Tensor) -> float:
            with torch.no_grad():
                return float((function(x).double() * weight).sum())

        claimed = torch.tensor([float((gradient.double() * way).sum()) for way in ways])
        step = 2e-3
        measured = torch.tensor([(score(rows + step * way) - score(rows - step * way)) / (2 * step) for way in ways])
        errors.append(float((claimed - measured).norm() / measured.norm()))
        assert all(abs(float(value)) > 0 for value in claimed)

    one.inside(body)
    assert errors[0] < 0.01


# ---------------------------------------------------------------------------------------------- while it runs


def test_cancel_takes_effect_within_a_step_and_leaves_nothing(nodes, graph, objective, at_progress) -> None:
    import comfy.model_management as mm

    one = graph()
    before = one.plain()
    heard = at_progress(2, lambda: mm.interrupt_current_processing(True))
    with pytest.raises(mm.InterruptProcessingException):
        run(nodes, one, objective=objective, search_steps=50)
    assert heard[-1] == next(value for value in heard if value >= 2)
    assert torch.equal(one.plain(), before)


def test_stop_keeps_the_best(nodes, graph, objective, at_progress) -> None:
    from provoke.host import stop

    heard = at_progress(3, lambda: stop.stop(""))
    out = run(nodes, graph(), objective=objective, search_steps=50)
    assert heard[-1] <= next(value for value in heard if value >= 3) + 1
    assert "stopped by request, best kept" in out.report


def test_a_search_that_goes_away_stops_at_its_score(nodes, graph, objective) -> None:
    """What breaking climbs is minus the objective: mostly a negative number."""
    one = graph()
    (usual,) = run(nodes, one, objective=objective, search_steps=0).scores
    wanted = usual - 0.005
    out = run(nodes, one, objective=objective, direction="break", copies=0, search_steps=50, stop_at_score=-wanted)
    assert "reached the target score" in out.report
    assert 1 < len(out.loss["loss"]) < 51
    assert out.scores[0] <= wanted + 1e-4


def test_best_of_seeds_can_be_stopped(nodes, graph, objective, at_progress) -> None:
    from provoke.host import stop

    heard = at_progress(2, lambda: stop.stop(""))
    *_, scores, report = execute(nodes.BestOfSeeds, **graph().inputs("KSampler"), objective=objective, seeds=50)
    asked = next(value for value in heard if value >= 2)
    assert asked < 40  # so early that a run which goes on is noticed
    assert heard[-1] <= asked + 1
    assert len(scores) == 1
    assert f" of {asked} seeds" in report or f" of {asked + 1} seeds" in report


# ---------------------------------------------------------------------------------------------- the other nodes


@pytest.mark.parametrize("best", ["highest", "lowest"])
def test_best_of_seeds_gives_what_ksampler_gives(nodes, graph, objective, best: str) -> None:
    one = graph(batch=2)
    output, noise, seeds, scores, report = execute(
        nodes.BestOfSeeds, **one.inputs("KSampler"), objective=objective, seeds=4, keep=2, best=best
    )
    assert output["samples"].shape[0] == len(seeds) == len(scores) == 4
    for row, seed in enumerate(seeds):
        assert torch.equal(output["samples"][row], one.plain(seed)[row // 2])
        assert str(seed) in report
    sign = 1 if best == "highest" else -1
    for latent in range(2):
        assert sign * scores[2 * latent] >= sign * scores[2 * latent + 1]
    whole = {"samples": one.latent["samples"].repeat_interleave(2, 0)}
    torch.testing.assert_close(one.with_noise(noise, whole), output["samples"], rtol=1e-5, atol=1e-4)


def test_the_noise_of_the_best_seed_is_that_seed(nodes, graph, objective) -> None:
    one = graph(sampler="euler_ancestral")
    output, noise, (seed,), *_ = execute(nodes.BestOfSeeds, **one.inputs("KSampler"), objective=objective, seeds=3)
    assert noise.seed == seed
    assert torch.equal(one.with_noise(noise), output["samples"])
    assert torch.equal(output["samples"], one.plain(seed))


def test_best_of_seeds_holds_no_more_than_it_keeps(comfy) -> None:
    from provoke.nodes.best_of_seeds import Tried

    tried = Tried(sign=-1.0, keep=2)
    for seed, scores in enumerate([[3.0, 1.0], [2.0, 2.0], [1.0, float("nan")], [4.0, 0.0]]):
        row = torch.full((2, 4, 8, 8), float(seed))
        tried.take(seed, {"samples": row, "batch_index": [0, 1]}, row[..., :3], torch.tensor(scores))
        assert len(tried.samples) <= 4
        assert all(sample.untyped_storage().nbytes() == 4 * 8 * 8 * 4 for sample in tried.samples.values())
    assert tried.order().tolist() == [[2, 3], [1, 0]]
    assert tried.latent(tried.order()[0])["samples"][:, 0, 0, 0].tolist() == [2, 3]
    assert tried.latent(tried.order()[0])["batch_index"] == [0, 1]
    assert tried.best.shape == (1, 4, 8, 3)
    assert float(tried.best.mean()) == 2


def test_best_of_seeds_says_when_its_noise_is_not_enough(nodes) -> None:
    noise = nodes.BestOfSeeds.define_schema().outputs[1]
    assert "ancestral" in noise.tooltip
    assert "KSampler" in noise.tooltip


# ---------------------------------------------------------------------------------------------- what is refused


def test_best_of_seeds_refuses_videos_and_more_than_it_tries(nodes, graph) -> None:
    wanted = nodes.DistanceObjective.execute("mean absolute (L1)").args[0]
    with pytest.raises(ProvokeError, match="3 results are to be kept of 2 seeds"):
        execute(nodes.BestOfSeeds, **graph().inputs("KSampler"), objective=wanted, seeds=2, keep=3)
    inputs = {**graph().inputs("KSampler"), "vae": SimpleNamespace(decode=lambda _: torch.rand(1, 3, 64, 64, 3))}
    with pytest.raises(ProvokeError, match="1 latents give 3 pictures: they are videos"):
        execute(nodes.BestOfSeeds, **inputs, objective=wanted, seeds=2)


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"direction": "satisfy", "objective": None}, "no objective is connected"),
        ({"count": 1, "keep": 2}, "2 noises are to be kept of 1"),
        ({"route": "last steps", "route_steps": 1}, "gradient"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(nodes, graph, objective, choices: dict[str, Any], words: str) -> None:
    with pytest.raises(ProvokeError, match=words):
        run(nodes, graph(), **{"objective": objective, **choices})


def test_a_disabled_noise_is_refused(nodes, graph, objective) -> None:
    from comfy_extras.nodes_custom_sampler import DisableNoise

    one = graph()
    inputs = {**one.inputs("Custom"), "noise": DisableNoise.execute().args[0]}
    with pytest.raises(ProvokeError, match="constant"):
        execute(nodes.LatentSearchCustom, **inputs, **QUICK, objective=objective)


def test_a_noise_for_another_latent_is_refused_with_both_shapes(nodes, graph, objective) -> None:
    out = run(nodes, graph(), objective=objective)
    with pytest.raises(ProvokeError, match=r"\(1, 4, 8, 8\) and the latent \(1, 4, 8, 16\)"):
        out.noise.generate_noise({"samples": torch.zeros(1, 4, 8, 16)})
    for latent, words in (
        (torch.zeros(1, 4, 8, 8), "same number everywhere"),
        (torch.full((1, 4, 8, 8), float("nan")), "NaN"),
        (torch.randn(4, 8), "B C h w"),
    ):
        with pytest.raises(ProvokeError, match=words):
            nodes.NoiseFromLatent.execute({"samples": latent}, 0)


def test_latent_from_noise_and_back(nodes, graph) -> None:
    one = graph()
    noise = one.sockets()["noise"]
    (latent,) = nodes.LatentFromNoise.execute(noise, one.latent).args
    back = nodes.NoiseFromLatent.execute(latent, SEED).args[0]
    assert torch.equal(one.with_noise(back), one.plain())


def test_a_narrow_ridge_is_not_taken_for_a_wrong_gradient(nodes) -> None:
    """There differences of 0.3 % and of 3 % of the latent agree with each other (and not with the slope), and only
    those of 0.003 % see the gradient."""
    from nodes import CLIPTextEncode, EmptyLatentImage
    from provoke.host.sampling.graph import ksampler

    with torch.inference_mode():
        model, clip, vae = nodes.LoadDemoModels.execute("20 steps").args
        prompt = "a pink square below a yellow square"
        positive, negative = (CLIPTextEncode().encode(clip, text)[0] for text in (prompt, ""))
        latent = EmptyLatentImage().generate(64, 64, 1)[0]
    graph = ksampler(model, 400, 6, 1.0, "euler", "simple", positive, negative, latent, 1.0, vae)
    assert graph.inside(lambda sampling: sampling.steps) == 6
