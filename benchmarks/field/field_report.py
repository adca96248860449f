"""results.json as a table in README.md and a plot: `python benchmarks/field/field_report.py`"""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

from scipy.stats import t as student

HERE = Path(__file__).parent
BEGIN, END = "<!-- table: written by run.py -->", "<!-- end of table -->"
PAIRED = (("success", ".0%"), ("used", ".3f"))
COLUMNS = {
    "same": "same rule, same steps",
    "strict": "same rule, no more forward-equivalents",
    "cosine": "our cosine rule, no more forward-equivalents",
}


def difference(row: dict[str, Any], who: str) -> tuple[float, float]:
    """Mean over seeds of (ours - theirs), and half the width of its paired 95 % interval."""
    ours, theirs = row["per_seed"][who]["loss"], row["per_seed"]["theirs"]["loss"]
    gaps = [a - b for a, b in zip(ours, theirs, strict=True)]
    half = student.ppf(0.975, len(gaps) - 1) * statistics.stdev(gaps) / math.sqrt(len(gaps)) if len(gaps) > 1 else 0.0
    return statistics.mean(gaps), float(half)


def mean_of(row: dict[str, Any], who: str, key: str) -> float:
    return statistics.mean(row["per_seed"][who][key])


def number(value: float) -> str:
    return f"{value:.0f}" if value == round(value) else f"{value:.1f}"


def change(row: dict[str, Any], who: str) -> str:
    gap, half = difference(row, who)
    return f"{gap:+.4f} ± {half:.4f}"


def markdown(head: str, rows: list[list[str]], left: int) -> list[str]:
    """A Markdown table, the first `left` columns aligned left."""
    columns = head.split(" | ")
    align = ["---"] * left + ["--:"] * (len(columns) - left)
    return ["", *(f"| {' | '.join(cells)} |" for cells in [columns, align, *rows]), ""]


def who_is(row: dict[str, Any]) -> list[str]:
    return [row["norm"], f"{row['library']} {row['attack']}", row["start"], str(row["steps"])]


def tables(results: dict[str, Any]) -> str:
    """The Markdown between the README's two marks."""
    seeds, images = len(results["seeds"]), results["images_per_seed"]
    versions = results["versions"]
    lines = [
        f"{results['date']}; torch {versions['torch']}, foolbox {versions['foolbox']}, torchattacks "
        f"{versions['torchattacks']}; {seeds} seeds x {images} pictures; {results['seconds']} s on one thread. "
        f"Clean accuracy {results['clean_accuracy']:.1%}; backward / forward FLOPs "
        f"{results['backward_over_forward']:.3f}.",
        "",
        "### Same start, rule, step size and number of steps",
    ]
    rows = []
    for row in results["rows"]:
        theirs, same = mean_of(row, "theirs", "cost") + (not row["judged"]), mean_of(row, "same", "cost")
        cells = [f"{mean_of(row, 'theirs', 'loss'):.3f}", f"{mean_of(row, 'same', 'loss'):.3f}"]
        cells += [change(row, "same"), change(row, "last"), f"{number(theirs)} / {number(same)}"]
        cells += [" / ".join(f"{mean_of(row, who, key):{form}}" for who in ("theirs", "same")) for key, form in PAIRED]
        rows.append(who_is(row) + cells)
    head = (
        "norm | attack | start | steps | their loss | our loss (best) | ours - theirs | our last iterate - theirs | "
        "FE with verdict | success | share of epsilon used"
    )
    lines += markdown(head, rows, 3)
    lines += ["### No more forward-equivalents by the strictest count (ours includes `select`, theirs no verdict)"]
    rows = []
    for row in results["rows"]:
        costs = " / ".join(number(mean_of(row, who, "cost")) for who in ("theirs", "strict"))
        cells = [f"{mean_of(row, 'theirs', 'loss'):.3f}", costs, change(row, "strict"), change(row, "cosine")]
        cells += [" / ".join(f"{mean_of(row, who, 'success'):.0%}" for who in ("theirs", "strict", "cosine"))]
        rows.append(who_is(row) + cells)
    head = (
        "norm | attack | start | their steps | their loss | FE | same rule - theirs | "
        "our cosine rule - theirs | success: theirs / same rule / cosine"
    )
    lines += markdown(head, rows, 3)
    lines += ["### No gradient: the best of random points on the ball's surface"]
    rows = []
    for row in results["random"]:
        mean = {key: statistics.mean(values) for key, values in row["per_seed"].items()}
        rows.append([row["norm"], number(mean["cost"]), f"{mean['loss']:.3f}", f"{mean['success']:.1%}"])
    lines += markdown("norm | FE | loss | success", rows, 1)
    lines += ["### Step for step, float64: largest difference of any entry of the iterates"]
    rows = [
        [
            *(row["pair"], row["norm"], row["where"], str(row["steps"]), f"{row['largest_gap']:.1e}"),
            f"{row['largest_gap_inside']:.1e} ({row['steps_inside']})",
        ]
        for row in results["step_for_step"]
    ]
    lines += markdown("attack | norm | where | steps | all steps | before the first projection (steps)", rows, 3)
    return "\n".join(lines)


def plot(results: dict[str, Any], path: Path) -> None:
    """Ours minus theirs, with the paired intervals, one line per attack and start."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = results["rows"]
    figure, axis = plt.subplots(figsize=(8, 0.28 * len(rows) + 1.4))
    looks = {"same": ("#0072b2", "o"), "strict": ("#d55e00", "s"), "cosine": ("#009e73", "^")}
    for shift, (who, label) in zip((-0.2, 0.0, 0.2), COLUMNS.items(), strict=True):
        gaps = [difference(row, who) for row in rows]
        colour, marker = looks[who]
        places = [i + shift for i in range(len(rows))]
        axis.errorbar(
            [g for g, _ in gaps], places, xerr=[h for _, h in gaps], fmt=marker, color=colour, ms=4, lw=1, label=label
        )
    axis.set_yticks(range(len(rows)), [f"{r['norm']} {r['library']} {r['attack']}, {r['start']}" for r in rows])
    axis.tick_params(labelsize=7)
    axis.set_xscale("symlog", linthresh=0.01)
    axis.axvline(0, color="black", lw=0.8)
    axis.invert_yaxis()
    axis.grid(axis="x", alpha=0.3)
    axis.set_xlabel("cross entropy, ours minus theirs (right of 0: ours is stronger); 95 % over seeds", fontsize=8)
    axis.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.3, 1.08), ncols=3, frameon=False)
    figure.savefig(path, dpi=100, bbox_inches="tight")
    plt.close(figure)


def write_report(results: dict[str, Any], folder: Path) -> None:
    """Put the tables between the marks of folder/README.md (made if there is none) and draw the plot beside it."""
    readme = folder / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.exists() else f"{BEGIN}\n{END}\n"
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    readme.write_text(f"{before}{BEGIN}\n{tables(results)}\n{END}{after}", encoding="utf-8")
    plot(results, folder / "field.png")


if __name__ == "__main__":
    write_report(json.loads((HERE / "results.json").read_text(encoding="utf-8")), HERE)
