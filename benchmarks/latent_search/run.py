"""Latent search on the demo world: routes, budgets, breaking prompts that are drawn right, satisfying a sketch.

    python dev.py run benchmarks/latent_search/run.py -- [--quick] [--only PART ...] [--size NAME=N ...] [--out FOLDER]

Writes results.json, README.md and budgets.png; prompts.json keeps which prompts are drawn right. Independent units are
prompts (sketches): Wilson 95 % intervals, n fixed before a run. A sampler run is 6 steps of euler at cfg 1; costs are
in such runs, backward passes counted, decode and judges not. Verdicts: the checker, on 8-bit pictures and again one
pixel aside, of what SamplerCustomAdvanced draws from the exported NOISE. What each part's search follows its function
says: the first CLIP, or the distance from a picture. The second CLIP is only asked at the end.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...core.gaussianity import LEVEL, Gaussianity
from ...demo.captions import canonical
from ...demo.checker import read, relation_right
from ...demo.world import Scene, batch, render, sample
from ...tools.inprocess import open_pack
from ..prompts import HELD_OUT, one_object, with_ground
from ..rates import rate, resampled, shared
from ..record import facts
from ..verdicts import broken, clean, on_its_ground
from .routes import cosines
from .world import (
    TOWARDS,
    Bench,
    Drawn,
    as_sketched,
    captions,
    one_word_away,
    other_grounds,
)

HERE = Path(__file__).resolve().parent
SEEDS, ALLOWED = 100, 5  # a prompt counts as drawn right if at most so many of these seeds fail
BUDGETS: dict[str, dict[str, Any]] = {
    "turn": {"budget": "turn"},
    "turn each channel": {"budget": "turn each channel"},
    "move phases": {"budget": "move phases"},
    "clamp (SAGE), signed": {"budget": "clamp (SAGE)", "step_rule": "signed (SAGE)", "step_size": 0.05},
    "ball and chi prior (ReNO), its steps": {
        "budget": "ball and chi prior (ReNO)", "step_rule": "clipped SGD (ReNO)", "step_size": 0.05,
    },
    "ball and regulariser (DNO)": {"budget": "ball and regulariser (DNO)"},
    "random, turn each channel": {"method": "random", "search_steps": 40, "budget": "turn each channel"},
    "random, move phases": {"method": "random", "search_steps": 40, "budget": "move phases"},
    "no search": {"search_steps": 0},
}  # fmt: skip
COSTS = (5, 10, 20)  # search steps of the satisfying search
OTHER = "turn each channel"  # budget to compare with
MISSES = 2  # how many near misses a breaking search is sent to
GUIDED = 2.0  # cfg of the part that says what guidance makes of breaking
# for the routes: as far as an independent noise, so that the route decides
FAR = {"epsilon": 1.4, "step_size": 0.2, "budget": "turn each channel"}
ROUTES: dict[str, dict[str, Any]] = {
    "exact": {"route": "exact", "search_steps": 20},
    "residual, last 3 steps": {"route": "residual", "route_steps": 3, "search_steps": 30},
    "one-step, the first": {"route": "one-step", "search_steps": 40},
}


def candidates(count: int) -> list[Scene]:
    """Held-out prompts of two objects, not those that the defaults were chosen on."""
    return list(sample(count, torch.Generator().manual_seed(61), part="held out", objects=2))


def reliable(bench: Bench, wanted: int, file: Path, scenes: list[Scene]) -> list[dict[str, Any]]:
    """The first `wanted` prompts that the plain sampler draws right for 95 of 100 seeds at least: place in `scenes`,
    caption, failures. Kept in `file`, so that they are found once."""
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"looked": 0, "found": []}
    while len(known["found"]) < wanted and known["looked"] < len(scenes):
        place = known["looked"]
        prompt, failures, drawn = with_ground(scenes[place]), 0, 0
        while drawn < SEEDS and failures <= ALLOWED:
            pictures = bench.draw(prompt, 10_000 + 1000 * place + drawn, 10)
            failures += 10 - int(relation_right(read(pictures), [scenes[place]] * 10).sum())
            drawn += 10
        known["looked"] += 1
        if failures <= ALLOWED:
            known["found"].append({"place": place, "prompt": prompt, "failures": failures})
        file.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    return known["found"][:wanted]


def breaking(bench: Bench, scenes: list[Scene], seed: int, **choices: Any) -> dict[str, Any]:
    """One way of breaking, a search a prompt: away from what the first CLIP calls the prompt."""

    def way(scene: Scene, seed: int) -> Drawn:
        said = captions(scene)
        return bench.search(said[0], seed, bench.objective(said), direction="break", **choices)

    return judged(bench, scenes, seed, way, captions)


def judged(
    bench: Bench,
    scenes: list[Scene],
    seed: int,
    way: Callable[[Scene, int], Drawn],
    said: Callable[[Scene], list[str]],
) -> dict[str, Any]:
    """What one way gives for prompts, each with a seed. said: the prompt and what is wrong, for the second CLIP."""
    found = [way(scene, seed + i) for i, scene in enumerate(scenes)]
    pictures, noises = torch.cat([one.picture for one in found]), torch.cat([one.noise for one in found])
    hits = broken(pictures, scenes)
    second = [bench.second_says(one.picture, said(scene)) for one, scene in zip(found, scenes, strict=True)]
    return {
        "broken": rate(sum(hits), len(hits)),
        "clean": rate(sum(clean(pictures)), len(hits)),
        "broken and the second CLIP agrees": rate(sum(a and b for a, b in zip(hits, second, strict=True)), len(hits)),
        "sampler runs": round(sum(one.runs for one in found) / len(found), 1),
        "rejected": rejected(noises) if len(noises) else None,
    }


def rejected(noises: Tensor) -> dict[str, Any]:
    """How many noises each test rejects at 5 %, and how many it may reject of as many true samples (the central 95 % of
    the binomial distribution)."""
    count = len(noises)
    found = Gaussianity(noises.shape[1:]).rejected(noises)
    chances = torch.distributions.Binomial(count, torch.tensor(LEVEL)).log_prob(torch.arange(count + 1.0)).exp()
    most = int((chances.cumsum(0) < 0.975).sum())
    return {"n": count, "of true samples at most": most, **{name: int(bad.sum()) for name, bad in found.items()}}


def main_break(bench: Bench, sizes: dict[str, int], out: Path) -> dict[str, Any]:
    """Breaking what is drawn right: towards near misses, away from the prompt, and by chance at the same cost."""
    every = one_object()
    known = reliable(bench, sizes["prompts"], out / "prompts.json", every)
    scenes = [every[one["place"]] for one in known]
    other = {**TOWARDS, "budget": OTHER}

    def away(scene: Scene, seed: int) -> Drawn:
        said = one_word_away(scene)
        return bench.search(said[0], seed, bench.objective(said), direction="break", **{**other, "copies": 1})

    def way(run: Callable[[Scene, int], Drawn]) -> dict[str, Any]:
        return judged(bench, scenes, 500, run, one_word_away)

    found = {
        "towards near misses": way(lambda scene, seed: bench.towards(scene, seed, MISSES, **TOWARDS)),
        f"the same, {OTHER}": way(lambda scene, seed: bench.towards(scene, seed, MISSES, **other)),
    }
    runs = round(found["towards near misses"]["sampler runs"])
    found["nearest of as many seeds"] = way(lambda scene, seed: bench.best_of(scene, seed, MISSES, runs))
    found[f"away from the prompt, {OTHER}"] = way(away)
    plain = torch.cat([bench.draw(with_ground(scene), 500 + i, 1) for i, scene in enumerate(scenes)])
    hits = broken(plain, scenes)
    return {
        "prompts": [one["prompt"] for one in known],
        "failures of 100 seeds": [one["failures"] for one in known],
        "held out": sum(one["place"] < HELD_OUT for one in known),
        "settings": TOWARDS,
        "near misses": MISSES,
        "ways": found,
        "no search": {"broken": rate(sum(hits), len(hits)), "clean": rate(sum(clean(plain)), len(hits))},
    }


def break_again(bench: Bench, sizes: dict[str, int], out: Path) -> dict[str, Any]:
    """The same prompts: drawn with seeds that did not choose them, and searched with the node's own defaults."""
    every = one_object()
    scenes = [every[one["place"]] for one in reliable(bench, sizes["prompts"], out / "prompts.json", every)]
    failures = []
    for i, scene in enumerate(scenes):
        drawn = torch.cat([bench.draw(with_ground(scene), 500_000 + 1000 * i + k, 10) for k in range(0, SEEDS, 10)])
        failures.append(SEEDS - int(relation_right(read(drawn), [scene] * SEEDS).sum()))
    row = judged(bench, scenes, 500, lambda scene, seed: bench.towards(scene, seed, MISSES, copies=0), one_word_away)
    return {
        "failures of 100 other seeds": failures,
        "keep to 95": sum(one <= ALLOWED for one in failures),
        "prompts looked at": json.loads((out / "prompts.json").read_text(encoding="utf-8"))["looked"],
        "ways": {"towards near misses, the node's defaults": row},
    }


