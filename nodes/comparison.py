"""Before, after and the amplified difference, side by side in one picture: how it is measured, named and drawn."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from ..host.contact_sheet import as_image, contact_sheet
from .attack_settings import LEVELS

ROWS = 24  # results: what one can still look at
LINES = 2  # of a caption
FAINTEST = 1e-6  # a change of less is none


@dataclass(frozen=True)
class Pairs:
    """Pictures before and after: B H W C in [0, 1] each, which belong together one by one.

    amplify: how many times the differences are drawn; 0: so that the largest just reaches black or white. The
    same for all pairs, so that their differences can be compared.
    """

    before: Tensor
    after: Tensor
    amplify: float = 0.0

    @cached_property
    def change(self) -> Tensor:
        return self.after.float() - self.before.float()

    @cached_property
    def factor(self) -> float:
        """How many times the change is amplified. 1 if there is none: nothing times ten is still nothing."""
        largest = float(self.change.abs().amax())
        return (self.amplify or 0.5 / largest) if largest > FAINTEST else 1.0

    @cached_property
    def difference(self) -> Tensor:
        """The change around mid grey, amplified: B H W C, which a large `amplify` takes out of [0, 1]."""
        return 0.5 + self.change * self.factor

    def drawn(self, i: int) -> list[Tensor]:
        """Before, after and difference of a pair: H W C each."""
        return [self.before[i], self.after[i], self.difference[i]]

    def most(self, i: int) -> list[str]:
        """The words under a pair's difference."""
        levels = float(self.change[i].abs().amax()) * LEVELS
        return [f"difference, {words(self.factor)}", f"{levels:.3g} levels of 255 at most"]

    def apart(self, i: int) -> str:
        """The words under what came after: how far a pair is apart."""
        levels = float(self.change[i].abs().mean()) * LEVELS
        return f"{levels:.3g} levels of 255 apart on average"

    def captions(self, count: int) -> list[list[str]]:
        """The words under each picture of `sheet`."""
        captions = []
        for i in range(len(self.after)):
            picture, which = divmod(i, count)
            number = f" {which + 1} of {count}" if count > 1 else ""
            captions += [
                [f"picture {picture + 1}", "before"],
                [f"picture {picture + 1}, after{number}", self.apart(i)],
                self.most(i),
            ]
        return captions

    def sheet(self, count: int) -> Tensor:
        """1 H W 3: a row for each pair: before, after, difference. `count` pairs belong to one picture, image-major."""
        pictures = [picture for i in range(len(self.after)) for picture in self.drawn(i)]
        return as_image(contact_sheet(pictures, self.captions(count), columns=3, lines=LINES))


@dataclass(frozen=True)
class Comparison:
    """What went in and what came out; B*count H W C in [0, 1] each, image-major.

    before: the pictures. attacked: the changed ones. usual: results of the former. results: of the latter.
    """

    before: Tensor
    attacked: Tensor
    usual: Tensor
    results: Tensor
    count: int

    @cached_property
    def inputs(self) -> Pairs:
        """What is imperceptible: its difference is drawn."""
        return Pairs(self.before, self.attacked)

    @property
    def factor(self) -> float:
        """How many times the change of the input is amplified."""
        return self.inputs.factor

    @property
    def difference(self) -> Tensor:
        """The change of the input around mid grey, amplified."""
        return self.inputs.difference

    def sheet(self) -> Tensor:
        """1 H W 3: a row for each result, of ROWS at most: input, changed input, difference, usual result, result."""
        pictures, captions = list[Tensor](), list[list[str]]()
        results = Pairs(self.usual[:ROWS], self.results[:ROWS])
        for i in range(len(results.after)):
            image, which = divmod(i, self.count)
            pictures += [*self.inputs.drawn(i), self.usual[i], self.results[i]]
            captions += [
                [f"input {image + 1}", "before"],
                [f"input {image + 1}, change {which + 1}", "after"],
                self.inputs.most(i),
                [f"result of input {image + 1}", "before"],
                [f"result {which + 1}, after", results.apart(i)],
            ]
        return as_image(contact_sheet(pictures, captions, columns=5, lines=LINES))


def words(factor: float) -> str:
    """For captions and reports. A difference of more than half of the range is made smaller to fit around mid grey."""
    if factor == 1.0:
        return "not amplified"
    return f"amplified {factor:.3g} times" if factor > 1 else f"at {factor:.3g} of its size"


def untouched(image: Tensor, usual: Tensor, count: int) -> Comparison:
    """Of a run without a search: nothing is changed."""
    return Comparison(image, image, usual, usual, count)
