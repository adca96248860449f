"""Vary Result with an objective of the user's: towards it or away from it, in a region, next to random changes."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from provoke.core.errors import ProvokeError
from provoke.tools.inprocess import execute

QUICK: dict[str, Any] = {"epsilon": 8.0, "steps": 8, "count": 1, "truncation": "clip"}
CLASS = "blue circle"


@pytest.fixture(scope="module")
def coloriser(nodes: ModuleType) -> Any:
    from comfy_extras.nodes_upscale_model import UpscaleModelLoader

    with torch.inference_mode():
        return UpscaleModelLoader.execute("provoke-demo-world-coloriser.safetensors").args[0]


@pytest.fixture(scope="module")
def grey(nodes: ModuleType) -> Tensor:
    """Scenes without their colours, B 64 64 3."""
    from provoke.nodes.demo_scene import QUESTIONS

    return nodes.DemoScene.execute(21, 2, "one", QUESTIONS[2]).args[0]


@pytest.fixture(scope="module")
def classifier(nodes: ModuleType) -> Any:
    with torch.inference_mode():
        return nodes.LoadClassifier.execute("provoke-demo-resnet").args[0]


@pytest.fixture(scope="module")
def objective(nodes: ModuleType, classifier: Any) -> Any:
    return nodes.ClassObjective.execute(classifier, CLASS, "margin", 50.0).args[0]


def vary(nodes: ModuleType, **inputs: Any) -> tuple[Any, ...]:
    return execute(nodes.UntargetedAttack, **{**QUICK, **inputs})


def score(nodes: ModuleType, images: Tensor, objective: Any, default: Tensor | None = None) -> Tensor:
    with torch.inference_mode():
        return nodes.ScoreImages.execute(images, objective, default).args[0].total


def test_it_is_climbed_and_descended(nodes: ModuleType, coloriser: Any, grey: Tensor, objective: Any) -> None:
    """Further than by any of as many random changes, both ways; and the report has the objective's own figures."""
    same = {"model": coloriser, "image": grey, "objective": objective}
    found = {}
    for direction in ("towards", "away"):
        results, default, *_, report, _ = vary(nodes, **same, direction=direction)
        drawn, *_ = vary(nodes, **same, direction=direction, method="random", steps=16)
        sign = 1 if direction == "towards" else -1
        best, random, before = (sign * score(nodes, x, objective) for x in (results, drawn, default))
        assert bool((best > random).all())
        assert bool((best > before).all())
        assert f"margin of '{CLASS}'" in report
        assert f"{float(sign * best[0]):.3f} ({float(sign * before[0]):.3f}; " in report
        found[direction] = results
    assert not torch.equal(found["towards"], found["away"])


def test_it_takes_the_place_of_the_nodes_own(nodes: ModuleType, coloriser: Any, grey: Tensor) -> None:
    """Distance from the default, as an objective, is what the node does by itself without contrast."""
    (distance,) = nodes.DistanceObjective.execute("mean absolute (L1)").args
    same = {"model": coloriser, "image": grey, "variance_weight": 0.0, "count": 2}
    own, other = vary(nodes, **same), vary(nodes, **same, objective=distance)
    assert torch.equal(own[2], other[2])
    assert own[4] == other[4]


def test_its_region_and_the_default_result(nodes: ModuleType, coloriser: Any, grey: Tensor) -> None:
    """A region of the objective: what is compared, and not where the input may change."""
    region = torch.zeros(1, 64, 64)
    region[:, :, :32] = 1
    image = grey[:1]
    (left,) = nodes.DistanceObjective.execute("mean absolute (L1)", region=region).args
    (right,) = nodes.DistanceObjective.execute("mean absolute (L1)", region=1 - region).args
    scores = {}
    for name, chosen in (("left", left), ("right", right)):
        results, default, *_ = vary(nodes, model=coloriser, image=image, objective=chosen)
        scores[name] = [float(score(nodes, results, one, default)) for one in (left, right)]
    assert scores["left"][0] > scores["right"][0]
    assert scores["right"][1] > scores["left"][1]


def test_away_from_the_distance_is_near_to_the_picture(nodes: ModuleType, coloriser: Any, grey: Tensor) -> None:
    """A reference picture for each input, and no judge: nearer than the default result and than random changes."""
    from provoke.nodes.demo_scene import QUESTIONS

    whole = nodes.DemoScene.execute(21, 2, "one", QUESTIONS[2]).args[2]
    (near,) = nodes.DistanceObjective.execute("root mean square (L2)", picture=whole).args
    same = {"model": coloriser, "image": grey, "objective": near, "direction": "away"}
    results, default, *_ = vary(nodes, **same)
    drawn, *_ = vary(nodes, **same, method="random", steps=16)

    def far(images: Tensor) -> Tensor:
        return (images - whole).square().mean((1, 2, 3)).sqrt()

    assert bool((far(results) < far(default)).all())
    assert bool((far(results) < far(drawn)).all())


def test_sums_of_judges(nodes: ModuleType, coloriser: Any, grey: Tensor, objective: Any) -> None:
    """Two judges under one session, and their sum's names in the report."""
    with torch.inference_mode():
        (scorer,) = nodes.LoadScorer.execute("first").args
        (like,) = nodes.ClipObjective.execute(scorer, "a blue circle").args
        (both,) = nodes.CombineObjectives.execute(objective, 0.1, like, 1.0).args
    results, default, *_, report, _ = vary(nodes, model=coloriser, image=grey, objective=both, count=2)
    assert results.shape[0] == 4
    assert "similarity to 'a blue circle'" in report
    gained = score(nodes, results, both).view(2, 2).mean(1) - score(nodes, default, both)
    assert bool((gained > 0).all())


def test_nothing_changes_without_a_search(nodes: ModuleType, coloriser: Any, grey: Tensor, objective: Any) -> None:
    results, unperturbed, attacked, *_ = vary(nodes, model=coloriser, image=grey, objective=objective, epsilon=0.0)
    assert torch.equal(attacked, grey)
    assert torch.equal(results, unperturbed)


def test_the_next_node_is_as_it_was(
    nodes: ModuleType, coloriser: Any, grey: Tensor, objective: Any, classifier: Any
) -> None:
    before = score(nodes, grey, objective)
    flags = [(id(p), p.requires_grad, p.grad) for p in classifier.judge.module.parameters()]
    vary(nodes, model=coloriser, image=grey, objective=objective, steps=2)
    assert torch.equal(score(nodes, grey, objective), before)
    assert [(id(p), p.requires_grad, p.grad) for p in classifier.judge.module.parameters()] == flags


def test_a_region_for_other_pictures_is_refused_in_words(nodes: ModuleType, coloriser: Any, grey: Tensor) -> None:
    (objective,) = nodes.DistanceObjective.execute("contrast", region=torch.ones(3, 64, 64)).args
    with pytest.raises(ProvokeError, match="3 masks for 2 pictures"):
        vary(nodes, model=coloriser, image=grey, objective=objective)
