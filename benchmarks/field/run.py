"""Compare our search with the field; README.md says how to install what it needs.

python benchmarks/field/run.py --torchattacks FOLDER
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import eagerpy as ep
import field_pack  # noqa: F401  foolbox after it
import foolbox
import torch
from field_attacks import (
    BOX,
    BUDGETS,
    EPSILON,
    Found,
    Pair,
    foolbox_pairs,
    ours_best,
    run_ours,
    run_random,
    run_theirs,
    size,
    torchattacks_apgd,
    torchattacks_pairs,
    verdict,
)
from field_model import accuracy, load_classifier, pictures
from field_report import write_report
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

HERE = Path(__file__).parent
FIRST_SEED = 4 * 10**6  # epsilon and our extra rule were chosen on pictures of other seeds
WIDE = (-10.0, 10.0)


def batch(model: nn.Module, seed: int, images: int) -> tuple[Tensor, Tensor]:
    """The seed's pictures that the classifier names correctly: success without an attack is 0."""
    x, y = pictures(images + 16, seed)
    right = verdict(model, x, y)[1].logical_not().nonzero().flatten()[:images]
    return x[right], y[right]


def mean(values: Tensor) -> float:
    return float(values.double().mean())


def summary(found: Found, norm: str, x: Tensor) -> dict[str, float]:
    """One attack on one seed's pictures; raises if the result is not allowed."""
    length = size(norm, found.image - x)
    if float(length.max()) > EPSILON[norm] * (1 + 1e-4) or float(found.image.min()) < 0 or float(found.image.max()) > 1:
        raise AssertionError(f"a result at {float(length.max())} of {EPSILON[norm]} ({norm})")
    return {
        "loss": mean(found.loss),
        "success": mean(found.fooled),
        "cost": found.cost,
        "used": mean(length) / EPSILON[norm],
    }


