"""The two CLIPs: InfoNCE with hard negatives, and shared linear readers of the facts that fade out.

What makes the relations learnable in minutes on one core:
- every picture brings captions that differ from its own in one fact (a relation, two colours swapped, ...)
- linear readers, one set for both towers, say the facts from a picture's vector and from a caption's. They weigh less
  and less in the second half, and are not part of the model.
- what holds the text tower up is that "a left of b" and "b right of a" are one fact: which object is the left one
  depends on two words at once. So readers half way up say the words' own order, and some captions keep to one order.
- captions are cut to the longest of the batch: no position of the text tower looks ahead.
Captions that are true of another picture of the batch are no negatives of it. No caption states a held-out combination.
"""

from __future__ import annotations

import copy
import functools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from .. import captions, world
from ..clip_models import Tokenizer, build, encode_pictures
from ..world import BACKGROUNDS, COLOURS, RELATIONS, SHAPES, Facts, Scene, render, sample
from . import clip_measure

NET: dict[str, dict[str, Any]] = {
    # open_clip's own convolutional tower, whose pooling attends to positions
    "first": {"layers": [2, 2, 2, 2], "width": 16, "head_width": 64, "image_size": world.SIZE},
    # a timm tower: bottlenecks with squeeze and excitation
    "second": {"timm_model_name": "test_byobnet", "timm_pool": "abs_attn", "timm_proj": "", "image_size": world.SIZE},
}
TEXT = {
    "first": {"width": 128, "heads": 4, "layers": 4},
    "second": {"width": 96, "heads": 3, "layers": 4},
}
STEPS = {"first": 1300, "second": 3000}
PAIRS = {(colour, shape): i for i, (colour, shape) in enumerate((c, s) for c in COLOURS for s in SHAPES)}
READERS = (len(COLOURS), len(SHAPES), len(COLOURS) + 1, len(SHAPES) + 1, 3, len(BACKGROUNDS))
PARTS = 3  # of a batch of captions, by length
SPOKEN = (len(COLOURS), len(SHAPES), len(COLOURS) + 1, len(SHAPES) + 1, len(RELATIONS) + 1)
MIDDLE = 1  # the block of the text tower whose output says the words' own order
USUAL = 0.3  # of all captions: in the usual form, the left or the upper object first
WRONG = 2  # wrong captions for a picture
UNSAID = -100  # cross_entropy's ignore_index


def config(name: str) -> dict[str, Any]:
    """What open_clip.CLIP is built from."""
    vocabulary = Tokenizer().vocab_size
    return {
        "model_cfg": {
            "embed_dim": TEXT[name]["width"],
            "quick_gelu": True,
            "vision_cfg": NET[name],
            "text_cfg": {"context_length": 77, "vocab_size": vocabulary, **TEXT[name]},
        },
        "preprocess_cfg": {"size": world.SIZE, "mean": [0.5] * 3, "std": [0.5] * 3},
    }


@functools.cache
def taught(facts: Facts) -> bool:
    """Whether training may say this: one object without its background always, else what is not held out."""
    if facts.relation is None and facts.background is None:
        return True
    return world.split(facts) == "train"


@functools.cache
def truth(facts: Facts) -> tuple[int, ...]:
    """One number for the objects and how they lie, then the answers of the READERS."""
    facts = facts.ordered()
    (c, s), *rest = facts.objects
    ground = UNSAID if facts.background is None else tuple(BACKGROUNDS).index(facts.background)
    relation = 2 if facts.relation is None else RELATIONS.index(facts.relation) // 2
    second = (tuple(COLOURS).index(rest[0][0]), SHAPES.index(rest[0][1])) if rest else (len(COLOURS), len(SHAPES))
    number = (PAIRS[c, s] * 25 + (PAIRS[rest[0]] if rest else 24)) * 3 + relation
    return (number, tuple(COLOURS).index(c), SHAPES.index(s), *second, relation, ground)


def spoken(facts: Facts) -> tuple[int, ...]:
    """The answers of SPOKEN: as `truth`, in the order in which the words come."""
    (c, s), *rest = facts.objects
    first = tuple(COLOURS).index(c), SHAPES.index(s)
    second = (tuple(COLOURS).index(rest[0][0]), SHAPES.index(rest[0][1])) if rest else (len(COLOURS), len(SHAPES))
    return (*first, *second, RELATIONS.index(facts.relation) if facts.relation else len(RELATIONS))


@dataclass
class Batch:
    images: Tensor  # B 3 64 64
    tokens: Tensor  # T L; the first B are the pictures' own
    pictures: Tensor  # B 7: `truth` of the pictures
    texts: Tensor  # T 7
    spoken: Tensor  # T 5


