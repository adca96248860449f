"""What an attack on an image model says of itself, in words: everything measured on the host's own results."""

from __future__ import annotations

from collections.abc import Sequence

from ..core.budgets import Budget
from ..core.search import Selection, Step
from .attack_settings import LEVELS, AttackSettings
from .comparison import words
from .measured import Measured, spent


def describe(
    s: AttackSettings,
    model: str,
    notes: Sequence[str],
    budget: Budget,
    step: Step,
    found: Selection,
    m: Measured,
    factor: float,
) -> str:
    """The report: model, budget used, search, change of the result next to random noise, diversity, cost, notes.

    factor: how many times `difference` shows the change amplified.
    """
    skipped = int(step["skipped"].sum())
    lines = [
        f"model      {model}",
        f"budget     {s.norm}{f' ({s.truncation})' if s.norm == 'L-inf' else ''}, epsilon {s.epsilon:g} levels of 255; "
        f"{spent(budget, found.variable, LEVELS)}",
        f"search     {s.step_rule if s.method == 'gradient' else 'best of random changes'}, {step['i']} steps, "
        f"seed {s.seed}: {step['stopped']}" + (f"; {skipped} unusable gradients skipped" if skipped else ""),
        f"difference {words(factor)}",
        *m.lines(s.count, "in the hole"),
        f"cost       {step['cost'] + found.cost:.0f} runs of the model a result to search, {m.seconds:.1f} s in all",
    ]
    return "\n".join([*lines, *(f"note       {note}" for note in notes)])
