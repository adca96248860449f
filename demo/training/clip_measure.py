"""What a CLIP of the demo world is worth, on combinations that no training saw. Rates are (right, of)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..captions import canonical, captions, negatives, relations
from ..clip_models import Tokenizer, encode_pictures, encode_tokens, text_states
from ..world import COLOURS, RELATIONS, SHAPES, Facts, Scene, batch, render, sample

BARS = {"retrieval": 0.85, "pair": 0.95, "relation": 0.70, "word": 1.0}
CHOICES = 256  # captions that a picture chooses from
LONGEST = 24  # more than the tokens of any caption: positions behind its end change nothing
_PART = 128  # pictures or texts at a time

Rate = tuple[int, int]
Change = Callable[[Tensor], Tensor]


def _same(images: Tensor) -> Tensor:
    return images


def _tokens(model: Any, texts: Sequence[str]) -> Tensor:
    return Tokenizer()(texts, LONGEST).to(model.logit_scale.device)


@torch.no_grad()
def heard(model: Any, texts: Sequence[str]) -> Tensor:
    """Texts -> N D of length 1."""
    return torch.cat([encode_tokens(model, part) for part in _tokens(model, texts).split(_PART)]).cpu()


@torch.no_grad()
def seen(model: Any, images: Tensor) -> Tensor:
    """B 3 64 64 -> B D of length 1."""
    device = model.logit_scale.device
    return torch.cat([encode_pictures(model, part.to(device)) for part in images.split(_PART)]).cpu()


def different(count: int, rng: torch.Generator) -> list[Scene]:
    """Held-out scenes of one or two objects, no two of which show the same facts (there are 760)."""
    known: dict[Facts, Scene] = {}
    while len(known) < count:
        for scene in sample(count, rng, part="held out"):
            known.setdefault(scene.facts.ordered(), scene)
    order = torch.randperm(len(known), generator=rng)[:count].tolist()
    return [list(known.values())[i] for i in order]


def retrieval(
    model: Any, rng: torch.Generator, rounds: int, *, random: bool = False, change: Change = _same
) -> tuple[Rate, Rate]:
    """Each of 256 different held-out pictures chooses among their captions, then each caption among the pictures.

    The captions name the background, so that exactly one of them is true; in their usual form, or `random` ones.
    """
    right = [0, 0]
    each = torch.arange(CHOICES)
    for _ in range(rounds):
        scenes = different(CHOICES, rng)
        texts = [canonical(scene, background=True) for scene in scenes]
        if random:
            plain = captions([Facts(s.facts.objects, s.facts.relation) for s in scenes], rng)
            texts = [f"{text} on {scene.background}" for text, scene in zip(plain, scenes, strict=True)]
        alike = seen(model, change(render(batch(scenes)))) @ heard(model, texts).T
        right[0] += int((alike.argmax(1) == each).sum())
        right[1] += int((alike.argmax(0) == each).sum())
    return (right[0], rounds * CHOICES), (right[1], rounds * CHOICES)


def pair(model: Any, rng: torch.Generator, scenes: int, *, change: Change = _same) -> Rate:
    """One object on a background that its colour and shape were not trained on; 24 captions to choose from."""
    pictures = sample(scenes, rng, part="held out", objects=1)
    pairs = list(itertools.product(COLOURS, SHAPES))
    words = heard(model, [canonical(Facts((pair,))) for pair in pairs])
    answers = torch.tensor([pairs.index(scene.facts.objects[0]) for scene in pictures])
    return int(((seen(model, change(render(pictures))) @ words.T).argmax(1) == answers).sum()), scenes


def relation(model: Any, rng: torch.Generator, scenes: int, *, change: Change = _same) -> Rate:
    """Two held-out objects: which of the four relations is between them."""
    pictures = sample(scenes, rng, part="held out", objects=2)
    words = heard(model, [canonical(facts) for scene in pictures for facts in relations(scene)])
    alike = words.view(scenes, len(RELATIONS), -1) @ seen(model, change(render(pictures)))[:, :, None]
    return int((alike[..., 0].argmax(1) == pictures.relation).sum()), scenes


def against_wrong(model: Any, rng: torch.Generator, scenes: int) -> dict[str, Rate]:
    """Two held-out objects: the true caption against one that differs in one thing, by how it differs."""
    pictures = sample(scenes, rng, part="held out", objects=2)
    vectors = seen(model, render(pictures))
    true = (vectors * heard(model, [canonical(scene) for scene in pictures])).sum(1)
    told: dict[str, tuple[list[int], list[str]]] = {}
    for index, scene in enumerate(pictures):
        for kind, facts in negatives(scene, rng).items():
            places, texts = told.setdefault(kind, ([], []))
            places.append(index)
            texts.append(canonical(facts))
    rates = {}
    for kind, (places, texts) in told.items():
        wrong = (vectors[places] * heard(model, texts)).sum(1)
        rates[kind] = int((true[places] > wrong).sum()), len(places)
    return rates


@torch.no_grad()
def states(model: Any, texts: Sequence[str]) -> Tensor:
    """N width: the text tower's state at the end of each text."""
    tokens = _tokens(model, texts)
    ends = (tokens == model.vocab_size - 1).int().argmax(1)
    return text_states(model, tokens)[torch.arange(len(tokens)), ends].cpu()


def words_moved(model: Any, rng: torch.Generator, scenes: int = 32) -> dict[str, float]:
    """For each colour, shape and relation, how far the end state moves when another of its kind takes its place.

    The mean distance to the nearest other of its kind, over the mean distance between random captions of one fact
    (synonyms, openings, turned round). A word far below 1 is lost on whatever listens.
    """
    facts = [scene.facts for scene in sample(scenes, rng, objects=2)]
    said = [captions([Facts(f.objects, f.relation)] * 6, rng) for f in facts]
    same = torch.stack([torch.pdist(states(model, list(group))).mean() for group in said]).mean()
    moved = {}
    for kind, names in (("colour", tuple(COLOURS)), ("shape", SHAPES), ("relation", RELATIONS)):
        told = {}
        for name in names:
            changed = []
            for f in facts:
                (colour, shape), second = f.objects
                first = (name if kind == "colour" else colour, name if kind == "shape" else shape)
                changed.append(canonical(Facts((first, second), name if kind == "relation" else f.relation)))
            told[name] = states(model, changed)
        for name in names:
            far = [(told[name] - told[other]).norm(dim=1).mean() for other in names if other != name]
            moved[name] = float(torch.stack(far).min() / same)
    return moved


def figures(model: Any, rng: torch.Generator, *, scenes: int) -> dict[str, float]:
    """The rates that BARS speak of, and "word": the least that any word moves the text tower."""
    measured = {
        "retrieval": retrieval(model, rng, max(1, scenes // CHOICES))[0],
        "pair": pair(model, rng, scenes),
        "relation": relation(model, rng, scenes),
    }
    return {name: right / of for name, (right, of) in measured.items()} | {
        "word": min(words_moved(model, rng).values())
    }
