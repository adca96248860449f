"""A universal token on the demo world: a second object in every picture, in prompts and with seeds it never saw.

    python dev.py run benchmarks/world_token/run.py -- [--quick] [--only PART ...] [--out FOLDER]

Writes results.json and README.md, a part at a time. Everything goes through nodes: *Learn Token* on the few-step model
(4 steps of euler at cfg 1), *Save Embedding*, then a plain *CLIP Text Encode* that says embedding:name, *KSampler* and
*VAE Decode*. The prompts name one object, half of the objects for learning and the others for the verdict, which also
say a ground. The search follows the first CLIP; the verdict is the checker's, on 8-bit pictures and again one pixel
aside, and the second CLIP is only asked at the end. Independent units are prompts: the Wilson 95 % interval takes each
prompt (with all its seeds) for one trial. n is fixed before a run.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...demo.world import BACKGROUNDS, COLOURS, SHAPES
from ...tools.inprocess import execute, open_pack
from ..rates import clustered
from ..record import facts
from ..verdicts import shown
from . import inversion

HERE = Path(__file__).resolve().parent
SAMPLER = {"steps": 4, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
TARGETS = (("blue", "ring"), ("yellow", "triangle"), ("pink", "square"))
# of the curve, on the first target, in standard deviations of the vocabulary: one vector; vectors around the words
EPSILONS, AROUND = (2.0, 8.0), (0.25, 0.5, 1.0, 2.0, 4.0)
FAR = 107.3  # the paper's box of 2.5 in standard deviations of this vocabulary
# of `placed`: what the curve shows to keep most of the words; a constant step can cross all of it
NEAR = {"epsilon": 0.5, "step_size": 0.05, "schedule": "constant"}
RELATION = "left of"  # what the objective's text says of the two objects
LEARN: dict[str, Any] = {
    "search_steps": 30, "pairs": 6, "vectors": 1, "epsilon": 8.0, "step_size": 0.2, "noise_seed": 0,
}  # fmt: skip
COUNTS = (1, 2, 3, 5)  # vectors of the part `states`
BATCH = 4  # pictures of a pair
HELD_SEEDS = 4  # of a prompt, in one batch; other seeds than any in learning
CURVE = 24  # prompts of the curve, of which `placed` takes none
FULL = {"targets": len(TARGETS), "prompts": 40, "steps": LEARN["search_steps"], "states": 300}
QUICK = {"targets": 1, "prompts": 4, "steps": 2, "states": 2}
Thing = tuple[str, str]  # colour, shape


def split(target: Thing) -> tuple[list[str], list[tuple[str, Thing]]]:
    """Prompts to learn with, and prompts for the verdict with their own object: no object is in both."""
    things = [(colour, shape) for colour in COLOURS for shape in SHAPES if (colour, shape) != target]
    order = torch.randperm(len(things), generator=torch.Generator().manual_seed(7)).tolist()
    known, new = [things[i] for i in order[:12]], [things[i] for i in order[12:]]
    grounds = ["", *(f" on a {name} background" for name in BACKGROUNDS)]
    held = [(f"a {colour} {shape}{ground}", (colour, shape)) for ground in grounds for colour, shape in new]
    return [f"a {colour} {shape}" for colour, shape in known], held


@dataclass(frozen=True)
class Learned:
    """A token: the name of its saved file, its vectors (clip_l: n D), and what the node said."""

    name: str
    vectors: Tensor
    report: str

    @property
    def used(self) -> float:
        """Of epsilon, in its unit, as the report says."""
        return float(re.findall(r"used: ([\d.]+)", self.report)[0])


class Bench:
    """The models, loaded once; embeddings go into a folder of the run's own."""

    def __init__(self, nodes: Any, folder: Path) -> None:
        import folder_paths

        from nodes import CLIPTextEncode, EmptyLatentImage

        folder_paths.folder_names_and_paths["embeddings"] = ([str(folder)], {".safetensors"})
        self.nodes, self.count = nodes, 0
        with torch.inference_mode():
            self.model, self.clip, self.vae = nodes.LoadDemoModels.execute("4 steps").args
            self.first, self.second = (nodes.LoadScorer.execute(name).args[0] for name in ("first", "second"))
            self.negative = CLIPTextEncode().encode(self.clip, "")[0]
            self.latent = EmptyLatentImage().generate(64, 64, BATCH)[0]

    def learn(self, target: Thing, prompts: Sequence[str], pictures: Tensor | None = None, **choices: Any) -> Learned:
        """Learn Token, then Save Embedding; the node's own pictures are those of the saved file, bit for bit.

        pictures: n H W 3 of what the token shall bring, in place of words.
        """
        colour, shape = target
        text = "" if pictures is not None else f"{{prompt}} {RELATION} a {colour} {shape}"
        sockets = {"clip": self.clip, "model": self.model, "vae": self.vae, "negative": self.negative, **SAMPLER}
        with torch.inference_mode():
            wanted = self.nodes.ClipObjective.execute(self.first, text, picture=pictures).args[0]
        self.count += 1
        outputs = execute(
            self.nodes.AdversarialToken, **sockets, latent_image=self.latent, objective=wanted,
            prompts="\n".join(prompts), name=f"token-{self.count}", **{**LEARN, "initial_word": shape, **choices},
        )  # fmt: skip
        _, embedding, said, images, _, _, _, report = outputs
        name, prompts_said, _ = execute(self.nodes.SaveEmbedding, embedding=embedding)
        if prompts_said != said or not torch.equal(self.draw(said[0], LEARN["noise_seed"], BATCH), images[:BATCH]):
            raise RuntimeError("the saved token does not give Learn Token's pictures")
        return Learned(name, embedding.vectors["clip_l"].clone(), report)

    def words(self, words: str) -> Tensor:
        """The vectors of words, as the text encoder has them: n D."""
        from ...host.sampling.text import TextEncoder
        from ...host.sampling.tokens import Token

        token = Token(TextEncoder(self.clip), len(words.split()))
        return token.vectors(token.of_word(words).detach())["clip_l"].cpu()

    def saved(self, vectors: Tensor) -> str:
        """Any vectors (n D) as a file; the name in prompts."""
        from ...host.embedding_files import save

        return save({"clip_l": vectors}, "other")[1]

    def draw(self, prompt: str, seed: int, count: int) -> Tensor:
        """CLIPTextEncode, KSampler, VAEDecode: count 64 64 3."""
        from nodes import CLIPTextEncode, EmptyLatentImage, KSampler, VAEDecode

        with torch.inference_mode():
            positive = CLIPTextEncode().encode(self.clip, prompt)[0]
            latent = EmptyLatentImage().generate(64, 64, count)[0]
            drawn = KSampler().sample(
                self.model, seed, SAMPLER["steps"], SAMPLER["cfg"], SAMPLER["sampler_name"], SAMPLER["scheduler"],
                positive, self.negative, latent,
            )[0]  # fmt: skip
            return VAEDecode().decode(self.vae, drawn)[0].clone()

    def verdict(self, target: Thing, held: Sequence[tuple[str, Thing]], said: Callable[[str], str]) -> dict[str, Any]:
        """What held-out prompts with something appended show: shares of the pairs, a prompt is a unit."""
        there, kept, both, clean, agreed = ([] for _ in range(5))  # type: ignore[var-annotated]
        for number, (prompt, own) in enumerate(held):
            images = self.draw(said(prompt), 50_000 + number, HELD_SEEDS)
            seen = shown(images)
            there.append([things is not None and target in things for things in seen])
            kept.append([things is not None and own in things for things in seen])
            both.append([a and b for a, b in zip(there[-1], kept[-1], strict=True)])
            clean.append([things is not None for things in seen])
            agreed.append([a and b for a, b in zip(there[-1], self._second(images, prompt, target), strict=True)])
        found = {"target": there, "own": kept, "both": both, "clean": clean, "target, and the second CLIP": agreed}
        return {name: clustered(rows) for name, rows in found.items()}

    def _second(self, images: Tensor, prompt: str, target: Thing) -> list[bool]:
        """Whether the second CLIP finds a prompt with the target (in any relation) likelier than the prompt alone."""
        colour, shape = target
        texts = [prompt] + [f"{prompt} {way} a {colour} {shape}" for way in ("left of", "right of", "above", "below")]
        with torch.no_grad():
            judge = self.second.judge
            pictures = images.movedim(-1, 1)
            likeness = judge.encode_images(pictures) @ judge.encode_texts(texts).T
        return [int(row.argmax()) != 0 for row in likeness]

    def nearest(self, vectors: Tensor) -> str:
        """The word of the vocabulary that points most nearly the same way (of each vector)."""
        from ...core.embedding import nearest

        part = self.clip.tokenizer.clip_l
        places, _ = nearest(self.clip.cond_stage_model.clip_l.transformer.get_input_embeddings().weight, vectors)
        return " ".join(part.inv_vocab[int(place)].removesuffix("</w>") for place in places)


