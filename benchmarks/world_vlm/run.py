"""What the demo world's two BLIP-2 and its language model are worth, on combinations that their training never saw.

    python dev.py run benchmarks/world_vlm/run.py -- [--quick] [--out FOLDER]

Writes results.json and README.md. Rates have Wilson 95 % intervals; scenes are drawn independently.
"""

from __future__ import annotations

import argparse
import datetime
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ...demo.captions import canonical, captions, parse
from ...demo.checker import objects_right, read
from ...demo.training import blip2_measure as measure
from ...demo.training import language, vae
from ...demo.vision_models import normalise
from ...demo.vlm_models import (
    CAPTIONING,
    LANGUAGE,
    MATCHING,
    contrast,
    load_captioning,
    load_language,
    load_matching,
    match,
)
from ...demo.world import Facts, render, sample, split
from ...tools.inprocess import open_pack
from ..rates import rate
from ..world_diffusion.run import Painter

HERE = Path(__file__).resolve().parent
SCENES, SAMPLES, DRAWN = 384, 2048, 240
NOISES = (0.0, 0.15, 0.3)  # in the VAE's latents, whose standard deviation is about 1

Change = Callable[[Tensor], Tensor]


def rates(found: dict[str, tuple[int, int]]) -> dict[str, dict[str, Any]]:
    return {kind: rate(*counts) for kind, counts in found.items()}


def again(noise: float, rng: torch.Generator) -> Change:
    """Through the demo's VAE, with noise in the latents."""
    net = vae.trained()

    @torch.no_grad()
    def changed(images: Tensor) -> Tensor:
        parts = []
        for part in images.split(128):
            latents = net.encode(part)
            parts.append(net.decode(latents + noise * torch.randn(latents.shape, generator=rng)).clamp(0, 1))
        return torch.cat(parts)

    return changed


def changes(rng: torch.Generator) -> dict[str, Change]:
    """What may befall a picture on its way to a judge."""

    def blurred(images: Tensor) -> Tensor:
        return functional.avg_pool2d(functional.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)

    return {
        "clean": lambda images: images,
        "shifted one pixel, 8 bits": lambda images: (images.roll((1, 1), (2, 3)) * 255).round() / 255,
        "blurred, 3 x 3 mean": blurred,
        "noise, sigma 0.04": lambda images: (images + 0.04 * torch.randn(images.shape, generator=rng)).clamp(0, 1),
        **{f"VAE, latent noise {noise}": again(noise, rng) for noise in NOISES},
    }


def still_right(change: Change, scenes: int) -> dict[str, Any]:
    """How often the checker still reads the scene's objects in a changed picture: what any judge could know."""
    shown = sample(scenes, torch.Generator().manual_seed(5), part="held out")
    return rate(int(objects_right(read(change(render(shown))), shown).sum()), scenes)


def seen(scenes: int) -> dict[str, Any]:
    """The two BLIP-2's figures, by what befell the picture."""
    matcher, writer = load_matching(), load_captioning()
    rng = torch.Generator().manual_seed(100)
    found: dict[str, Any] = {}
    for name, change in changes(rng).items():
        found[name] = {
            "checker": still_right(change, scenes),
            "matching head": rates(measure.choices(matcher, rng, scenes, change)),
            "captions": rates(measure.captioned(writer, rng, scenes, change)),
        }
        print(name, {k: v["rate"] for k, v in found[name]["matching head"].items()}, flush=True)
    found["clean"]["contrastive heads"] = rates(measure.choices(matcher, rng, scenes, score=contrast))
    found["clean"]["contrastive heads"].pop("alone")  # a cosine's sign says nothing
    found["clean"]["captions, 4 beams"] = rates(measure.captioned(writer, rng, scenes, num_beams=4))
    return found


