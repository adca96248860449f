"""A smoke subset of benchmarks/field: step for step foolbox's attacks where the definitions coincide, never weaker."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

FIELD = Path(__file__).resolve().parents[2] / "benchmarks" / "field"
sys.path.append(str(FIELD))  # scripts with each other beside them, not a package

import field_attacks  # noqa: E402
from field_model import accuracy, load_classifier, pictures  # noqa: E402

SEED = 4 * 10**6  # the benchmark's first


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pairs(bounds: tuple[float, float] = field_attacks.BOX) -> dict[str, field_attacks.Pair]:
    return {pair.attack: pair for pair in field_attacks.foolbox_pairs(bounds)}


def both(pair: field_attacks.Pair, dtype: torch.dtype, images: int, *, random: bool = False, box=field_attacks.BOX):
    """Theirs, and ours from the point at which theirs started, with as many steps."""
    model = load_classifier(dtype)
    x, y = pictures(images, SEED)
    x = x.to(dtype)
    theirs = field_attacks.run_theirs(pair, model, x, y, random=random, seed=SEED)
    ours = field_attacks.run_ours(pair, model, x, y, start=theirs.path[0], steps=pair.steps, box=box, selected=False)
    return theirs, ours


def test_the_committed_classifier_is_accurate():
    assert accuracy(load_classifier(), 500, SEED) >= 0.95


@pytest.mark.parametrize("random", [False, True])
@pytest.mark.parametrize(
    ("attack", "box", "tolerance"),
    [
        ("LinfPGD", (0.0, 1.0), 1e-12),
        # our projection onto ball and box together is exact, theirs is one after the other: the same without a box
        ("L2PGD", (-10.0, 10.0), 1e-8),
    ],
)
def test_every_iterate_is_foolboxs(attack, box, tolerance, random):
    """In float64: in float32 entries of the gradient that are zero but for rounding have either sign."""
    theirs, ours = both(pairs(box)[attack], torch.float64, 8, random=random, box=box)
    assert len(theirs.path) == len(ours.path) > 40
    assert float((theirs.path[-1] - theirs.path[0]).abs().max()) > 0.01
    for a, b in zip(theirs.path, ours.path, strict=True):
        torch.testing.assert_close(b, a, rtol=0, atol=tolerance)


def test_sparse_steps_are_foolboxs_until_the_ball_is_full():
    """After that foolbox's projection leaves the ball (benchmarks/field/README.md)."""
    theirs, ours = both(pairs()["SparseL1Descent"], torch.float64, 8)
    for a, b in zip(theirs.path[:5], ours.path[:5], strict=True):
        torch.testing.assert_close(b, a, rtol=0, atol=1e-12)


@pytest.mark.parametrize("attack", ["LinfPGD", "L2PGD", "SparseL1Descent", "LinfMI", "L2MI", "L1MI"])
def test_the_loss_is_at_least_foolboxs_at_no_more_cost(attack):
    theirs, ours = both(pairs()[attack], torch.float32, 32)
    assert ours.cost <= theirs.cost
    assert float(ours.loss.mean()) >= float(theirs.loss.mean()) - 1e-4
    assert float(theirs.loss.mean()) > 0.3  # they did attack: the clean loss is 0.13
