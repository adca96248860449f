"""Search Prompt on the host's own objects: what a user gets, what it promises, what it refuses."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from provoke.core.errors import GradientError, ProvokeError
from provoke.tools.inprocess import execute

SEED = 5
TEMPLATE = "a red circle {more:4}"
QUICK: dict[str, Any] = {"search_steps": 8, "seeds": 1, "copies": 0, "template": TEMPLATE, "word_steps": 1, "tries": 2}


class Graph:
    """A small graph of genuine objects, and the host's own nodes on it."""

    def __init__(self, folder: Path, family: str = "sd15", batch: int = 1, sampler: str = "euler") -> None:
        from nodes import CLIPTextEncode
        from provoke.tools import tiny
        from provoke.tools.tiny_encoders import text_encoder

        self.model, self.vae, self.clip = tiny.model(family), tiny.vae(), text_encoder(family, embeddings=[str(folder)])
        self.latent, self.sampler = tiny.empty_latent(family, batch=batch), sampler
        with torch.inference_mode():
            self.negative = CLIPTextEncode().encode(self.clip, "")[0]

    def inputs(self) -> dict[str, Any]:
        return {
            "clip": self.clip, "model": self.model, "noise_seed": SEED, "steps": 2, "cfg": 2.0, "vae": self.vae,
            "sampler_name": self.sampler, "scheduler": "normal", "negative": self.negative,
            "latent_image": self.latent, "denoise": 1.0,
        }  # fmt: skip

    def encode(self, text: str) -> Any:
        from nodes import CLIPTextEncode

        with torch.inference_mode():
            return CLIPTextEncode().encode(self.clip, text)[0]

    def pictures(self, positive: Any, seed: int = SEED) -> Tensor:
        """What KSampler and VAE Decode give."""
        import nodes

        with torch.inference_mode():
            out = nodes.common_ksampler(
                self.model, seed, 2, 2.0, self.sampler, "normal", positive, self.negative, self.latent
            )[0]
            return nodes.VAEDecode().decode(self.vae, out)[0].clone()


@pytest.fixture(scope="module")
def graph(comfy: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Graph]:
    known: dict[str, Graph] = {}
    folder = tmp_path_factory.mktemp("embeddings")

    def make(family: str = "sd15", **changes: Any) -> Graph:
        if changes or family not in known:
            made = Graph(folder, family, **changes)
            return made if changes else known.setdefault(family, made)
        return known[family]

    return make


@pytest.fixture(scope="module")
def language(nodes: ModuleType) -> Any:
    return execute(nodes.LoadLanguage, language="provoke-demo-gpt2")[0]


@pytest.fixture(scope="module")
def objective(nodes: ModuleType) -> Any:
    scorer = execute(nodes.LoadScorer, scorer="first")[0]
    return execute(nodes.ClipObjective, scorer=scorer, text="a red circle")[0]


@pytest.fixture
def run(nodes: ModuleType, language: Any, objective: Any) -> Callable[..., SimpleNamespace]:
    """The node's outputs by name, as the executor calls it."""

    def named(one: Graph, **choices: Any) -> SimpleNamespace:
        kind = nodes.PromptSearch
        given = {**one.inputs(), **QUICK, "language": language, "objective": objective, **choices}
        return SimpleNamespace(
            **dict(zip([put.id for put in kind.define_schema().outputs], execute(kind, **given), strict=True))
        )

    return named


# ---------------------------------------------------------------------------------------------- what comes out