def guided(bench: Bench, sizes: dict[str, int], out: Path) -> dict[str, Any]:
    """The same with guidance, which draws more of the held-out prompts right, and binds them."""
    bench, other = Bench(bench.nodes, GUIDED), {**TOWARDS, "budget": OTHER}
    every = one_object()[:HELD_OUT]
    known = reliable(bench, sizes["prompts"], out / "prompts-guided.json", every)
    scenes = [every[one["place"]] for one in known]
    row = judged(bench, scenes, 500, lambda scene, seed: bench.towards(scene, seed, MISSES, **other), one_word_away)
    return {
        "prompts": [one["prompt"] for one in known],
        "failures of 100 seeds": [one["failures"] for one in known],
        "cfg": GUIDED,
        "settings": other,
        "near misses": MISSES,
        "ways": {"towards near misses": row},
    }


def routes(bench: Bench, sizes: dict[str, int], out: Path) -> dict[str, Any]:
    """Cosines with the exact gradient, and what each route breaks for what it costs."""
    scenes = candidates(2000)[1400 : 1400 + sizes["few"]]
    found = {name: breaking(bench, scenes, 800, **FAR, **choices) for name, choices in ROUTES.items()}
    return {**cosines(bench, sizes["points"]), "broken": found}


def budgets(bench: Bench, sizes: dict[str, int], out: Path) -> dict[str, Any]:
    """Which budget: success against Gaussianity, on other prompts (any, drawn right or not)."""
    scenes = candidates(2000)[1512 : 1512 + sizes["compared"]]  # the default was chosen on the 12 before
    return {name: breaking(bench, scenes, 900, **choices) for name, choices in BUDGETS.items()}