def one_seed(pair: Pair, start: str, model: nn.Module, seed: int, images: int) -> dict[str, dict[str, float]]:
    """Theirs; ours with the same steps; with the same rule and our own at no more forward-equivalents than theirs."""
    x, y = batch(model, seed, images)
    theirs = run_theirs(pair, model, x, y, random=start == "random", seed=seed)
    begin = theirs.path[0]
    fewer = min(pair.steps, int((theirs.cost - 2) // 2))  # k steps and select cost 2 k + 2
    same = run_ours(pair, model, x, y, start=begin, steps=pair.steps, selected=False)
    if not torch.equal(same.path[0], begin):
        raise AssertionError("the starts differ")
    # the search's last forward is the verdict on its last iterate, which can be had without it
    last = replace(same, image=same.path[-1], cost=same.cost - 1)
    last = replace(last, **dict(zip(("loss", "fooled"), verdict(model, last.image, y), strict=True)))
    strict = run_ours(pair, model, x, y, start=begin, steps=fewer)
    cosine = run_ours(ours_best(pair), model, x, y, start=begin, steps=fewer)
    runs = {"theirs": theirs, "same": same, "last": last, "strict": strict, "cosine": cosine}
    return {name: summary(found, pair.norm, x) for name, found in runs.items()}


def compare(pairs: list[Pair], model: nn.Module, seeds: list[int], images: int) -> Iterator[dict[str, Any]]:
    for pair in pairs:
        for start in pair.starts:
            each = [one_seed(pair, start, model, seed, images) for seed in seeds]
            per_seed = {who: {key: [one[who][key] for one in each] for key in each[0][who]} for who in each[0]}
            yield {
                "library": pair.library,
                "attack": pair.attack,
                "norm": pair.norm,
                "start": start,
                "steps": pair.steps,
                "relative_step": pair.relative,
                "judged": pair.judged,
                "per_seed": per_seed,
            }


def baseline(model: nn.Module, seeds: list[int], images: int, draws: int = 19) -> list[dict[str, Any]]:
    """Best of `draws` random points on each norm's sphere, at the cost of a ten-step attack."""
    rows = []
    for norm in EPSILON:
        each = []
        for seed in seeds:
            x, y = batch(model, seed, images)
            each.append(summary(run_random(norm, model, x, y, draws=draws, seed=seed), norm, x))
        rows.append({"norm": norm, "draws": draws, "per_seed": {key: [one[key] for one in each] for key in each[0]}})
    return rows


def step_for_step(pairs: list[Pair], images: int) -> Iterator[dict[str, Any]]:
    """Iterate by iterate, without best-of, where the definitions coincide: largest difference over all steps.

    In float64: in float32 an entry of the gradient that is zero but for rounding has either sign, and signed steps
    amplify that. L2 and L1 also where the box does not cut, since our projection onto ball and box is exact and theirs
    is one after the other: with foolbox the box is wide, with torchattacks (it knows no other) the pictures are pale.
    """
    small, model = load_classifier(), load_classifier(torch.float64)
    x, y = batch(small, FIRST_SEED, images)
    pale = x * 0.2 + 0.4
    right = ~verdict(small, pale, y)[1]  # torchattacks' APGD leaves out what is wrong already
    usual, fewer = (x.double(), y), (pale[right].double(), y[right])
    wide = {pair.attack: pair for pair in foolbox_pairs(WIDE)}
    for pair in pairs:
        if not pair.same:
            continue
        cases = [("box", pair, *usual, BOX)]
        if pair.norm != "Linf":
            foolboxs = pair.library == "foolbox"
            cases.append(("no box", wide[pair.attack], *usual, WIDE) if foolboxs else ("pale", pair, *fewer, BOX))
        for where, its, center, labels, box in cases:
            theirs = run_theirs(its, model, center, labels, random=False, seed=0).path
            theirs = theirs[: its.steps + 1]  # APGD asks for a gradient at its last point too, then returns its best
            ours = run_ours(its, model, center, labels, start=theirs[0], steps=its.steps, box=box, selected=False).path
            gaps = [float((a - b).abs().max()) for a, b in zip(theirs, ours, strict=True)]
            before = first_projection(its, center, ours)
            yield {
                "pair": its.name,
                "norm": its.norm,
                "where": where,
                "steps": its.steps,
                "largest_gap": max(gaps),
                "steps_inside": before,
                "largest_gap_inside": max(gaps[: before + 1]),
            }


def first_projection(pair: Pair, x: Tensor, path: list[Tensor]) -> int:
    """The last step before any picture has left the ball: until then, no projection onto it took place."""
    inside = [float(size(pair.norm, point - x).max()) < EPSILON[pair.norm] * (1 - 1e-6) for point in path]
    return max(inside.index(False) - 1, 0) if False in inside else len(path) - 1


def foolbox_l1_projection() -> dict[str, list[float]]:
    """foolbox's projection onto an L1 ball of 16: one point outside, one well inside. Exact: 16 and unchanged."""
    center = torch.full((2, 100), 0.5, dtype=torch.float64)
    change = torch.zeros_like(center)
    change[0, :10], change[1, :10] = 2.0, 0.5
    attack = foolbox.attacks.SparseL1DescentAttack()
    moved = attack.project(ep.astensor(center + change), ep.astensor(center), 16.0).raw - center
    return {"before": change.abs().sum(1).tolist(), "after": moved.abs().sum(1).tolist()}


def backward_cost() -> float:
    """FLOPs of the frozen classifier's backward over those of its forward."""
    model = load_classifier()
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    with FlopCounterMode(display=False) as forward:
        out = model(x).sum()
    with FlopCounterMode(display=False) as backward:
        torch.autograd.grad(out, x)
    return backward.get_total_flops() / forward.get_total_flops()


def load_torchattacks(folder: Path | None) -> Any:
    """torchattacks from a folder of its own, last on the path so that nothing beside it shadows ours; None without."""
    if folder is None:
        return None
    if not (folder / "torchattacks").is_dir():
        raise SystemExit(f"no torchattacks in {folder}: README.md says how to put it there")
    sys.path.append(str(folder))
    import torchattacks

    return torchattacks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--torchattacks", type=Path, help="folder that it was installed into; without it, foolbox only")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--images", type=int, default=40, help="pictures per seed")
    parser.add_argument("--out", type=Path, default=HERE, help="where results.json, tables and plot go")
    options = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    library = load_torchattacks(options.torchattacks)
    pairs = foolbox_pairs() + ([] if library is None else torchattacks_pairs(library))
    # in float64 their APGD runs only as called; it asks for the same gradients
    called = [] if library is None else torchattacks_pairs(library, ((10, "as called"), (50, "as called")))
    apgd = [torchattacks_apgd(pair) for pair in called if "APGD" in pair.attack]
    model = load_classifier()
    seeds = [FIRST_SEED + i for i in range(options.seeds)]
    results: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "command": "python benchmarks/field/run.py --torchattacks FOLDER"
        f" --seeds {options.seeds} --images {options.images}",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "foolbox": metadata.version("foolbox"),
            "torchattacks": getattr(library, "__version__", None),
        },
        "seeds": seeds,
        "images_per_seed": options.images,
        "epsilon": EPSILON,
        "norms": {norm: budget.__name__ for norm, budget in BUDGETS.items()},
        "clean_accuracy": accuracy(model, 5000, 10**6),
        "backward_over_forward": backward_cost(),
        "step_for_step": list(step_for_step(pairs + apgd, 16)),
        "foolbox_l1_projection": foolbox_l1_projection(),
        "random": baseline(model, seeds, options.images),
        "rows": [],
    }
    for row in compare(pairs, model, seeds, options.images):
        results["rows"].append(row)
        found = {who: sum(values["loss"]) / len(seeds) for who, values in row["per_seed"].items()}
        told = ", ".join(f"{who} {loss:.3f}" for who, loss in found.items())
        print(f"{row['library']} {row['attack']} {row['norm']} {row['start']}: {told}", flush=True)
    results["seconds"] = round(time.monotonic() - began)
    options.out.mkdir(parents=True, exist_ok=True)
    results = json.loads(json.dumps(results), parse_float=lambda digits: float(f"{float(digits):.7g}"))
    text = json.dumps(results, indent=1)
    (options.out / "results.json").write_text(text + "\n", encoding="utf-8")
    write_report(results, options.out)


if __name__ == "__main__":
    main()
