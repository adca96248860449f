"""What can be said of a scene of the demo world: captions with synonyms, hard negatives, and their reading back.

Captions are lower case words without punctuation. WORDS are all that occur in them, for a tokenizer. Every phrase has
its usual form first, which `canonical` uses; `caption` takes others too, turns the relation round (a left of b: b right
of a), puts it first, and names the background or not.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from .world import BACKGROUNDS, COLOURS, CONVERSE, RELATIONS, SHAPES, Facts, Scene

COLOUR_WORDS = {
    "red": ("red", "scarlet"),
    "green": ("green", "lime"),
    "blue": ("blue", "cobalt"),
    "yellow": ("yellow", "golden"),
    "pink": ("pink", "magenta"),
    "cyan": ("cyan", "turquoise"),
}
SHAPE_WORDS = {
    "circle": ("circle", "disc"),
    "square": ("square", "box"),
    "triangle": ("triangle", "pyramid"),
    "ring": ("ring", "hoop"),
}
RELATION_WORDS = {
    "left of": ("left of", "to the left of", "on the left of"),
    "right of": ("right of", "to the right of", "on the right of"),
    "above": ("above", "over", "higher than"),
    "below": ("below", "under", "lower than"),
}
OPENINGS = ("", "a picture of ", "an image of ", "there is ")
GROUNDS = ("on a {} background", "on {}")
USUAL = 0.6  # how often `caption` takes the usual form of a phrase
NAMED = 1 / 3  # how often it names the background
FRONTED = 1 / 6  # how often it begins with the relation
_CHOICES = 12  # random numbers that one caption takes

_COLOUR_OF = {word: name for name, words in COLOUR_WORDS.items() for word in words}
_SHAPE_OF = {word: name for name, words in SHAPE_WORDS.items() for word in words}


def _all_words() -> tuple[str, ...]:
    phrases = [*OPENINGS, *GROUNDS, *BACKGROUNDS, *_COLOUR_OF, *_SHAPE_OF, "a", "is"]
    phrases += [phrase for phrases in RELATION_WORDS.values() for phrase in phrases]
    return tuple(sorted({word for phrase in phrases for word in phrase.split() if word != "{}"}))


WORDS = _all_words()


def _facts(scene: Scene | Facts) -> Facts:
    return scene.facts if isinstance(scene, Scene) else scene


def canonical(scene: Scene | Facts, *, background: bool = False) -> str:
    """The usual caption, in the order of the scene's objects: "a red circle left of a blue square"."""
    facts = _facts(scene)
    said = f" {facts.relation} ".join(f"a {colour} {shape}" for colour, shape in facts.objects)
    if background and facts.background:
        said += " " + GROUNDS[0].format(facts.background)
    return said


def _chosen(phrases: tuple[str, ...], chance: float) -> str:
    """The usual phrase for a chance in [0,1) below USUAL, one of the others above."""
    if chance < USUAL:
        return phrases[0]
    return phrases[1 + int((chance - USUAL) / (1 - USUAL) * (len(phrases) - 1))]


def _phrased(facts: Facts, chances: list[float]) -> str:
    turned, fronted, named, how, opening, relation, *rest = chances
    objects = [
        f"a {_chosen(COLOUR_WORDS[colour], rest[2 * i])} {_chosen(SHAPE_WORDS[shape], rest[2 * i + 1])}"
        for i, (colour, shape) in enumerate(facts.objects)
    ]
    start = _chosen(OPENINGS, opening)
    if facts.relation is None:
        said = start + objects[0]
    else:
        kind = facts.relation
        if turned < 0.5:
            kind, objects = CONVERSE[kind], objects[::-1]
        phrase = _chosen(RELATION_WORDS[kind], relation)
        if fronted < FRONTED:
            said = f"{phrase} {objects[1]} is {objects[0]}"
        else:
            said = f"{start}{objects[0]} {phrase} {objects[1]}"
    if facts.background and named < NAMED:
        said += " " + _chosen(GROUNDS, how).format(facts.background)
    return said


