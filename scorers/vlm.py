"""What a vision-language model is as a judge: how well a text matches a picture, as losses with a gradient.

Sources: BLIP-2 (arXiv 2301.12597) for the three losses; arXiv 2402.16305 follows the first and the last of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from .files import words
from .judge import Frozen, check_ids, normal_mode, place_of
from .preprocess import Preprocess

MATCHING, CONTRASTIVE, CAPTION = "matching", "contrastive", "caption"
LOSSES = {
    MATCHING: "-log p(the text matches), in nats, by a matching head",
    CONTRASTIVE: "1 - cosine of the picture's and the text's vectors, 0 to 2",
    CAPTION: "-log p(the text as the picture's caption), the mean of its tokens, in nats",
}
"""Every kind of loss that a judge may have, and its unit. All are lower where the text matches better."""

SENTENCE = "a photo of one thing to the left of another"  # as long as those that people compare pictures with
UNLABELLED = -100  # of cross_entropy: positions that no loss is taken at


class Vlm(Protocol):
    """A frozen judge of how well a text describes a picture.

    name: for reports. kinds: which of LOSSES it has. module: all weights; whoever manages memory moves it, and pictures
    follow.
    """

    name: str
    kinds: tuple[str, ...]
    module: nn.Module

    def check(self, text: str) -> None:
        """ValueError: a text that it cannot read."""
        ...

    def loss(self, kind: str, images: Tensor, text: str) -> Tensor:
        """B 3 H W in [0, 1], any H and W from 1 on, on any device -> B, at least float32, on the module's device.
        Differentiable. ValueError: a kind that it does not have, or a text that it cannot read."""
        ...

    def look(self, images: Tensor) -> Tensor:
        """As `Scorer.look`: every loss of a sentence, kinds B."""
        ...


class FrozenVlm(Frozen, ABC):
    """A library's model as a `Vlm`.

    Args:
        tokenizer: of transformers.
        module, preprocess, name, dtype: as in `judge.Frozen`.
    """

    kinds: tuple[str, ...]

    def __init__(
        self, module: nn.Module, tokenizer: Any, preprocess: Preprocess, name: str, dtype: torch.dtype
    ) -> None:
        super().__init__(module, preprocess, name, dtype)
        self._tokenizer = tokenizer

    def check(self, text: str) -> None:
        self._read(text)

    def loss(self, kind: str, images: Tensor, text: str) -> Tensor:
        if kind not in self.kinds:
            raise ValueError(
                words(
                    f"{self.name} has no {kind} loss",
                    f"one of: {', '.join(self.kinds)}",
                    "set that weight to 0, or load a model that has the loss together with this one",
                )
            )
        ids = self._read(text).to(place_of(self.module)[0])
        silent = self._silent(text.strip())
        return self._seen(lambda pixels: self._loss(kind, pixels, ids, silent)[:, None], images)[:, 0]

    def look(self, images: Tensor) -> Tensor:
        return torch.stack([self.loss(kind, images, SENTENCE) for kind in self.kinds])

    def _read(self, text: str) -> Tensor:
        """1 L int64: the text as the model takes it, with what stands before it. ValueError: none, or too long."""
        if not text.strip():
            raise ValueError(words("The text is empty", "what the picture is to show, in words", "write a text"))
        with normal_mode():
            ids = torch.tensor([self._tokens(text.strip())])
        check_ids(ids, self._rows, self.name)
        if ids.shape[1] > self._room:
            raise ValueError(
                words(
                    f"The text has {ids.shape[1]} tokens for {self.name} (with the picture's)",
                    f"at most {self._room}",
                    "shorten the text",
                )
            )
        return ids

    def _words(self, text: str, *, special: bool = True) -> list[int]:
        """The tokenizer's ids; special: with its start and end, where it has such."""
        return list(self._tokenizer(text, add_special_tokens=special)["input_ids"])

    @property
    @abstractmethod
    def _rows(self) -> int:
        """How many tokens the model knows."""

    @property
    @abstractmethod
    def _room(self) -> int:
        """How many tokens a text may have."""

    @abstractmethod
    def _tokens(self, text: str) -> list[int]:
        """A text as the model takes it."""

    def _silent(self, text: str) -> int:
        """How many of these tokens, from the first, have no loss of their own."""
        return 0

    @abstractmethod
    def _loss(self, kind: str, pixels: Tensor, ids: Tensor, silent: int) -> Tensor:
        """Preprocessed pictures and a text (1 L) -> B, at least float32."""


