"""What a search of prompts says of itself, in words: scores measured on the sampler's own pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..core.wording import Found
from .objective import Scores
from .prompt_search_settings import PromptSettings
from .sampler_sockets import SearchSettings


@dataclass(frozen=True)
class Searched:
    """What a search leaves.

    best: the best prompts. tried: how many were, in words. usual: nats a token of the language model's own sentences.
    leans: looks with a gradient; lost: searches of a place that found none. runs: of the sampler (a gradient counts
    with its backward). evaluations: of the model in one run. losses: minus the best so far, at each step.
    """

    best: list[Found]
    tried: int
    usual: float
    leans: int
    lost: int
    steps: int
    stopped: str
    runs: float
    evaluations: int
    losses: list[float]
    notes: list[str]


def describe(
    search: SearchSettings,
    s: PromptSettings,
    found: Searched | None,
    kept: Sequence[tuple[str, Scores]],
    plain: Scores,
    seconds: float,
) -> str:
    """The report.

    Args:
        kept: the prompts and their pictures' scores, by the host's own path. plain: of the template's own words.
    """
    lines = [f"search     {s.direction}: {s.objective.name}; {s.seeds} seeds from noise_seed on"]
    if found is None:
        lines += ["           none: search_steps is 0, so this is the template without its slots"]
    else:
        lines += [
            f"way        {search.method}, {found.steps} steps: {found.stopped}; {found.tried} prompts were tried in "
            f"words, {found.leans} looks with a gradient"
            + (f"; in {found.lost} places it gave no direction" if found.lost else ""),
            f"natural    the language model's own sentences have {found.usual:.2f} nats a token; up to "
            f"{found.usual + s.slack:.2f} were tried",
        ]
    lines += [f"plain      {s.slots.plain}: {_said(plain)}", "prompts    score; of each picture; nats a token"]
    nats = {one.prompt: one.nats for one in found.best} if found is not None else {}
    for prompt, scores in kept:
        natural = f"; {nats[prompt]:.2f}" if prompt in nats else ""
        lines.append(f"  {prompt}: {_said(scores)}{natural}")
    if found is not None:
        lines.append(
            f"cost       {found.runs:.0f} runs of the sampler to search, {found.runs * found.evaluations:.0f} "
            f"evaluations of the model (with their backward passes), {seconds:.1f} s in all"
        )
    return "\n".join([*lines, *(f"note       {note}" for note in (found.notes if found is not None else []))])


def _said(scores: Scores) -> str:
    each = ", ".join(f"{score:.3g}" for score in scores.total.tolist()[:16])
    agreed = ""
    if scores.agreed is not None and scores.denied is not None:
        yes, no = int(scores.agreed.sum()), int(scores.denied.sum())
        agreed = f"; of {len(scores.total)} all judges agree on {yes}, and on the opposite for {no}"
    return f"{float(scores.total.mean()):.4g} ({each}{agreed})"