class Stream:
    """Random batches of pictures, their captions and wrong captions. `generator` is the only source of chance."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.tokenizer = Tokenizer()
        self.ids = {word: self.tokenizer.encode(word)[0] for word in captions.WORDS}

    def chance(self) -> float:
        return float(torch.rand((), generator=self.generator))

    def pick(self, things: list[Any]) -> Any:
        return things[int(self.chance() * len(things))]

    def wrong(self, scene: Scene) -> list[Facts]:
        """Up to WRONG facts that differ from the scene's in one thing; only a wrong background is named."""
        facts = scene.facts
        plain = Facts(facts.objects, facts.relation)
        grounds = [name for name in BACKGROUNDS if name != facts.background]
        other = Facts(facts.objects, facts.relation, self.pick(grounds))
        found = captions.negatives(plain, self.generator)
        changes = [found["colour changed"], found["shape changed"], other]
        if facts.relation is None:
            kinds = [[wrong] for wrong in changes]
        else:
            swaps = [found[name] for name in ("colours swapped", "shapes swapped") if name in found]
            turns = [wrong for wrong in captions.relations(plain) if wrong.relation != facts.relation]
            # the relations come last: half of all wrong captions turn one
            kinds = [swaps if swaps and self.chance() < 0.7 else changes, turns]
        kinds = [[wrong for wrong in kind if taught(wrong)] for kind in kinds]
        chosen = [self.pick(kind) for kind in kinds if kind]
        return [chosen[i] for i in torch.randperm(len(chosen), generator=self.generator).tolist()[:WRONG]]

    def said(self, facts: list[Facts]) -> list[str]:
        """A random caption for each, which names the background where there is one."""
        texts = [
            captions.canonical(f.ordered()) if self.chance() < USUAL else text
            for f, text in zip(
                facts,
                captions.captions([Facts(f.objects, f.relation) for f in facts], self.generator),
                strict=True,
            )
        ]
        return [
            text if f.background is None else f"{text} {self.pick(list(captions.GROUNDS)).format(f.background)}"
            for text, f in zip(texts, facts, strict=True)
        ]

    def tokens(self, texts: list[str]) -> Tensor:
        rows = [[self.ids[word] for word in text.split()] for text in texts]
        start, end = self.tokenizer.sot_token_id, self.tokenizer.eot_token_id
        longest = max(map(len, rows))
        return torch.tensor([[start, *row, *[end] * (longest + 1 - len(row))] for row in rows])

    def disturbed(self, images: Tensor) -> Tensor:
        """Some noise, some blur, rounding to 8 bits, a shift by at most a pixel."""
        rng, count = self.generator, len(images)
        x, y = torch.randint(0, 3, (2,), generator=rng).tolist()
        padded = functional.pad(images, (1, 1, 1, 1), mode="replicate")
        images = padded[..., y : y + world.SIZE, x : x + world.SIZE]
        if self.chance() < 0.3:
            blurred = functional.avg_pool2d(functional.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)
            images = images.lerp(blurred, self.chance())
        strength = 0.04 * torch.rand(count, 1, 1, 1, generator=rng) ** 2
        images = images + strength * torch.randn(images.shape, generator=rng)
        return (images.clamp(0, 1) * 255).round() / 255

    def batch(self, count: int) -> Batch:
        lone = count // 4
        scenes = [
            *sample(lone, self.generator, part="train", objects=1),
            *sample(count - lone, self.generator, part="train", objects=2),
        ]
        facts = [
            f if self.chance() < captions.NAMED else Facts(f.objects, f.relation) for f in (s.facts for s in scenes)
        ]
        wrong = [other for scene in scenes for other in self.wrong(scene)]
        texts = self.said([*facts, *wrong])
        return Batch(
            self.disturbed(render(world.batch(scenes))),
            self.tokens(texts),
            torch.tensor([truth(scene.facts) for scene in scenes]),
            torch.tensor([truth(f) for f in (*facts, *wrong)]),
            torch.tensor([spoken(captions.parse(text)) for text in texts]),
        )


def _wrongness(said: Tensor, sizes: tuple[int, ...], answers: Tensor) -> Tensor:
    """N sum(sizes), N len(sizes) -> the mean cross-entropy."""
    losses = [
        functional.cross_entropy(part, answer, ignore_index=UNSAID, reduction="sum")
        / (answer != UNSAID).sum().clamp_min(1)
        for part, answer in zip(said.split(sizes, 1), answers.unbind(1), strict=True)
    ]
    return torch.stack(losses).mean()


