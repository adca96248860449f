"""The robust class objective as a node: who is asked what, what is reported, what is refused."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch

from provoke.demo.vision_models import EDGE, SEARCHED
from provoke.demo.world import COLOURS, SHAPES, render, sample
from provoke.tools.inprocess import execute

NAMES = (*SEARCHED, EDGE)


@pytest.fixture(scope="module")
def nodes(comfy: ModuleType) -> ModuleType:
    import provoke.nodes as nodes
    from provoke.host.folders import register_model_folders

    register_model_folders()
    return nodes


@pytest.fixture(scope="module")
def judges(nodes: ModuleType) -> list[Any]:
    """Three classifiers, and the one of edge maps."""
    return [execute(nodes.LoadClassifier, classifier=name)[0] for name in NAMES]


def scenes(count: int, seed: int = 0) -> Any:
    return sample(count, torch.Generator().manual_seed(seed), part="held out", objects=1)


def robust(nodes: ModuleType, judges: list[Any], class_name: str, **choices: Any) -> Any:
    return execute(
        nodes.RobustClassObjective,
        classifier=judges[0],
        class_name=class_name,
        second_classifier=judges[1],
        third_classifier=judges[2],
        edge_classifier=judges[3],
        **choices,
    )[0]


@pytest.mark.parametrize("measure", ["margin", "paper"])
def test_they_agree_on_what_is_there_and_only_on_that(nodes: ModuleType, judges: list[Any], measure: str) -> None:
    some = scenes(6, seed=5)
    images = render(some).movedim(1, -1)
    things = [scene.facts.objects[0] for scene in some]
    colour, shape = things[0]
    for together in ("weakest", "sum"):
        objective = robust(nodes, judges, f"{colour} {shape}", measure=measure, together=together)
        scores, values, report = execute(nodes.ScoreImages, images=images, objective=objective)
        ((name, votes),) = scores.votes.items()
        assert name == f"{measure} of '{colour} {shape}', {together} of 4"
        assert list(votes) == [*SEARCHED, f"{EDGE} on edges"]
        assert scores.agreed.tolist() == [thing == things[0] for thing in things]
        # the edge member has shapes only: it is asked for the shape within the class's name
        edge = votes[f"{EDGE} on edges"] > 0
        assert edge.tolist() == [thing[1] == shape for thing in things]
        if together == "sum":
            most = 5.0 if measure == "margin" else 1.0  # the node's `confidence`: more of one judge does not count
            torch.testing.assert_close(scores.total, torch.stack(list(votes.values())).clamp_max(most).sum(0))
        else:
            assert [value > 0 for value in values] == scores.agreed.tolist()
        assert "all agree" in report
        assert f"agreed   on {int(scores.agreed.sum())} of 6" in report


def test_members_of_a_chain_are_asked_one_by_one_in_any_order_of_labels(nodes: ModuleType, judges: list[Any]) -> None:
    with torch.inference_mode():
        (chained, _) = nodes.LoadClassifier.execute(NAMES[1], together_with=judges[0]).args
        (scorer,) = nodes.LoadScorer.execute("first").args
        backwards = "\n".join(f"{c} {s}" for c in reversed(COLOURS) for s in SHAPES)
        (words,) = nodes.ZeroShotClassifier.execute(scorer, backwards, "a {}").args
    some = scenes(3, seed=8)
    thing = " ".join(some[1].facts.objects[0])
    (objective,) = execute(
        nodes.RobustClassObjective, classifier=chained, class_name=thing, second_classifier=words, together="sum"
    )
    scores, *_ = execute(nodes.ScoreImages, images=render(some).movedim(1, -1), objective=objective)
    (votes,) = scores.votes.values()
    assert list(votes) == [*NAMES[:2], "first, zero-shot"]
    assert bool(scores.agreed[1])
    # a number is the first classifier's
    number = str(judges[0].judge.labels.index(thing))
    (same,) = execute(nodes.RobustClassObjective, classifier=chained, class_name=number, second_classifier=words)
    assert execute(nodes.ScoreImages, images=render(some).movedim(1, -1), objective=same)[0].agreed[1]


def test_it_adds_up_with_others_and_keeps_its_votes(nodes: ModuleType, judges: list[Any]) -> None:
    some = scenes(2, seed=3)
    images = render(some).movedim(1, -1)
    first = robust(nodes, judges, " ".join(some[0].facts.objects[0]))
    second = robust(nodes, judges, " ".join(some[1].facts.objects[0]))
    (both,) = execute(nodes.CombineObjectives, first=first, second=second, second_weight=0.5)
    scores, *_, report = execute(nodes.ScoreImages, images=images, objective=both)
    assert len(scores.votes) == 2
    assert not bool(scores.agreed.any())  # no picture shows both
    assert "0 of 2" in report
    (alone,) = execute(nodes.DistanceObjective, distance="contrast")
    plain, *_, told = execute(nodes.ScoreImages, images=images, objective=alone, default=images)
    assert plain.agreed is None
    assert "agree" not in told


def test_an_attack_is_led_by_it(nodes: ModuleType, judges: list[Any]) -> None:
    """Through the attack node: the score of the results rises, and every judge's share is in it."""
    from provoke.tools.inprocess import upscale_model, upscaled

    model = upscale_model("provoke-demo-world-coloriser.safetensors")
    missing = next(w.options for w in nodes.DemoScene.define_schema().inputs if w.id == "missing")[2]
    image = execute(nodes.DemoScene, seed=15, count=1, objects="one", missing=missing)[0]
    thing = execute(nodes.ReadDemoScene, image=upscaled(model, image))[0].split(" on ")[0].split()
    other = next(colour for colour in COLOURS if colour != thing[1])
    objective = robust(nodes, judges, f"{other} {thing[2]}")
    found = execute(
        nodes.UntargetedAttack, model=model, image=image, objective=objective, count=1, steps=6, truncation="clip"
    )
    results, default = found[0], found[1]
    scores, *_ = execute(nodes.ScoreImages, images=torch.cat((default, results)), objective=objective)
    assert float(scores.total[1]) > float(scores.total[0])


