"""Makes the pictures of the README and the help pages, from real runs.

python dev.py run tools/pictures.py [-- --only NAME ...]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..demo.photos import photo_names
from .inprocess import execute, open_pack, upscale_model, upscaled
from .pack import ROOT
from .sheet import wrap

IMAGES = ROOT / "web" / "docs" / "images"
CELL, GAP, LINE = 192, 8, 20
WORLD = {1: "inpainter", 2: "coloriser"}  # what Demo Scene leaves out, and the model that is asked for it
FONT = ImageFont.load_default(13)


def row(images: Sequence[Any], captions: Sequence[str], cell: int = CELL) -> Image.Image:
    """Pictures (H W 3 in [0, 1]) side by side with their captions under them, in as many lines as they take."""
    height = max(round(cell * image.shape[0] / image.shape[1]) for image in images)
    wrapped = [wrap(caption, FONT, cell) for caption in captions]
    size = (len(images) * (cell + GAP) - GAP, height + LINE * max(map(len, wrapped)))
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    for i, (image, caption) in enumerate(zip(images, wrapped, strict=True)):
        picture = Image.fromarray((np.asarray(image.clamp(0, 1)) * 255).round().astype(np.uint8))
        size = (cell, round(cell * picture.height / picture.width))
        sheet.paste(picture.resize(size, Image.Resampling.LANCZOS), (i * (cell + GAP), 0))
        for k, line in enumerate(caption):
            pen.text((i * (cell + GAP) + 2, height + 3 + k * LINE), line, fill="#333333", font=FONT)
    return sheet


def stack(rows: Sequence[Image.Image]) -> Image.Image:
    """Rows under each other."""
    sheet = Image.new("RGB", (max(r.width for r in rows), sum(r.height + GAP for r in rows) - GAP), "white")
    top = 0
    for r in rows:
        sheet.paste(r, (0, top))
        top += r.height + GAP
    return sheet


def save(picture: Image.Image, name: str) -> Path:
    """As a JPEG: a PNG of few colours would dither, and hide what the pictures are about."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    path = IMAGES / name
    picture.save(path, quality=92, subsampling=0, optimize=True)
    return path


def attack(nodes: Any, **inputs: Any) -> Any:
    """Vary Result with its defaults."""
    return execute(nodes.UntargetedAttack, **inputs)


def vary_inpainter(nodes: Any) -> Image.Image:
    inpainter = upscale_model("provoke-demo-inpainter.safetensors")
    rows = []
    for name in ("chelsea", "coffee", "rocket"):
        _, hole, holed = nodes.DemoPhoto.execute(name).args
        results, default, attacked, *_ = attack(nodes, model=inpainter, image=holed, mask=hole, epsilon=8.0, count=3)
        captions = ["what the model gets", "what it always answers", "looks the same to us", *["another answer"] * 3]
        rows.append(row([holed[0], default[0], attacked[0], *results], captions))
    return stack(rows)


def vary_epsilon(nodes: Any) -> Image.Image:
    inpainter = upscale_model("provoke-demo-inpainter.safetensors")
    _, hole, holed = nodes.DemoPhoto.execute("chelsea").args
    rows = []
    for epsilon in (0.0, 2.0, 4.0, 8.0):
        results, _, attacked, difference, *_ = attack(
            nodes, model=inpainter, image=holed, mask=hole, epsilon=epsilon, count=2
        )
        captions = [f"input, epsilon {epsilon:g}", "its change, amplified", "result 1", "result 2"]
        rows.append(row([attacked[0], difference[0], *results], captions))
    return stack(rows)


def vary_truncation(nodes: Any) -> Image.Image:
    inpainter = upscale_model("provoke-demo-inpainter.safetensors")
    _, hole, holed = nodes.DemoPhoto.execute("chelsea").args
    rows = []
    for truncation in ("clip", "truncate"):
        results, _, attacked, difference, *_ = attack(
            nodes, model=inpainter, image=holed, mask=hole, epsilon=8.0, count=2, truncation=truncation
        )
        captions = [f"{truncation}: input", "its change, amplified", "result 1", "result 2"]
        rows.append(row([attacked[0], difference[0], *results], captions))
    return stack(rows)


def demo_photos(nodes: Any) -> Image.Image:
    photos = [nodes.DemoPhoto.execute(name).args for name in photo_names()]
    return row([p[2][0] for p in photos], list(photo_names()))


