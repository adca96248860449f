"""README.md, from results.json."""

from __future__ import annotations

from statistics import mean
from typing import Any

from ..rates import percent, rate

WAYS = {"gradient": "gradient", "evolution": "evolution", "random": "random, the best of", "none": "none: one sentence"}
BAR = 0.7  # of issue 8

HEAD = """# Natural prompts that break a class, on the demo world

`python dev.py run benchmarks/world_prompt/run.py` ({date}, torch {torch}).

The few-step model, 4 steps of euler at cfg 1. A class is a colour and a shape; the template says it and leaves room
before and behind. *Search Prompt* breaks the match of picture and prompt (the demo's BLIP-2, two seeds); the demo's
GPT-2 proposes the words. The verdict is the learning-free checker's, on eight other seeds (8 bits, and again one pixel
aside). *Fails*: the prompt is a caption of this world with the class in it, and on at least 4 of 8 seeds the picture is
a clean scene without the class. *Lies*: on at least 4 of 8 a clean scene that is not what the prompt says in every
object, relation and ground. Percent of classes whose plain prompt does not fail, with Wilson 95 % intervals; all ways
but *none* at the gradient's cost in runs of the sampler (a gradient counts with its backward).
"""


def page(results: dict[str, Any], base_rate: dict[str, Any] | None = None) -> str:
    """README.md. base_rate: of base_rate.py, where it was run."""
    found = {name: one for name, one in results["classes"].items() if not one["plain"]["fails"]}
    lines = [
        HEAD.format(**results),
        "| way | classes | its best prompt fails | one of its four fails | its best prompt lies | one of four lies "
        "| class missing, of 8 | runs |",
        "|---" * 8 + "|",
        *(_row(way, [one[way] for one in found.values()]) for way in WAYS),
        "",
        _verdict([one["gradient"] for one in found.values()]),
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
    return f"| {WAYS[way]} | {len(runs)} | {' | '.join(cells)} | {missing:.2f} | {mean(r['runs'] for r in runs):.0f} |"


def _verdict(runs: list[dict[str, Any]]) -> str:
    share = rate(sum(run["prompts"][0]["fails"] for run in runs), len(runs))
    words = "held" if share["low"] >= BAR else "missed"
    return f"Bar: the gradient's prompt fails in at least {100 * BAR:.0f} % of the classes, by the lower end: {words}."


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
