"""What a prompt search is asked to do: its template, what must and must not be said, how it goes about it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from ..core.errors import ProvokeError
from ..core.template import Template
from ..core.writing import Rules
from ..host.api import io
from ..host.judges import Held
from . import sampler_sockets
from .latent_search_settings import DIRECTIONS
from .objective import LanguageSocket, ObjectiveSocket, Parts
from .prompted import check_entry, conditioning_input, entry_input

METHODS = ("gradient", "evolution", "random")


@dataclass(frozen=True)
class PromptSettings:
    """The widgets of `inputs`, which say the units."""

    template: str
    direction: str
    seeds: int
    keep: int
    must_stay: str
    must_not_come: str
    context: str
    proposals: int
    rarest: float
    slack: float
    fluency_weight: float
    beam: int
    tries: int
    word_steps: int
    epsilon: float
    population: int
    copies: int
    entry: int
    language: Held
    objective: Parts
    conditioning: list[Any] | None = None

    def __post_init__(self) -> None:
        check_entry(self.conditioning, self.entry)
        if not self.template.strip():
            raise ProvokeError(
                "The template is empty",
                "a prompt with slots in braces",
                "write one, for example: a photo of a {colour} dog {more:6}",
            )

    @classmethod
    def taken(cls, inputs: dict[str, Any]) -> PromptSettings:
        """From what is left of a node's inputs. Raises ProvokeError for what does not go together."""
        return cls(**{name: inputs.get(name) for name in cls.__dataclass_fields__})  # type: ignore[arg-type]

    @property
    def slots(self) -> Template:
        return Template.of(self.template)

    @property
    def rules(self) -> Rules:
        return Rules(
            self.context, self.proposals, self.rarest, self.slack, _listed(self.must_stay), _listed(self.must_not_come)
        )

    @property
    def climbed(self) -> Parts:
        """What the search has more of: the objective, or less of it."""
        return self.objective.times(self.sign)

    @property
    def sign(self) -> float:
        return DIRECTIONS[self.direction]


def _listed(text: str) -> tuple[str, ...]:
    """Words or phrases between commas or line ends."""
    return tuple(" ".join(part.split()) for line in text.splitlines() for part in line.split(",") if part.strip())


def search_inputs() -> list[io.Input]:
    """Those of every search through a sampler, with this one's methods, and what a step is here."""
    own = {
        "search_steps": io.Int.Input(
            "search_steps",
            default=120,
            min=0,
            max=100_000,
            tooltip="Steps of the search: each looks at one prompt with every seed, a run of the sampler each (with "
            "its gradient two to four). 0 gives the template's own words alone.",
        ),
        "method": io.Combo.Input(
            "method",
            options=list(METHODS),
            tooltip="gradient: word by word, the proposals tried that lie where the gradient leads (SAGE). evolution: "
            "the best prompts are changed; no gradient, for models that are too large for one. random: prompts as the "
            "language model writes them, the baseline.",
        ),
    }
    return [own.get(put.id, put) for put in sampler_sockets.search_inputs()]


def inputs() -> list[io.Input]:
    """In the order of `PromptSettings`."""
    number, whole = partial(io.Float.Input, advanced=True), partial(io.Int.Input, advanced=True)
    return [
        io.String.Input(
            "template",
            multiline=True,
            default="a photo of a dog {more:8}",
            tooltip="The prompt with slots in braces: a name takes one word, a name with :8 one to eight. A name twice "
            "takes the same words in both places. What stands outside of the braces stays.",
        ),
        io.Combo.Input(
            "direction",
            options=list(DIRECTIONS),
            tooltip="break: prompts whose pictures have less of the objective. satisfy: more of it.",
        ),
        io.Int.Input(
            "seeds",
            default=2,
            min=1,
            max=64,
            tooltip="How many seeds a prompt is tried with: noise_seed, noise_seed + 1, and so on. The score is their "
            "mean: with several a prompt fails by its words, not by bad luck. Each costs a run of the sampler.",
        ),
        io.Int.Input("keep", default=4, min=1, max=64, tooltip="How many of the best prompts come out."),
        io.String.Input(
            "must_stay",
            default="",
            tooltip="Words, between commas, that every prompt must have, wherever the template does not say them "
            "already: the search puts them into slots.",
        ),
        io.String.Input(
            "must_not_come",
            default="",
            tooltip="Words or phrases, between commas, that no prompt may have: for example other names of the thing, "
            "'without', 'no'.",
        ),
        io.String.Input(
            "context",
            multiline=True,
            default="",
            advanced=True,
            tooltip="What the language model reads before every prompt, and the text encoder does not: for example "
            "'Captions of photographs:'.",
        ),
        whole(
            "proposals",
            default=24,
            min=1,
            max=1000,
            tooltip="How many of the language model's likeliest words come into question in each place.",
        ),
        number(
            "rarest",
            default=0.02,
            min=0.0001,
            max=1.0,
            step=0.01,
            tooltip="How rare a proposed word may be: its probability as a share of the likeliest one's. Lower brings "
            "stranger words.",
        ),
        number(
            "slack",
            default=0.5,
            min=0.0,
            max=20.0,
            step=0.1,
            tooltip="How much less natural than the language model's own sentences a whole prompt may be, in nats a "
            "token: 0.7 is half as likely a word. Others are not tried.",
        ),
        number(
            "fluency_weight",
            default=0.0,
            min=0.0,
            max=100.0,
            step=0.05,
            tooltip="How much naturalness counts beside the objective: score for a nat a token.",
        ),
        whole("beam", default=2, min=1, max=64, tooltip="gradient: how many sentences are written on at a time."),
        whole(
            "tries",
            default=4,
            min=1,
            max=256,
            tooltip="gradient: how many of the proposals nearest to the searched vector are tried as words.",
        ),
        whole(
            "word_steps",
            default=3,
            min=1,
            max=200,
            tooltip="gradient: steps of the search of the vectors [x] and [y] in a word's place.",
        ),
        number(
            "epsilon",
            default=0.7,
            min=0.01,
            max=100.0,
            step=0.1,
            tooltip="gradient: how far [x] and [y] may go from the proposals' mean, in standard deviations of the text "
            "encoder's vocabulary (root mean square). Two words are about 1.4 apart.",
        ),
        whole("population", default=8, min=2, max=256, tooltip="evolution: how many of the best prompts are changed."),
        whole(
            "copies",
            default=1,
            min=0,
            max=64,
            tooltip="How many randomly changed copies of a picture the judges see in each look, so that the picture "
            "fails and not a judge's blind spot. 0: the picture itself.",
        ),
        entry_input(),
        LanguageSocket.Input("language", tooltip="From Load Language Model: it proposes the words."),
        ObjectiveSocket.Input(
            "objective",
            tooltip="What the pictures are to have less of (or more): from one of the Objective nodes. The text of "
            "Objective: Similarity (CLIP) may say prompt in braces: then each prompt is compared with itself.",
        ),
        conditioning_input(),
    ]
