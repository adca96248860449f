"""Judges and objectives as nodes: what goes in, what is measured, what is refused."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch

from provoke.demo.world import COLOURS, SHAPES, render, sample


@pytest.fixture(scope="module")
def classifier(nodes: ModuleType) -> Any:
    with torch.inference_mode():
        return nodes.LoadClassifier.execute("provoke-demo-resnet").args[0]


def scenes(count: int, seed: int = 0) -> Any:
    return sample(count, torch.Generator().manual_seed(seed), part="held out", objects=1)


def score(nodes: ModuleType, images: Any, objective: Any, default: Any = None) -> Any:
    with torch.inference_mode():
        return nodes.ScoreImages.execute(images, objective, default).args


def test_the_demo_judges_are_listed(nodes: ModuleType) -> None:
    loaders = {node: node.define_schema().inputs[0].options for node in (nodes.LoadScorer, nodes.LoadClassifier)}
    assert {"first", "second"} <= set(loaders[nodes.LoadScorer])
    assert "provoke-demo-convnext" in loaders[nodes.LoadClassifier]


def test_similarity_tells_pictures_apart(nodes: ModuleType, scorer: Any) -> None:
    some = scenes(6)
    images = render(some).movedim(1, -1)
    for index, scene in enumerate(some):
        colour, shape = scene.facts.objects[0]
        (objective,) = nodes.ClipObjective.execute(scorer, f"a {colour} {shape}").args
        scores, values, report = score(nodes, images, objective)
        same = [one.facts.objects == scene.facts.objects for one in some]
        assert same[int(scores.total.argmax())], report
        assert values == scores.total.tolist()
        assert len(values) == 6
        assert f"image {index + 1}" in report


def test_a_picture_is_most_like_itself(nodes: ModuleType, scorer: Any) -> None:
    images = render(scenes(4)).movedim(1, -1)
    (objective,) = nodes.ClipObjective.execute(scorer, "", picture=images[2:3]).args
    scores, *_ = score(nodes, images, objective)
    assert float(scores.total[2]) == pytest.approx(1, abs=1e-5)


def test_direction_is_zero_at_the_default_and_positive_towards_the_target(nodes: ModuleType, scorer: Any) -> None:
    some = scenes(1, seed=3)
    colour, shape = some[0].facts.objects[0]
    other = next(name for name in COLOURS if name != colour)
    changed = type(some)(**{**vars(some), "colour": some.colour.clone()})
    changed.colour[:, 0] = list(COLOURS).index(other)
    before, after = (render(s).movedim(1, -1) for s in (some, changed))
    for measure in ("dot product", "cosine"):
        (objective,) = nodes.DirectionObjective.execute(
            scorer, f"a {colour} {shape}", f"a {other} {shape}", measure
        ).args
        scores, *_ = score(nodes, torch.cat((before, after)), objective, before)
        # float32's last bits, which the cosine divides by a small fixed length
        assert float(scores.total[0]) == pytest.approx(0, abs=1e-5 if measure == "dot product" else 2e-3)
        assert float(scores.total[1]) > 0.1


@pytest.mark.parametrize("measure", ["margin", "probability"])
def test_classes(nodes: ModuleType, classifier: Any, measure: str) -> None:
    some = scenes(3, seed=5)
    images = render(some).movedim(1, -1)
    for index, scene in enumerate(some):
        (objective,) = nodes.ClassObjective.execute(classifier, " ".join(scene.facts.objects[0]), measure, 10.0).args
        scores, *_ = score(nodes, images, objective)
        assert float(scores.total[index]) > (0 if measure == "margin" else 0.5)


def test_ensembles_and_words(nodes: ModuleType, classifier: Any, scorer: Any) -> None:
    with torch.inference_mode():
        both, classes = nodes.LoadClassifier.execute("provoke-demo-regnet", together_with=classifier).args
        (words,) = nodes.ZeroShotClassifier.execute(
            scorer, "\n".join(f"{c} {s}" for c in COLOURS for s in SHAPES), "a {}"
        ).args
    assert len(both.judge.members) == 2
    assert classes.split("\n") == list(classifier.judge.labels)
    assert len(both.patchers) == 2
    some = scenes(2, seed=7)
    images = render(some).movedim(1, -1)
    for held in (both, words):
        (objective,) = nodes.ClassObjective.execute(held, " ".join(some[0].facts.objects[0]), "margin", 10.0).args
        assert float(score(nodes, images[:1], objective)[0].total) > 0


def test_sums_and_regions(nodes: ModuleType, scorer: Any) -> None:
    images = render(scenes(2, seed=8)).movedim(1, -1)
    (near,) = nodes.DistanceObjective.execute("mean absolute (L1)").args
    (like,) = nodes.ClipObjective.execute(scorer, "a red circle").args
    (both,) = nodes.CombineObjectives.execute(near, -2.0, like, 0.5).args
    scores, _, report = score(nodes, images, both, images[:1])
    by_hand = -2 * scores.terms["distance (mean absolute (L1))"] + 0.5 * scores.terms["similarity to 'a red circle'"]
    torch.testing.assert_close(scores.total, by_hand)
    assert "x -2" in report
    assert float(scores.terms["distance (mean absolute (L1))"][0]) == 0
    # outside the region a judge sees the default
    region = torch.zeros(1, 64, 64)
    region[:, :1, :1] = 1
    (corner,) = nodes.ClipObjective.execute(scorer, "a red circle", region=region).args
    seen = score(nodes, images, corner, images[:1])[0].total
    assert float((seen[0] - seen[1]).abs()) < 0.05


def test_distance_from_a_picture(nodes: ModuleType) -> None:
    """Of any size, without a default result; a region of any size; one picture for all, or one for each."""
    images = render(scenes(4, seed=2)).movedim(1, -1)
    for distance in ("mean absolute (L1)", "root mean square (L2)", "mean colour", "contrast"):
        (near,) = nodes.DistanceObjective.execute(distance, picture=images[2:3]).args
        values = score(nodes, images, near)[1]
        assert values[2] == pytest.approx(0, abs=2e-6)
        assert min(values[:2] + values[3:]) > 1e-3
        # the same four times as large: 2 x 2 equal pixels
        large = images[2:3].repeat_interleave(2, 1).repeat_interleave(2, 2)
        (near,) = nodes.DistanceObjective.execute(distance, picture=large).args
        assert score(nodes, images, near)[1] == pytest.approx(values, abs=0.02)
    half = torch.zeros(1, 32, 32)
    half[:, :, :16] = 1
    (left,) = nodes.DistanceObjective.execute("mean absolute (L1)", region=half, picture=images[2:3]).args
    by_hand = (images[:, :, :32] - images[2:3, :, :32]).abs().mean((1, 2, 3))
    torch.testing.assert_close(score(nodes, images, left)[0].total, by_hand)
    # one for each: pictures and regions; two results of each of two, image-major
    (each,) = nodes.DistanceObjective.execute("mean absolute (L1)", picture=images).args
    assert score(nodes, images, each)[1] == [0, 0, 0, 0]
    assert min(score(nodes, images.flip(0), each)[1]) > 1e-3
    (pairs,) = nodes.DistanceObjective.execute("mean absolute (L1)", picture=images[:2]).args
    assert score(nodes, images[:2].repeat_interleave(2, 0), pairs)[1] == [0, 0, 0, 0]
    halves = torch.cat((half, 1 - half, half, half))
    (own,) = nodes.DistanceObjective.execute("mean absolute (L1)", region=halves, picture=images[2:3]).args
    by_hand[1] = (images[1, :, 32:] - images[2, :, 32:]).abs().mean()
    torch.testing.assert_close(score(nodes, images, own)[0].total, by_hand)


def test_the_best_are_picked(nodes: ModuleType, scorer: Any) -> None:
    images = render(scenes(4, seed=9)).movedim(1, -1)
    (objective,) = nodes.ClipObjective.execute(scorer, "a blue ring").args
    scores, *_ = score(nodes, images, objective)
    latents = {
        "samples": torch.arange(4.0)[:, None, None, None].expand(4, 4, 8, 8),
        "noise_mask": torch.rand(4, 1, 8, 8),
    }
    best, kept, report = nodes.PickBest.execute(scores, 2, "highest", images, latents).args
    order = scores.total.argsort(descending=True)[:2]
    assert torch.equal(best, images[order])
    assert kept["samples"][:, 0, 0, 0].tolist() == order.tolist() == kept["batch_index"]
    assert torch.equal(kept["noise_mask"], latents["noise_mask"][order])
    assert f"number {int(order[0]) + 1}" in report
    worst, *_ = nodes.PickBest.execute(scores, 1, "lowest", images).args
    assert torch.equal(worst, images[scores.total.argmin()][None])


def test_what_does_not_fit_is_refused_in_words(nodes: ModuleType, scorer: Any, classifier: Any) -> None:
    from provoke.core.errors import ProvokeError

    images = render(scenes(2)).movedim(1, -1)
    (near,) = nodes.DistanceObjective.execute("mean colour").args
    (like,) = nodes.ClipObjective.execute(scorer, "a red circle").args
    scores, *_ = score(nodes, images, like)
    refused = [
        (lambda: nodes.ClipObjective.execute(scorer, "  "), "text is empty"),
        (lambda: nodes.ClassObjective.execute(classifier, "zebra", "margin", 1.0), "no class 'zebra'"),
        (lambda: score(nodes, images, near), "compares with default"),
        (lambda: nodes.DirectionObjective.execute(scorer, "a", "b", "cosine", source_picture=images), "on one side"),
        (lambda: nodes.PickBest.execute(scores, 1, "highest"), "Neither images nor latents"),
        (lambda: nodes.PickBest.execute(scores, 1, "highest", images[:1]), "1 entries for 2 scores"),
        (lambda: nodes.LoadScorer.execute("../first"), "no model"),
        (lambda: nodes.ZeroShotClassifier.execute(scorer, "one", "a {}"), "two words"),
        (lambda: score(nodes, images[..., 0], like), "B H W 3"),
        (lambda: score(nodes, images, near, render(scenes(3)).movedim(1, -1)), "3 pictures to compare 2 with"),
        (
            lambda: score(nodes, images[:1], nodes.DistanceObjective.execute("contrast", picture=images).args[0]),
            "2 picture for 1 pictures",
        ),
    ]
    for call, words in refused:
        with pytest.raises(ProvokeError, match=words):
            call()
