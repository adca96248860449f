"""What a token is asked to do: its prompts, its size, how far it may go, how it moves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..core import semantic
from ..core import steps as rules
from ..core.budgets import L2, Budget, LInf
from ..core.embedding import NormBand
from ..core.errors import ProvokeError
from ..core.objectives import Objective
from ..host import embedding_files
from ..host.api import io
from ..host.judges import Held
from ..host.sampling.tokens import Token
from .attack_settings import SCHEDULES
from .latent_search_settings import DIRECTIONS
from .objective import PROMPT, ObjectiveSocket, Parts, ScorerSocket, Situation, Term
from .prompted import check_entry, conditioning_input, entry_input

BUDGETS = ("box (SAGE)", "ball", "norm band")
RULES: dict[str, Callable[..., rules.Rule]] = {
    "Adam": rules.Adam,
    "signed (SAGE)": rules.Signed,
    "momentum": partial(rules.Momentum, decay=0.9),
    "steepest": rules.Steepest,
}
PAPERS_BOX = 2.5  # SAGE, in a table's own units


@dataclass(frozen=True)
class TokenSettings:
    """The widgets of `inputs`, which say the units."""

    prompts: str
    placeholder: str
    vectors: int
    initial_word: str
    direction: str
    epsilon: float
    pairs: int
    seeds: int
    keep_weight: float
    name: str
    budget: str
    step_rule: str
    step_size: float
    schedule: str
    copies: int
    entry: int
    objective: Parts
    keep_scorer: Held | None = None
    conditioning: list[Any] | None = None

    def __post_init__(self) -> None:
        if not self.lines:
            raise ProvokeError(
                "There is no prompt", "a prompt in each line", "write into prompts what the pictures are to show"
            )
        embedding_files.checked(self.name)
        if self.keep_weight and self.keep_scorer is None:
            raise ProvokeError(
                f"keep_weight is {self.keep_weight:g} and no keep_scorer is connected",
                "a CLIP that says how well a picture still matches its own prompt",
                "connect Load CLIP Scorer to keep_scorer, or set keep_weight to 0",
            )
        check_entry(self.conditioning, self.entry)

    @classmethod
    def taken(cls, inputs: dict[str, Any]) -> TokenSettings:
        """From what is left of a node's inputs. Raises ProvokeError for what does not go together."""
        return cls(**{name: inputs.get(name) for name in cls.__dataclass_fields__})  # type: ignore[arg-type]

    @property
    def called(self) -> str:
        """The name, as a prompt says it."""
        return embedding_files.checked(self.name)

    @property
    def lines(self) -> list[str]:
        """The prompts, with their placeholders."""
        return [line.strip() for line in self.prompts.splitlines() if line.strip()]

    @property
    def climbed(self) -> Parts:
        """What the search has more of: the objective or less of it, and the prompt's own likeness."""
        wanted = self.objective.times(DIRECTIONS[self.direction])
        return Parts((*wanted.terms, *(self.likeness.times(self.keep_weight).terms if self.keep_weight else ())))

    @property
    def likeness(self) -> Parts:
        """The prompt's own CLIP score; nothing without a scorer."""
        scorer = self.keep_scorer
        if scorer is None:
            return Parts(())

        def likeness(situation: Situation) -> Objective:
            with torch.no_grad():
                target = scorer.judge.encode_texts([situation.told(PROMPT)])[0]
            return semantic.similarity(scorer.judge.encode_images, target)

        return Parts((Term("similarity to the prompt itself", likeness, held=(scorer,)),))

    def around(self, center: Tensor, token: Token) -> Budget:
        """The budget around an initial word or nothing, 1 n W."""
        match self.budget:
            case "ball":
                return L2(center, self.epsilon, box=None)
            case "norm band":
                return NormBand(center, self.epsilon, blocks=[part.vocabulary.band for part in token.parts])
            case _:
                return LInf(center, self.epsilon, box=None)

    @property
    def rule(self) -> rules.Rule:
        return RULES[self.step_rule](self.step_size, schedule=SCHEDULES[self.schedule])