def scenes(nodes: Any, missing: int, seed: int = 4, count: int = 5) -> Any:
    """What Demo Scene gives: image, mask, whole, captions."""
    options = next(w.options for w in nodes.DemoScene.define_schema().inputs if w.id == "missing")
    return nodes.DemoScene.execute(seed, count, "one or two", options[missing]).args


def demo_scenes(nodes: Any) -> Image.Image:
    """The three kinds of Demo Scene, a row each."""
    *_, said = scenes(nodes, 0)
    names = ("nothing missing", "an object missing", "the colours missing")
    rows = [row(list(scenes(nodes, kind)[0]), [name, *[""] * 4]) for kind, name in enumerate(names)]
    pen = ImageDraw.Draw(rows[0])
    pen.rectangle((0, rows[0].height - LINE, rows[0].width, rows[0].height), fill="white")
    for i, text in enumerate(said.split("\n")):
        first, *rest = text.split(" on ")[0].replace(" of a ", " of|a ").split("|")
        pen.text((i * (CELL + GAP) + 2, CELL + 3), " ".join([first, *rest])[:34], fill="#333333", font=FONT)
    return stack(rows)


def demo_models(nodes: Any) -> Image.Image:
    """What the world's models make of scenes that they never saw."""
    import torch

    from nodes import VAELoader

    rows = []
    for kind, name in WORLD.items():
        image = scenes(nodes, kind)[0]
        answer = upscaled(upscale_model(f"provoke-demo-world-{name}.safetensors"), image)
        rows += [row(list(image), [f"given to the {name}", *[""] * 4]), row(list(answer), ["its answer", *[""] * 4])]
    image = scenes(nodes, 0)[0]
    with torch.inference_mode():
        (vae,) = VAELoader().load_vae("provoke-demo-vae.safetensors")
        back = vae.decode(vae.encode(image))
    rows += [row(list(image), ["given to the VAE", *[""] * 4]), row(list(back), ["encoded and decoded", *[""] * 4])]
    return stack(rows)


def vary_world(nodes: Any) -> Image.Image:
    """What the world's models answer, and three other answers each."""
    rows = []
    for kind, name in WORLD.items():
        model = upscale_model(f"provoke-demo-world-{name}.safetensors")
        image, mask, *_ = scenes(nodes, kind, seed=6, count=2)
        results, default, attacked, *_ = attack(
            nodes, model=model, image=image, mask=mask if kind == 1 else None, epsilon=8.0, count=3
        )
        for i in range(len(image)):
            captions = ["what it gets", f"what the {name} answers", "looks the same to us", *["another answer"] * 3]
            answers = results[3 * i : 3 * i + 3]
            rows.append(row([image[i], default[i], attacked[3 * i], *answers], captions, cell=160))
    return stack(rows)


def scores(nodes: Any) -> Image.Image:
    """What the demo's two CLIPs say of five scenes and one sentence."""
    import torch

    image = nodes.DemoScene.execute(9, 5, "one", "nothing").args[0]
    said = nodes.ReadDemoScene.execute(image).args[0].split("\n")
    text = said[1].split(" on ")[0]
    told = []
    with torch.inference_mode():
        for name in ("first", "second"):
            (objective,) = nodes.ClipObjective.execute(nodes.LoadScorer.execute(name).args[0], text).args
            told.append(nodes.ScoreImages.execute(image, objective).args[1])
    captions = [f"first {a:.2f}, second {b:.2f}" for a, b in zip(*told, strict=True)]
    return titled(row(list(image), captions), f"similarity to '{text}'")


def steer_world(nodes: Any) -> Image.Image:
    """The coloriser's usual answers, and what it answers when it is led to a colour."""
    import torch

    model = upscale_model("provoke-demo-world-coloriser.safetensors")
    image, grey = scenes(nodes, 2, seed=8, count=8)[:2]
    usual = upscaled(model, image)
    said = nodes.ReadDemoScene.execute(usual).args[0].split("\n")
    single = [i for i, line in enumerate(said) if " of " not in line and "above" not in line and "below" not in line]
    clean = [i for i in single if not said[i].startswith("no clean")][:3]
    rows = []
    with torch.inference_mode():
        (scorer,) = nodes.LoadScorer.execute("first").args
        for i in clean:
            thing = said[i].split(" on ")[0]
            shape = thing.split()[-1]
            pictures, captions = [image[i], usual[i]], ["what it gets", f"answers: {thing}"]
            for colour in ("red", "green", "blue", "yellow"):
                fixed = {"epsilon": 8.0, "count": 1, "truncation": "clip", "steps": 15, "perturb_mask": grey[i : i + 1]}
                inputs = {"model": model, "image": image[i : i + 1], "scorer": scorer, **fixed}
                target = f"a {colour} {shape}"
                found = execute(nodes.ClipTargetedAttack, **inputs, target_text=target)
                pictures.append(found[0][0])
                captions.append(f"led to: {target}")
            rows.append(row(pictures, captions, cell=160))
    return stack(rows)


