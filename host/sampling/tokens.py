"""A learned token: embeddings in the place of words, in every text encoder of a CLIP that reads embeddings."""

from __future__ import annotations

import copy
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ...core.embedding import Vocabulary, nearest
from ...core.errors import ProvokeError
from .handle import Conditioning
from .text import TextEncoder, Tokens

MARK, MANY = -65536.0, 1024  # of the rows in the file of marks; a key's marks begin so far after another's
REMEMBERED = 256  # prompts whose tokens are kept
_ENDS = re.compile(r"[\s,):]")  # what may follow a name: the host ends it at white space, takes commas and weights off


def said(text: str, placeholder: str, name: str) -> str:
    """A prompt with `embedding:name` for its placeholder, or at its end; set apart as the host's tokenizers want it."""
    mark = placeholder.strip()
    if not mark or mark not in text:
        return f"{text.rstrip()} embedding:{name}".lstrip()
    parts = text.split(mark)
    out = parts[0]
    for part in parts[1:]:
        if out and not out[-1].isspace() and out[-1] != "(":
            out += " "
        out += f"embedding:{name}"
        out += part if not part or _ENDS.match(part) else f" {part}"
    return out


def without(text: str, placeholder: str) -> str:
    """A prompt without its placeholder."""
    mark = placeholder.strip()
    return " ".join(text.replace(mark, " ").split()) if mark and mark in text else text


@dataclass(frozen=True)
class Part:
    """One text encoder's share of a token.

    key: among the tokens ("l", "t5xxl"). name: among the keys of an embedding file ("clip_l"). vocabulary: of its
    table. start: its first place in a row of the variable.
    """

    key: str
    name: str
    vocabulary: Vocabulary
    start: int

    @property
    def place(self) -> slice:
        return slice(self.start, self.start + self.vocabulary.width)


@dataclass(frozen=True)
class _Place:
    """Where a vector of the token stands among an encoder's tokens, which one of them, and its weight."""

    section: int
    position: int
    name: str
    row: int
    weight: float


