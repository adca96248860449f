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


def test_a_token_stands_where_its_words_would() -> None:
    from provoke.benchmarks.world_token.run import before_the_ground

    assert before_the_ground("a red circle on a white background", "*") == "a red circle * on a white background"
    assert before_the_ground("a red circle", "*") == "a red circle *"


def test_a_random_move_is_as_far_and_is_another() -> None:
    from provoke.benchmarks.world_token.run import moved_as_far

    start, vectors = (torch.randn(3, 8, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    moved = moved_as_far(vectors, start, 0)
    torch.testing.assert_close((moved - start).norm(dim=1), (vectors - start).norm(dim=1))
    assert not torch.allclose(moved, vectors, atol=0.1)


def test_the_page_says_whether_the_bar_is_held() -> None:
    """By the interval's lower end, for the tokens of every part; random ones are no contenders."""
    from provoke.benchmarks.rates import clustered
    from provoke.benchmarks.world_token.page import BAR, page

    def row(right: int) -> dict[str, Any]:
        found = clustered([[number < right] for number in range(100)])
        return dict.fromkeys(("target", "own", "both", "clean", "target, and the second CLIP"), found)

    curve = {"1 vector, 2": row(10), "1 vector, 8": row(99), "1 vector, best of random tokens": row(100)}
    sizes = {"date": "2026-01-01", "command": "python dev.py run it", "sizes": {"steps": 3}, "pairs": 2}
    said = page({"curve": {**sizes, "found": {**curve, "the words": row(88)}}})
    assert BAR == 0.85
    assert "1 vector, the best of 2: held at 99 (95 to 100)" in said
    assert "the words: reached at 88 (80 to 93), not by the interval's lower end" in said
    assert "Made before" not in said
    told = page({"states": {"date": "2026-01-01", "found": {"1": {"before": 1.0, "after": 0.5, **row(0)}}}})
    assert "1 vector: missed at 0 (0 to 4)" in told
    assert "Made before commands were kept; sizes: the first target, 100 prompts with 100 pictures" in told