def satisfying(bench: Bench, sizes: dict[str, int], out: Path) -> dict[str, Any]:
    """A prompt of one object, each once, and a sketch of what the prompt does not say: place, size and ground (the one
    that no training showed it on). Nearer to the sketch by the distance, for the search and for best of n."""
    found = _Satisfied(sizes["pool"])
    for i, scene in enumerate(one_object()[: min(sizes["sketches"], HELD_OUT)]):
        prompt, target = canonical(scene), render(batch([scene]))
        drawn = bench.pool(prompt, 20_000 + 1000 * i, sizes["pool"])
        found.best_of_n(as_sketched(drawn, scene), -(drawn - target).square().flatten(1).mean(1))
        for steps in COSTS:
            one = bench.search(
                prompt, 700 + i, bench.sketch(target), direction="break", search_steps=steps, copies=0, budget=OTHER
            )
            found.searched(steps, as_sketched(one.picture, scene)[0], one.runs)
    return found.rows()


def easy(bench: Bench, sizes: dict[str, int], out: Path) -> dict[str, Any]:
    """What many seeds give anyway: the prompt's object on a ground that the prompt does not say, anywhere. By the first
    CLIP's margin between the texts with this ground and with others, for the search, with the node's defaults, and for
    best of n."""
    found = _Satisfied(sizes["few seeds"])
    for i, scene in enumerate(one_object()[HELD_OUT : HELD_OUT + min(sizes["sketches"], HELD_OUT)]):
        prompt, said = canonical(scene), other_grounds(scene)
        drawn = bench.pool(prompt, 60_000 + 1000 * i, sizes["few seeds"])
        found.best_of_n(on_its_ground(drawn, scene), bench.margins(drawn, said))
        for steps in COSTS:
            one = bench.search(prompt, 900 + i, bench.objective(said), direction="satisfy", search_steps=steps)
            found.searched(steps, on_its_ground(one.picture, scene)[0], one.runs)
    return found.rows()


