"""The search of a token within the opened sampling: one variable, many pairs of a prompt and a seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..core.cases import Averaged, MeanOfCases
from ..core.objectives import WeightedSum
from ..core.problem import Evaluation, ImageProblem, Problem
from ..core.search import sample_generators
from ..core.steps import RandomDraws
from ..host.sampling.generator import SampledImages
from ..host.sampling.handle import Conditioning, Sampling
from ..host.sampling.routes import Route
from ..host.sampling.tokens import Token, in_place, without
from .adversarial_token_settings import TokenSettings
from .objective import Situation, compares
from .sampler_search import Plan, decoded
from .sampler_sockets import SearchSettings
from .steering import views

REMEMBERED = 64  # usual pictures that are kept (in the computer's memory) for objectives that compare with them
SELECTING = (0, 1)  # the selector's seeds: each is so many pairs of a prompt and a seed as a step has


class TokenSearch:
    """What is searched, where, and by what. Raises ProvokeError where the token cannot be in a prompt.

    Args:
        usual: the prompts' conditionings without a token, for objectives that compare with their pictures.
    """

    def __init__(
        self, sampling: Sampling, settings: TokenSettings, search: SearchSettings, usual: Sequence[Conditioning]
    ) -> None:
        assert sampling.encoder is not None
        self.sampling, self.settings, self.search, self.usual = sampling, settings, search, usual
        self.token = Token(sampling.encoder, settings.vectors)
        sampling.notes += self.token.notes(settings.lines, settings.placeholder)
        self.word = settings.initial_word.strip()
        self.center = self.token.of_word(self.word) if self.word else self.token.nothing()
        self.budget = settings.around(self.center, self.token)
        self._prompts = [without(line, settings.placeholder) for line in settings.lines]
        self._compares = compares(settings.climbed, self._prompts[0])
        self._objectives: dict[int, WeightedSum] = {}
        self._usual: dict[tuple[int, int], Tensor] = {}  # by prompt and seed

    def plan(self) -> Plan:
        """The search of one row."""
        s, search = self.settings, self.search
        rngs = sample_generators(search.search_seed, 1, 1)
        rule = Averaged(RandomDraws(rngs) if search.random else s.rule)
        start = self.center if self.word else self.budget.start(rngs, 0.1)

        def candidates() -> dict[str, Tensor]:
            return {} if search.random else rule.mean()

        return Plan(
            budget=self.budget,
            rule=rule,
            start=self.budget.random(rngs) if search.random else start,
            problem=lambda route: MeanOfCases(self._case(route), len(s.lines), s.pairs),
            copies=s.pairs * max(1, s.copies),
            candidates=candidates,
            seeds=SELECTING,
        )

    def by_chance(self, rows: Tensor) -> Tensor:
        """A random direction, each vector as long as in these rows (1 n W): what the search has to beat."""
        drawn = self.budget.random(sample_generators(self.search.search_seed + 1, 1, 1))
        return self.token.as_long_as(rows, drawn)

    def _case(self, route: Route) -> Callable[[int, torch.Generator], Problem]:
        """A prompt by its number, with a seed of its own -> its problem."""
        s, sampling = self.settings, self.sampling

        def problem(number: int, rng: torch.Generator) -> Problem:
            seed = self._seed(rng)
            noise = sampling.noise if seed == sampling.seed else sampling.noise_of(seed)

            def pictures(rows: Tensor) -> Tensor:
                encoded = self.token.conditioning(s.lines[number], s.placeholder, rows)
                positive = {"positive": in_place(s.conditioning, s.entry, encoded)}
                return decoded(sampling, sampling.sample(noise=noise, conditioning=positive, seed=seed, route=route))

            generator = SampledImages(sampling, pictures, rows=1, route=route)
            augment = views() if s.climbed.held and s.copies else None
            objective, runs = self._objective(number, noise, seed)
            copies = s.copies if augment else 1
            return _Beside(ImageProblem(generator, objective, augment=augment, copies=copies), runs)

        return problem

    def _seed(self, rng: torch.Generator) -> int:
        """noise_seed and those after it, or any."""
        if self.settings.seeds == 0:
            return int(torch.randint(2**62, (1,), generator=rng))
        return (self.sampling.seed + int(torch.randint(self.settings.seeds, (1,), generator=rng))) % 2**64

    def _objective(self, number: int, noise: Tensor, seed: int) -> tuple[WeightedSum, int]:
        """Of a prompt; one that compares gets the picture that the prompt alone gives for the seed. And how many runs
        of the sampler that took."""
        prompt = self._prompts[number]
        if self._compares:
            usual, runs = self._picture(number, noise, seed)
            return self.settings.climbed.build(Situation(usual, prompt=prompt)), runs
        if number not in self._objectives:
            self._objectives[number] = self.settings.climbed.build(Situation(prompt=prompt))
        return self._objectives[number], 0

    @torch.no_grad()
    def _picture(self, number: int, noise: Tensor, seed: int) -> tuple[Tensor, int]:
        """Of a prompt without the token, B 3 H W, and how many runs of the sampler it took: with few seeds, and where a
        selector asks again, it is known."""
        key = number, seed
        if key in self._usual:
            return self._usual[key].to(noise.device), 0
        positive = {"positive": self.usual[number]}
        picture = decoded(self.sampling, self.sampling.sample(noise=noise, conditioning=positive, seed=seed))
        if len(self._usual) == REMEMBERED:
            del self._usual[next(iter(self._usual))]  # the oldest
        self._usual[key] = picture.cpu()
        return picture, 1


class _Beside:
    """A problem that other runs of the sampler belong to: its cost has them too."""

    def __init__(self, problem: Problem, runs: int) -> None:
        self.problem, self.runs = problem, runs

    def evaluate(self, variable: Tensor, rng: torch.Generator, *, gradient: bool) -> Evaluation:
        found = self.problem.evaluate(variable, rng, gradient=gradient)
        return replace(found, cost=found.cost + self.runs)
