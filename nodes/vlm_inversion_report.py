"""What a VLM inversion says of itself, in words: the VLM's scores on the host's own pictures, and the cost."""

from __future__ import annotations

from collections.abc import Sequence

from .objective import Scores
from .vlm_inversion_search import Inverted
from .vlm_inversion_settings import InversionSettings


def describe(
    s: InversionSettings, found: Inverted, before: Scores, after: Scores, notes: Sequence[str], seconds: float
) -> str:
    """The report: judge and losses, how it went, scores before and after (higher is better), cost, notes."""
    step, chosen = found.step, found.selection.chosen
    skipped = int(step["skipped"].sum())
    pull = f"SDS {s.sds:g} ({s.weighting}), balance {s.balance:g} ({s.norms})" if s.sds else "no SDS: the VLM alone"
    lines = [
        f"judge      {s.vlm.judge.name}, {s.looks} copies a step ({s.views})",
        f"way        {pull}, {s.alone} last steps by the model alone; {step['i']} steps: {step['stopped']}"
        + (f"; {skipped} unusable gradients skipped" if skipped else ""),
    ]
    for name, value in after.terms.items():
        lines.append(f"score      {name} (of the start)")
        lines += [
            f"  latent {i}  {mine:.4g} ({usual:.4g})"
            for i, (mine, usual) in enumerate(zip(value.tolist(), before.terms[name].tolist(), strict=True), 1)
        ]
    moved = ", ".join(f"{value:.2f}" for value in found.selection.distance.tolist())
    lines += [
        f"kept       {', '.join(chosen)}, by the VLM on copies with fixed seeds",
        f"moved      {moved} of the latent's standard deviations (root mean square, in the model's space)",
        f"cost       {found.cost}, {seconds:.1f} s in all",
    ]
    return "\n".join([*lines, *(f"note       {note}" for note in notes)])
