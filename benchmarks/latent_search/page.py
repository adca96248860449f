"""README.md and the plot, from results.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...core.gaussianity import STATISTICS
from ..rates import against, percent, rate, shared

HEAD = """# Latent search on the demo world

`python dev.py run benchmarks/latent_search/run.py`, a part at a time (the dates are the parts').

The demo's text-to-image model, 6 steps of euler at cfg 1 (without guidance, where the seed has most to say). What a
search follows, each part says. A result counts as *broken* when the checker, which has learned nothing, reads a clean
scene that is not the prompt's, on the 8-bit picture and again one pixel aside; the picture is what
SamplerCustomAdvanced draws from the exported NOISE. Percent with Wilson 95 % intervals, units are prompts. Costs are in
runs of the sampler (6 evaluations), backward passes counted, decode and judges not.

What a step costs at the size of SD 1.5, SDXL or Flux is not measured: that wants a GPU, and there was none.
"""
RARE = 0.01  # of single seeds: what counts as rare
BREAKS, SAVES = 0.8, 0.5  # bars of issue 7: share of broken prompts; of best-of-n's cost at 50 % success
ENOUGH = 0.5  # success at which costs are compared


def page(results: dict[str, Any]) -> str:
    """README.md."""
    parts = {"routes": _routes, "budgets": _budgets, "break": _break, "satisfy": _satisfy, "easy": _easy}
    missing = [name for name in parts if name not in results]
    rest = ["## Not run yet", "", ", ".join(missing) + ".", ""] if missing else []
    more: list[str] = []
    if "break, again" in results:
        more += ["", *_again(results["break, again"])]
    if "break, guided" in results:
        more += ["", *_guided(results["break, guided"])]
    parts = {**parts, "break": lambda found: [*_break(found), *more]}
    shown = ["\n".join([*parts[name](results[name]), ""]) for name in parts if name in results]
    return "\n".join([HEAD, *shown, *rest])


def _routes(found: dict[str, Any]) -> list[str]:
    return [
        f"## Routes ({found['date']})",
        "",
        f"Cosine with the exact gradient, at {found['points']} points along the exact search's way on",
        f"{found['prompts']} prompts; two random directions: {found['null']:.3f}. Cost of a gradient in sampler runs.",
        "",
        "| route | cosine | from | to | cost |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {row['cosine']:.3f} | {row['lowest']:.3f} | {row['highest']:.3f} | {row['cost']:.2f} |"
            for name, row in found["routes"].items()
        ),
        "",
        "What they break on any held-out prompts of two objects, down the first CLIP's margin between the prompt and",
        "its hard negatives, as far from the seed's noise as an independent one:",
        "",
        *_table(found["broken"]),
        "",
        "Recommended, and what *auto* takes: the exact route, which alone goes the gradient's way everywhere. What the",
        "others break does not differ from it at this n (the intervals overlap), for the runs that the table says. One",
        "step at the start is by far the cheapest and does not go the gradient's way at all (its cosine is that of two",
        "random directions): take it where time is short, and expect noises that the tests tell from others.",
    ]


def _table(rows: dict[str, dict[str, Any]]) -> list[str]:
    names = list(STATISTICS)

    def rejections(row: dict[str, Any]) -> str:
        return " | ".join(str((row["rejected"] or {}).get(name, "")) for name in names)

    return [
        f"| way | n | broken | and the second CLIP agrees | clean | sampler runs | {' | '.join(names)} |",
        "|---" * (6 + len(names)) + "|",
        *(
            f"| {way} | {row['broken']['n']} | {percent(row['broken'])} "
            f"| {percent(row['broken and the second CLIP agrees'])} | {percent(row['clean'])} "
            f"| {row['sampler runs']:.0f} | {rejections(row)} |"
            for way, row in rows.items()
        ),
    ]


def _ways(found: dict[str, Any]) -> dict[str, Any]:
    """The rows of a part that are ways of breaking, not facts of the run."""
    return {name: row for name, row in found.items() if isinstance(row, dict) and "broken" in row}


def _budgets(found: dict[str, Any]) -> list[str]:
    rows = _ways(found)
    most = next(iter(rows.values()))["rejected"]["of true samples at most"]
    if "no search" in rows:
        chosen = (
            "*no search* is the seed's own picture. The node's default, *move phases*, was chosen on other prompts."
        )
    else:
        chosen = "*random* says how many may be. The node's default, *move phases*, was chosen on this very table."
    return [
        f"## Budgets ({found['date']})",
        "",
        "Any held-out prompt of two objects, down the first CLIP's margin between it and its hard negatives. The last",
        "columns: how many of the noises found each test of Gaussianity rejects at 5 %; of as many true samples at",
        f"most {most} are, with 97.5 % probability. *random*: the best of 41 noises in the budget. Some prompts were",
        f"wrong before: {chosen} A difference is proved only where intervals",
        "part.",
        "",
        *_table(rows),
        "",
        "![success against rejections](budgets.png)",
    ]


def _break(found: dict[str, Any]) -> list[str]:
    most = next(iter(found["ways"].values()))["rejected"]["of true samples at most"]
    plain, chosen = found["no search"], found["settings"]
    right = ", ".join(str(100 - failures) for failures in found["failures of 100 seeds"])
    return [
        f"## Break ({found['date']})",
        "",
        f"{len(found['prompts'])} prompts of one object on a named ground ({found['held out']} of them held out of the",
        f"model's training) that the plain sampler draws right for at least 95 of 100 seeds ({right}). Without a",
        f"search {percent(plain['broken'])} are broken and {percent(plain['clean'])} clean.",
        "",
        "*Towards near misses*: the same seed draws every prompt with another colour or shape; *Search Noise* goes to",
        f"the {found['near misses']} of these pictures that are nearest to the prompt's own (*Distance* of it,",
        f"{chosen['budget']}, epsilon {chosen['epsilon']:g}, step size {chosen['step_size']:g}, {chosen['schedule']}, "
        f"{chosen['search_steps']} steps), and what came nearest to its",
        "own is kept. Drawing them is in the cost. *Nearest of as many seeds*: the same choice without a search. *Away",
        "from the prompt*: down the first CLIP's margin with the same steps. The last columns: how many of the noises",
        f"each test rejects at 5 % (of true samples at most {most}).",
        "",
        *_table(found["ways"]),
        "",
        _bar(next(iter(found["ways"].values()))["broken"]),
    ]


def _bar(broken: dict[str, Any]) -> str:
    return f"Bar: {100 * BREAKS:.0f} % broken: {against(broken, BREAKS)}."


def _again(found: dict[str, Any]) -> list[str]:
    """What the choice of the prompts is worth, and the node's own settings."""
    failures = found["failures of 100 other seeds"]
    right = ", ".join(str(100 - one) for one in failures)
    (row,) = found["ways"].values()
    tests = ", ".join(f"{test} {count}" for test, count in row["rejected"].items() if test in STATISTICS)
    return [
        f"{found['prompts looked at']} prompts were looked at for these. With 100 other seeds, which chose nothing,",
        f"the sampler draws them right for {right} ({found['keep to 95']} of {len(failures)} for at least 95).",
        "",
        f"The same way with the node's own settings otherwise (epsilon 0.5, 20 steps) breaks {percent(row['broken'])}",
        f"in {row['sampler runs']:.0f} runs; rejected by {tests} (of true samples at most",
        f"{row['rejected']['of true samples at most']}).",
    ]


def _guided(found: dict[str, Any]) -> list[str]:
    """What guidance makes of it."""
    broken = found["ways"]["towards near misses"]["broken"]
    return [
        f"With guidance (cfg {found['cfg']:g}, {found['settings']['budget']}) it breaks",
        f"{percent(broken)} of {broken['n']} prompts that are drawn right so often",
        "(results.json): what it binds to its prompt holds.",
    ]


def _satisfy(found: dict[str, Any]) -> list[str]:
    return [
        f"## Satisfy ({found['date']})",
        "",
        f"{found['sketches']} prompts of one object, each once, with a sketch of what the prompt does not say: its",
        "place (in 4 pixels), size (radius within 2.5) and ground, one that no training showed this object on. The",
        "objective is the distance from the sketch, for the search and for best of n; the node's budget *turn each",
        f"channel*, epsilon 0.5, step size 0.1. Of single seeds {_percents(found['base rate per seed'])} fit",
        "(bootstrap over sketches);",
        f"{found['wishes that no seed met']} sketches no seed meets.",
        "",
        *_costs(found),
        "",
        *_rare(found),
    ]


def _easy(found: dict[str, Any]) -> list[str]:
    return [
        f"## Satisfy what is easy ({found['date']})",
        "",
        f"{found['sketches']} prompts of one object, and a ground that they do not say. The objective is the first",
        "CLIP's margin between the text with this ground and those with others, for the search (the node's defaults)",
        f"and for best of n. Of single seeds {_percents(found['base rate per seed'])} fit.",
        "",
        *_costs(found),
    ]


def _rare(found: dict[str, Any]) -> list[str]:
    """The same of the sketches that at most one seed in a hundred meets, each by its own pool, and the bar."""
    chosen = [k for k, met in enumerate(found["seeds that fit"]) if met <= RARE * found["base rate per seed"]["seeds"]]
    if not chosen:
        return ["No sketch is that rare."]

    def of(values: list[Any]) -> list[Any]:
        return [values[k] for k in chosen]

    rare = {
        "best of n": {n: shared(of(row["shares"])) for n, row in found["best of n"].items()},
        "search": {
            steps: {**row, "fits": rate(sum(of(row["met"])), len(chosen))} for steps, row in found["search"].items()
        },
    }
    return [
        f"The {len(chosen)} sketches that at most {100 * RARE:.0f} % of these seeds meet (with other seeds best of n",
        "may be a little better on them):",
        "",
        *_costs(rare),
        "",
        *_verdict(rare),
    ]


def _percents(rate: dict[str, Any]) -> str:
    """With a digit behind the point: small rates."""
    return f"{100 * rate['rate']:.1f} ({100 * rate['low']:.1f} to {100 * rate['high']:.1f}) %"


def _costs(found: dict[str, Any]) -> list[str]:
    return [
        "| way | sampler runs | fits, % |",
        "|---|---|---|",
        *(f"| best of {n} seeds | {n} | {percent(row)} |" for n, row in found["best of n"].items()),
        *(
            f"| search, {steps} steps | {row['sampler runs']:.0f} | {percent(row['fits'])} |"
            for steps, row in found["search"].items()
        ),
    ]


def _verdict(found: dict[str, Any]) -> list[str]:
    """Bar: half of best-of-n's cost at 50 % success. Where no pool reaches that, its largest stands for it."""
    enough = [row["sampler runs"] for row in found["search"].values() if row["fits"]["rate"] >= ENOUGH]
    picked = {int(n): row["rate"] for n, row in found["best of n"].items()}
    reached = [n for n, value in picked.items() if value >= ENOUGH]
    if not enough:
        return [f"Bar: half of best-of-n's cost at {100 * ENOUGH:.0f} % success: missed, no search succeeds so often."]
    best, most = min(enough), min(reached, default=max(picked))
    words = f"{most}" if reached else f"more than {most} (so many reach {100 * picked[most]:.0f} %)"
    held = best <= SAVES * most
    return [
        f"Bar: half of best-of-n's cost at {100 * ENOUGH:.0f} % success: {best:.0f} runs against {words}: "
        f"{'held' if held else 'missed'}.",
    ]


def plot(results: dict[str, Any], path: Path) -> None:
    """Success of each budget against its worst rejection rate."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(6.5, 4), layout="constrained")
    rows = _ways(results["budgets"])
    for name, row in rows.items():
        worst = max(row["rejected"][test] for test in STATISTICS) / row["rejected"]["n"]
        axis.plot(100 * worst, 100 * row["broken"]["rate"], "o")
        axis.annotate(name, (100 * worst, 100 * row["broken"]["rate"]), fontsize=7, xytext=(4, 4),
                      textcoords="offset points")  # fmt: skip
    first = next(iter(rows.values()))["rejected"]
    axis.axvspan(0, 100 * first["of true samples at most"] / first["n"], color="#dde8dd", lw=0)
    axis.set(xlabel="noises rejected by the strictest test, % (shaded: as true samples)", ylabel="broken, %")
    axis.set(xlim=(-3, 110), ylim=(-5, 105))
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
