"""Learn Token and Save Embedding on the host's own objects: what a user gets, what it promises, what it refuses."""

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

from provoke.core.errors import ProvokeError
from provoke.tools.inprocess import execute

SEED = 5
PROMPTS = "a dog in the snow\na <token> house"
QUICK: dict[str, Any] = {"search_steps": 2, "pairs": 2, "copies": 0, "prompts": PROMPTS, "name": "found"}


@pytest.fixture(scope="module")
def nodes(comfy: ModuleType) -> ModuleType:
    import provoke.nodes
    from provoke.host.folders import register_model_folders

    register_model_folders()
    return provoke.nodes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("embeddings")


@pytest.fixture(autouse=True)
def embeddings(comfy: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The host's embeddings folder, empty."""
    import folder_paths

    monkeypatch.setitem(folder_paths.folder_names_and_paths, "embeddings", ([str(folder)], {".safetensors"}))
    for file in folder.rglob("*.safetensors"):
        file.unlink()
    return folder


class Graph:
    """A small graph of genuine objects, and the host's own nodes on it."""

    def __init__(self, family: str, folder: Path, **changes: Any) -> None:
        from nodes import CLIPTextEncode
        from provoke.tools import tiny
        from provoke.tools.tiny_encoders import text_encoder

        self.model, self.vae = tiny.model(family), tiny.vae()
        self.clip = changes.get("clip") or text_encoder(family, embeddings=[str(folder)])
        self.latent = changes.get("latent") or tiny.empty_latent(family, batch=changes.get("batch", 1))
        self.sampler = changes.get("sampler", "euler")
        with torch.inference_mode():
            self.negative = CLIPTextEncode().encode(text_encoder(family), "")[0]

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

    def pictures(self, positive: Any) -> Tensor:
        """What KSampler and VAE Decode give."""
        import nodes

        with torch.inference_mode():
            out = nodes.common_ksampler(
                self.model, SEED, 2, 2.0, self.sampler, "normal", positive, self.negative, self.latent
            )[0]
            return nodes.VAEDecode().decode(self.vae, out)[0].clone()


@pytest.fixture(scope="module")
def graph(comfy: ModuleType, folder: Path) -> Callable[..., Graph]:
    known: dict[str, Graph] = {}

    def make(family: str = "sd15", **changes: Any) -> Graph:
        if changes:
            return Graph(family, folder, **changes)
        return known.setdefault(family, Graph(family, folder))

    return make


@pytest.fixture(scope="module")
def scorer(nodes: ModuleType) -> Any:
    with torch.inference_mode():
        return nodes.LoadScorer.execute("first").args[0]


@pytest.fixture(scope="module")
def objective(nodes: ModuleType, scorer: Any) -> Any:
    with torch.inference_mode():
        return nodes.ClipObjective.execute(scorer, "{prompt} left of a blue ring").args[0]


def run(nodes: ModuleType, one: Graph, **choices: Any) -> SimpleNamespace:
    """The node's outputs by name, as the executor calls it."""
    kind = nodes.AdversarialToken
    outputs = execute(kind, **one.inputs(), **{**QUICK, **choices})
    return SimpleNamespace(**dict(zip([put.id for put in kind.define_schema().outputs], outputs, strict=True)))


# ---------------------------------------------------------------------------------------------- what comes out


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_the_saved_token_gives_the_pictures_again(nodes, graph, objective, family: str) -> None:
    """By a plain CLIPTextEncode and KSampler, bit for bit; each prompt its own pictures."""
    one = graph(family)
    out = run(nodes, one, objective=objective, vectors=2)
    name, prompts, report = execute(nodes.SaveEmbedding, embedding=out.embedding)
    assert name == "found"
    assert prompts == out.prompt == ["a dog in the snow embedding:found", "a embedding:found house"]
    assert "clip_l 2 x 32" in report
    assert len(out.images) == len(out.unperturbed) == len(out.scores) == len(out.conditioning) == 2
    for row, (prompt, plain) in enumerate(zip(prompts, ("a dog in the snow", "a house"), strict=True)):
        positive = one.encode(prompt)
        assert torch.equal(positive[0][0], out.conditioning[row][0][0])
        assert torch.equal(one.pictures(positive)[0], out.images[row])
        assert torch.equal(one.pictures(one.encode(plain))[0], out.unperturbed[row])
        assert not torch.equal(out.images[row], out.unperturbed[row])
    for word in (
        "satisfy",
        "2 prompts, 2 pairs",
        "the paper's box of 2.5",
        "nearest words",
        "evaluations of the model",
    ):
        assert word in out.report
    assert len(out.loss["loss"]) == 3


def test_a_prompt_says_the_name_as_a_file_has_it_and_a_taken_one_is_said(nodes, graph, objective) -> None:
    """Save Embedding's own prompts say what it wrote."""
    one = graph()
    first = run(nodes, one, objective=objective, name="a\\b.safetensors", search_steps=1)
    assert first.embedding.name == "a/b"
    assert first.prompt == ["a dog in the snow embedding:a/b", "a embedding:a/b house"]
    assert "already" not in first.report
    assert execute(nodes.SaveEmbedding, embedding=first.embedding)[:2] == ("a/b", first.prompt)
    second = run(nodes, one, objective=objective, name="a/b", search_steps=1)
    assert "there is an embedding:a/b already" in second.report
    assert execute(nodes.SaveEmbedding, embedding=second.embedding)[:2] == (
        "a/b-2",
        ["a dog in the snow embedding:a/b-2", "a embedding:a/b-2 house"],
    )


def test_a_failure_report_makes_the_pictures_again(nodes, graph, objective, tmp_path: Path, monkeypatch) -> None:
    """From each record alone, bit for bit: its prompt, its seed, its place in the batch."""
    import folder_paths

    from provoke.host.contact_sheet import eight_bit

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    one = graph("sd15", batch=2)
    out = run(nodes, one, objective=objective, prompts=f"{PROMPTS}\na tree")
    name, prompts, _ = execute(nodes.SaveEmbedding, embedding=out.embedding)
    with torch.inference_mode():
        given = [[out.images], prompts, [SEED], [""], ["failures/report"], [name]]
        told = json.loads(nodes.FailureReport.execute(*given).args[1])["pictures"]
    assert [record["place"] for record in told] == [0, 1] * 3
    for record in told:
        again = one.pictures(one.encode(record["prompt"]))[record["place"]]
        assert hashlib.sha256(eight_bit(again).tobytes()).hexdigest() == record["sha256"]


def test_a_batch_of_latents_is_drawn_for_every_prompt(nodes, graph, objective) -> None:
    one = graph(batch=2)
    out = run(nodes, one, objective=objective)
    assert len(out.images) == 4
    assert len(out.scores) == 2
    for row, positive in enumerate(out.conditioning):
        assert torch.equal(one.pictures(positive), out.images[2 * row : 2 * row + 2])


@pytest.mark.parametrize("zero", [{"epsilon": 0.0}, {"search_steps": 0}])
def test_zero_effect_is_zero(nodes, graph, objective, zero: dict[str, Any]) -> None:
    one = graph()
    out = run(nodes, one, objective=objective, **zero)
    assert torch.equal(out.images, out.unperturbed)
    assert out.prompt == ["a dog in the snow", "a house"]
    for row, text in enumerate(out.prompt):
        assert torch.equal(one.pictures(one.encode(text))[0], out.images[row])
        assert torch.equal(out.conditioning[row][0][0], one.encode(text)[0][0])
    assert "none" in out.report


def test_the_same_seed_finds_the_same_and_the_host_is_as_it_was(nodes, graph, objective) -> None:
    one = graph()
    before, text = one.pictures(one.encode("a dog")), one.encode("a dog")[0][0]
    found = [run(nodes, one, objective=objective, search_seed=seed).embedding.vectors["clip_l"] for seed in (3, 3, 4)]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert torch.equal(one.pictures(one.encode("a dog")), before)
    assert torch.equal(one.encode("a dog")[0][0], text)


@pytest.mark.parametrize(("seeds", "usual"), [(1, 2), (0, 2 * (3 + 2))])
def test_the_cost_that_is_said_is_what_is_run(nodes, graph, monkeypatch, seeds: int, usual: int) -> None:
    """Also of the pictures that an objective compares with: with one seed there is one for each prompt. Two candidates
    that are compared under two seeds share theirs."""
    from provoke.host.sampling.handle import Sampling
    from provoke.nodes import sampler_search

    ran: list[bool] = []
    sample = Sampling.sample

    def counted(self: Sampling, **choices: Any) -> Tensor:
        ran.append(True)
        return sample(self, **choices)

    monkeypatch.setattr(Sampling, "sample", counted)
    monkeypatch.setattr(sampler_search, "plain_pictures", lambda *_: pytest.fail("nobody asks for this picture"))
    apart = execute(nodes.DistanceObjective)[0]
    choices = {"method": "random", "seeds": seeds, "search_seed": 9}  # the selector's seeds are 0 and 1
    report = run(nodes, graph(), objective=apart, **choices).report
    found = re.search(r"(\d+) evaluations of the model a result .* one run of the sampler is (\d+)\)", report)
    runs = int(found.group(1)) // int(found.group(2))
    # two pairs in each of three steps, and of two candidates under two seeds
    assert runs == len(ran) == 2 * (3 + 2 * 2) + usual


@pytest.mark.parametrize("budget", ["box (SAGE)", "ball", "norm band"])
def test_the_token_stays_in_its_budget(nodes, graph, objective, budget: str) -> None:
    one = graph()
    out = run(nodes, one, objective=objective, budget=budget, epsilon=0.5, step_size=3.0, initial_word="cat")
    vector = out.embedding.vectors["clip_l"][0]
    table = one.clip.cond_stage_model.clip_l.transformer.get_input_embeddings().weight.float()
    deviation, lengths = table.square().mean().sqrt(), table.norm(dim=1)
    word = table[one.clip.tokenize("cat")["l"][0][1][0]]
    match budget:
        case "box (SAGE)":
            assert float((vector - word).abs().max() / deviation) <= 0.5 + 1e-4
        case "ball":
            assert float((vector - word).square().mean().sqrt() / deviation) <= 0.5 + 1e-4
        case _:
            assert abs(float((vector.norm() - lengths.mean()) / lengths.std())) <= 0.5 + 1e-2
    assert not torch.equal(vector, word)


@pytest.mark.parametrize("step_rule", ["signed (SAGE)", "momentum", "steepest"])
def test_every_step_rule_moves_it(nodes, graph, objective, step_rule: str) -> None:
    out = run(nodes, graph(), objective=objective, step_rule=step_rule, search_steps=1)
    assert bool(out.embedding.vectors["clip_l"].any())


@pytest.mark.parametrize("route", ["one-step", "last steps", "residual"])
def test_every_route_moves_it(nodes, graph, objective, route: str) -> None:
    """Elsewhere than the exact one: it is another gradient. (By the sign it would be much the same.)"""
    choices = {"search_steps": 1, "step_rule": "steepest", "objective": objective}
    found, exact = (run(nodes, graph(), route=way, **choices).loss["loss"] for way in (route, "exact"))
    if route != "one-step":  # it scores a predicted picture
        assert found[0] == exact[0]
    assert found[1] != exact[1]


def test_best_of_random_tokens_needs_no_gradient(nodes, graph, objective) -> None:
    """Not even of the sampler."""
    one = graph(sampler="dpm_adaptive")
    quick = {"prompts": "a dog", "pairs": 1, "search_steps": 1}  # this sampler takes many evaluations
    out = run(nodes, one, objective=objective, method="random", epsilon=1.0, **quick)
    assert "best of random tokens" in out.report
    deviation = (
        one.clip.cond_stage_model.clip_l.transformer.get_input_embeddings().weight.float().square().mean().sqrt()
    )
    assert float(out.embedding.vectors["clip_l"].abs().max() / deviation) <= 1 + 1e-4


def test_the_extras_of_a_conditioning_are_kept(nodes, graph, objective) -> None:
    """Two regions and a ControlNet: one entry says the prompt, the other stays; the result is the host's own."""
    from provoke.tools import tiny

    one = graph()
    regions = tiny.regional(one.encode("a tree"), one.encode("a lake"))
    template, _ = tiny.with_control(regions, one.negative, tiny.controlnet(), tiny.hint())
    out = run(nodes, one, objective=objective, conditioning=template, entry=2, prompts="a dog")
    (found,) = out.conditioning
    assert len(found) == 2
    assert torch.equal(found[0][0], template[0][0])
    for mine, theirs in zip(found, template, strict=True):
        assert set(mine[1]) == set(theirs[1])
        assert mine[1]["control"] is theirs[1]["control"]
    assert torch.equal(found[1][1]["mask"], template[1][1]["mask"])
    execute(nodes.SaveEmbedding, embedding=out.embedding)
    said = one.encode("a dog embedding:found")[0]
    assert torch.equal(found[1][0], said[0])
    again = [template[0], [said[0], {**template[1][1], "pooled_output": said[1]["pooled_output"]}]]
    assert torch.equal(one.pictures(again), out.images)


def test_what_compares_gets_the_picture_without_the_token(nodes, graph, scorer) -> None:
    """A distance, and a direction: of the same prompt and seed."""
    wanted = nodes.DistanceObjective.execute("mean absolute (L1)").args[0]
    out = run(nodes, graph(), objective=wanted)
    for score, mine, usual in zip(out.scores, out.images, out.unperturbed, strict=True):
        assert score == pytest.approx(float((mine - usual).abs().mean()), abs=1e-5)
        assert score > 0


def test_the_prompts_own_score_counts_and_is_said(nodes, graph, objective, scorer) -> None:
    without = run(nodes, graph(), objective=objective, keep_scorer=scorer)
    kept = run(nodes, graph(), objective=objective, keep_scorer=scorer, keep_weight=5.0)
    assert "own CLIP" in kept.report
    assert "own CLIP" in without.report
    assert not torch.equal(kept.embedding.vectors["clip_l"], without.embedding.vectors["clip_l"])


def test_a_picture_can_be_what_the_token_means(nodes, graph, scorer) -> None:
    """Textual inversion by the same search."""
    picture = torch.rand(2, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    wanted = nodes.ClipObjective.execute(scorer, "", picture=picture).args[0]
    out = run(nodes, graph(), objective=wanted, initial_word="dog")
    assert "similarity to the picture" in out.report


def test_one_seed_alone_is_searched_exactly(nodes, graph, objective) -> None:
    """With seeds 1 and one prompt there is no chance: more steps never end lower."""
    choices = {"prompts": "a dog", "seeds": 1, "pairs": 1, "objective": objective, "step_size": 0.5}
    scores = [run(nodes, graph(), search_steps=steps, **choices).scores[0] for steps in (1, 4)]
    assert scores[1] >= scores[0] - 1e-5


# ---------------------------------------------------------------------------------------------- while it runs


def test_cancel_takes_effect_within_a_step_and_leaves_nothing(nodes, graph, objective, at_progress) -> None:
    import comfy.model_management as mm

    one = graph()
    before = one.pictures(one.encode("a dog"))
    heard = at_progress(2, lambda: mm.interrupt_current_processing(True))
    with pytest.raises(mm.InterruptProcessingException):
        run(nodes, one, objective=objective, search_steps=50)
    assert heard[-1] == next(value for value in heard if value >= 2)
    assert torch.equal(one.pictures(one.encode("a dog")), before)


def test_stop_keeps_the_best(nodes, graph, objective, at_progress) -> None:
    from provoke.host import stop

    heard = at_progress(2, lambda: stop.stop(""))
    out = run(nodes, graph(), objective=objective, search_steps=50)
    assert heard[-1] <= next(value for value in heard if value >= 2) + 1
    assert "stopped by request, best kept" in out.report


# ---------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"prompts": " \n "}, "There is no prompt"),
        ({"keep_weight": 1.0}, "no keep_scorer is connected"),
        ({"name": "two words"}, "a prompt has to be able to say it"),
        ({"initial_word": "a very long beginning"}, "tokens to the text encoder"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(nodes, graph, objective, choices: dict[str, Any], words: str) -> None:
    with pytest.raises(ProvokeError, match=words):
        run(nodes, graph(), **{"objective": objective, **choices})


def test_an_entry_that_is_not_there_is_refused(nodes, graph, objective) -> None:
    one = graph()
    with pytest.raises(ProvokeError, match="the conditioning has 1 entries"):
        run(nodes, one, objective=objective, conditioning=one.encode("a dog"), entry=2)


def test_a_text_encoder_that_reads_no_files_is_refused(nodes, graph, objective, folder) -> None:
    from provoke.tools.tiny_encoders import text_encoder

    clip = text_encoder("qwen-image", embeddings=[str(folder)])
    with pytest.raises(ProvokeError, match="reads no embedding files"):
        run(nodes, graph(clip=clip), objective=objective)


def test_the_prompt_in_an_objective_is_for_searches_that_know_it(nodes, objective) -> None:
    with pytest.raises(ProvokeError, match="speaks of the prompt"):
        execute(nodes.ScoreImages, images=torch.rand(1, 64, 64, 3), objective=objective)
