"""Steer Result (CLIP-Targeted Attack) on the host's own nodes: what a user gets, what it promises, what it refuses."""

from __future__ import annotations

import re
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from provoke.core.errors import ProvokeError
from provoke.tools.inprocess import execute

QUICK: dict[str, Any] = {"epsilon": 8.0, "steps": 4, "count": 1, "copies": 2, "target_text": "a blue circle"}


@pytest.fixture(scope="module")
def nodes(comfy: ModuleType) -> ModuleType:
    import provoke.nodes
    from provoke.host.folders import register_model_folders

    register_model_folders()
    return provoke.nodes


@pytest.fixture(scope="module")
def scorer(nodes: ModuleType) -> Any:
    with torch.inference_mode():
        return nodes.LoadScorer.execute("first").args[0]


@pytest.fixture(scope="module")
def coloriser(nodes: ModuleType) -> Any:
    from comfy_extras.nodes_upscale_model import UpscaleModelLoader

    with torch.inference_mode():
        return UpscaleModelLoader.execute("provoke-demo-world-coloriser.safetensors").args[0]


@pytest.fixture(scope="module")
def grey(nodes: ModuleType) -> Tensor:
    """Scenes without their colours, B 64 64 3."""
    from provoke.nodes.demo_scene import QUESTIONS

    return nodes.DemoScene.execute(11, 2, "one", QUESTIONS[2]).args[0]


def steer(nodes: ModuleType, **inputs: Any) -> tuple[Any, ...]:
    """As the executor calls it: in inference mode, widget values by name, defaults otherwise."""
    return execute(nodes.ClipTargetedAttack, **{**QUICK, **inputs})


def host(model: Any, image: Tensor) -> Tensor:
    from comfy_extras.nodes_upscale_model import ImageUpscaleWithModel

    with torch.inference_mode():
        return ImageUpscaleWithModel.execute(model, image).args[0]


def test_what_comes_out(nodes: ModuleType, coloriser: Any, scorer: Any, grey: Tensor) -> None:
    with torch.inference_mode():
        (second,) = nodes.LoadScorer.execute("second").args
    results, unperturbed, attacked, difference, loss, report, _ = steer(
        nodes, model=coloriser, image=grey, scorer=scorer, second_judge=second, count=2, source_text="a red circle"
    )
    assert results.shape == attacked.shape == difference.shape == (4, 64, 64, 3)
    assert unperturbed.shape == (2, 64, 64, 3)
    assert float((attacked - grey.repeat_interleave(2, 0)).abs().max()) <= 8 / 255 + 1e-6
    assert torch.equal((attacked * 255).round() / 255, attacked)
    assert torch.equal(results, host(coloriser, attacked))
    assert torch.equal(unperturbed, host(coloriser, grey))
    assert len(loss["loss"]) == 5
    for word in ("similarity to the target, first", "the second judge, second", "image 2", "APGD"):
        assert word in report


def test_equal_seeds_give_equal_results(nodes: ModuleType, coloriser: Any, scorer: Any, grey: Tensor) -> None:
    def run(seed: int) -> Tensor:
        return steer(nodes, model=coloriser, image=grey[:1], scorer=scorer, seed=seed)[2]

    first = run(3)
    assert torch.equal(first, run(3))
    assert not torch.equal(first, run(4))


def test_source_equal_to_target_changes_nothing(nodes: ModuleType, coloriser: Any, scorer: Any, grey: Tensor) -> None:
    results, unperturbed, attacked, _, _, report, _ = steer(
        nodes, model=coloriser, image=grey, scorer=scorer, source_text="a blue circle", count=2
    )
    assert torch.equal(attacked, grey.repeat_interleave(2, 0))
    assert torch.equal(results, unperturbed.repeat_interleave(2, 0))
    assert "source and target are the same" in report


def test_the_scorer_is_climbed(nodes: ModuleType, coloriser: Any, scorer: Any, grey: Tensor) -> None:
    """Ten steps raise the similarity by more than any of twenty random changes in the same budget."""
    from provoke.host.judges import judging

    def similarity(images: Tensor) -> Tensor:
        with judging(scorer), torch.no_grad():
            target = scorer.judge.encode_texts(["a blue circle"])[0]
            return scorer.judge.encode_images(images.movedim(-1, 1).clone()) @ target

    # clip against clip: the random changes use the whole box
    same = {"model": coloriser, "image": grey, "scorer": scorer, "steps": 10, "truncation": "clip"}
    steered, *_ = steer(nodes, **same)
    drawn, *_ = steer(nodes, **{**same, "method": "random", "steps": 20})
    assert bool((similarity(steered) > similarity(drawn)).all())


def test_smoothing_is_counted_reproducible_and_can_be_off(
    nodes: ModuleType, coloriser: Any, scorer: Any, grey: Tensor
) -> None:
    """Each gradient is averaged over copies that each cost a run with its backward, and starts are tried: the report's
    cost says so."""
    from provoke.nodes.smoothing import TRIED

    def run(**choices: Any) -> tuple[Tensor, int]:
        outputs = steer(nodes, model=coloriser, image=grey[:1], scorer=scorer, **choices)
        assert ("gradients averaged over 3 shifts" in outputs[5]) == (choices["smoothing"] > 0)
        return outputs[2], int(re.search(r"cost\s+(\d+) runs", outputs[5]).group(1))

    off, few = run(smoothing=0.0)
    smooth, more = run(smoothing=1.0, smoothing_copies=3)
    assert not torch.equal(off, smooth)
    assert torch.equal(smooth, run(smoothing=1.0, smoothing_copies=3)[0])
    assert float((smooth - grey[:1]).abs().max()) <= 8 / 255 + 1e-6
    # in 4 steps: a run for the score, and two more gradients of two runs
    assert more - few == 1 + TRIED + 4 * (1 + 2 * 2)