class Readers(nn.Module):
    """Linear readers: of the facts from a vector of length 1, the same for both towers; and of the words' order."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(10.0))
        self.facts = nn.Linear(width, sum(READERS))
        self.words = nn.Linear(width, sum(SPOKEN))

    def forward(self, vectors: Tensor, answers: Tensor) -> Tensor:
        """N D, N len(READERS) -> how wrong the facts are read."""
        return _wrongness(self.facts(vectors * self.scale), READERS, answers)

    def order(self, middle: Tensor, answers: Tensor) -> Tensor:
        """N width, N len(SPOKEN) -> how wrong the words are read."""
        return _wrongness(self.words(functional.layer_norm(middle, middle.shape[-1:])), SPOKEN, answers)


class Clip:
    """State and steps of a CLIP's training; loop.py drives it."""

    folder = "provoke_clip"
    batch = 64
    rate = 2e-3

    def __init__(self, seed: int, device: torch.device, name: str = "first") -> None:
        self.name, self.device, self.steps = name, device, STEPS[name]
        self.config = config(name)
        seed += 1000 * list(NET).index(name)
        self.stream = Stream(seed)
        self.generators = {"stream": self.stream.generator}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = build(self.config)
            readers = Readers(self.config["model_cfg"]["embed_dim"])
        with torch.no_grad():
            # what no caption reaches stays so: a padding state is that of an end that stands nowhere
            net.positional_embedding.zero_()
        self.net, self.readers = net.to(device, memory_format=torch.channels_last), readers.to(device)
        self.modules: dict[str, nn.Module] = {
            "net": self.net,
            "average": copy.deepcopy(self.net).eval().requires_grad_(False),
            "readers": self.readers,
        }
        parameters = [*self.net.parameters(), *self.readers.parameters()]
        groups = [
            {"params": [p for p in parameters if p.dim() > 1], "weight_decay": 0.02},
            {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
        ]
        self.optimizers = {"net": torch.optim.AdamW(groups, lr=self.rate, betas=(0.9, 0.98))}

    def encoded(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """T L -> vectors T D, states half way up T width. In parts of like length, each cut to its own longest."""
        net, end = self.net, self.net.vocab_size - 1
        lengths = (tokens != end).sum(1) + 1
        order = lengths.argsort()
        vectors, middles = [], []
        for part in order.chunk(PARTS):
            longest = int(lengths[part].max())
            each, last = torch.arange(len(part), device=tokens.device), lengths[part] - 1
            x = net.token_embedding(tokens[part, :longest]) + net.positional_embedding[:longest]
            for index, block in enumerate(net.transformer.resblocks):
                x = block(x, attn_mask=net.attn_mask[:longest, :longest])
                if index == MIDDLE:
                    middles.append(x[each, last].float())
            pooled = net.ln_final(x)[each, last] @ net.text_projection
            vectors.append(functional.normalize(pooled.float(), dim=-1))
        back = order.argsort()
        return torch.cat(vectors)[back], torch.cat(middles)[back]

    def step(self, progress: float) -> dict[str, float]:
        """One update; `progress` runs from 0 to 1 over the training."""
        net, readers, optimizer = self.net, self.readers, self.optimizers["net"]
        for group in optimizer.param_groups:
            group["lr"] = (
                self.rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))) * min(1, progress * 50 + 0.05)
            )
        batch = self.stream.batch(self.batch)
        answers, said = batch.pictures.to(self.device), batch.texts.to(self.device)
        images = batch.images.to(self.device, memory_format=torch.channels_last)
        # the fused attention's way back is ten times slower on such short texts than plain products
        with torch.autocast(self.device.type, torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            pictures = encode_pictures(net, images).float()
            texts, middle = self.encoded(batch.tokens.to(self.device))
        own = torch.arange(len(pictures), device=self.device)
        same = answers[:, None, 0] == said[None, :, 0]
        ground = said[None, :, -1]
        true = same & ((ground == UNSAID) | (ground == answers[:, None, -1]))
        true[own, own] = False  # its own caption is what it is asked for; other true ones are no negatives
        logits = (net.logit_scale.exp() * pictures @ texts.T).masked_fill(true, -1e4)
        contrast = functional.cross_entropy(logits, own) + functional.cross_entropy(logits[:, : len(own)].T, own)
        read_pictures, read_texts = readers(pictures, answers[:, 1:]), readers(texts, said[:, 1:])
        read_words = readers.order(middle, batch.spoken.to(self.device))
        optimizer.zero_grad(set_to_none=True)
        (contrast / 2 + min(1.0, 2 - 2 * progress) * (read_pictures + read_texts + read_words)).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            net.logit_scale.clamp_(max=math.log(100))
        losses = {"contrast": contrast / 2, "pictures": read_pictures, "texts": read_texts, "words": read_words}
        return {name: float(loss.detach()) for name, loss in losses.items()}

    def validate(self) -> dict[str, float]:
        """Rates over held-out scenes (few of them; benchmarks/world_clip has more), and the weakest word."""
        return clip_measure.figures(self.modules["average"], torch.Generator().manual_seed(7), scenes=512)

    def failings(self, figures: dict[str, float]) -> list[str]:
        """Why these weights may not be exported; empty when they pass."""
        return [
            f"{name}: {figures[name]:.3f}, {bar} wanted"
            for name, bar in clip_measure.BARS.items()
            if figures[name] < bar
        ]

    def weights(self) -> dict[str, Tensor]:
        """What is exported: the averaged weights."""
        return self.modules["average"].state_dict()