def moved_as_far(vectors: Tensor, start: Tensor, seed: int) -> Tensor:
    """The start (n D), each of its vectors moved at random by as much as `vectors` are away from it."""
    return start + random_like(vectors - start, seed)


def random_like(vectors: Tensor, seed: int) -> Tensor:
    """Random directions of the same lengths."""
    drawn = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(seed))
    return drawn * vectors.norm(dim=1, keepdim=True) / drawn.norm(dim=1, keepdim=True)


def main_part(bench: Bench, sizes: dict[str, int]) -> dict[str, Any]:
    """A token for each target, beside what needs no search."""
    found = {}
    for target in TARGETS[: sizes["targets"]]:
        colour, shape = target
        prompts, held = split(target)
        held = _even(held, sizes["prompts"])
        words = f"{RELATION} a {colour} {shape}"
        token = bench.learn(target, prompts, search_steps=sizes["steps"])
        around = {"vectors": len(words.split()), "initial_word": words, "epsilon": 2.0, "step_size": 0.1}
        longer = bench.learn(target, prompts, search_steps=sizes["steps"], **around)
        chance = [bench.saved(random_like(token.vectors, seed)) for seed in range(3)]
        near = bench.nearest(token.vectors)
        ways = {
            "learned token, 1 vector": f"embedding:{token.name}",
            f"learned token, {around['vectors']} vectors around the words": f"embedding:{longer.name}",
            "nothing": "",
            "target words": f"{colour} {shape}",
            "target's shape": shape,
            f"nearest word ({near})": near,
            **{f"random vector {i + 1}": f"embedding:{name}" for i, name in enumerate(chance)},
            f"in words ({around['vectors']} tokens)": words,
        }
        found[f"{colour} {shape}"] = {
            "report": token.report,
            "ways": {
                way: bench.verdict(target, held, lambda prompt, more=more: f"{prompt} {more}".strip())  # type: ignore[misc]
                for way, more in ways.items()
            },
        }
    return found


