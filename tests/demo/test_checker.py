"""The checker reads scenes right, however they are softened, and takes nothing else for a scene.

A small part of benchmarks/world, with bars on the Wilson interval's end that counts.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from provoke.benchmarks.world import fakes
from provoke.demo import checker, world
from provoke.demo.checker import objects_right, read, relation_right, wilson
from provoke.demo.world import Facts, Scene, Thing

torch.set_num_threads(1)
COUNT = 512  # scenes
FAKES = 400  # of each kind: none accepted is at most 0.95 %, by Wilson


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(count: int, seed: int) -> tuple[list[Scene], torch.Tensor]:
    scenes = world.sample(count, rng(seed))
    return list(scenes), world.render(scenes)


@pytest.fixture(scope="module")
def disturbed() -> tuple[list[Scene], dict[str, torch.Tensor]]:
    scenes, pictures = drawn(COUNT, 11)
    return scenes, fakes.disturbances(pictures, rng(12))


DISTURBANCES = list(fakes.disturbances(torch.zeros(4, 3, 64, 64), rng(0)))


@pytest.mark.parametrize("name", DISTURBANCES)
def test_reads_scenes(name: str, disturbed: tuple[list[Scene], dict[str, torch.Tensor]]) -> None:
    scenes, pictures = disturbed
    readings = read(pictures[name])
    right = relation_right(readings, scenes)
    assert bool((right <= objects_right(readings, scenes)).all())
    bar = 0.97 if name in ("half size and back", "JPEG, quality 75") else 0.99
    assert wilson(int(right.sum()), COUNT)[0] >= bar, [r.reason for r in readings if not r.clean]
    assert not any(r.clean and not good for r, good in zip(readings, right.tolist(), strict=True))
    assert all(r.background == s.background for r, s in zip(readings, scenes, strict=True) if r.clean)


REFUSED = [*fakes.NO_SCENES, *(name for name in fakes.OTHER_SHAPES if name not in fakes.NEAR)]


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_what_is_no_scene(name: str) -> None:
    source = rng(21)
    maker = fakes.NO_SCENES.get(name)
    pictures = maker(FAKES, source) if maker else fakes.other_shape(name, FAKES, source)
    for kind in (pictures, fakes.soft(pictures, source)):
        readings = read(kind)
        accepted = [r for r in readings if r.clean]
        assert wilson(len(accepted), FAKES)[1] <= 0.01, accepted[:3]
        assert all(r.reason and not r.objects and r.relation is None for r in readings)


def test_places_and_radii_are_read() -> None:
    scenes, pictures = drawn(128, 13)
    for scene, reading in zip(scenes, read(pictures), strict=True):
        for seen in reading.objects:
            thing = next(t for t in scene.objects if (t.colour, t.shape) == (seen.colour, seen.shape))
            assert seen.centre == pytest.approx(thing.centre, abs=0.1)
            assert seen.radius == pytest.approx(thing.radius, abs=0.1)
            assert seen.fit > 0.88


def one(*things: Thing, background: str = "black") -> checker.Reading:
    return read(world.render(world.batch([Scene(background, things)])))[0]


def test_a_diagonal_is_clean_but_no_relation() -> None:
    reading = one(Thing("circle", "red", (18, 18), 10), Thing("ring", "cyan", (46, 46), 10))
    assert reading.clean
    assert reading.relation is None
    assert {seen.shape for seen in reading.objects} == {"circle", "ring"}


def test_the_reasons_say_what_is_wrong() -> None:
    circle = Thing("circle", "red", (32, 32), 12)
    assert one(circle).clean
    assert "too small" in one(Thing("circle", "red", (32, 32), 7)).reason
    assert "too small" in one(Thing("square", "red", (32, 32), 26)).reason
    assert "border" in one(Thing("circle", "red", (5, 32), 12)).reason
    picture = world.render(world.batch([Scene("black", (Thing("circle", "red", (32, 32), 16),))]))
    spotted, cut, tinted = (picture.clone() for _ in range(3))
    spotted[:, :, 10:14, 10:14] = 0.9
    cut[:, :, :, 32:] = 0.05
    tinted[:, :, 30:, :] = tinted[:, :, 30:, :].roll(1, 1)
    reasons = [read(p)[0].reason for p in (spotted, cut, tinted, picture * torch.nan, picture * 0 + 0.5)]
    wanted = ("small spots", "unclear shape", "several colours", "not finite", "unclear background")
    assert all(part in reason for part, reason in zip(wanted, reasons, strict=True)), reasons


def test_what_right_means() -> None:
    red, blue = Thing("circle", "red", (18, 30), 10), Thing("square", "blue", (46, 34), 10)
    reading = read(world.render(world.batch([Scene("white", (blue, red))])))
    assert reading[0].facts == Facts((("red", "circle"), ("blue", "square")), "left of", "white")
    pair = (("blue", "square"), ("red", "circle"))
    cases = {
        Facts(pair, "right of"): (True, True),
        Facts(pair[::-1], "left of"): (True, True),
        Facts(pair, "left of"): (True, False),
        Facts(pair, "above"): (True, False),
        Facts(pair[:1]): (False, False),
        Facts((("red", "square"), ("blue", "circle")), "left of"): (False, False),
    }
    for facts, expected in cases.items():
        assert (bool(objects_right(reading, [facts])), bool(relation_right(reading, [facts]))) == expected, facts


def test_a_batch_reads_as_its_pictures_do_and_any_float_will_do() -> None:
    scenes, pictures = drawn(6, 14)
    pictures = torch.cat((pictures, fakes.NO_SCENES["uniform noise"](2, rng(1))))
    together = read(pictures)
    for index, reading in enumerate(together):
        alone = read(pictures[index : index + 1])[0]
        assert (alone.clean, alone.reason, alone.facts) == (reading.clean, reading.reason, reading.facts)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        assert bool(relation_right(read(pictures[:6].to(dtype)), scenes).all())
    assert read(pictures[:0]) == []
    for wrong in (pictures[:, :1], pictures[0], (pictures * 255).byte()):
        with pytest.raises(ValueError, match="Expected pictures B 3 64 64"):
            read(wrong)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31 - 1), st.floats(0.05, 0.95))
def test_pieces_are_those_of_a_plain_flood(seed: int, share: float) -> None:
    """Against another algorithm: SciPy's where it is, which it is with scikit-image."""
    from scipy import ndimage

    mask = torch.rand(2, 24, 20, generator=rng(seed)) < share
    for ours, inside in zip(checker.pieces(mask), mask, strict=True):
        theirs, count = ndimage.label(inside.numpy(), structure=np.ones((3, 3)))
        pairs = set(zip(ours.flatten().tolist(), theirs.flatten().tolist(), strict=True))
        assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
        assert len(pairs - {(0, 0)}) == count


def test_a_snake_is_one_piece() -> None:
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[:, ::2] = True
    mask[:, 1::4, -1] = True
    mask[:, 3::4, 0] = True
    assert len(checker.pieces(mask).unique()) == 2


def test_wilson() -> None:
    assert wilson(0, 400) == pytest.approx((0, 0.00951), abs=1e-4)
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(10, 10)[1] == pytest.approx(1)


def test_the_photos_of_the_pack_are_no_scenes() -> None:
    folder = Path(checker.__file__).parent / "photos"
    for file in sorted(folder.glob("*.png")):
        small = Image.open(file).convert("RGB").resize((64, 64))
        picture = torch.from_numpy(np.asarray(small) / 255.0).movedim(-1, 0)[None]
        assert not read(picture)[0].clean
