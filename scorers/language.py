"""A causal language model as a judge of sentences: which words may come next, and how likely a whole text is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .files import words
from .judge import check_ids, frozen, normal_mode, place_of

END = ""  # among next words: the text ends here
STOPS = (".", "!", "?", "\n")  # what also ends a sentence
PIECES = 6  # tokens that a single word may have
ROWS = 64  # texts that are read together
_WIDER = 4  # so many tokens are looked at for each word that is wanted: some begin none


class LanguageModel:
    """A frozen causal model with its tokenizer.

    Attributes:
        name: for reports. module: all weights; whoever manages memory moves it.
    Args:
        module, tokenizer: of transformers.
        dtype: what it is stored in and computes in; likelihoods are float32 or wider.
    """

    def __init__(self, module: Any, tokenizer: Any, name: str, dtype: torch.dtype) -> None:
        self.module, self.name = frozen(module, dtype), name
        self._model, self._tokenizer = module, tokenizer
        self._rows = int(module.get_input_embeddings().weight.shape[0])
        config = module.config.get_text_config()
        self._room = int(getattr(config, "max_position_embeddings", 0) or getattr(config, "n_positions", 0) or 2**30)
        known = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
        self._start: int | None = next((token for token in known if token is not None), None)
        stops = [self._tokens(stop) for stop in STOPS]
        single = {ids[0] for ids in stops if len(ids) == 1}
        self._ends = sorted(single | {token for token in known[1:2] if token is not None})

    def next_words(self, text: str, count: int, rarest: float = 0.0) -> list[tuple[str, float]]:
        """The likeliest words after a text, the likeliest first, each with its log probability in nats; END with that
        of the text's end (the end token, or a full stop).

        A word is letters with hyphens or apostrophes within; of several tokens, each the likeliest after the one before
        it. So there may be fewer than `count`; none that is less likely than the share `rarest` of the likeliest token.
        ValueError: a text that is too long.
        """
        with normal_mode():
            before = self._ids(text)
            logs = self._next(torch.tensor([before]))[0]
            found = {END: self._end(logs)}
            best = logs.topk(min(len(logs), _WIDER * count))
            floor = float(best.values[0]) + math.log(max(rarest, 1e-30))  # what follows only makes a word rarer
            pairs = zip(best.values.tolist(), best.indices.tolist(), strict=True)
            begun = [(token, log) for log, token in pairs if log >= floor]
            for word, log in self._finished(before, begun):
                if log > found.get(word, -math.inf) and len(found) <= count:
                    found[word] = log
        return sorted(found.items(), key=lambda pair: -pair[1])

    def read(self, texts: Sequence[str], *, ended: bool) -> list[list[tuple[float, float]]]:
        """Of every token of each text its log probability, and by how much the likeliest one in its place is likelier,
        in nats. ended: and of the text's end, as one more. ValueError: a text that is too long."""
        found: list[list[tuple[float, float]]] = []
        with normal_mode():
            rows = [self._ids(text) for text in texts]
            for first in range(0, len(rows), ROWS):
                found += self._read(rows[first : first + ROWS], ended)
        return found

    # ---------------------------------------------------------------------------------------------- tokens

    def _tokens(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _ids(self, text: str) -> list[int]:
        """With a start token, where the tokenizer has any."""
        ids = [*([] if self._start is None else [self._start]), *self._tokens(text.strip())]
        if not ids or len(ids) + PIECES > self._room:
            raise ValueError(
                words(
                    f"The text has {len(ids)} tokens for {self.name}: {text[:60]!r}",
                    f"1 to {self._room - PIECES}",
                    "shorten the template or the context, or use another language model",
                )
            )
        check_ids(torch.tensor(ids), self._rows, self.name)
        return ids

    def _said(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _finished(self, before: list[int], begun: list[tuple[int, float]]) -> list[tuple[str, float]]:
        """Tokens with their log probabilities -> whole words: each goes on with its likeliest token until another word
        would begin, or the text end."""
        text, done = self._said(before).rstrip(), []
        open_ = [([token], log) for token, log in begun if token not in self._ends]
        open_ = [(ids, log) for ids, log in open_ if _begins(self._said([*before, *ids])[len(text) :], text)]
        for _ in range(PIECES):
            if not open_:
                break
            logs = self._next(torch.tensor([[*before, *ids] for ids, _ in open_]))
            best = logs.max(1)
            going = []
            for (ids, log), more, token in zip(open_, best.values.tolist(), best.indices.tolist(), strict=True):
                word = self._said([*before, *ids])[len(text) :].strip()
                longer = self._said([*before, *ids, token])[len(text) :].strip()
                if token in self._ends or not longer.startswith(word) or not _is_word(longer[len(word) :] or " "):
                    done.append((word, log))
                else:
                    going.append(([*ids, token], log + more))
            open_ = going
        return [(word, log) for word, log in done if _is_word(word)]

    # ---------------------------------------------------------------------------------------------- the model

    def _next(self, ids: Tensor) -> Tensor:
        """N L -> N V, log probabilities of what follows; in float32."""
        rows = [self._logits(part)[:, -1].log_softmax(-1) for part in ids.split(ROWS)]
        return torch.cat(rows).cpu()

    def _logits(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        ids = ids.to(place_of(self.module)[0])
        mask = torch.ones_like(ids) if mask is None else mask.to(ids.device)
        return self._model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float()[..., : self._rows]

    def _end(self, logs: Tensor) -> float:
        return float(logs[self._ends].logsumexp(0)) if self._ends else -math.inf

    def _read(self, rows: list[list[int]], ended: bool) -> list[list[tuple[float, float]]]:
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        lengths = torch.tensor([len(row) for row in rows])
        mask = (torch.arange(longest) < lengths[:, None]).long()
        logs = self._logits(ids, mask).log_softmax(-1).cpu()
        each, most = logs[:, :-1].gather(2, ids[:, 1:, None])[..., 0], logs.amax(-1)
        found = []
        for i, row in enumerate(rows):
            last = len(row) - 1
            pairs = list(zip(each[i, :last].tolist(), most[i, :last].tolist(), strict=True))
            if ended:
                end = self._end(logs[i, last])
                pairs.append((end, max(end, float(most[i, last]))))
            found.append([(log, best - log) for log, best in pairs])
        return found


def _begins(more: str, before: str) -> bool:
    """Whether what was added to a text begins a word of its own."""
    return bool(more.strip()) and (not before or more[0].isspace())


def _is_word(text: str) -> bool:
    return bool(text) and text.replace("-", "").replace("'", "").replace("’", "").isalpha()
