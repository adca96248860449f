"""results.json as a page: every number in it is taken from there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from . import cases, cost, memory, rivals, samplers_real, scenes, shortcuts

Row = dict[str, Any]


def json_text(result: dict[str, Any]) -> str:
    """A line per row."""
    text = json.dumps({name: {**part, "rows": []} for name, part in result.items()}, indent=1)
    for part in result.values():
        rows = ",\n   ".join(json.dumps(row) for row in part["rows"])
        text = text.replace('"rows": []', f'"rows": [\n   {rows}\n  ]', 1)
    return text + "\n"


def page(result: dict[str, Any]) -> str:
    """README.md."""
    rows = {name: part["rows"] for name, part in result.items()}
    first = result["right"]
    minutes = sum(part["seconds"] for part in result.values()) / 60
    ours = [error for row in rows["right"] for error in _ours(row).values()]
    fields = {
        "minutes": f"{minutes:.0f}",
        "versions": f"ComfyUI {first['comfyui']}, torch {first['torch']}, Python {first['python']}, {first['date']}",
        "count": len(rows["right"]),
        "worst": _error(max(ours)),
        "parity": f"{max(row['parity'] for row in rows['right']):.1g}",
        "steps": ", ".join(f"{name} {step:g}" for name, step in cases.STEP.items()),
        "ways": cases.WAYS,
        "bar": f"{cases.BAR:.0%}",
        "settings": _settings(rows["right"]),
        "storage": _storage(rows["right"]),
        "variables": _variables(rows["right"]),
        "rivals": _rivals(rows["right"]),
        "words": _words(rows["right"]),
        "rival_notes": "\n".join(f"- **{name}**: {note}" for name, note in rivals.NOTES.items()),
        "notes": "; ".join(f"*{name}*: {note}" for name, note in scenes.NOTES.items()),
        "cost": _cost(rows["cost"]),
        "cost_first": f"{max(row['first'] for row in rows['cost'] if row['route'] == 'exact'):.2f}",
        "memory": _memory(rows["memory"]),
        "flat": _flat(rows["memory"]),
        "tokens": memory.TOKENS,
        "overhead": _overhead(rows["overhead"]),
        "samplers": _samplers(rows["samplers"]),
        "shortcuts": _shortcuts(rows["shortcuts"]),
        "sampler_steps": samplers_real.STEPS,
        "shortcut_models": ", ".join(shortcuts.FAMILIES),
        "shortcut_samplers": ", ".join(shortcuts.SAMPLERS),
        "shortcut_steps": shortcuts.STEPS,
        "sampler_ways": samplers_real.RANDOM,
    }
    text = (Path(__file__).resolve().parent / "page.md").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda field: str(fields[field.group(1)]), text)


def picture(rows: Sequence[Row], path: Path) -> None:
    """One point a case; what raised is counted above."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    names = [*cases.RUNGS, *rivals.NOTES]
    figure, axes = pyplot.subplots(figsize=(8, 3.6), dpi=120)
    for at, name in enumerate(names):
        errors = [row["errors"][name] for row in rows if name in row["errors"]]
        raised = sum(name in row["refused"] for row in rows)
        spread = [at + 0.6 * ((i * 0.618) % 1 - 0.5) for i in range(len(errors))]
        colours = ["tab:green" if error <= cases.BAR else "tab:red" for error in errors]
        axes.scatter(spread, errors, s=7, c=colours, alpha=0.7, linewidths=0)
        axes.text(at, 6, f"{raised} raise" if raised else "", ha="center", va="bottom", fontsize=8)
    axes.axhline(cases.BAR, color="black", linewidth=0.8, linestyle="--")
    axes.set_yscale("log")
    axes.set_ylim(3e-5, 20)
    labels = [f"ours, {name}" if name in cases.RUNGS else name for name in names]
    axes.set_xticks(range(len(names)), labels, fontsize=8)
    axes.set_ylabel("relative error of the gradient", fontsize=8)
    axes.tick_params(axis="y", labelsize=8)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def _ours(row: Row) -> dict[str, float]:
    return {way: error for way, error in row["errors"].items() if way in cases.RUNGS}


def _error(value: float) -> str:
    """In per cent."""
    return f"{100 * value:.2g} %" if value < 1 else f"{100 * value:.0f} %"


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [list(head), ["---"] * len(head), *[list(line) for line in lines]]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _worst(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    if any(name in row["refused"] for row in rows for name in cases.RUNGS):
        return "raises"
    return _error(max(error for row in rows for error in _ours(row).values()))


def _settings(rows: Sequence[Row]) -> str:
    def cell(setting: str, family: str) -> str:
        here = {"family": family, "setting": setting, "dtype": "fp32"}
        return _worst([row for row in rows if row["scene"] == here])

    lines = [[setting, *(cell(setting, family) for family in scenes.FAMILIES)] for setting in scenes.SETTINGS]
    return _table(["graph", *scenes.FAMILIES], lines)


def _storage(rows: Sequence[Row]) -> str:
    def cell(dtype: str, family: str) -> str:
        here = {"family": family, "setting": "plain", "dtype": dtype}
        return _worst([row for row in rows if row["scene"] == here])

    lines = [[dtype, *(cell(dtype, family) for family in scenes.FAMILIES)] for dtype in scenes.DTYPES]
    return _table(["stored as", *scenes.FAMILIES], lines)


def _variables(rows: Sequence[Row]) -> str:
    lines = []
    for name in cases.STEP:
        of = [row for row in rows if row["variable"] == name]
        errors = sorted(max(_ours(row).values()) for row in of if _ours(row))
        blocks = max(row["blocks"][way] for row in of for way in _ours(row))
        middle = errors[len(errors) // 2]
        lines.append([name, str(len(of)), _error(middle), _error(errors[-1]), _error(blocks)])
    return _table(["variable", "cases", "median", "worst", "worst, blocks alone"], lines)


def _rivals(rows: Sequence[Row]) -> str:
    def cell(of: Sequence[Row], name: str) -> str:
        errors = [row["errors"][name] for row in of if name in row["errors"]]
        raised = any(name in row["refused"] for row in of)
        if not errors:
            return "raises"
        worst = _error(max(errors))
        shown = f"**{worst}**" if max(errors) > cases.BAR else worst
        return f"{shown}, raises" if raised else shown

    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row["scene"][key] for key in ("setting", "family", "dtype")), []).append(row)
    lines = [
        [setting, family, dtype, _worst(of), *(cell(of, name) for name in rivals.NOTES)]
        for (setting, family, dtype), of in groups.items()
    ]
    return _table(["graph", "family", "stored as", "ours", *rivals.NOTES], lines)