class CaptionVlm(FrozenVlm):
    """A model that writes what a picture shows: the likelihood of a text as its caption, by teacher forcing.

    What a subclass has of its own is what stands before the caption: the picture's places, a question.
    """

    kinds = (CAPTION,)

    def _tokens(self, text: str) -> list[int]:
        before, caption = self._parts(text)
        return [*before, *caption]

    def _silent(self, text: str) -> int:
        return len(self._parts(text)[0])

    @abstractmethod
    def _parts(self, text: str) -> tuple[list[int], list[int]]:
        """The ids before the caption (the picture's places, a question, the start), and the caption's."""

    def _loss(self, kind: str, pixels: Tensor, ids: Tensor, silent: int) -> Tensor:
        every = ids.expand(len(pixels), -1)
        logits = self._model(pixel_values=pixels, input_ids=every, attention_mask=torch.ones_like(every)).logits
        labels = every.masked_fill(torch.arange(every.shape[1], device=every.device) < silent, UNLABELLED)
        return caption_loss(wide(logits), labels)


def caption_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean negative log-likelihood of the labelled tokens, each predicted by the position before it.

    logits: B L V, at least float32. labels: B L, UNLABELLED where no loss is taken. -> B, in nats.
    Source: `transformers.loss.loss_utils.ForCausalLMLoss`, here per picture.
    """
    wanted = labels[:, 1:]
    each = functional.cross_entropy(logits[:, :-1].transpose(1, 2), wanted, ignore_index=UNLABELLED, reduction="none")
    return each.sum(1) / (wanted != UNLABELLED).sum(1)


def wide(x: Tensor) -> Tensor:
    """At least float32: half precision cannot hold a log-likelihood's difference."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class Together:
    """Several models as one judge: each kind of loss by the first that has it.

    ValueError: no members, or several without a loss that another does not have.
    """

    def __init__(self, members: Sequence[Vlm]) -> None:
        self.members = tuple(members)
        self._by: dict[str, Vlm] = {}
        for member in self.members:
            new = [kind for kind in member.kinds if kind not in self._by]
            if not new:
                raise ValueError(
                    words(
                        f"{member.name} has no loss that {', '.join(m.name for m in self.members[:-1]) or 'nothing'} "
                        f"lacks: {', '.join(member.kinds)}",
                        "models that complete each other: a matching one and a captioning one",
                        "disconnect together_with, or load another model",
                    )
                )
            self._by.update(dict.fromkeys(new, member))
        if not self._by:
            raise ValueError(words("There are no models", "at least one", "load a model"))
        self.kinds = tuple(kind for kind in LOSSES if kind in self._by)
        self.name = " + ".join(member.name for member in self.members)
        self.module: nn.Module = nn.ModuleList([member.module for member in self.members])

    def check(self, text: str) -> None:
        for member in self.members:
            member.check(text)

    def loss(self, kind: str, images: Tensor, text: str) -> Tensor:
        """As `Vlm.loss`."""
        if kind not in self._by:
            raise ValueError(
                words(f"{self.name} has no {kind} loss", f"one of: {', '.join(self.kinds)}", "set its weight to 0")
            )
        return self._by[kind].loss(kind, images, text)

    def look(self, images: Tensor) -> Tensor:
        """As `Vlm.look`."""
        return torch.stack([self.loss(kind, images, SENTENCE) for kind in self.kinds])