@pytest.mark.parametrize("method", ["gradient", "evolution", "random"])
def test_the_prompts_give_the_pictures_again(run, graph, method: str) -> None:
    """By a plain CLIPTextEncode and KSampler, bit for bit; each prompt with every seed, the best first."""
    one = graph()
    out = run(one, method=method, seeds=2, keep=3)
    count = len(out.prompts)
    assert 0 < count <= 3
    assert len(set(out.prompts)) == count == len(out.scores) == len(out.conditioning)
    assert out.seeds == [SEED, SEED + 1] * count
    assert len(out.images) == 2 * count == len(out.judged.total)
    assert out.scores == sorted(out.scores)  # break: the least first
    for row, prompt in enumerate(out.prompts):
        assert prompt.startswith("a red circle ")
        positive = one.encode(prompt)
        assert torch.equal(positive[0][0], out.conditioning[row][0][0])
        for k in range(2):
            assert torch.equal(one.pictures(positive, SEED + k)[0], out.images[2 * row + k])
        assert out.scores[row] == pytest.approx(float(out.judged.total[2 * row : 2 * row + 2].mean()))
    assert torch.equal(one.pictures(one.encode("a red circle")), out.plain[:1])
    assert f"way        {method}, 8 steps" in out.report
    for word in ("break", "2 seeds", "nats a token", "a red circle: ", "runs of the sampler"):
        assert word in out.report


def test_two_text_encoders_and_a_slot_in_two_places(run, graph) -> None:
    out = run(graph("sdxl"), template="a {colour} circle left of a {colour} ring", search_steps=5, tries=1)
    for prompt in out.prompts:
        words = prompt.split()
        assert words[1] == words[6]
    assert "0 looks with a gradient" not in out.report


def test_zero_steps_are_the_templates_own_words(run, graph) -> None:
    one = graph()
    out = run(one, search_steps=0)
    assert out.prompts == ["a red circle"]
    assert torch.equal(one.pictures(one.encode("a red circle")), out.images)
    assert torch.equal(out.conditioning[0][0][0], one.encode("a red circle")[0][0])
    assert torch.equal(out.plain, out.images)
    assert "none" in out.report


def test_the_same_seed_finds_the_same_and_the_host_is_as_it_was(run, graph) -> None:
    one = graph()
    before, text, chance = one.pictures(one.encode("a dog")), one.encode("a dog")[0][0], torch.get_rng_state()
    for method in ("gradient", "random"):
        found = [run(one, method=method, search_seed=seed) for seed in (3, 3, 4)]
        assert found[0].prompts == found[1].prompts
        assert found[0].loss == found[1].loss
        assert found[0].prompts != found[2].prompts
    assert torch.equal(torch.get_rng_state(), chance)
    assert torch.equal(one.pictures(one.encode("a dog")), before)
    assert torch.equal(one.encode("a dog")[0][0], text)


def test_a_batch_of_latents_is_drawn_for_every_prompt(run, graph) -> None:
    one = graph(batch=2)
    out = run(one, method="random", search_steps=3, keep=2)
    assert len(out.images) == 4
    assert torch.equal(one.pictures(out.conditioning[1]), out.images[2:])


def test_words_that_must_stay_and_words_that_must_not_come(run, graph) -> None:
    choices = {"must_stay": "hoop", "must_not_come": "blue, on a, above", "template": "a red circle {more:9}"}
    out = run(graph(), method="random", search_steps=6, **choices)
    for prompt in out.prompts:
        assert "hoop" in prompt.split()
        assert not {"blue", "above"} & set(prompt.split())
        assert "on a " not in prompt


def test_both_directions(run, graph) -> None:
    """Over the same prompts the one's best is the other's worst."""
    choices = {"method": "random", "template": "a {colour} circle", "search_steps": 50, "keep": 20}
    less, more = (run(graph(), direction=way, **choices) for way in ("break", "satisfy"))
    assert less.prompts == more.prompts[::-1]
    assert "nothing else can be said" in less.report


def test_the_extras_of_a_conditioning_are_kept(run, graph) -> None:
    from provoke.tools import tiny

    one = graph()
    template = tiny.regional(one.encode("a tree"), one.encode("a lake"))
    out = run(one, conditioning=template, entry=2, search_steps=3)
    found = out.conditioning[0]
    assert len(found) == 2
    assert torch.equal(found[0][0], template[0][0])
    assert torch.equal(found[1][0], one.encode(out.prompts[0])[0][0])
    assert torch.equal(found[1][1]["mask"], template[1][1]["mask"])
    assert torch.equal(one.pictures(found), out.images[:1])