@pytest.mark.parametrize("together", ["weakest", "sum"])
def test_broken_means_that_no_judge_says_so(nodes: ModuleType, judges: list[Any], together: str) -> None:
    """Weighed by -1 it asks all judges to miss the class: one that is fooled gains nothing, and it has a slope where
    all are sure."""
    some = scenes(6, seed=5)
    images = render(some).movedim(1, -1)
    colour, shape = some[0].facts.objects[0]
    objective = robust(nodes, judges, f"{colour} {shape}", together=together)
    less = objective.times(-1)
    scores, *_, report = execute(nodes.ScoreImages, images=images, objective=less)
    votes = torch.stack(list(next(iter(scores.votes.values())).values()))
    torch.testing.assert_close(scores.agreed, (votes < 0).all(0))
    assert scores.agreed.any()
    assert not scores.agreed[0]
    assert scores.denied[0]
    assert f"agreed   on {int(scores.agreed.sum())} of 6" in report
    assert f"denied   on {int(scores.denied.sum())} of 6" in report
    assert "none says so" in report
    if together == "weakest":
        assert bool(scores.agreed[scores.total > 0].all())
        partly = (votes > 0).any(0) & (votes < 0).any(0)
        assert partly.any()  # some judges deny, others do not
        assert bool((scores.total[partly] < 0).all())
    from provoke.host.judges import judging
    from provoke.nodes.objective import Situation

    image = images[:1].movedim(-1, 1).clone().requires_grad_(True)
    with judging(*less.held):
        less.build(Situation())(image).sum().backward()
    assert image.grad is not None
    assert bool(image.grad.any())


def test_votes_are_whole_whatever_counts_of_them(nodes: ModuleType, judges: list[Any]) -> None:
    some = scenes(1, seed=5)
    objective = robust(nodes, judges, " ".join(some[0].facts.objects[0]), confidence=0.0)
    scores, *_ = execute(nodes.ScoreImages, images=render(some).movedim(1, -1), objective=objective)
    assert bool(scores.agreed.all())
    assert float(scores.total) <= 0


def test_an_attack_away_has_its_slope_where_the_judges_are_sure(nodes: ModuleType, judges: list[Any]) -> None:
    """With no confidence a margin has levelled off there for who wants more of the class, not for who wants less."""
    from provoke.core.errors import GradientError
    from provoke.tools.inprocess import upscale_model, upscaled

    model = upscale_model("provoke-demo-world-coloriser.safetensors")
    missing = next(w.options for w in nodes.DemoScene.define_schema().inputs if w.id == "missing")[2]
    image = execute(nodes.DemoScene, seed=15, count=1, objects="one", missing=missing)[0]
    thing = " ".join(execute(nodes.ReadDemoScene, image=upscaled(model, image))[0].split(" on ")[0].split()[1:3])
    objective = robust(nodes, judges, thing, confidence=0.0)
    same = {"model": model, "image": image, "objective": objective, "count": 1, "steps": 4, "truncation": "clip"}
    found = execute(nodes.UntargetedAttack, **same, direction="away")
    ((votes),) = execute(nodes.ScoreImages, images=torch.cat((found[1], found[0])), objective=objective)[
        0
    ].votes.values()
    surest = torch.stack(list(votes.values())).amax(0)
    assert float(surest[0]) > 0
    assert float(surest[1]) < float(surest[0])
    with pytest.raises(GradientError, match="exactly zero"):
        execute(nodes.UntargetedAttack, **same, direction="towards")


def test_what_does_not_fit_is_refused_in_words(nodes: ModuleType, judges: list[Any]) -> None:
    from provoke.core.errors import ProvokeError

    with torch.inference_mode():
        (chained, _) = nodes.LoadClassifier.execute(NAMES[1], together_with=judges[0]).args
        (scorer,) = nodes.LoadScorer.execute("first").args
        (cats,) = nodes.ZeroShotClassifier.execute(scorer, "cat\ndog", "a {}").args
        (parts,) = nodes.ZeroShotClassifier.execute(scorer, "red\ncircle", "a {}").args
    refused = [
        ({"class_name": "zebra"}, "no class 'zebra'"),
        ({"class_name": ""}, "no class ''"),
        ({"class_name": "99"}, "no class '99'"),
        ({"second_classifier": cats}, "no class 'red circle'"),
        ({"second_classifier": parts}, "'red', 'circle' lie within 'red circle'"),
        ({"edge_classifier": chained}, "trained on edge maps"),
        ({"edge_classifier": judges[3], "edge_low": 0.5}, "low <= high"),
    ]
    for choices, words in refused:
        with pytest.raises(ProvokeError, match=words):
            execute(nodes.RobustClassObjective, **{"classifier": judges[0], "class_name": "red circle", **choices})
