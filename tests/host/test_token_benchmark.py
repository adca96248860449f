"""The benchmark of tokens (world_token): what its parts count."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch

WORDS = "left of a blue ring"
PROMPTS = ("a red circle", "a green square")


@pytest.fixture(scope="module")
def clip(nodes: ModuleType) -> Any:
    with torch.inference_mode():
        return nodes.LoadDemoModels.execute("4 steps").args[1]


def test_the_words_own_vectors_say_the_words(clip: Any) -> None:
    """Started at the words, nothing is off: the places that are compared are the same ones."""
    from provoke.benchmarks.world_token.states import told

    _, before, _ = told(clip, PROMPTS, WORDS, 5, 1, WORDS)
    assert before < 1e-8


def test_vectors_come_nearer_to_what_words_say(clip: Any) -> None:
    from provoke.benchmarks.world_token.states import told

    vectors, before, after = told(clip, PROMPTS, WORDS, 2, 8, "ring")
    assert vectors.shape[0] == 2
    assert after < 0.9 * before


def test_no_object_is_in_both_halves() -> None:
    from provoke.benchmarks.world_token.run import TARGETS, split

    for target in TARGETS:
        prompts, held = split(target)
        said = {f"a {colour} {shape}" for _, (colour, shape) in held}
        assert said
        assert not said & set(prompts)
        assert f"a {target[0]} {target[1]}" not in said | set(prompts)


def test_a_prompt_is_one_trial() -> None:
    from provoke.benchmarks.rates import clustered

    found = clustered([[True, True], [False, False], [True, False]])
    assert found["rate"] == 0.5
    assert (found["n"], found["trials"]) == (3, 6)
    assert found["low"] < 0.5 < found["high"]
