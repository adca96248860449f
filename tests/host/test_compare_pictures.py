"""Compare Pictures: which picture stands beside which, what is said of them, and what is refused in words."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor

from provoke.core.errors import ProvokeError
from provoke.tools.inprocess import execute

CELL, GAP, WORDS = 192, 8, 2 * 16  # of a sheet, in pixels: a picture's side, between them, and the words below


@pytest.fixture(scope="module")
def compared(nodes: ModuleType) -> Callable[..., Tensor]:
    """compared(before, after, amplify=...): what comes out, 1 H W 3."""

    def compare(before: Tensor, after: Tensor, **widgets: float) -> Tensor:
        (sheet,) = execute(nodes.ComparePictures, before=before, after=after, **widgets)
        assert isinstance(sheet, Tensor)
        return sheet

    return compare


def grey(*levels: float, side: int = 48) -> Tensor:
    """Pictures (B side side 3) of one grey each, in levels of 255."""
    return torch.tensor(levels)[:, None, None, None].expand(-1, side, side, 3) / 255


def rows(sheet: Tensor) -> int:
    return (sheet.shape[1] - GAP) // (CELL + WORDS + GAP)


def cell(sheet: Tensor, row: int, column: int, side: int = 48) -> Tensor:
    """A square picture as it stands in a sheet, where it is so many times as large: side side 3, in levels of 255."""
    top, left, times = GAP + row * (CELL + WORDS + GAP), GAP + column * (CELL + GAP), CELL // side
    return (sheet[0, top : top + CELL, left : left + CELL] * 255).round()[times // 2 :: times, times // 2 :: times]


def middle(sheet: Tensor, row: int, column: int) -> float:
    """The level of a picture of one grey."""
    picture = cell(sheet, row, column)
    assert picture.amin() == picture.amax()
    return float(picture[0, 0, 0])


def said(before: Tensor, after: Tensor, count: int = 1, amplify: float = 0.0) -> list[list[str]]:
    """The words under every picture."""
    from provoke.nodes.comparison import Pairs

    return Pairs(before, after, amplify).captions(count)


def test_a_row_is_before_after_and_their_difference(compared: Callable[..., Tensor]) -> None:
    """One pixel is 10 levels brighter and one 20 darker: amplified until 20 reaches black, the other is at 3 / 4."""
    before = grey(100.0)
    after = before.clone()
    after[0, 5, 7], after[0, 30, 2, 1] = 110 / 255, 80 / 255
    sheet = compared(before, after)
    assert sheet.shape == (1, CELL + WORDS + 2 * GAP, 3 * (CELL + GAP) + GAP, 3)
    assert torch.equal(cell(sheet, 0, 0), (before[0] * 255).round())
    assert torch.equal(cell(sheet, 0, 1), (after[0] * 255).round())
    difference = cell(sheet, 0, 2)
    assert difference[5, 7].tolist() == [191.0] * 3  # 127.5 + 127.5 / 2, and Save Image rounds down
    assert difference[30, 2].tolist() == [127.0, 0.0, 127.0]
    difference[5, 7] = difference[30, 2] = 127.0
    assert torch.equal(difference, torch.full((48, 48, 3), 127.0))


def test_the_words_give_the_figures(nodes: ModuleType) -> None:
    before = grey(100.0, 50.0)
    after = before.clone()
    after[0, :24] += 8 / 255
    after[1, 0, 0, 0] -= 51 / 255
    first, second = said(before, after)[:3], said(before, after)[3:]
    assert first == [
        ["picture 1", "before"],
        ["picture 1, after", "4 levels of 255 apart on average"],
        ["difference, amplified 2.5 times", "8 levels of 255 at most"],  # 127.5 / 51, of both
    ]
    assert second == [
        ["picture 2", "before"],
        ["picture 2, after", f"{51 / (48 * 48 * 3):.3g} levels of 255 apart on average"],
        ["difference, amplified 2.5 times", "51 levels of 255 at most"],
    ]


@pytest.mark.parametrize(
    ("amplify", "level", "words"),
    [(1.0, 137, "not amplified"), (4.0, 167, "amplified 4 times"), (0.5, 132, "at 0.5 of its size")],
)
def test_the_factor_is_what_was_asked_for(
    compared: Callable[..., Tensor], amplify: float, level: int, words: str
) -> None:
    """127.5 + 10 times the factor, rounded down."""
    before, after = grey(100.0), grey(110.0)
    assert middle(compared(before, after, amplify=amplify), 0, 2) == level
    assert said(before, after, amplify=amplify)[2][0] == f"difference, {words}"


def test_what_goes_beyond_black_and_white_is_cut_off(compared: Callable[..., Tensor]) -> None:
    sheet = compared(grey(100.0), grey(110.0, 90.0), amplify=1000.0)
    assert [middle(sheet, row, 2) for row in range(2)] == [255.0, 0.0]


@pytest.mark.parametrize("amplify", [0.0, 7.0])
def test_of_no_difference_it_says_that_it_is_not_amplified(compared: Callable[..., Tensor], amplify: float) -> None:
    same = grey(77.0)
    assert middle(compared(same, same.clone(), amplify=amplify), 0, 2) == 127.0
    assert said(same, same.clone(), amplify=amplify)[1:] == [
        ["picture 1, after", "0 levels of 255 apart on average"],
        ["difference, not amplified", "0 levels of 255 at most"],
    ]


@pytest.mark.parametrize(
    ("before", "after", "pairs"),
    [
        ((10.0,), (11.0, 12.0, 13.0), [(10, 11), (10, 12), (10, 13)]),
        ((10.0, 20.0), (11.0, 21.0), [(10, 11), (20, 21)]),
        ((10.0, 20.0), (11.0, 12.0, 21.0, 22.0), [(10, 11), (10, 12), (20, 21), (20, 22)]),
    ],
    ids=["one for all", "one for each", "image-major"],
)
def test_which_stands_beside_which(
    compared: Callable[..., Tensor], before: tuple[float, ...], after: tuple[float, ...], pairs: list[tuple[int, int]]
) -> None:
    sheet = compared(grey(*before), grey(*after))
    assert rows(sheet) == len(pairs)
    assert [(middle(sheet, row, 0), middle(sheet, row, 1)) for row in range(rows(sheet))] == pairs


def test_the_words_say_which_of_how_many(nodes: ModuleType) -> None:
    captions = said(grey(0.0, 0.0, 0.0, 0.0), grey(1.0, 1.0, 1.0, 1.0), count=2)
    assert [words[0] for words in captions[1::3]] == [
        "picture 1, after 1 of 2", "picture 1, after 2 of 2", "picture 2, after 1 of 2", "picture 2, after 2 of 2",
    ]  # fmt: skip
    assert [words[0] for words in captions[::3]] == ["picture 1", "picture 1", "picture 2", "picture 2"]


def test_so_many_rows_and_no_more(compared: Callable[..., Tensor]) -> None:
    """What is not drawn has no say in how much the rest is amplified either."""
    after = grey(*[10.0 + number for number in range(24)], 255.0, 255.0)
    sheet = compared(grey(10.0, 10.0), after)
    assert rows(sheet) == 24
    assert middle(sheet, 23, 1) == 33.0
    assert middle(sheet, 23, 2) == 255.0


def test_what_came_in_is_left_as_it_was_and_any_shape_is_drawn(compared: Callable[..., Tensor]) -> None:
    before, after = torch.rand(2, 30, 50, 3), torch.rand(4, 30, 50, 3)
    copies = before.clone(), after.clone()
    sheet = compared(before, after, amplify=3.0)
    assert rows(sheet) == 4
    assert 0 <= float(sheet.amin()) < float(sheet.amax()) <= 1
    assert torch.equal(before, copies[0])
    assert torch.equal(after, copies[1])


NOT_FINITE = grey(1.0, 2.0, 3.0).clone()
NOT_FINITE[1, 4, 4, 0] = torch.nan
NOT_FINITE[2, 4, 4, 0] = torch.inf


@pytest.mark.parametrize(
    ("before", "after", "came", "expected", "change"),
    [
        (grey(1.0, 2.0), grey(1.0, 2.0, 3.0), "2 pictures and after has 3 pictures", "each before", "one run"),
        (grey(1.0, 2.0), grey(1.0), "before has 2 pictures and after has 1 picture", "one before", "exchange"),
        (grey(1.0), grey(1.0, side=32), "before is 48 x 48 and after is 32 x 32", "one size", "Upscale Image"),
        (grey(1.0)[:, :40], grey(1.0)[:, :, :40], "40 x 48 and after is 48 x 40", "one size", "Upscale Image"),
        (grey(1.0), NOT_FINITE, "2 of the 3 pictures of after", "finite values", "made after"),
        (NOT_FINITE, NOT_FINITE, "2 of the 3 pictures of before", "finite values", "made before"),
        (grey(1.0)[..., :1], grey(1.0), r"before is (1, 48, 48, 1)", "B H W 3", "connect"),
        (grey(1.0), torch.zeros(1, 48, 48, 4), r"after is (1, 48, 48, 4)", "RGB", "Split Image with Alpha"),
        (grey(1.0), grey(1.0)[0], r"after is (48, 48, 3)", "B H W 3", "connect an IMAGE to after"),
        (grey(1.0)[:0], grey(1.0), r"before is (0, 48, 48, 3)", "one or more", "to before"),
        (grey(1.0), grey(1.0)[:0], r"after is (0, 48, 48, 3)", "one or more", "to after"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_words(
    compared: Callable[..., Tensor], before: Tensor, after: Tensor, came: str, expected: str, change: str
) -> None:
    with pytest.raises(ProvokeError, match=re.escape(came)) as caught:
        compared(before, after)
    assert came in caught.value.came
    assert expected in caught.value.expected
    assert change in caught.value.change
