"""The world's inpainter and coloriser: files, cards, clean answers of all colours, and what decides them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from spandrel import ModelLoader

from provoke.demo import checker, questions, world
from provoke.demo.training import committed, loop

FOLDER = Path(committed.__file__).resolve().parents[1] / "weights" / "upscale_models"
KINDS = {"inpainter": committed.WorldInpainter, "coloriser": committed.WorldColoriser}


@pytest.fixture(scope="module", params=sorted(KINDS))
def trainer(request: pytest.FixtureRequest) -> Any:
    """The trainer with the exported weights in place of its average."""
    torch.set_num_threads(1)
    made = KINDS[request.param](0, torch.device("cpu"))
    file = FOLDER / f"{made.name}.safetensors"
    made.modules["average"] = ModelLoader().load_from_file(file).model.float().eval().requires_grad_(False)
    made.modules["net"] = made.modules["average"]
    return made


def test_files_are_small_and_have_a_card(trainer: Any) -> None:
    file = FOLDER / f"{trainer.name}.safetensors"
    assert file.stat().st_size < 700_000
    card = file.with_suffix(".md").read_text(encoding="utf-8")
    for word in ("seed", "Held-out", "Licence", "tint"):
        assert word in card


def test_answers_are_clean_and_of_all_colours(trainer: Any) -> None:
    figures = trainer.validate()
    assert trainer.failings(figures) == [], figures
    assert figures["shapes"] > 0.8


def test_the_tint_decides(trainer: Any) -> None:
    """Nearly all answers are what the tints stand for."""
    rng = torch.Generator().manual_seed(9)
    scenes = world.sample(96, rng, part="held out")
    tint = questions.random_tints(scenes, rng)
    with torch.no_grad():
        answer = trainer.answer((trainer.question(scenes, questions.levels(tint)) * 255).round() / 255).clamp(0, 1)
    right = checker.objects_right(checker.read(answer), trainer.wanted(scenes, tint))
    assert float(right.float().mean()) > 0.85


def test_tints_are_whole_levels_that_no_eye_sees() -> None:
    levels = questions.levels(torch.arange(len(world.COLOURS)))
    assert torch.equal(levels, levels.round())
    assert levels.abs().amax(1).tolist() == [questions.TRACE] * len(world.COLOURS)
    assert questions.TRACE <= 4


def test_a_tint_is_nearest_to_its_own_colour_however_strong_and_light() -> None:
    tint = torch.arange(len(world.COLOURS))
    for strength, lightness in ((1.0, 0.0), (3.0, 5.0), (0.5, -2.0)):
        found, lead = questions.nearest_hue(strength * questions.levels(tint) + lightness)
        assert torch.equal(found, tint)
        assert float(lead.min()) > 0.1


def test_the_trained_tints_stand_for_the_nearest_hue() -> None:
    """Whatever is mixed in: what training asks for is what lies nearest."""
    trainer = committed.WorldColoriser(0, torch.device("cpu"))
    scenes = world.sample(64, torch.Generator().manual_seed(1))
    off, tint = trainer._tinted(scenes)
    found, _ = questions.nearest_hue(off)
    assert float((found == tint).float().mean()) > 0.97
    assert off.shape == (64, 2, 3)


def test_squares_find_the_nearest_candidate() -> None:
    """Against painting all 24 candidates."""
    rng = torch.Generator().manual_seed(3)
    scenes = world.sample(12, rng)
    trainer = committed.WorldInpainter(0, torch.device("cpu"))
    answer = torch.rand(12, 3, 64, 64, generator=rng)
    found = trainer.nearest(answer, scenes)
    inside, best = questions.hole(scenes), torch.full((12,), torch.inf)
    for shape in range(4):
        for colour in range(6):
            kinds = [torch.full((12,), kind) for kind in (colour, shape)]
            painted = world.render(questions.with_first(scenes, *kinds))
            best = torch.minimum(best, ((answer - painted).square() * inside).sum((1, 2, 3)))
    mine = ((answer - world.render(found)).square() * inside).sum((1, 2, 3))
    torch.testing.assert_close(mine, best, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_an_attack_keeps_to_its_ball_and_its_place(kind: str) -> None:
    trainer = KINDS[kind](0, torch.device("cpu"))
    rng = torch.Generator().manual_seed(4)
    scenes = world.sample(3, rng)
    question = trainer.question(scenes, questions.levels(questions.random_tints(scenes, rng)))
    changed = trainer.attacked(question, scenes, rng)
    assert float((changed - question).abs().max()) <= committed.EPSILON + 1e-6
    assert 0 <= float(changed.min()) <= float(changed.max()) <= 1
    if kind == "inpainter":
        inside = questions.hole(scenes).expand_as(question) > 0
        assert torch.equal(changed[inside], question[inside])


def test_a_training_goes_on_from_exported_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it began at its last step, nothing is trained: the same weights come out, bit for bit."""
    monkeypatch.setattr(loop, "HERE", tmp_path)
    monkeypatch.setattr(loop, "WEIGHTS", tmp_path)
    made = KINDS["coloriser"](0, torch.device("cpu"))
    (tmp_path / made.folder).mkdir()
    given = (FOLDER / f"{made.name}.safetensors").read_bytes()
    (tmp_path / made.folder / f"{made.name}.safetensors").write_bytes(given)
    assert loop.train(made, minutes=5, steps=7, onward=7)
    assert load(given) == load((tmp_path / made.folder / f"{made.name}.safetensors").read_bytes())


def load(data: bytes) -> dict[str, list[float]]:
    return {name: tensor.flatten().tolist() for name, tensor in safetensors.torch.load(data).items()}


@pytest.mark.parametrize("kind", KINDS)
def test_stains_leave_the_question_what_it_is(kind: str) -> None:
    """They keep to the attack's ball and place, and what decides keeps its mean."""
    trainer = KINDS[kind](0, torch.device("cpu"))
    scenes = world.sample(16, torch.Generator().manual_seed(4))
    question = trainer.question(scenes, questions.levels(torch.zeros(16, 2, dtype=torch.long)))
    change = trainer._stained(question, scenes) - question
    assert float(change.abs().max()) <= committed.EPSILON + 1e-6
    assert float(change.abs().amax((1, 2, 3)).min()) > 0
    for area in trainer.deciding(scenes).unbind(1):
        mean = (change * area[:, None]).sum((2, 3)) / area.sum((1, 2)).clamp_min(1)[:, None]
        # what is cut off at the ball leaves a little: far less than a tint
        assert float(mean.abs().max()) < 0.25 * questions.TRACE / 255
    if kind == "inpainter":
        assert float((change * questions.hole(scenes)).abs().max()) == 0


def test_the_tints_fade_as_the_training_goes_on() -> None:
    for kind in KINDS.values():
        trainer = kind(0, torch.device("cpu"))
        weak = [trainer._weakness(progress) for progress in (0.0, *trainer.fading, 1.0)]
        assert weak == [0.0, 0.0, 1.0, 1.0]