def states(bench: Bench, sizes: dict[str, int]) -> dict[str, Any]:
    """By the number of vectors: how nearly the text encoder can be told the words, and what its pictures then show."""
    from .states import told

    target = TARGETS[0]
    colour, shape = target
    words = f"{RELATION} a {colour} {shape}"
    prompts, held = split(target)
    held, found = _even(held, sizes["prompts"]), {}
    for count in COUNTS:
        vectors, before, after = told(bench.clip, prompts, words, count, sizes["states"], shape)
        name = bench.saved(vectors)
        rows = bench.verdict(target, held, lambda prompt, name=name: f"{prompt} embedding:{name}")  # type: ignore[misc]
        found[str(count)] = {"before": round(before, 4), "after": round(after, 4), **rows}
    found[f"the words ({len(words.split())})"] = {
        "before": 0.0, "after": 0.0, **bench.verdict(target, held, lambda prompt: f"{prompt} {words}")
    }  # fmt: skip
    return found


def curve(bench: Bench, sizes: dict[str, int]) -> dict[str, Any]:
    """How far it may go, on the first target: what comes in, and what stays."""
    target = TARGETS[0]
    prompts, held = split(target)
    held, found = _even(held, min(CURVE, sizes["prompts"])), {}
    words = f"{RELATION} a {' '.join(target)}"
    count = len(words.split())
    several = f"{count} vectors around the words"
    around = {"vectors": count, "initial_word": words}
    tries: dict[str, dict[str, Any]] = {
        **{f"1 vector, {epsilon:g}": {"epsilon": epsilon} for epsilon in EPSILONS},
        "1 vector, the paper's 2.5": {"epsilon": FAR},
        "1 vector, norm band, 1": {"epsilon": 1.0, "budget": "norm band"},
        "1 vector, best of random tokens, 8": {"method": "random", "epsilon": 8.0},
        **{
            # a step in proportion, so that every search gets as far in its budget (15 steps: about 0.4 of it)
            f"{several}, {epsilon:g}": {**around, "epsilon": epsilon, "step_size": epsilon / 20}
            for epsilon in AROUND
        },
        f"{several}, best of random tokens, 2": {**around, "method": "random", "epsilon": 2.0},
    }
    for name, choices in tries.items():
        token = bench.learn(target, prompts, search_steps=sizes["steps"], **choices)
        rows = bench.verdict(target, held, lambda prompt, token=token: f"{prompt} embedding:{token.name}")  # type: ignore[misc]
        found[name] = {"length": round(float(token.vectors.norm(dim=1).mean()), 4), "used": token.used, **rows}
        print(name, {kind: row["rate"] for kind, row in rows.items()}, flush=True)
    found["the words themselves"] = bench.verdict(target, held, lambda prompt: f"{prompt} {words}")
    return found


