"""README.md, from results.json."""

from __future__ import annotations

import re
from typing import Any

from ..rates import against, percent

BAR = 0.85  # of issue 8: the target is there, by one universal vector, on so many of the held-out pairs

HEAD = """# A universal token on the demo world

`python dev.py run benchmarks/world_token/run.py` (the dates are the parts').

The few-step model, 4 steps of euler at cfg 1. Vectors at the end of a prompt of one object ("a red circle") are to
bring a second object in; they are learned on 12 objects, and the verdict is on prompts of the other 11, with and
without a ground, and on other seeds. The search follows the first CLIP. The token is saved, and said as
`embedding:name` by a plain CLIP Text Encode. *Target*: the checker, which has learned nothing, reads a clean scene
with the target in it, on the 8-bit picture and again one pixel aside; *own*: with the prompt's own object. *Second
CLIP*: the target is there, and a CLIP that nothing followed finds the prompt with it likelier than without. Percent
of the pairs of prompt and seed; Wilson 95 % intervals with a prompt as the unit.

The bar that was set: one vector brings the target in on 85 % of the held-out pairs. A bar is held where the interval's
lower end holds it. What the model makes of the words themselves is said beside it.
"""
COLUMNS = ("target", "own", "both", "clean", "target, and the second CLIP")


def page(results: dict[str, Any]) -> str:
    """README.md."""
    parts = {"main": _main, "states": _states, "curve": _curve, "placed": _placed, "pictures": _pictures}
    missing = [name for name in parts if name not in results]
    shown = ["\n".join([*parts[name](results[name]), ""]) for name in parts if name in results]
    return "\n".join([HEAD, *shown, *(["## Not run yet", "", ", ".join(missing) + ".", ""] if missing else [])])


def _how(found: dict[str, Any], sizes: str = "") -> list[str]:
    """The command of a part; where it was not kept, the sizes that the results tell."""
    if "command" in found:
        return [f"`{found['command']}`", ""]
    return [f"Made before commands were kept; sizes: {sizes}.", ""]


def _bar(ways: dict[str, dict[str, Any]]) -> list[str]:
    """The bar's verdict on what is named."""
    said = "; ".join(f"{name}: {against(row['target'], BAR)}" for name, row in ways.items())
    return [f"Bar, {100 * BAR:.0f} % with the target. {said}.", ""]


def _table(first: str, rows: dict[str, dict[str, Any]]) -> list[str]:
    return [
        f"| {first} | prompts | {' | '.join(COLUMNS)} |",
        "|---" * (2 + len(COLUMNS)) + "|",
        *(
            f"| {name} | {row['target']['n']} | {' | '.join(percent(row[column]) for column in COLUMNS)} |"
            for name, row in rows.items()
        ),
    ]


def _main(found: dict[str, Any]) -> list[str]:
    first = next(iter(found["found"].values()))
    (steps,) = re.findall(r"(\d+) steps:", first["report"])
    (pairs,) = re.findall(r"(\d+) pairs", first["report"])
    sizes = f"{len(found['found'])} of the targets, {_held(first['ways'])}, {steps} steps of {pairs} pairs"
    lines = [f"## Tokens ({found['date']})", "", *_how(found, sizes)]
    for target, one in found["found"].items():
        lines += [f"A {target}:", "", *_table("appended", one["ways"]), "", *_bar(_of_interest(one["ways"]))]
        lines += ["```", one["report"], "```", ""]
    return lines


def _of_interest(ways: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The tokens that a search found, and the words."""
    return {name: row for name, row in ways.items() if name.startswith(("learned", "in words", "the words"))}


def _held(ways: dict[str, dict[str, Any]]) -> str:
    """How many prompts the verdict was on, and how many pictures."""
    row = next(iter(ways.values()))["target"]
    return f"{row['n']} prompts with {row['trials']} pictures"


def _states(found: dict[str, Any]) -> list[str]:
    ways = found["found"]
    rows = {f"{name}; off by {row['after']:.2f} (at first {row['before']:.2f})": row for name, row in ways.items()}
    named = {f"{name} vector{'s'[: name != '1']}" if name.isdigit() else name: row for name, row in ways.items()}
    return [
        f"## How many vectors it takes ({found['date']})",
        "",
        *_how(found, f"the first target, {_held(ways)}; how many steps was not kept"),
        "No sampler and no judge: vectors are moved until the text encoder's states are those that five words give",
        "(`states.py`; *off by*: mean square; a state's own is 1). One vector cannot say five words to this encoder; a",
        "search through the sampler would have to find something else that draws the same.",
        "",
        *_table("vectors", rows),
        "",
        *_bar(named),
    ][:-1]


def _curve(found: dict[str, Any]) -> list[str]:
    rows = {
        f"{name}; length {row['length']:.2f}" if "length" in row else name: row for name, row in found["found"].items()
    }
    return [
        f"## How far it may go ({found['date']})",
        "",
        *_how(found),
        "The first target. epsilon in standard deviations of the vocabulary, around the target's shape as the initial",
        "word of one vector, or around the five words; the length is that of the vectors found, on average, in the",
        f"encoder's own units. {found['sizes']['steps']} steps of {found['pairs']} pairs: the cosine of the step sizes",
        "leaves about 0.4 of epsilon that a coordinate can get to at most; steps of 0.2 do not leave one vector's",
        "smallest box, so that the next two rows are the same search.",
        "",
        *_table("budget", rows),
        "",
        *_bar(_best(found["found"])),
    ][:-1]


def _best(ways: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The best of each kind of token that a gradient found, and the words."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for name, row in ways.items():
        if "random" not in name:
            kinds.setdefault(name.partition(",")[0], []).append(row)
    return {
        f"{kind}, the best of {len(rows)}" if len(rows) > 1 else kind: max(rows, key=lambda row: row["target"]["rate"])
        for kind, rows in kinds.items()
    }


def _placed(found: dict[str, Any]) -> list[str]:
    lines = [
        f"## Before the ground ({found['date']})",
        "",
        *_how(found),
        "A token at the end of a prompt comes behind its ground (*a red circle on white left of a blue ring*), as no",
        "caption that the model learned from has it. Here it stands where a placeholder puts it, before the ground.",
        f"{found['sizes']['steps']} steps of {found['pairs']} pairs around the words; prompts that the curve did not",
        "have.",
        "*At random, as far*: each of the words' vectors moved by as much as the search moved it.",
        "",
    ]
    for target, one in found["found"].items():
        lines += [f"A {target} (the search used {one['used']:g} of its 0.5):", "", *_table("inserted", one["ways"]), ""]
        lines += _bar(_of_interest(one["ways"]))
    return lines


def _pictures(found: dict[str, Any]) -> list[str]:
    lines = [
        f"## Textual inversion ({found['date']})",
        "",
        *_how(found),
        "The object is shown and never named: pictures of it alone on two grounds, as the target of *Objective:",
        "Similarity (CLIP)*; learned in prompts such as *a <token> on a white background*, from the word of its shape.",
        "The verdict is on prompts with another object beside it, *a red circle left of a <token> on a grey",
        f"background*. {found['sizes']['steps']} steps.",
        "",
    ]
    for target, one in found["found"].items():
        lines += [f"A {target}, {one['pictures']} pictures:", "", *_table("in place of the token", one["ways"]), ""]
    return lines
