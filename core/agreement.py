"""Several judges of one thing: a failure counts only if they agree.

Source: the robust surrogate of SAGE (arXiv 2306.00974).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from .errors import ProvokeError

Votes = dict[str, Tensor]  # by the judge's name: B; positive where it says so


class Agreement:
    """Objectives of several judges as one: images B C H W in [0, 1] -> B. They agree where each is positive.

    Args:
        members: by the judge's name an objective that is positive where that judge says so.
        softness: None adds them up (SAGE). A number is the temperature of a soft minimum, in the members' unit: the
            weakest one counts, and a positive score means that all agree. It is below the true minimum, by at most
            softness * log(number of members). Ours.
    Raises:
        ProvokeError: no members.
    """

    def __init__(self, members: Mapping[str, Callable[[Tensor], Tensor]], *, softness: float | None = None) -> None:
        if not members:
            raise ProvokeError("An agreement of no judges", "at least one", "connect a classifier")
        self.members, self.softness = dict(members), softness

    def votes(self, image: Tensor) -> Votes:
        """What each judge says: B each, on the image's device."""
        return {name: member(image).to(image.device) for name, member in self.members.items()}

    def together(self, votes: Mapping[str, Tensor]) -> Tensor:
        """One score of what `votes` returned: B."""
        each = torch.stack(list(votes.values()))
        if self.softness is None:
            return each.sum(0)
        return -self.softness * torch.logsumexp(-each / self.softness, 0)

    def __call__(self, image: Tensor) -> Tensor:
        return self.together(self.votes(image))


def agreed(votes: Mapping[str, Tensor]) -> Tensor:
    """Where all judges say so: B bool."""
    return torch.stack([value > 0 for value in votes.values()]).all(0)