def placed(bench: Bench, sizes: dict[str, int]) -> dict[str, Any]:
    """The token where its words would stand, before the ground: "a red circle * on a white background"."""
    found = {}
    for target in TARGETS[: sizes["targets"]]:
        prompts, held = split(target)
        held, words = _even(held, len(held))[CURVE:][: sizes["prompts"]], f"{RELATION} a {' '.join(target)}"
        around = {"vectors": len(words.split()), "initial_word": words, **NEAR}
        token = bench.learn(target, prompts, search_steps=sizes["steps"], **around)
        start = bench.words(words)
        ways = {
            f"in words ({around['vectors']} tokens)": words,
            "the words' vectors, moved": f"embedding:{token.name}",
            "moved at random, as far": f"embedding:{bench.saved(moved_as_far(token.vectors, start, 0))}",
            "random vectors of their lengths": f"embedding:{bench.saved(random_like(token.vectors, 0))}",
        }
        rows = {
            way: bench.verdict(target, held, lambda prompt, more=more: before_the_ground(prompt, more))  # type: ignore[misc]
            for way, more in ways.items()
        }
        found[" ".join(target)] = {"used": token.used, "ways": rows}
        print(target, token.used, {way: row["target"] for way, row in rows.items()}, flush=True)
    return found


def from_pictures(bench: Bench, sizes: dict[str, int]) -> dict[str, Any]:
    """Textual inversion: what the object is, pictures alone say."""
    found = {}
    for target in TARGETS[: sizes["targets"]]:
        colour, shape = target
        _, held = split(target)
        held = _even(held, sizes["prompts"])
        shown_to_it = inversion.references(target)
        token = bench.learn(target, inversion.prompts(), shown_to_it, search_steps=sizes["steps"], **inversion.INVERTED)
        ways = {
            "token from pictures": f"embedding:{token.name}",
            "its initial word": shape,
            "the object's words": f"{colour} {shape}",
            "random vectors of their lengths": f"embedding:{bench.saved(random_like(token.vectors, 0))}",
        }
        rows = {
            way: bench.verdict(
                target,
                held,
                lambda prompt, more=more: before_the_ground(prompt, f"{RELATION} a {more}"),  # type: ignore[misc]
            )
            for way, more in ways.items()
        }
        found[" ".join(target)] = {"pictures": len(shown_to_it), "used": token.used, "ways": rows}
        print(target, token.used, {way: row["target"] for way, row in rows.items()}, flush=True)
    return found


def before_the_ground(prompt: str, more: str) -> str:
    """What a placeholder there would give."""
    thing, on, ground = prompt.partition(" on ")
    return f"{thing} {more}{on}{ground}"


def _even(held: list[tuple[str, Thing]], count: int) -> list[tuple[str, Thing]]:
    """So many of them, spread over objects and grounds."""
    order = torch.randperm(len(held), generator=torch.Generator().manual_seed(8)).tolist()
    return [held[i] for i in order[:count]]


PARTS: dict[str, Callable[[Bench, dict[str, int]], dict[str, Any]]] = {
    "states": states,
    "main": main_part,
    "curve": curve,
    "placed": placed,
    "pictures": from_pictures,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one target, a few prompts and steps, to see that it runs")
    parser.add_argument("--only", nargs="*", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--size", nargs="*", default=[], help="other sizes, as targets=1 (the page says them)")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    sizes = {**(QUICK if options.quick else FULL), **{k: int(v) for k, v in (one.split("=") for one in options.size)}}
    options.out.mkdir(parents=True, exist_ok=True)
    nodes, file = open_pack(), options.out / "results.json"
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(nodes, Path(folder))
        for part in options.only:
            known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
            made = {**facts(__file__), "sizes": sizes, "pairs": LEARN["pairs"]}
            known[part] = {**made, "found": PARTS[part](bench, sizes)}
            file.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    from .page import page

    results = json.loads(file.read_text(encoding="utf-8"))
    (options.out / "README.md").write_text(page(results), encoding="utf-8")


if __name__ == "__main__":
    main()
