"""README.md, from results.json."""

from __future__ import annotations

import re
from statistics import mean
from typing import Any

from ..rates import percent, rate

WAYS = {"gradient": "gradient", "evolution": "evolution", "random": "random, the best of", "none": "none: one sentence"}
BAR = 0.7  # of issue 8
PLANNED = 8  # classes, when the first was looked at

HEAD = """# Natural prompts that break a class, on the demo world

`python dev.py run benchmarks/world_prompt/run.py` ({date}, torch {torch}).

The few-step model, 4 steps of euler at cfg 1. A class is a colour and a shape; the template says it and leaves room
before and behind. *Search Prompt* breaks the match of picture and prompt (the demo's BLIP-2, two seeds); the demo's
GPT-2 proposes the words. The verdict is the learning-free checker's, on eight other seeds (8 bits, and again one pixel
aside). *Fails*: the prompt is a caption of this world with the class in it, and on at least 4 of 8 seeds the picture is
a clean scene without the class. *Lies*: on at least 4 of 8 a clean scene that is not what the prompt says in every
object, relation and ground. Percent of classes whose plain prompt does not fail, with Wilson 95 % intervals. *Runs*: of
the sampler, to search; a gradient counts with its backward, as two.
"""
SEEDS = 2  # in the search


def page(results: dict[str, Any], base_rate: dict[str, Any] | None = None) -> str:
    """README.md. base_rate: of base_rate.py, where it was run."""
    found = {name: one for name, one in results["classes"].items() if not one["plain"]["fails"]}
    lines = [
        HEAD.format(**results),
        *_cost([(one["gradient"], one["evolution"]) for one in found.values()]),
        "",
        "| way | classes | its best prompt fails | one of its four fails | its best prompt lies | one of four lies "
        "| class missing, of 8 | runs |",
        "|---" * 8 + "|",
        *(_row(way, [one[way] for one in found.values()]) for way in WAYS),
        "",
        _verdict([one["gradient"] for one in found.values()]),
        *_planned(results["classes"]),
        "",
        "*Class missing*: of the best prompt's eight pictures, on average.",
        "",
        *(_base_rate(base_rate) if base_rate else []),
        "## The best prompt of each way",
        "",
        *(line for name, one in results["classes"].items() for line in _prompts(name, one)),
    ]
    return "\n".join(lines)


def _row(way: str, runs: list[dict[str, Any]]) -> str:
    best = [run["prompts"][0] for run in runs]
    shares = []
    for kind in ("fails", "lies"):
        shares += [rate(sum(one[kind] for one in best), len(best))]
        shares += [rate(sum(any(one[kind] for one in run["prompts"]) for run in runs), len(runs))]
    missing = mean(one["missing"] for one in best)
    cells = [percent(share) for share in shares]
    return f"| {WAYS[way]} | {len(runs)} | {' | '.join(cells)} | {missing:.2f} | {mean(map(spent, runs)):.0f} |"


def spent(run: dict[str, Any]) -> int:
    """Runs of the sampler, from the looks that a report tells: with a gradient (its graph kept) each of the seeds is
    two."""
    looks = re.search(r"(\d+) looks with a gradient", run["report"])
    return SEEDS * (run["steps"] + (int(looks.group(1)) if looks else 0))


def _cost(pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> list[str]:
    """Whether the ways cost the same. pairs: the gradient's run of each class, and another's."""
    rows = [(spent(gradient), spent(other), gradient["runs"]) for gradient, other in pairs]
    mine, others, said = (mean(column) for column in zip(*rows, strict=True))
    if mine == said:
        return ["All ways but *none* are at the gradient's cost."]
    return [
        "**Not at one cost**: all ways but *none* were to have as many runs as the gradient, and *Search Prompt* said",
        f"too many of it at the time ({said:.0f} for {mine:.0f}). The others had {others / mine:.1f} times its runs.",
    ]


def _verdict(runs: list[dict[str, Any]]) -> str:
    share = f"{100 * BAR:.0f} %"
    return f"Bar: the gradient's prompt fails in at least {share} of the classes, by the lower end: {_held(runs)}."


def _held(runs: list[dict[str, Any]]) -> str:
    share = rate(sum(run["prompts"][0]["fails"] for run in runs), len(runs))
    return "held" if share["low"] >= BAR else "missed"


def _planned(classes: dict[str, Any]) -> list[str]:
    """What the bar says of as many classes as there were to be; nothing where there are no more."""
    if len(classes) <= PLANNED:
        return []
    first = [one["gradient"] for one in list(classes.values())[:PLANNED] if not one["plain"]["fails"]]
    return [
        f"There were to be {PLANNED} classes; they became {len(classes)}, the next of the same order, when the first",
        f"had been looked at. Of the first {PLANNED} alone: {_held(first)}.",
    ]


def _base_rate(found: dict[str, Any]) -> list[str]:
    """How rare what is searched for is."""
    each = found["classes"]
    tried = sum(one["captions"] for one in each.values())
    failing, again = (sum(len(one[kind]) for one in each.values()) for kind in ("failing", "again"))
    rows = [
        f"| {name} | {one['captions']} | {100 * one['missing']:.2f} | {'; '.join(one['failing']) or 'none'} | "
        f"{'; '.join(one['again']) or 'none'} |"
        for name, one in each.items()
    ]
    return [
        "## How rare a failing prompt is",
        "",
        f"`{found['command']}` ({found['date']}). Usual captions of two objects with the class in them, drawn at",
        f"random, on the same eight seeds; those that fail, again on eight others. Of {tried} captions {failing} fail,",
        f"{again} of them again: there is little for any search to find in such words. (Synonyms and other openings",
        "are not tried.)",
        "",
        "| class | captions | class missing, % of their pictures | that fail | that fail again |",
        "|---" * 5 + "|",
        *rows,
        "",
    ]


def _prompts(name: str, one: dict[str, Any]) -> list[str]:
    lines = [f"**{name}**", ""]
    for way in WAYS:
        best = one[way]["prompts"][0]
        kind = "" if best["natural"] else "; not a caption"
        lines.append(
            f"- {way}: *{best['prompt']}*: class missing in {best['missing']}, not as said in {best['wrong']} of "
            f"{best['clean']} clean pictures{kind}"
        )
    return [*lines, ""]