def test_what_compares_gets_the_plain_prompts_picture(nodes, run, graph) -> None:
    wanted = execute(nodes.DistanceObjective)[0]
    out = run(graph(), objective=wanted, direction="satisfy", search_steps=4, seeds=2, keep=1)
    assert out.scores[0] == pytest.approx(float((out.images - out.plain).abs().mean()), abs=1e-5)
    assert out.scores[0] > 0


def test_each_prompt_can_be_compared_with_itself(nodes, run, graph) -> None:
    scorer = execute(nodes.LoadScorer, scorer="first")[0]
    own = execute(nodes.ClipObjective, scorer=scorer, text="{prompt}")[0]
    out = run(graph(), objective=own, search_steps=4, keep=2)
    for row, prompt in enumerate(out.prompts):
        same = execute(nodes.ClipObjective, scorer=scorer, text=prompt)[0]
        (score,) = execute(nodes.ScoreImages, images=out.images[row : row + 1], objective=same)[1]
        assert score == pytest.approx(out.scores[row], abs=1e-5)


def test_its_outputs_go_into_a_failure_report(nodes, run, graph, tmp_path: Path, monkeypatch) -> None:
    import folder_paths

    from provoke.host.contact_sheet import eight_bit

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    one = graph(batch=2)
    out = run(one, method="random", seeds=2, keep=2, search_steps=4)
    with torch.inference_mode():
        report = nodes.FailureReport.execute(
            [out.images], out.prompts, out.seeds, ["notes"], ["failures/report"], [""], scores=[out.judged]
        ).args[1]
    told = json.loads(report)["pictures"]
    assert len(told) == len(out.images) == 8
    for record in told:  # alone it makes the picture again, bit for bit
        again = one.pictures(one.encode(record["prompt"]), record["seed"])[record["place"]]
        assert hashlib.sha256(eight_bit(again).tobytes()).hexdigest() == record["sha256"]
    assert [record["prompt"] for record in told] == [prompt for prompt in out.prompts for _ in range(4)]


# ---------------------------------------------------------------------------------------------- the gradient


def test_the_gradient_into_the_slot_is_that_of_finite_differences(nodes, graph, objective, language) -> None:
    """Along random directions and in [x] and [y] alone; the prompt is the search's own, with its MARK."""
    from provoke.core.template import Template
    from provoke.core.wording import MARK
    from provoke.host.judges import passed
    from provoke.host.sampling.routes import EXACT
    from provoke.nodes.prompt_looks import Looks
    from provoke.nodes.prompt_search_settings import PromptSettings

    inputs = nodes.PromptSearch.define_schema().inputs
    values = {put.id: getattr(put, "default", None) for put in inputs if hasattr(put, "default")}
    kept = {"language": language, "objective": objective, "direction": "break", **QUICK}
    settings = PromptSettings.taken({**values, **kept})
    one = graph()
    said = Template.of(TEMPLATE).said(((MARK, "on", "white"),))

    def body(sampling: Any) -> tuple[Tensor, Tensor]:
        with passed(*objective.held):
            looks = Looks(sampling, settings, one.encode("a red circle"), EXACT)
            token = looks._token(2)
            rows = token.of_words(["ring"])[:, None].expand(1, 2, -1).contiguous()
            problem = looks._problem("a red circle", lambda x: token.conditioning(said, MARK, x), EXACT)
            rng = torch.Generator().manual_seed(0)
            gradient = problem.evaluate(rows, rng, gradient=True).gradient
            ways = [torch.randn(rows.shape, generator=rng) for _ in range(8)]
            ways += [
                torch.cat([ways[0][:, :1], 0 * ways[0][:, 1:]], 1),
                torch.cat([0 * ways[1][:, :1], ways[1][:, 1:]], 1),
            ]
            step = 2e-2

            def score(x: Tensor) -> float:
                return float(problem.evaluate(x, rng, gradient=False).score)

            there = [(score(rows + step * way) - score(rows - step * way)) / (2 * step) for way in ways]
            return torch.tensor(there), torch.stack([(gradient * way).sum() for way in ways])

    there, mine = one_graph(nodes, one).inside(body, judges=objective.held, clip=one.clip)
    assert float((there - mine).norm() / there.norm()) < 0.02