class Token:
    """`count` vectors for every text encoder that reads embeddings, as one variable: 1 n W, each encoder's block in
    multiples of its table's standard deviation.

    Attributes:
        parts: the encoders, in the order of their blocks. left_out: keys of those that read no embedding files.
        weighed: whether the encoders honour a weight, as in `(embedding:name:1.2)`.
    Args:
        encoder: of the opened sampling, or one made for a CLIP.
    Raises: ProvokeError where no encoder reads embedding files.
    """

    def __init__(self, encoder: TextEncoder, count: int) -> None:
        self.encoder, self.count = encoder, count
        self._names = _embedding_keys(encoder.clip.tokenizer)
        self._known: dict[tuple[str, str], tuple[Tokens, dict[str, list[_Place]]]] = {}  # by text and placeholder
        places = self._placed("a", "")[1]
        self.parts: list[Part] = []
        tables: dict[int, str] = {}
        for key in (key for key, found in places.items() if found):
            table = _table(encoder, key)
            if table is None:
                continue  # SD 3 without its T5: the host does not read these tokens
            if table.data_ptr() in tables:
                raise ProvokeError(
                    f"The tokens {key!r} go to no text encoder (Anima's model takes them as numbers)",
                    "a text encoder whose prompts may say embedding:name: here the host itself fails",
                    "use another model, or search its conditioning (the sampler attacks) instead",
                )
            tables[table.data_ptr()] = key
            self.parts.append(Part(key, places[key][0].name, Vocabulary.of(table), self.width))
        self.left_out = [key for key, found in places.items() if not found]
        if not self.parts:
            raise ProvokeError(
                f"The text encoder ({', '.join(places)}) reads no embedding files in this version of ComfyUI",
                # 0.24 and 0.18: a name at the end of a prompt for Z-Image runs into its template's "<|im_end|>"
                "one whose prompts may say embedding:name (those of SD 1.5, SD 2, SDXL, SD 3, Flux; Z-Image's in newer "
                "versions; not Qwen-Image's)",
                "use a model with such a text encoder, update ComfyUI, or search the model's conditioning (the sampler "
                "attacks) instead",
            )
        weighed = self._placed("a (<token>:0.5)", "<token>")[1]
        self.weighed = all(any(place.weight == 0.5 for place in weighed[part.key]) for part in self.parts)

    @property
    def width(self) -> int:
        """W."""
        return sum(part.vocabulary.width for part in self.parts)

    # ---------------------------------------------------------------------------------------------- values

    def nothing(self) -> Tensor:
        """The zero vector: 1 n W."""
        return torch.zeros(1, self.count, self.width, device=self.encoder.table(self.parts[0].key).device)

    def of_word(self, word: str) -> Tensor:
        """The embeddings of a word (of several: of their tokens) in every encoder: 1 n W; the last one repeated where
        there are fewer than n.

        Raises ProvokeError for a word that is more than n tokens to an encoder.
        """
        out = self.nothing()
        for part in self.parts:
            ids = self._ids(part, word)
            if not 0 < len(ids) <= self.count:
                raise ProvokeError(
                    f"The initial word {word!r} is {len(ids)} tokens to the text encoder {part.key!r}",
                    f"1 to {self.count}, as many as the token has vectors",
                    "choose another word, or raise vectors",
                )
            ids += ids[-1:] * (self.count - len(ids))
            table = self.encoder.table(part.key)
            rows = table[torch.tensor(ids, device=table.device)].float()
            out[0, :, part.place] = rows / part.vocabulary.deviation
        return out

    def of_words(self, words: Sequence[str]) -> Tensor:
        """Each word's place in the variable, whatever it is made of: N W, of several tokens their mean."""
        out = self.nothing().new_zeros(len(words), self.width)
        for part in self.parts:
            table = self.encoder.table(part.key)
            for row, word in enumerate(words):
                rows = table[torch.tensor(self._ids(part, word), device=table.device)].float()
                out[row, part.place] = rows.mean(0) / part.vocabulary.deviation
        return out

    def _ids(self, part: Part, word: str) -> list[int]:
        """A word's own tokens, as the host takes them out of its tokenizer's answer; within a sentence (after a space)
        where that is not more of them."""
        reader = self._reader(part)
        end = -1 if getattr(reader, "tokenizer_adds_end_token", reader.end_token is not None) else None
        both = [list(reader.tokenizer(text)["input_ids"][reader.tokens_start : end]) for text in (f" {word}", word)]
        return min(both, key=len)

    def _reader(self, part: Part) -> Any:
        """The encoder's own tokenizer."""
        readers = _readers(self.encoder.clip.tokenizer).values()
        return next(reader for reader in readers if reader.embedding_key == part.name)

    def vectors(self, rows: Tensor) -> dict[str, Tensor]:
        """1 n W -> by the keys of an embedding file, n D, float32, in the encoders' own units; differentiable."""
        return {part.name: rows[0, :, part.place].float() * part.vocabulary.deviation for part in self.parts}

    def nearest(self, rows: Tensor) -> dict[str, list[tuple[int, float]]]:
        """Of each encoder (its key) and each vector the vocabulary's nearest token, and their cosine."""
        found = {}
        for part in self.parts:
            ids, cosines = nearest(self.encoder.table(part.key), rows[0, :, part.place])
            found[part.key] = list(zip(ids.tolist(), cosines.tolist(), strict=True))
        return found

    def as_long_as(self, rows: Tensor, directions: Tensor) -> Tensor:
        """Other directions (1 n W), each vector of each encoder as long as in these rows."""
        out = directions.clone()
        for part in self.parts:
            length, now = (one[..., part.place].norm(dim=-1, keepdim=True) for one in (rows, directions))
            out[..., part.place] *= length / now.clamp_min(1e-30)
        return out

    # ---------------------------------------------------------------------------------------------- prompts

    def tokens(self, text: str, placeholder: str, vectors: Mapping[str, Tensor]) -> Tokens:
        """What the host's tokenizers make of `said(text, placeholder, name)` where the file `name` holds these."""
        tokens, places = self._placed(text, placeholder)
        mark = placeholder.strip()
        wanted = self.count * max(1, text.count(mark) if mark else 0)
        missing = [part.key for part in self.parts if len(places[part.key]) != wanted]
        if missing:
            raise ProvokeError(
                f"The token does not reach the text encoder {missing[0]!r} in the prompt {text!r}",
                "a place that the host's tokenizer reads, such as the end of the prompt",
                "put the placeholder between spaces, outside of other syntax",
            )
        out = {key: [list(section) for section in sections] for key, sections in tokens.items()}
        for key, found in places.items():
            for place in reversed(found):
                section = out[key][place.section]
                if place.name in vectors:
                    section[place.position] = (vectors[place.name][place.row], *section[place.position][1:])
                else:
                    del section[place.position]  # no encoder is there
        return out

    def notes(self, texts: Sequence[str], placeholder: str) -> list[str]:
        """What the host does not honour here, in words."""
        found = []
        if self.left_out:
            found.append(f"read no embedding files, and get no vectors: the text encoders {', '.join(self.left_out)}")
        if not self.weighed and any("(" in text for text in texts):
            found.append("this text encoder honours no weights such as (word:1.2): it reads them as text")
        return found

    def words(self, rows: Tensor) -> dict[str, list[str]]:
        """Of each encoder (its key) the vocabulary's word that is nearest to each vector, with their cosine."""
        names = {part.key: getattr(self._reader(part), "inv_vocab", {}) for part in self.parts}
        return {
            key: [f"{names[key].get(token, f'token {token}')} ({cosine:.2f})" for token, cosine in found]
            for key, found in self.nearest(rows).items()
        }

    def conditioning(self, text: str, placeholder: str, rows: Tensor) -> Conditioning:
        """A CONDITIONING of one entry; differentiable."""
        return self.encoder(self.tokens(text, placeholder, self.vectors(rows)))

    def _placed(self, text: str, placeholder: str) -> tuple[Tokens, dict[str, list[_Place]]]:
        """A prompt's tokens with marks in the places of the token's vectors, and where they are. By the host's own
        tokenizers, which find a file of marks in a folder of ours: copies of them, that look there too."""
        if (text, placeholder) not in self._known:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            with tempfile.TemporaryDirectory(prefix="provoke") as folder:
                name = Path(folder).name  # nobody else's: the host searches all folders, in any order
                marks = {
                    key: (MARK - MANY * i - torch.arange(self.count)).repeat_interleave(2).view(self.count, 2)
                    for i, key in enumerate(self._names)
                }
                safetensors.torch.save_file(marks, str(Path(folder) / f"{name}.safetensors"))
                clip = copy.copy(self.encoder.clip)
                clip.tokenizer = _looking_in(clip.tokenizer, folder)
                tokens = clip.tokenize(said(text, placeholder, name))
            places = {key: list(self._found(sections)) for key, sections in tokens.items()}
            self._known[text, placeholder] = tokens, places
        return self._known[text, placeholder]

    def _found(self, sections: list[list[Any]]) -> Iterator[_Place]:
        for number, section in enumerate(sections):
            for position, (token, weight, *_) in enumerate(section):
                if isinstance(token, Tensor) and token.numel() == 2 and float(token[0]) <= MARK:
                    mark = round(MARK - float(token[0]))
                    yield _Place(number, position, self._names[mark // MANY], mark % MANY, weight)


def _table(encoder: TextEncoder, key: str) -> Tensor | None:
    try:
        return encoder.table(key)
    except ProvokeError:
        return None


def _readers(tokenizer: Any) -> dict[str, Any]:
    """The tokenizers of single encoders, which know of embedding files, by their names within the whole; "": itself."""
    found = {"": tokenizer, **vars(tokenizer)}
    return {name: part for name, part in found.items() if hasattr(part, "embedding_key")}


def _embedding_keys(tokenizer: Any) -> list[str]:
    return sorted({str(part.embedding_key) for part in _readers(tokenizer).values()})


def _looking_in(tokenizer: Any, folder: str) -> Any:
    """A copy that finds embedding files in one more folder. Those that look for none still do not."""
    made = copy.copy(tokenizer)
    for name, part in _readers(tokenizer).items():
        known = part.embedding_directory
        if known is None:
            continue
        own = made if not name else copy.copy(part)
        own.embedding_directory = [folder, *([known] if isinstance(known, str) else known)]
        if name:
            setattr(made, name, own)
    return made


@torch.inference_mode()
def by_host(clip: Any, tokens: Tokens) -> Conditioning:
    """What CLIPTextEncode gives for these tokens, bit for bit. Outside of `inside` only."""
    return clip.encode_from_tokens_scheduled(tokens)


def in_place(template: Conditioning | None, entry: int, encoded: Conditioning) -> Conditioning:
    """A conditioning whose entry (from 1) says something else: its own extras (area, mask, ControlNet, hooks, guidance)
    stay. Without a template just what is encoded.

    Raises ProvokeError for a text encoder that gave more than one entry (hooks along the schedule).
    """
    if template is None:
        return encoded
    if len(encoded) != 1:
        raise ProvokeError(
            "The CLIP has hooks that change along the schedule",
            "a CLIP with at most one state",
            "turn schedule_clip off in Set CLIP Hooks, or connect the CLIP before that node",
        )
    made = list(template)
    made[entry - 1] = [encoded[0][0], {**template[entry - 1][1], **encoded[0][1]}]
    return made