def test_an_objective_besides_counts(nodes: ModuleType, coloriser: Any, scorer: Any, grey: Tensor) -> None:
    """A distance with a heavy negative weight holds the result; the report gives its figure."""
    with torch.inference_mode():
        distance = nodes.DistanceObjective.execute("mean absolute (L1)").args[0]
        held = nodes.CombineObjectives.execute(distance, -50.0, distance, -50.0).args[0]
    same = {"model": coloriser, "image": grey[:1], "scorer": scorer, "steps": 8}
    free, usual, *_ = steer(nodes, **same)
    kept, *_, report, _ = steer(nodes, **same, objective=held)
    assert float((kept - usual).abs().mean()) < float((free - usual).abs().mean())
    assert "distance (mean absolute (L1))" in report


def test_several_targets_from_one_input(nodes: ModuleType, coloriser: Any, scorer: Any) -> None:
    """Each target gives a result of its own, and on the mean of four inputs those led to it are the most like it."""
    from provoke.demo.world import SHAPES
    from provoke.host.judges import judging
    from provoke.nodes.demo_scene import QUESTIONS

    images, *_, said = nodes.DemoScene.execute(31, 24, "one", QUESTIONS[2]).args
    circles = [place for place, text in enumerate(said.split("\n")) if SHAPES[0] in text][:4]
    targets = ["a red circle", "a green circle", "a blue circle"]
    # the settings that the help page shows
    same = {"model": coloriser, "image": images[circles], "scorer": scorer, "steps": 15, "truncation": "clip"}
    found = [steer(nodes, **same, target_text=target) for target in targets]
    with judging(scorer), torch.no_grad():
        texts = scorer.judge.encode_texts(targets)
        similar = torch.stack(
            [(scorer.judge.encode_images(outputs[0].movedim(-1, 1).clone()) @ texts.T).mean(0) for outputs in found]
        )  # led to, target
    assert similar.argmax(0).tolist() == [0, 1, 2]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        for which in (0, 2):  # results, attacked inputs
            # a target that is not reached (one in ten: benchmarks/world_steer) may end at the start of another's
            assert int(((found[i][which] - found[j][which]).abs().amax((1, 2, 3)) > 0).sum()) >= 3


def test_a_picture_as_the_target(nodes: ModuleType, coloriser: Any, scorer: Any, grey: Tensor) -> None:
    from provoke.nodes.demo_scene import QUESTIONS

    target = nodes.DemoScene.execute(5, 1, "one", QUESTIONS[0]).args[0]
    report = steer(nodes, model=coloriser, image=grey[:1], scorer=scorer, target_text="", target_picture=target)[5]
    assert "similarity to the target" in report


@pytest.mark.parametrize("kind", ["nafnet", "compact", "swinir", "vae"])
def test_any_image_model_goes_through_the_same_socket(
    nodes: ModuleType, build: Any, photo: Any, scorer: Any, kind: str
) -> None:
    model, image = getattr(build, kind)(), photo(1, 32, 32)
    results, unperturbed, attacked, *_ = steer(nodes, model=model, image=image, scorer=scorer, copies=1)
    assert results.shape == unperturbed.shape
    assert not torch.equal(attacked, image)


def test_the_model_and_the_judge_stay_loaded_together(
    nodes: ModuleType, build: Any, photo: Any, scorer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One call asks for both: load_models_gpu may unload whatever is not in its list."""
    import comfy.model_management as management

    asked: list[list[Any]] = []
    real = management.load_models_gpu

    def spy(models: Any, *args: Any, **kwargs: Any) -> Any:
        asked.append(list(models))
        return real(models, *args, **kwargs)

    monkeypatch.setattr(management, "load_models_gpu", spy)
    model = build.compact()
    steer(nodes, model=model, image=photo(1, 32, 32), scorer=scorer)
    together = [models for models in asked if scorer.patchers[0] in models and len(models) > 1]
    assert together or not hasattr(model, "patcher")


def test_the_next_node_is_as_it_was(nodes: ModuleType, coloriser: Any, scorer: Any, grey: Tensor) -> None:
    before = host(coloriser, grey)
    steer(nodes, model=coloriser, image=grey, scorer=scorer)
    assert torch.equal(host(coloriser, grey), before)


def test_what_does_not_fit_is_refused_in_words(nodes: ModuleType, coloriser: Any, scorer: Any, grey: Tensor) -> None:
    for change, words in (
        ({"target_text": " "}, "target_text is empty"),
        ({"guidance": "direction (cosine)"}, "there is no source"),
        ({"source_picture": grey}, "a text as the target"),
        ({"target_text": "", "target_picture": grey, "guidance": "direction (dot product)"}, "source_picture"),
        ({"target_picture": grey[0]}, "B H W 3"),
    ):
        with pytest.raises(ProvokeError, match=words):
            steer(nodes, model=coloriser, image=grey, scorer=scorer, **change)