class _Satisfied:
    """What single seeds, the best of n of them, and searches of some lengths gave, wish by wish."""

    def __init__(self, pool: int) -> None:
        self._rows: list[list[bool]] = []
        self._picked: dict[int, list[float]] = {n: [] for n in _powers(pool)}
        self._hits: dict[int, list[bool]] = {steps: [] for steps in COSTS}
        self._runs: dict[int, list[float]] = {steps: [] for steps in COSTS}

    def best_of_n(self, fits: list[bool], score: Tensor) -> None:
        """Of one wish: which seeds meet it, and what the selector says of each (more is better). Disjoint groups of n
        seeds: the share of them whose best one fits."""
        self._rows.append(fits)
        for n, shares in self._picked.items():
            best = [k + int(score[k : k + n].argmax()) for k in range(0, len(fits) - n + 1, n)]
            shares.append(sum(fits[k] for k in best) / len(best))

    def searched(self, steps: int, fits: bool, runs: float) -> None:
        self._hits[steps].append(fits)
        self._runs[steps].append(runs)

    def rows(self) -> dict[str, Any]:
        return {
            "sketches": len(self._rows),
            "base rate per seed": resampled([sum(row) / len(row) for row in self._rows], seeds=len(self._rows[0])),
            "seeds that fit": [sum(row) for row in self._rows],
            "wishes that no seed met": sum(not any(row) for row in self._rows),
            "best of n": {str(n): shared(shares, shares=shares) for n, shares in self._picked.items()},
            "search": {
                str(steps): {
                    "fits": rate(sum(hits), len(hits)),
                    "sampler runs": round(sum(self._runs[steps]) / len(hits), 1),
                    "met": hits,
                }
                for steps, hits in self._hits.items()
            },
        }


def _powers(most: int) -> list[int]:
    return [2**k for k in range(most.bit_length()) if 2**k <= most]


PARTS: dict[str, Callable[[Bench, dict[str, int], Path], dict[str, Any]]] = {
    "routes": routes,
    "budgets": budgets,
    "break": main_break,
    "break, again": break_again,
    "break, guided": guided,
    "satisfy": satisfying,
    "easy": easy,
}
FULL = {"prompts": 16, "few": 12, "compared": 24, "points": 6, "sketches": 24, "pool": 128, "few seeds": 32}
QUICK = {"prompts": 1, "few": 1, "compared": 1, "points": 1, "sketches": 1, "pool": 8, "few seeds": 8}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one of each, to see that it runs")
    parser.add_argument("--only", nargs="*", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--size", nargs="*", default=[], help="other sizes, as prompts=12 (the README says them)")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    sizes = {**(QUICK if options.quick else FULL), **{k: int(v) for k, v in (one.split("=") for one in options.size)}}
    options.out.mkdir(parents=True, exist_ok=True)
    bench = Bench(open_pack())
    file = options.out / "results.json"
    for part in options.only:
        known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        given = ["--only", f"'{part}'", *(["--quick"] if options.quick else [])]
        given += ["--size", *options.size] if options.size else []
        made = facts(__file__, given, sizes=sizes)
        known[part] = {**made, **PARTS[part](bench, sizes, options.out)}
        file.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
        print(part, known[part], flush=True)
    from .page import page, plot

    results = json.loads(file.read_text(encoding="utf-8"))
    (options.out / "README.md").write_text(page(results), encoding="utf-8")
    if "budgets" in results:
        plot(results, options.out / "budgets.png")


if __name__ == "__main__":
    main()
