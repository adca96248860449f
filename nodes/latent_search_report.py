"""What a latent search says of itself, in words: everything measured on the sampler's own results."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..core.gaussianity import LEVEL, Gaussianity
from .latent_search_settings import LatentSettings
from .sampler_search import Found
from .sampler_sockets import SearchSettings


@dataclass(frozen=True)
class Scored:
    """The objective's scores of pictures from the host's own path: of the noises found, of random ones as far away (B *
    keep each, image-major), and of noise_seed's own (B)."""

    found: Tensor
    by_chance: Tensor
    default: Tensor


def describe(
    search: SearchSettings,
    s: LatentSettings,
    found: Found,
    noise: Tensor,
    distance: Tensor,
    scored: Scored,
    seconds: float,
) -> str:
    """The report: budget used, search, scores beside the usual noise's and a random one's, Gaussianity, cost, notes."""
    step = found.step
    way = f"{s.step_rule}, route {search.route}" if not search.random else "best of random noises in the same budget"
    skipped = int(step["skipped"].sum())
    usual_one = "of noise_seed's picture" if s.count > 1 else "of the seed's own picture"
    lines = [
        f"search     {s.direction}: {s.wanted.name}",
        f"budget     {s.budget}, epsilon {s.epsilon:g} standard deviations; used: "
        + ", ".join(f"{value:.2f}" for value in distance.tolist()),
        f"way        {way}, {step['i']} steps, {s.count} seeds a latent: {step['stopped']}"
        + (f"; {skipped} unusable gradients skipped" if skipped else ""),
        f"score      of the results ({usual_one}; of a random noise in the same budget)",
    ]
    rows = (scored.found.view(-1, s.keep), scored.by_chance.view(-1, s.keep))
    for i, (mine, chance) in enumerate(zip(*(row.tolist() for row in rows), strict=True), 1):
        usual = float(scored.default[i - 1])
        figures = "  ".join(f"{a:.4g} ({usual:.4g}; {b:.4g})" for a, b in zip(mine, chance, strict=True))
        lines.append(f"  latent {i}  {figures}")
    lines.append(
        f"Gaussian?  p of each noise by five tests (of true samples each is below {LEVEL:g} one time in twenty)"
    )
    p = Gaussianity(noise.shape[1:])(noise)
    lines += [
        f"  noise {i}  " + ", ".join(f"{name} {float(values[i - 1]):.2f}" for name, values in p.items())
        for i in range(1, len(noise) + 1)
    ]
    lines.append(f"cost       {found.cost}, {seconds:.1f} s in all")
    return "\n".join([*lines, *(f"note       {note}" for note in found.notes)])