def one_graph(nodes: ModuleType, one: Graph) -> Any:
    from provoke.nodes.prompted import Prompted

    sockets = {name: value for name, value in one.inputs().items() if name != "clip"}
    return Prompted(one.clip, sockets, None, 1).graph(one.encode("a red circle"))


def test_an_objective_without_a_slope_is_an_error_and_none_for_evolution(nodes, run, graph) -> None:
    """The tiny model's pictures are never of this class: there is nothing to break, and its margin stays cut off at 0,
    whatever is said."""
    one = graph()
    classifier = execute(nodes.LoadClassifier, classifier="provoke-demo-resnet")[0]
    with torch.no_grad():
        seen = classifier.judge.logits(one.pictures(one.encode("a red circle")).movedim(-1, 1).float())
    label = classifier.judge.labels[int(seen[0].argmin())]
    flat = execute(nodes.ClassObjective, classifier=classifier, class_name=label, confidence=0.0)[0]
    assert run(one, objective=flat, method="evolution", search_steps=4).scores[0] < 0  # of the class, as it is
    with pytest.raises(GradientError, match="there was no gradient"):
        run(one, objective=flat, method="gradient", search_steps=30)


def test_the_cost_of_looks_with_a_gradient_is_counted_once(run, graph) -> None:
    """Two runs each where every graph is kept, one for a look without; a place's steps do not count those before."""
    report = run(graph(), method="gradient", search_steps=9, word_steps=3).report
    leans = int(re.search(r"(\d+) looks with a gradient", report).group(1))
    assert leans >= 3
    assert "every evaluation's graph kept" in report
    assert f"cost       {9 + leans} runs of the sampler" in report


def test_every_route_leads_somewhere(run, graph) -> None:
    for route in ("one-step", "last steps", "residual"):
        out = run(graph(), route=route, method="gradient")
        assert "0 looks with a gradient" not in out.report
        assert out.prompts


def test_samplers_without_a_gradient_are_welcome_without_one(run, graph) -> None:
    one = graph(sampler="dpm_adaptive")
    assert run(one, method="evolution", search_steps=2).prompts
    with pytest.raises(GradientError):
        run(one, method="gradient", search_steps=2)


# ---------------------------------------------------------------------------------------------- while it runs


@pytest.mark.parametrize("method", ["gradient", "evolution"])
def test_cancel_takes_effect_within_a_step_and_leaves_nothing(run, graph, at_progress, method: str) -> None:
    import comfy.model_management as mm

    one = graph()
    before = one.pictures(one.encode("a dog"))
    heard = at_progress(2, lambda: mm.interrupt_current_processing(True))
    with pytest.raises(mm.InterruptProcessingException):
        run(one, method=method, search_steps=50)
    assert heard[-1] == next(value for value in heard if value >= 2)
    assert torch.equal(one.pictures(one.encode("a dog")), before)


def test_stop_keeps_the_best(run, graph, at_progress) -> None:
    from provoke.host import stop

    heard = at_progress(3, lambda: stop.stop(""))
    out = run(graph(), method="random", search_steps=50)
    assert heard[-1] <= next(value for value in heard if value >= 3) + 1
    assert "stopped by request, best kept" in out.report
    assert out.prompts