def classes(nodes: Any) -> Image.Image:
    """What a classifier, and a CLIP over words, say of five scenes: how sure they are of one class."""
    image = execute(nodes.DemoScene, seed=9, count=5, objects="one")[0]
    first = execute(nodes.ReadDemoScene, image=image)[0].split("\n")[1].split(" on ")[0].removeprefix("a ")
    (scorer,) = execute(nodes.LoadScorer, scorer="first")
    classifier, labels = execute(nodes.LoadClassifier, classifier="provoke-demo-resnet")
    (words,) = execute(nodes.ZeroShotClassifier, scorer=scorer, words=labels, template="a {}")
    told = []
    for judge, measure in ((classifier, "margin"), (classifier, "probability"), (words, "probability")):
        (objective,) = execute(nodes.ClassObjective, classifier=judge, class_name=first, measure=measure)
        told.append(execute(nodes.ScoreImages, images=image, objective=objective)[1])
    captions = [f"{m:+.1f}; {100 * p:.0f} %; {100 * z:.0f} %" for m, p, z in zip(*told, strict=True)]
    return titled(row(list(image), captions), f"'{first}': margin and probability by a ResNet; by a CLIP over 24 words")


def titled(sheet: Image.Image, title: str) -> Image.Image:
    """A line over a picture."""
    with_title = Image.new("RGB", (sheet.width, sheet.height + LINE), "white")
    with_title.paste(sheet, (0, LINE))
    ImageDraw.Draw(with_title).text((2, 2), title, fill="#333333", font=FONT)
    return with_title


def pick_best(nodes: Any) -> Image.Image:
    """Drawings of one prompt in the order of their scores."""
    from ..benchmarks.world_diffusion.run import Painter

    prompt = "a yellow triangle above a blue ring"
    pictures = Painter(nodes, "20 steps").draw(prompt, 40, 6).movedim(1, -1)
    (scorer,) = execute(nodes.LoadScorer, scorer="second")
    (objective,) = execute(nodes.ClipObjective, scorer=scorer, text=prompt)
    scores, *_ = execute(nodes.ScoreImages, images=pictures, objective=objective)
    best, *_ = execute(nodes.PickBest, scores=scores, keep=len(pictures), images=pictures)
    ranked = scores.total.sort(descending=True).values.tolist()
    return titled(row(list(best), [f"{score:.3f}" for score in ranked]), f"similarity to '{prompt}', the best first")


def steer_curve(nodes: Any) -> Image.Image:
    """The curve of benchmarks/world_steer, from its results."""
    return plotted("world_steer")


def vary_curve(nodes: Any) -> Image.Image:
    """The curve of benchmarks/world_attack, from its results."""
    return plotted("world_attack")


def plotted(benchmark: str) -> Image.Image:
    """What a benchmark plotted."""
    with Image.open(ROOT / "benchmarks" / benchmark / "curve.png") as curve:
        return curve.convert("RGB")


def demo_drawings(nodes: Any) -> Image.Image:
    """What Load Demo Models draws, three seeds of a prompt in a row, by both models."""
    from ..benchmarks.world_diffusion.run import Painter

    painter = Painter(nodes, "20 steps")
    prompts = ("a red circle", "a yellow triangle above a blue ring", "a green square left of a pink circle")
    rows = []
    for prompt in prompts:
        pictures = painter.draw(prompt, 5, 5).movedim(1, -1)
        rows.append(row(list(pictures), [prompt[:32], *["another seed"] * 4]))
    return stack(rows)


