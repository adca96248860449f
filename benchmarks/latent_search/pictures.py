"""The help pages' pictures of noises, from real runs; tools/pictures.py saves them."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ...demo.captions import canonical
from ...demo.world import render, sample
from ...tools.inprocess import execute
from ...tools.pictures import row, stack, titled
from .world import TOWARDS, Bench, one_word_away
from .world import captions as texts

WAY = {  # far, so that it shows
    "route": "one-step", "search_steps": 30, "step_size": 0.2, "epsilon": 1.4, "budget": "turn each channel",
}  # fmt: skip


def latent_search(nodes: Any) -> Image.Image:
    """Prompts that are broken, and sketches that are met: the seed's picture and the found noise's."""
    bench = Bench(nodes)
    cells, captions = [], []
    for i, scene in enumerate(list(sample(2, torch.Generator().manual_seed(931), part="held out", objects=1))):
        prompt = one_word_away(scene)[0]
        (target,) = bench.near_misses(scene, 400 + i, 1)
        found = bench.search(prompt, 400 + i, bench.sketch(target), direction="break", **TOWARDS)
        cells += [_hwc(bench.draw(prompt, 400 + i, 1)), _hwc(target), _hwc(found.picture)]
        captions += [prompt.removeprefix("a ").split(" on ")[0], "a word away", "found"]
    above = titled(row(cells, captions, 150), "break: the seed's picture, that of a near miss, and the noise found")
    whole = sample(2, torch.Generator().manual_seed(941), part="held out", objects=1)
    cells, captions = [], []
    for i, scene in enumerate(whole):
        target, prompt = render(whole)[i : i + 1], canonical(scene)
        found = bench.search(prompt, 500 + i, bench.sketch(target), direction="break", copies=0, **WAY)
        cells += [_hwc(target), _hwc(bench.draw(prompt, 500 + i, 1)), _hwc(found.picture)]
        captions += ["the sketch", "the seed's", "found"]
    return stack([above, titled(row(cells, captions, 150), "less distance from a sketch, same prompt")])


def best_of_seeds(nodes: Any) -> Image.Image:
    """Eight seeds of a prompt, and the three that a CLIP likes best."""
    bench = Bench(nodes)
    prompt = "a green square left of a yellow triangle"
    with torch.inference_mode():
        objective = nodes.ClipObjective.execute(bench.first, prompt).args[0]
    rows = []
    for keep, name in ((8, "all eight"), (3, "the best three")):
        output, _, seeds, scores, _ = execute(
            nodes.BestOfSeeds, **bench.sockets(prompt, 0), objective=objective, seeds=8, keep=keep
        )
        with torch.inference_mode():
            pictures = bench.vae.decode(output["samples"])
        captions = [f"seed {seed}: {score:.3f}" for seed, score in zip(seeds, scores, strict=True)]
        rows.append(titled(row(list(pictures), captions, 110), f"{name}, by similarity to '{prompt}'"))
    return stack(rows)


def share_noise(nodes: Any) -> Image.Image:
    """A noise found, and the same through Save Latent's form and back."""
    bench = Bench(nodes)
    scene = list(sample(3, torch.Generator().manual_seed(931), part="held out", objects=2))[1]
    prompt = canonical(scene)
    found = bench.search(prompt, 401, bench.objective(texts(scene)), direction="break", **WAY)
    (noise,) = execute(nodes.NoiseFromLatent, latent={"samples": found.noise})
    again = bench.by_noise(prompt, noise)
    assert torch.equal(again, found.picture)
    seen = (found.noise[0, :3] / 6 + 0.5).clamp(0, 1).movedim(0, -1)
    seen = seen.repeat_interleave(8, 0).repeat_interleave(8, 1)
    captions = ["the noise found gives", "the noise", "saved, loaded: gives"]
    return row([_hwc(found.picture), seen, _hwc(again)], captions)


def _hwc(picture: Tensor) -> Tensor:
    return picture[0].movedim(0, -1)