def test_a_score_or_a_time_ends_it(run, graph) -> None:
    assert "target score" in run(graph(), method="random", search_steps=50, stop_at_score=-100.0).report
    assert "time limit" in run(graph(), method="random", search_steps=5000, time_limit=0.01).report


@pytest.mark.parametrize("method", ["gradient", "evolution", "random"])
def test_a_search_without_a_prompt_can_be_ended_too(run, graph, monkeypatch, method: str) -> None:
    """Where the rules leave hardly a sentence no step comes for long: request, limit and cancel count between them."""
    import comfy.model_management as mm

    from provoke.core.writing import Writer
    from provoke.host import stop

    tried: list[int] = []

    def never(self: Writer, filling: Any) -> bool:
        tried.append(1)
        if len(tried) == 2:
            stop.stop("")
        return False

    monkeypatch.setattr(Writer, "fits", never)
    with pytest.raises(ProvokeError, match=r"No natural prompt.*\(stopped by request\)"):
        run(graph(), method=method)
    assert len(tried) < 10
    with pytest.raises(ProvokeError, match=r"No natural prompt.*\(time limit of 0.01 s reached\)"):
        run(graph(), method=method, time_limit=0.01)
    monkeypatch.setattr(Writer, "fits", lambda self, filling: mm.interrupt_current_processing(True) or False)
    with pytest.raises(mm.InterruptProcessingException):
        run(graph(), method=method)


# ---------------------------------------------------------------------------------------------- what is refused


def test_a_text_encoder_that_reads_no_files_is_refused_for_the_gradient_before_the_run(
    run, graph, monkeypatch, tmp_path
) -> None:
    from provoke.host.sampling.graph import Graph as Opened
    from provoke.tools.tiny_encoders import text_encoder

    one = graph(batch=1)
    one.clip = text_encoder("qwen-image", embeddings=[str(tmp_path)])

    def opened(*_: Any, **__: Any) -> None:
        pytest.fail("nothing is to be loaded for this")

    monkeypatch.setattr(Opened, "inside", opened)
    with pytest.raises(ProvokeError, match=r"reads no embedding files.*choose method: evolution"):
        run(one, method="gradient")


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"template": " \n "}, "The template is empty"),
        ({"template": "a red circle"}, "no slot in the template"),
        ({"must_not_come": "circle"}, "The template itself says 'circle'"),
        ({"entry": 2, "conditioning": [[None, {}]]}, "the conditioning has 1 entries"),
        ({"context": "a red circle " * 40}, "tokens for provoke-demo-gpt2"),
        ({"must_not_come": "on,to,left,right,above,below,over,under,higher,lower"}, "has no words for"),
        ({"must_stay": "white, black, grey"}, "No natural prompt"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(run, graph, choices: dict[str, Any], words: str) -> None:
    with pytest.raises(ProvokeError, match=words):
        run(graph(), method="random", **choices)


def test_a_language_model_that_is_not_there_is_refused(nodes: ModuleType) -> None:
    with pytest.raises(ProvokeError, match="There is no model"):
        execute(nodes.LoadLanguage, language="../provoke_vlm/provoke-demo-blip2-itm")


def test_the_curve_is_that_of_the_best_prompt_so_far(nodes: ModuleType) -> None:
    """Looks at vectors between words have no prompt yet, and so no point."""
    from provoke.core.wording import Found
    from provoke.host.curve import Curve, Reading
    from provoke.nodes.prompt_search import Progress

    state, curve = Progress(SimpleNamespace(search_steps=3, stop_at_score=0.0, time_limit=0.0)), Curve(steps=3)
    for cost, total in ((1.0, None), (2.0, 0.25), (3.0, 0.75)):
        state.cost = cost
        state.best = None if total is None else Found("a cat", (), 1.0, 2.0, total)
        reading = Reading.of(state)
        assert reading is not None
        curve.take(reading, cost)
    assert [point[2] for point in curve.points] == [None, 0.25, 0.75]
    assert curve.best == (0, 2, 0.75)
    assert curve.cost == 3.0
