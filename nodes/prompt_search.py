"""Search Prompt: natural prompts that break an objective, or satisfy it.

generator: the text encoder, the sampler, the VAE's decoder, over several seeds. variable: the words in a template's
slots. objective: any. budget: what a language model finds natural. step rule: the proposals nearest to a searched
vector are tried as words (SAGE, arXiv 2306.00974); or evolution; or at random.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from comfy_execution.graph_utils import ExecutionBlocker
from torch import Tensor

from ..core import wording
from ..core.batches import side_by_side
from ..core.errors import ProvokeError
from ..core.wording import Found, Halt, Lean, Pool, Seen
from ..core.writing import Writer
from ..host.api import io, schema
from ..host.judges import passed
from ..host.progress import check_cancelled, drive
from ..host.sampling.handle import Conditioning, Sampling
from ..host.stop import stoppable
from . import prompt_search_report, prompt_search_settings
from .load_language import InWords
from .objective import Scores, ScoresSocket, scored_one_by_one, scores_joined
from .prompt_looks import Looks, check_reads_embeddings
from .prompt_search_report import Searched
from .prompt_search_settings import PromptSettings
from .prompted import Prompted, first_inputs, taken
from .sampler_sockets import SearchSettings


class PromptSearch(io.SearchNode):
    """KSampler's words, with the prompt as a template."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ProvokePromptSearch",
            display_name="Search Prompt",
            category="Provoke/search",
            description="Searches natural prompts whose pictures break an objective, or satisfy it: a language model "
            "proposes the words in a template's slots, the gradient through the text encoder and the sampler (or "
            "evolution, or chance) chooses among them. What comes out is plain text.",
            search_aliases=[
                "provoke", "SAGE", "prompt optimization", "prompt generator", "adversarial prompt", "red team",
                "failure", "LLM", "wildcard", "evolution",
            ],
            inputs=[
                *first_inputs("The text encoder: any for evolution and random; for gradient one that reads embedding "
                              "files."),
                *prompt_search_settings.search_inputs(),
                *prompt_search_settings.inputs(),
            ],
            outputs=[
                io.String.Output("prompts", is_output_list=True, tooltip="The best prompts, the best first."),
                io.Image.Output(
                    "images", tooltip="KSampler's pictures of them: of each prompt one for every seed (and latent)."
                ),
                io.Float.Output(
                    "scores", is_output_list=True, tooltip="The objective's mean of each prompt's pictures."
                ),
                io.Conditioning.Output(
                    "conditioning", is_output_list=True, tooltip="Each prompt as CLIP Text Encode gives it."
                ),
                io.Image.Output("plain", tooltip="KSampler's pictures of the template's own words, with every seed."),
                io.Int.Output(
                    "seeds", is_output_list=True, tooltip="The seed of each of images (of each batch of latents)."
                ),
                ScoresSocket.Output("judged", tooltip="For Failure Report: what each judge says of each of images."),
                io.Custom("LOSS_MAP").Output("loss", tooltip="For Plot Loss Graph: minus the best score at each step."),
                io.String.Output(
                    "report", tooltip="Each prompt's score beside the plain one's, how natural it is, what it cost."
                ),
            ],
        )  # fmt: skip

    @classmethod
    def execute(cls, clip: Any, **inputs: Any) -> io.NodeOutput:
        began = time.monotonic()
        sockets, search, rest = taken(inputs)
        settings = PromptSettings.taken(rest)
        host = Prompted(clip, sockets, settings.conditioning, settings.entry)
        return Run(host, settings, search).outputs(began)


@dataclass(frozen=True)
class Rendered:
    """A prompt by the host's own path. images: seeds * B H W C."""

    prompt: str
    conditioning: Conditioning
    images: Tensor
    judged: Scores

    @property
    def score(self) -> float:
        return float(self.judged.total.mean())


