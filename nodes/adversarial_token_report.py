"""What a search of a token says of itself, in words: everything measured on the sampler's own pictures."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..host import embedding_files
from ..host.sampling.tokens import Token, without
from .adversarial_token_settings import PAPERS_BOX, TokenSettings
from .sampler_search import Found
from .sampler_sockets import SearchSettings


@dataclass(frozen=True)
class Rendered:
    """Of pictures from the host's own path, prompt by prompt (B each): the objective's scores, and how well they match
    the prompt itself (nothing without a scorer for that)."""

    scores: list[Tensor]
    likeness: list[Tensor]

    @property
    def means(self) -> list[float]:
        """One score a prompt."""
        return [float(score.mean()) for score in self.scores]


def describe(
    search: SearchSettings,
    s: TokenSettings,
    found: Found,
    token: Token,
    rendered: tuple[Rendered, Rendered, Rendered],
    seconds: float,
) -> str:
    """The report.

    Args:
        rendered: with the token, with a random one as long, without one.
    """
    step = found.step
    way = "best of random tokens in the same budget" if search.random else f"{s.step_rule}, route {search.route}"
    skipped = int(step["skipped"].sum())
    lines = [
        f"search     {s.direction}: {s.objective.name}; {len(s.lines)} prompts, {s.pairs} pairs with seeds a step",
        f"budget     {s.budget}, epsilon {s.epsilon:g}; used: {float(found.selection.distance):.2f} "
        f"({s.vectors} vectors around {repr(s.initial_word) if s.initial_word.strip() else 'nothing'})",
        *(_vocabulary(token, found.selection.variable)),
        f"way        {way}, {step['i']} steps: {step['stopped']}; taken: {found.selection.chosen[0]}"
        + (f"; {skipped} unusable gradients skipped" if skipped else ""),
        "score      with the token (without it; with a random one as long), at noise_seed",
        *_scores(s, [one.scores for one in rendered]),
    ]
    if rendered[0].likeness:
        lines += ["own CLIP   how well the pictures match the prompt itself, the same three"]
        lines += _scores(s, [one.likeness for one in rendered])
    if embedding_files.is_taken(s.called):
        lines.append(
            f"name       there is an embedding:{s.called} already: Save Embedding takes the next free name, and"
        )
        lines.append("           its own output prompt says it (this node's says the one that is there)")
    lines.append(f"cost       {found.cost}, {seconds:.1f} s in all")
    return "\n".join([*lines, *(f"note       {note}" for note in found.notes)])


def _vocabulary(token: Token, rows: Tensor) -> list[str]:
    """What a standard deviation is to each encoder, how long the vectors are, and which words they are nearest to."""
    words, lines = token.words(rows), []
    for part in token.parts:
        known, mine = part.vocabulary, rows[0, :, part.place].norm(dim=-1) * part.vocabulary.deviation
        lines.append(
            f"  {part.name}  standard deviation {known.deviation:.4g} (the paper's box of {PAPERS_BOX:g} is "
            f"{PAPERS_BOX / known.deviation:.3g} of them); length {', '.join(f'{one:.3g}' for one in mine.tolist())} "
            f"(words: {known.length:.3g} +- {known.spread:.2g}); nearest words: {', '.join(words[part.key])}"
        )
    return lines


def _scores(s: TokenSettings, three: list[list[Tensor]]) -> list[str]:
    mine, chance, usual = ([float(score.mean()) for score in scores] for scores in three)
    return [
        f"  {without(line, s.placeholder)}  {a:.4g} ({c:.4g}; {b:.4g})"
        for line, a, b, c in zip(s.lines, mine, chance, usual, strict=True)
    ]