def vary_sampling(nodes: Any) -> Image.Image:
    """One seed of a few-step model: random noise on the conditioning, and Vary Sampling with a change of that norm."""
    from ..benchmarks.sampler_diversity import run as bench

    painter, rows, norm, shown = bench.Painter(nodes, bench.MODEL), [], 0.25, 3
    for at, text in enumerate(("a red circle", "a green square left of a yellow triangle")):
        usual = painter.draw(text, bench.SEED)
        noisy = painter.noisy(text, norm, at, draws=shown)
        varied = painter.varied(text, norm, count=shown)
        pictures = [*usual, *noisy, *varied]
        captions = ["usual", *["noise"] * shown, *["Vary Sampling"] * shown]
        sheet = row([picture.movedim(0, -1) for picture in pictures], captions, 128)
        rows.append(titled(sheet, f"'{text}', one seed, norm {norm:g} of the conditioning's"))
    return stack(rows)


def steer_sampling(nodes: Any) -> Image.Image:
    """Prompts, and the same prompts and seeds led to another colour by Steer Sampling."""
    from ..benchmarks.sampler_diversity.run import MODEL, Painter
    from ..benchmarks.sampler_steer import run as bench

    painter, pictures, captions = Painter(nodes, MODEL), [], []
    for at, asked in enumerate(bench.pairs(3, 31)):
        own = painter.draw(asked.wish, 300 + at, 1)
        usual, steered = bench.steer(painter, asked, 300 + at, at, objective=bench.near(nodes, own))
        pictures += [usual[0], steered[0]]
        captions += [asked.prompt, f"to {asked.wish}"]
    return row(pictures, captions, 128)


def compare_pictures(nodes: Any) -> Image.Image:
    """What Compare Pictures gives for a seed of a few-step model and two variations of it."""
    from ..benchmarks.sampler_diversity import run as bench

    painter, text = bench.Painter(nodes, bench.MODEL), "a red circle"
    before, after = (
        batch.movedim(1, -1) for batch in (painter.draw(text, bench.SEED), painter.varied(text, 0.06, count=2))
    )
    (sheet,) = execute(nodes.ComparePictures, before=before, after=after)
    return Image.fromarray((np.asarray(sheet[0]) * 255).round().astype(np.uint8))


def of_noise(name: str) -> Callable[[Any], Image.Image]:
    """A picture of benchmarks/latent_search."""

    def make(nodes: Any) -> Image.Image:
        from ..benchmarks.latent_search import pictures

        made: Image.Image = getattr(pictures, name)(nodes)
        return made

    return make


def search_prompt(nodes: Any) -> Image.Image:
    """What Search Prompt finds for one class by evolution in 24 steps, with seeds that the search did not see."""
    from ..benchmarks.world_prompt.run import VERDICT_SEED, Bench

    bench, thing = Bench(nodes), ("green", "square")
    found = bench.search(thing, "evolution", 24)["prompts"][:3]
    rows = []
    for one in [{"prompt": f"a {' '.join(thing)}", **bench.verdict(f"a {' '.join(thing)}", thing)}, *found]:
        pictures = bench.painter.draw(one["prompt"], VERDICT_SEED, 6).movedim(1, -1)
        sheet = row(list(pictures), [""] * 6, 128)
        said = f"'{one['prompt']}': not as said in {one['wrong']} of {one['clean']} clean pictures"
        rows.append(titled(sheet.crop((0, 0, sheet.width, 128)), said))
    return stack(rows)


PICTURES: dict[str, Callable[[Any], Image.Image]] = {
    "latent-search": of_noise("latent_search"),
    "best-of-seeds": of_noise("best_of_seeds"),
    "share-noise": of_noise("share_noise"),
    "vary-inpainter": vary_inpainter,
    "vary-epsilon": vary_epsilon,
    "vary-truncation": vary_truncation,
    "vary-world": vary_world,
    "demo-photos": demo_photos,
    "demo-scenes": demo_scenes,
    "demo-models": demo_models,
    "demo-drawings": demo_drawings,
    "scores": scores,
    "classes": classes,
    "pick-best": pick_best,
    "compare-pictures": compare_pictures,
    "vary-curve": vary_curve,
    "steer-world": steer_world,
    "steer-curve": steer_curve,
    "vary-sampling": vary_sampling,
    "steer-sampling": steer_sampling,
    "search-prompt": search_prompt,
}
"""By the name of its file."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=list(PICTURES), help="these pictures; without it all")
    wanted = parser.parse_args().only or list(PICTURES)
    nodes = open_pack()
    for name in wanted:
        print(save(PICTURES[name](nodes), f"{name}.jpg"))


if __name__ == "__main__":
    main()