def _words(rows: Sequence[Row]) -> str:
    """What those that raise say: the beginning, with how many cases."""
    counted: dict[tuple[str, str], int] = {}
    for row in rows:
        for name, words in row["refused"].items():
            start = re.sub(r"\[.*", "", words.split(". ")[0])[:110].rstrip(" :")
            counted[name, start] = counted.get((name, start), 0) + 1
    return "\n".join(f"- {name} ({count}): `{words}`" for (name, words), count in counted.items())


def _cost(rows: Sequence[Row]) -> str:
    routes = list(dict.fromkeys(row["route"] for row in rows))
    lines = []
    for family in cost.FAMILIES:
        for sampler in cost.SAMPLERS:
            for way in cases.RUNGS:
                of = {r["route"]: r for r in rows if _is(r, family, sampler=sampler, way=way)}
                figures = [f"{of[route]['forwards']:.2f}" if route in of else "" for route in routes]
                lines.append([family, sampler, way, *figures])
    return _table(["family", "sampler", "graph", *routes], lines)


def _memory(rows: Sequence[Row]) -> str:
    lines = []
    for family in memory.FAMILIES:
        for way in memory.WAYS:
            of = {row["steps"]: row for row in rows if _is(row, family, way=way)}
            kept = [f"{of[n]['rest'] / 1024:.1f} + {of[n]['latents'] / 1024:.0f}" for n in memory.STEPS]
            ratio = of[memory.STEPS[-1]]["rest"] / of[memory.STEPS[0]]["rest"]
            moment = of[1]["evaluation"] / 1024 if way == "once" else 0
            lines.append([family, way, *kept, f"{ratio:.2f}", f"{moment:.0f}" if moment else ""])
    head = [f"{n} step{'s' * (n > 1)}" for n in memory.STEPS]
    return _table(["family", "way", *head, "ratio", "one recompute"], lines)


def _flat(rows: Sequence[Row]) -> str:
    first, last = memory.STEPS[0], memory.STEPS[-1]
    ratios = [
        next(r["rest"] for r in rows if _is(r, family, way=way, steps=last))
        / next(r["rest"] for r in rows if _is(r, family, way=way, steps=first))
        for family in memory.FAMILIES
        for way in ("once", "nested")
    ]
    return f"{max(ratios):.2f}"


def _overhead(rows: Sequence[Row]) -> str:
    lines = [
        [
            row["family"], row["way"], f"{row['evaluation']:.2f} s", f"{100 * (row['median'] - 1):+.1f} %",
            ", ".join(f"{100 * (ratio - 1):+.1f}" for ratio in sorted(row["ratios"])), _error(row["apart"]),
        ]
        for row in rows
    ]  # fmt: skip
    head = ["family", "guard", "one forward", "extra time", "each", "bare loop's gradient is off by"]
    return _table(head, lines)


def _shortcuts(rows: Sequence[Row]) -> str:
    lines = []
    for route in dict.fromkeys(row["route"] for row in rows):
        line = [route]
        for variable in ("noise", "conditioning"):
            of = [row for row in rows if (row["route"], row["variable"]) == (route, variable)]
            cosines = [row["cosine"] for row in of]
            worst = _error(max((row["error"] for row in of), default=0.0))
            line += [worst, f"{min(cosines):.2f} to {max(cosines):.2f}"] if of else ["none", ""]
        lines.append(line)
    return _table(["route", "noise", "cosine", "text", "cosine"], lines)


def _samplers(rows: Sequence[Row]) -> str:
    lines = []
    for name in dict.fromkeys(row["sampler"] for row in rows):
        line = [name]
        for kind in samplers_real.FAMILIES:
            of = next(row for row in rows if row["sampler"] == name and row["kind"] == kind)
            errors = ", ".join(_error(error) for error in of["errors"].values())
            line += [errors, "same" if of["same"] else f"{of['parity']:.1g}"]
        lines.append(line)
    head = ["sampler"]
    for kind, family in samplers_real.FAMILIES.items():
        head += [f"{kind} ({family})", "parity"]
    return _table(head, lines)


def _is(row: Row, family: str, **fields: Any) -> bool:
    return row["scene"]["family"] == family and all(row[key] == value for key, value in fields.items())