def inputs() -> list[io.Input]:
    """In the order of `TokenSettings`."""
    number, choice = partial(io.Float.Input, advanced=True), partial(io.Combo.Input, advanced=True)
    whole = partial(io.Int.Input, advanced=True)
    return [
        io.String.Input(
            "prompts",
            multiline=True,
            default="a photo of a dog\na photo of a house\na photo of a tree",
            tooltip="A prompt in each line. With several the token is a universal one: it has to work in all of them, "
            "and so in others.",
        ),
        io.String.Input(
            "placeholder",
            default="<token>",
            tooltip="Where the token goes in a prompt. Prompts without it get the token at their end.",
        ),
        io.Int.Input(
            "vectors", default=1, min=1, max=64, tooltip="How many vectors the token is: each takes a word's place."
        ),
        io.String.Input(
            "initial_word",
            default="",
            tooltip="Where the search starts, and what the budget is around: a word of at most so many tokens. Empty: "
            "nothing (the zero vector).",
        ),
        io.Combo.Input(
            "direction",
            options=["satisfy", "break"],
            tooltip="satisfy: a token whose pictures have more of the objective. break: less of it.",
        ),
        io.Float.Input(
            "epsilon",
            default=6.0,
            min=0.0,
            max=500.0,
            step=0.1,
            tooltip="How far the token may go, in standard deviations of the text encoder's vocabulary: each number "
            "(box), root mean square (ball), or a vector's length from the mean length of words, in standard "
            "deviations of their lengths (norm band). The report says where the paper's box of 2.5 lies. 0 changes "
            "nothing.",
        ),
        io.Int.Input(
            "pairs",
            default=4,
            min=1,
            max=256,
            tooltip="How many pairs of a prompt and a seed a step looks at: each is a run of the sampler with its "
            "gradient, one after the other. More are steadier, and cost as much more.",
        ),
        whole(
            "seeds",
            default=0,
            min=0,
            max=10_000,
            tooltip="How many seeds there are in all: noise_seed, noise_seed + 1, and so on. 0: every run draws a new "
            "one, so that the token works with any seed.",
        ),
        io.Float.Input(
            "keep_weight",
            default=0.0,
            min=0.0,
            max=100.0,
            step=0.1,
            tooltip="How much it counts that a picture still matches its own prompt: the weight of that CLIP score (a "
            "cosine) beside the objective. Needs keep_scorer.",
        ),
        io.String.Input(
            "name",
            default="provoke-token",
            tooltip="What the token is called in prompts, embedding:name, once Save Embedding has written it (as "
            "name-2, and so on, where there is one of that name).",
        ),
        choice(
            "budget",
            options=list(BUDGETS),
            tooltip="What epsilon bounds. box: each number, around the initial word (or 0). ball: the root mean square "
            "of the change. norm band: the vectors' lengths alone, which stay those of words.",
        ),
        choice("step_rule", options=list(RULES), tooltip="How the token follows the gradient."),
        number(
            "step_size",
            default=0.3,
            min=0.001,
            max=10.0,
            step=0.05,
            tooltip="How far one step goes, in standard deviations of the vocabulary, each number.",
        ),
        choice(
            "schedule",
            options=["cosine", "constant"],
            tooltip="cosine: large steps first, then settling. constant: the same size throughout.",
        ),
        whole(
            "copies",
            default=1,
            min=0,
            max=64,
            tooltip="How many randomly changed copies of a picture the judges see in each step, so that the picture "
            "changes and not a judge's blind spot. 0: the picture itself.",
        ),
        entry_input(),
        ObjectiveSocket.Input(
            "objective",
            tooltip="What the pictures are to have more of (or less): from one of the Objective nodes. A text of "
            "Objective: Similarity (CLIP) may say prompt in braces, which is each prompt; its picture makes the token "
            "mean that picture.",
        ),
        ScorerSocket.Input(
            "keep_scorer",
            optional=True,
            tooltip="From Load CLIP Scorer: says how well a picture matches its own prompt, for keep_weight.",
        ),
        conditioning_input(),
    ]