@dataclass(frozen=True)
class Run:
    """One run of the node."""

    host: Prompted
    settings: PromptSettings
    search: SearchSettings

    def outputs(self, began: float) -> io.NodeOutput:
        """Searches, and renders the best again by the host's own path."""
        s, plain = self.settings, self.settings.slots.plain
        usual = self.host.text(plain)
        if self.search.search_steps == 0:
            default = self._rendered(plain)
            return self._given([default], default, None, began)
        found, default = self._searched(usual), self._rendered(plain)
        kept = [self._rendered(one.prompt, default.images) for one in found.best]
        # stable: what the search finds as good as another stays in its order
        kept.sort(key=lambda one: -s.sign * one.score if one.score == one.score else torch.inf)
        return self._given(kept, default, found, began)

    # ---------------------------------------------------------------------------------------------- the search

    def _searched(self, usual: Conditioning) -> Searched:
        s, search, notes = self.settings, self.search, list[str]()
        gradient = search.method == "gradient"
        if gradient:
            check_reads_embeddings(self.host.clip)
        graph = self.host.graph(usual)
        route = search.route_for(graph)

        def body(sampling: Sampling) -> Searched:
            with passed(*s.climbed.held):
                writer = Writer(s.slots, InWords(s.language.judge), s.rules)
                rng = torch.Generator().manual_seed(search.search_seed % 2**63)
                writer.settle(rng)
                looks = Looks(sampling, s, usual, route)
                pool = Pool(writer, looks.words, s.fluency_weight)
                return self._driven(sampling, looks, pool, self._method(looks, pool, rng), should_stop, notes)

        with stoppable() as should_stop:
            judges = (*s.climbed.held, s.language)
            return graph.inside(
                body, judges=judges, clip=self.host.clip, notes=notes, gradient=gradient,
                looks=graph.batch if gradient else 0,
            )  # fmt: skip

    def _method(self, looks: Looks, pool: Pool, rng: torch.Generator) -> Iterator[Seen]:
        s = self.settings
        match self.search.method:
            case "random":
                return wording.at_random(pool, rng)
            case "evolution":
                return wording.evolution(pool, rng, population=s.population)
            case _:
                return wording.by_gradient(pool, Lean(looks.lean), rng, beam=s.beam, tries=s.tries)

    def _driven(
        self,
        sampling: Sampling,
        looks: Looks,
        pool: Pool,
        method: Iterator[Seen],
        should_stop: Callable[[], bool],
        notes: list[str],
    ) -> Searched:
        """Steps until something stops it; the best so far is shown."""
        began, state = time.monotonic(), Progress(self.search)

        def poll() -> None:
            check_cancelled()
            if why := state.ended(time.monotonic() - began, should_stop):
                raise Halt(why)

        def watched() -> Iterator[Progress]:
            pool.poll = poll
            try:
                for seen in method:
                    state.take(seen, pool)
                    state.stopped = state.reason(time.monotonic() - began, should_stop)
                    yield state
                    if state.stopped:
                        return
                state.stopped = "nothing else can be said"
            except Halt as halt:
                state.stopped = str(halt)
            yield state

        drive(watched(), self.search.search_steps, lambda now: None if now.image is None else side_by_side(now.image))
        return state.searched(looks, pool, self.settings.keep, sampling.evaluations(), notes)

    # ---------------------------------------------------------------------------------------------- what comes out

    def _rendered(self, prompt: str, default: Tensor | None = None) -> Rendered:
        """By the host's own text encoder and sampler, seed by seed. default: what an objective may compare with."""
        s, first = self.settings, int(self.host.sockets["noise_seed"])
        positive = self.host.text(prompt)
        drawn = [self.host.pictures(positive, (first + k) % 2**64) for k in range(s.seeds)]
        images = torch.cat(drawn)
        usual = images if default is None else default
        batch, usual = (one.movedim(-1, 1).float().clone() for one in (images, usual))
        return Rendered(prompt, positive, images, scored_one_by_one(s.objective, batch, usual, prompt=prompt))

    def _given(self, kept: list[Rendered], plain: Rendered, found: Searched | None, began: float) -> io.NodeOutput:
        s, first = self.settings, int(self.host.sockets["noise_seed"])
        report = prompt_search_report.describe(
            self.search, s, found, [(one.prompt, one.judged) for one in kept], plain.judged, time.monotonic() - began
        )
        losses = [] if found is None else found.losses
        return io.NodeOutput(
            [one.prompt for one in kept],
            torch.cat([one.images for one in kept]),
            [one.score for one in kept],
            [one.conditioning for one in kept],
            plain.images,
            [(first + k) % 2**64 for _ in kept for k in range(s.seeds)],
            scores_joined([one.judged for one in kept]),
            {"loss": losses} if len(set(losses)) > 1 else ExecutionBlocker(None),
            report,
        )


@dataclass
class Progress:
    """How far a search is. image: the best so far, 1 C H W. cost: in runs of the sampler."""

    search: SearchSettings
    steps: int = 0
    cost: float = 0.0
    image: Tensor | None = None
    best: Found | None = None
    losses: list[float] = field(default_factory=list)
    stopped: str = ""

    @property
    def step(self) -> dict[str, Any]:
        """For the curve on the node: the best score so far, once there is a prompt in words."""
        score = math.nan if self.best is None else self.best.total
        return {"score": torch.tensor([score]), "cost": self.cost, "stopped": self.stopped}

    def take(self, seen: Seen, pool: Pool) -> None:
        """One look more."""
        self.steps += 1
        self.cost += seen.cost
        best = next(iter(pool.best(1)), None)
        if best is not self.best or self.image is None:
            self.best, self.image = best, seen.image
        if best is not None and best.total == best.total:
            self.losses.append(-best.total)

    def reason(self, elapsed: float, should_stop: Callable[[], bool]) -> str:
        """Why this is the last step; "" while it goes on, as it does until there is a prompt in words."""
        target = self.search.stop_at_score
        if self.best is None:
            return ""
        if target and self.best.score >= target:
            return "the target score is reached"
        if self.steps >= self.search.search_steps:
            return "all steps done"
        return self.ended(elapsed, should_stop)

    def ended(self, elapsed: float, should_stop: Callable[[], bool]) -> str:
        """What ends the search anywhere, also where the language model looks for a sentence for long."""
        limit = self.search.time_limit
        if should_stop():
            return "stopped by request" + ("" if self.best is None else ", best kept")
        return f"time limit of {limit:g} s reached" if limit and elapsed >= limit else ""

    def searched(self, looks: Looks, pool: Pool, keep: int, evaluations: int, notes: list[str]) -> Searched:
        """What the search leaves. Raises ProvokeError where it found nothing that may be said."""
        if not pool.found:
            raise ProvokeError(
                f"No natural prompt for the template {looks.settings.template.strip()!r} has all that must stay and "
                f"nothing that must not come, as far as the search came ({self.stopped})",
                "sentences that the language model itself could write",
                "raise slack or the words of a slot, lower rarest, ask for fewer words, give a context, or more time",
            )
        return Searched(
            pool.best(keep), len(pool.found), pool.writer.usual, looks.leans, looks.lost, self.steps, self.stopped,
            self.cost, evaluations, self.losses, list(notes),
        )  # fmt: skip
