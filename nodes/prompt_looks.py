"""Looks at prompts within the opened sampling: in words, and with vectors between the words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.budgets import L2
from ..core.cases import MeanOfCases
from ..core.errors import GradientError, ProvokeError
from ..core.objectives import WeightedSum
from ..core.problem import ImageProblem, Problem
from ..core.search import search
from ..core.steps import Steepest, cosine
from ..core.template import Filling
from ..core.wording import MARK, Lean, Seen
from ..host.sampling.generator import SampledImages
from ..host.sampling.handle import Conditioning, Sampling
from ..host.sampling.routes import EXACT, Route
from ..host.sampling.text import TextEncoder
from ..host.sampling.tokens import Token, in_place
from .objective import Situation, compares
from .prompt_search_settings import PromptSettings
from .sampler_search import decoded
from .steering import views

HOPELESS = 3  # places without a gradient before there ever was one
SAME = 0  # the seed of every look's chance: all prompts are seen through the same copies


class Looks:
    """What a prompt's pictures score, over the same seeds for all.

    Args:
        usual: the conditioning of the template without its slots, for objectives that compare with its pictures.
        route: of the gradient.
    Attributes:
        leans: looks with a gradient. lost: how many places had no usable one.
    """

    def __init__(self, sampling: Sampling, settings: PromptSettings, usual: Conditioning, route: Route) -> None:
        assert sampling.encoder is not None
        self.sampling, self.settings, self.usual, self.route = sampling, settings, usual, route
        self.encoder, self.climbed = sampling.encoder, settings.climbed
        self._compares = compares(self.climbed, settings.slots.plain)
        self._tokens: dict[int, Token] = {}
        self._defaults: dict[int, Tensor] = {}
        self.leans = self.lost = 0

    @torch.no_grad()
    def words(self, filling: Filling, prompt: str) -> Seen:
        """One prompt."""
        said = in_place(self.settings.conditioning, self.settings.entry, self.encoder(self.encoder.tokens(prompt)))
        problem = self._problem(prompt, lambda rows: said, EXACT)
        now = problem.evaluate(torch.zeros(1, 1), torch.Generator().manual_seed(SAME), gradient=False)
        return Seen(float(now.score), now.image, now.cost, filling)

    def lean(self, text: str, vectors: int, words: Sequence[str], lean: Lean) -> Iterator[Seen]:
        """Searches [x] (and [y]) in the place of MARK from the mean of the proposed words, a step a look, and leaves
        those in `lean` in the order in which [x] lies nearest to them: by the angle at that mean.

        An objective may have no slope in a place (a margin that has reached its confidence): then they stay in their
        own order. Raises GradientError where the first few places all had none.
        """
        s, token = self.settings, self._token(vectors)
        places = token.of_words(words)
        mean = places.mean(0)
        budget = L2(mean.expand(1, vectors, -1).contiguous(), s.epsilon, box=None)
        rule = Steepest(2 * s.epsilon / s.word_steps, schedule=cosine)
        problem = self._problem(
            s.slots.plain,  # between words there is no prompt yet that a picture could be compared with
            lambda rows: in_place(s.conditioning, s.entry, token.conditioning(text, MARK, rows)),
            self.route,
        )
        x, rng, spent = budget.center, torch.Generator().manual_seed(SAME), 0.0
        try:
            for step in search(problem, budget, rule, start=x, steps=s.word_steps, rng=rng):
                x = step["variable"]
                self.leans += step["i"] < s.word_steps  # the last has none: the words are looked at instead
                # a search says what it cost up to now, a look what it cost itself
                yield Seen(float(step["score"]), step["image"], step["cost"] - spent)
                spent = step["cost"]
        except GradientError as error:
            self.lost += 1
            if self.leans == 0 and self.lost >= HOPELESS:
                raise GradientError(
                    f"In the first {self.lost} places that were searched there was no gradient. {error.came}",
                    "an objective with a slope where the search begins",
                    "raise the objective's confidence, use another objective (a similarity), or method: evolution",
                ) from error
        lean.words = _nearest(words, places - mean, x[0, 0] - mean)

    # ---------------------------------------------------------------------------------------------- within

    def _token(self, vectors: int) -> Token:
        if vectors not in self._tokens:
            self._tokens[vectors] = Token(self.encoder, vectors)
        return self._tokens[vectors]

    def _problem(self, prompt: str, positive: Callable[[Tensor], Conditioning], route: Route) -> Problem:
        """The mean over the seeds."""
        s, sampling = self.settings, self.sampling
        augment = views() if self.climbed.held and s.copies else None

        def case(number: int, rng: torch.Generator) -> Problem:
            noise, seed = self._noise(number)

            def pictures(rows: Tensor) -> Tensor:
                said = {"positive": positive(rows)}
                return decoded(sampling, sampling.sample(noise=noise, conditioning=said, seed=seed, route=route))

            generator = SampledImages(sampling, pictures, rows=1, route=route)
            return ImageProblem(
                generator, self._objective(number, prompt), augment=augment, copies=s.copies if augment else 1
            )

        return MeanOfCases(case, s.seeds, s.seeds)

    def _noise(self, number: int) -> tuple[Tensor, int]:
        seed = (self.sampling.seed + number) % 2**64
        return (self.sampling.noise if number == 0 else self.sampling.noise_of(seed)), seed

    @torch.no_grad()
    def _objective(self, number: int, prompt: str) -> WeightedSum:
        """Of a prompt; one that compares gets the picture of the template's own words for the seed."""
        if not self._compares:
            return self.climbed.build(Situation(prompt=prompt))
        if number not in self._defaults:
            noise, seed = self._noise(number)
            latents = self.sampling.sample(noise=noise, conditioning={"positive": self.usual}, seed=seed)
            self._defaults[number] = decoded(self.sampling, latents)
        return self.climbed.build(Situation(self._defaults[number], prompt=prompt))


def check_reads_embeddings(clip: Any) -> None:
    """Raises ProvokeError for a CLIP that vectors between the words cannot reach: before anything is loaded."""
    encoder = TextEncoder(clip)
    try:
        Token(encoder, 1)
    except ProvokeError as error:
        raise ProvokeError(
            error.came,
            f"for method: gradient {error.expected}",
            "choose method: evolution (or random), which take any text encoder",
        ) from error


def _nearest(words: Sequence[str], places: Tensor, moved: Tensor) -> list[str]:
    """Words by the cosine of their places (N W) with where [x] went (W); in their own order where it went nowhere."""
    cosines = torch.nn.functional.cosine_similarity(places, moved[None], dim=1).nan_to_num()
    return [words[i] for i in cosines.argsort(descending=True, stable=True).tolist()]