def drawn(prompts: int) -> dict[str, Any]:
    """The matching head on what the demo's diffusion model draws (20 steps, through the host), by what the checker
    reads there: not by what the prompt asked for. Half of the prompts name two objects."""
    painter, rng = Painter(open_pack(), "20 steps"), torch.Generator().manual_seed(11)
    matcher, parts, refused = load_matching(), [], 0
    for objects in (1, 2):
        scenes = sample(prompts // 2, torch.Generator().manual_seed(60 + objects), part="held out", objects=objects)
        pictures = torch.cat([painter.draw(canonical(s), 500 * objects + i) for i, s in enumerate(scenes)])
        readings = read(pictures)
        clean = [i for i, reading in enumerate(readings) if reading.clean]
        refused += len(readings) - len(clean)
        facts = [Facts(readings[i].facts.objects, readings[i].facts.relation) for i in clean]
        # captions tell two objects apart by what they are: two that are alike have none
        said = [i for i, f in enumerate(facts) if len(set(f.objects)) == len(f.objects)]
        refused += len(facts) - len(said)
        pixels = normalise(pictures[[clean[i] for i in said]])
        parts.append(measure.preferred(matcher, pixels, [facts[i] for i in said], rng))
    found = {"matching head": rates(measure.counted(parts)), "left out": refused, "drawn": prompts // 2 * 2}
    print("drawn", {k: v["rate"] for k, v in found["matching head"].items()}, flush=True)
    return found


@torch.no_grad()
def said(samples: int) -> dict[str, Any]:
    """The language model's figures."""
    net = load_language()
    texts = [t for seed in range(samples // 512) for t in language.free(net, 512, seed=1000 + seed)]
    right = [text for text in texts if language.says(text)]
    pairs = [facts for facts in map(parse, right) if facts.relation is not None]
    nats = {}
    for part in ("train", "held out"):
        rng = torch.Generator().manual_seed(3)
        ids, mask = language.Words()(captions(sample(1024, rng, part=part), rng))
        nats[part] = round(float(language.next_words(net(input_ids=ids, attention_mask=mask).logits, ids, mask)), 4)
    return {
        "captions of this world": rate(len(right), len(texts)),
        "held-out combinations, of its pairs": rate(sum(split(facts) == "held out" for facts in pairs), len(pairs)),
        "different texts": rate(len(set(right)), len(right)),
        "nats a token": nats,
        "no captions": [text for text in texts if not language.says(text)][:8],
    }


def speed() -> dict[str, float]:
    """Seconds to load; milliseconds of one match, with its gradient, and of one caption (one thread)."""
    times: dict[str, float] = {}
    loaded = []
    for name, load in (("matching", load_matching), ("captioning", load_captioning), ("language", load_language)):
        start = time.perf_counter()
        loaded.append(load())
        times[f"{name}: load s"] = round(time.perf_counter() - start, 2)
    scenes = sample(1, torch.Generator().manual_seed(0), objects=2)
    image, text = render(scenes).requires_grad_(True), canonical(scenes[0])
    forward, both = [], []
    for _ in range(12):
        start = time.perf_counter()
        fit = match(loaded[0], normalise(image), [text]).sum()
        forward.append(time.perf_counter() - start)
        torch.autograd.grad(fit, image)
        both.append(time.perf_counter() - start)
    for name, taken in (("match ms", forward), ("match with gradient ms", both)):
        times[name] = round(1000 * sorted(taken)[len(taken) // 2], 1)
    start = time.perf_counter()
    measure.written(loaded[1], normalise(image.detach()))
    times["caption ms"] = round(1000 * (time.perf_counter() - start), 1)
    return times


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def percent(entry: dict[str, Any]) -> str:
    return f"{100 * entry['rate']:.1f} ({100 * entry['low']:.1f}-{100 * entry['high']:.1f})"


def report(results: dict[str, Any]) -> str:
    pictures, words = results["pictures"], results["language"]
    kinds = list(pictures["clean"]["matching head"])
    ways = {name: entry["matching head"] for name, entry in pictures.items()}
    ways = {"clean": ways.pop("clean"), "clean, contrastive heads": pictures["clean"]["contrastive heads"], **ways}
    ways["drawn by the diffusion model"] = results["drawn"]["matching head"]
    written = {name: entry["captions"] for name, entry in pictures.items()}
    written = {"clean": written.pop("clean"), "clean, 4 beams": pictures["clean"]["captions, 4 beams"], **written}
    plain = [kind for kind in kinds if kind != "alone"]
    checker = {name: percent(entry["checker"]) for name, entry in pictures.items()}
    made = f"Made by `python dev.py run benchmarks/world_vlm/run.py` on {results['date']}"
    made += f" (torch {results['torch']}, transformers {results['transformers']}, one thread)"
    least = min(entry["n"] for way in ways.values() for entry in way.values())
    blocks = [
        "# The demo world's BLIP-2 and its language model",
        f"{made}; all figures are in [results.json](results.json). Percent, with Wilson 95 % intervals. "
        "All pictures show combinations that no training saw.",
        "## Matching: the true caption against a wrong one",
        table(
            ["picture", *plain, "alone"],
            [
                [name, *(percent(way[kind]) if kind in way else "" for kind in (*plain, "alone"))]
                for name, way in ways.items()
            ],
        ),
        f"n >= {least}. Two objects, and one for the changes; both captions in random words. *Alone*: whether the "
        "matching head's log-odds have the right sign, for true and wrong captions alike. Of the drawn pictures "
        f"(through the host, {results['drawn']['drawn']} held-out prompts) the truth is what the checker reads; "
        f"{results['drawn']['left out']} that are no clean scene, or show the same thing twice, are left out.",
        "## Captions of pictures, greedy",
        table(
            ["picture", "can be read", "every object right", "all right", "objects by the checker"],
            [
                [
                    name,
                    *(percent(way[kind]) for kind in ("read", "objects", "all")),
                    checker.get(name, checker["clean"]),
                ]
                for name, way in written.items()
            ],
        ),
        f"n = {pictures['clean']['captions']['objects']['n']}, half of them with one object. *All*: also the relation, "
        "and the background where the caption names it. The last column is what is left to see: how often "
        "the checker reads the scene's objects in such a picture.",
        "## The language model",
        f"Free samples at temperature 1 from all words: {percent(words['captions of this world'])} are captions of "
        f"this world (n = {words['captions of this world']['n']}), "
        f"{percent(words['different texts'])} of them different. Of its pairs "
        f"{percent(words['held-out combinations, of its pairs'])} are held-out combinations, which no caption of its "
        "training stated (16.7 of all combinations are). Nats a token: "
        + ", ".join(f"{part} {value}" for part, value in words["nats a token"].items())
        + ". What is no caption, for example: "
        + "; ".join(f"*{text}*" for text in words["no captions"][:4])
        + ".",
        "## Size and speed",
        "; ".join(f"{name} {value}" for name, value in results["speed"].items())
        + ". Bytes: "
        + ", ".join(f"{name} {size:,}" for name, size in results["bytes"].items())
        + ".",
    ]
    return "\n\n".join(blocks) + "\n"


def main() -> int:
    import transformers

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few scenes, to see that it runs")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    torch.set_num_threads(1)
    scenes, samples, prompts = (96, 512, 12) if options.quick else (SCENES, SAMPLES, DRAWN)
    results = {
        "date": str(datetime.date.today()),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "pictures": seen(scenes),
        "drawn": drawn(prompts),
        "language": said(samples),
        "speed": speed(),
        "bytes": {f.name: (f / "model.safetensors").stat().st_size for f in (MATCHING, CAPTIONING, LANGUAGE)},
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (options.out / "README.md").write_text(report(results), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