def captions(scenes: Iterable[Scene | Facts], rng: torch.Generator) -> list[str]:
    """A random caption for each; what it says is true of its scene. `rng` is a CPU generator."""
    facts = [_facts(scene) for scene in scenes]
    chances = torch.rand(len(facts), _CHOICES, generator=rng, dtype=torch.float64).tolist()
    return [_phrased(fact, row) for fact, row in zip(facts, chances, strict=True)]


def caption(scene: Scene | Facts, rng: torch.Generator) -> str:
    """A random caption of one scene."""
    return captions([scene], rng)[0]


def _object(words: str) -> tuple[str, str]:
    match words.split():
        case ["a", colour, shape] if colour in _COLOUR_OF and shape in _SHAPE_OF:
            return _COLOUR_OF[colour], _SHAPE_OF[shape]
    raise ValueError(f"Expected an object such as 'a red circle', and came {words!r}.")


def _without_ground(text: str) -> tuple[str, str | None]:
    for name in BACKGROUNDS:
        for ground in GROUNDS:
            if text.endswith(" " + ground.format(name)):
                return text.removesuffix(" " + ground.format(name)), name
    return text, None


def parse(text: str) -> Facts:
    """The facts that a caption states, in its own order. Raises ValueError for words that are no caption."""
    said, background = _without_ground(" ".join(text.lower().split()))
    for opening in OPENINGS[1:]:
        said = said.removeprefix(opening)
    # longest first: "left of" is part of "to the left of"
    phrases = sorted(((p, kind) for kind, ps in RELATION_WORDS.items() for p in ps), key=lambda pair: -len(pair[0]))
    for phrase, kind in phrases:
        first, found, second = f" {said} ".partition(f" {phrase} ")
        if not found:
            continue
        if not first.strip():
            second, _, first = second.partition(" is ")
        return Facts((_object(first), _object(second)), kind, background)
    return Facts((_object(said),), None, background)


def _replaced(facts: Facts, index: int, thing: tuple[str, str]) -> Facts:
    objects = tuple(thing if i == index else other for i, other in enumerate(facts.objects))
    return Facts(objects, facts.relation, facts.background)


def _other(names: Iterable[str], taken: set[str], rng: torch.Generator) -> str:
    left = [name for name in names if name not in taken]
    return left[int(torch.randint(len(left), (1,), generator=rng))]


def negatives(scene: Scene | Facts, rng: torch.Generator) -> dict[str, Facts]:
    """Facts that are wrong for the scene, by how they differ; none of them equals it, or has two equal objects.

    Always "colour changed" and "shape changed" (of one object, by `rng`); for two objects "relation flipped", and
    "colours swapped" and "shapes swapped" where they differ. (Where only the colours differ, to swap them is to flip
    the relation.)
    """
    facts = _facts(scene)
    index = int(torch.randint(len(facts.objects), (1,), generator=rng))
    colour, shape = facts.objects[index]
    neighbours = [other for i, other in enumerate(facts.objects) if i != index]
    wrong = {
        "colour changed": _replaced(
            facts, index, (_other(COLOURS, {colour, *(c for c, s in neighbours if s == shape)}, rng), shape)
        ),
        "shape changed": _replaced(
            facts, index, (colour, _other(SHAPES, {shape, *(s for c, s in neighbours if c == colour)}, rng))
        ),
    }
    if facts.relation is not None:
        (c0, s0), (c1, s1) = facts.objects
        wrong["relation flipped"] = Facts(facts.objects, CONVERSE[facts.relation], facts.background)
        if c0 != c1:
            wrong["colours swapped"] = Facts(((c1, s0), (c0, s1)), facts.relation, facts.background)
        if s0 != s1:
            wrong["shapes swapped"] = Facts(((c0, s1), (c1, s0)), facts.relation, facts.background)
    return wrong


def relations(scene: Scene | Facts) -> list[Facts]:
    """The scene's two objects in each of RELATIONS, for a 4-way choice."""
    facts = _facts(scene)
    return [Facts(facts.objects, relation, facts.background) for relation in RELATIONS]
