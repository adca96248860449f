"""Before, after and the amplified difference of an attack on an image model, side by side in one picture."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..host.contact_sheet import as_image, contact_sheet
from .attack_settings import LEVELS

ROWS = 24  # results: what one can still look at
FAINTEST = 1e-6  # a change of less is none


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

    @property
    def change(self) -> Tensor:
        return self.attacked - self.before

    @property
    def factor(self) -> float:
        """How many times the change is amplified: its largest entry just reaches black or white. 1 if there is none."""
        largest = float(self.change.abs().amax())
        return 0.5 / largest if largest > FAINTEST else 1.0

    @property
    def difference(self) -> Tensor:
        """The change around mid grey, amplified."""
        return 0.5 + self.change * self.factor

    def sheet(self) -> Tensor:
        """1 H W 3: a row for each result, of ROWS at most: input, changed input, difference, usual result, result."""
        pictures, captions = list[Tensor](), list[list[str]]()
        difference, amplified = self.difference, words(self.factor)
        for i in range(min(len(self.results), ROWS)):
            image, which = divmod(i, self.count)
            most = float(self.change[i].abs().amax()) * LEVELS
            moved = float((self.results[i].float() - self.usual[i].float()).abs().mean()) * LEVELS
            pictures += [batch[i] for batch in (self.before, self.attacked, difference, self.usual, self.results)]
            captions += [
                [f"input {image + 1}", "before"],
                [f"input {image + 1}, change {which + 1}", "after"],
                [f"difference, {amplified}", f"{most:.3g} levels of 255 at most"],
                [f"result of input {image + 1}", "before"],
                [f"result {which + 1}, after", f"{moved:.3g} levels of 255 apart on average"],
            ]
        return as_image(contact_sheet(pictures, captions, columns=5, lines=2))


def words(factor: float) -> str:
    """For captions and reports."""
    return "not amplified" if factor == 1.0 else f"amplified {factor:.3g} times"


def untouched(image: Tensor, usual: Tensor, count: int) -> Comparison:
    """Of a run without a search: nothing is changed."""
    return Comparison(image, image, usual, usual, count)
