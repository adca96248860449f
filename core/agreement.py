"""Several judges of one thing: a failure counts only if they agree.

Source: the robust surrogate of SAGE (arXiv 2306.00974).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from .errors import ProvokeError

Votes = dict[str, Tensor]  # by the judge's name: B; positive where it says so


class Agreement:
    """Objectives of several judges as one: images B C H W in [0, 1] -> B. Each member is positive where its judge says
    so.

    Climbed, it asks all to say so; `absent` is for who wants less of it (SAGE's failures): as the weight -1 turns the
    sum round, the judge that still says so most counts, so that all have to be without it.

    Args:
        members: by the judge's name an objective that is positive where that judge says so.
        softness: None adds them up (SAGE). A number is the temperature of a soft minimum, in the members' unit: the
            weakest one counts, and a positive score means that all say so. It is below the true minimum, by at most
            softness * log(number of members). With `absent` a soft maximum, as far above the true one: a negative
            score means that none says so. Ours.
        confidence: of one judge no more than that counts (kappa of Carlini and Wagner 2017), in the members' unit, of
            what is wanted; what the judges say (`votes`) is without it.
        absent: whether less of it is wanted.
    Raises:
        ProvokeError: no members.
    """

    def __init__(
        self,
        members: Mapping[str, Callable[[Tensor], Tensor]],
        *,
        softness: float | None = None,
        confidence: float = math.inf,
        absent: bool = False,
    ) -> None:
        if not members:
            raise ProvokeError("An agreement of no judges", "at least one", "connect a classifier")
        self.members, self.softness = dict(members), softness
        self.confidence, self.absent = confidence, absent

    def votes(self, image: Tensor) -> Votes:
        """What each judge says: B each, on the image's device."""
        return {name: member(image).to(image.device) for name, member in self.members.items()}

    def together(self, votes: Mapping[str, Tensor]) -> Tensor:
        """One score of what `votes` returned: B."""
        sign = -1 if self.absent else 1
        wanted = (sign * torch.stack(list(votes.values()))).clamp_max(self.confidence)
        if self.softness is None:
            return sign * wanted.sum(0)
        return -sign * self.softness * torch.logsumexp(-wanted / self.softness, 0)

    def __call__(self, image: Tensor) -> Tensor:
        return self.together(self.votes(image))


def agreed(votes: Mapping[str, Tensor], *, absent: bool = False) -> Tensor:
    """Where all judges say so; with `absent` where none does. B bool: a vote of 0 is neither."""
    return torch.stack([value < 0 if absent else value > 0 for value in votes.values()]).all(0)
