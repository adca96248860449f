"""The world's inpainter and coloriser: where many answers are right, they settle on one clean answer.

Averaged over all right answers, a picture would be grey. So training asks for one of them, and what decides is a tint
that no eye sees (`questions.py`): at first the tints are strong, then ever weaker. A deterministic model's choice hangs
on something in its input; here we know on what.

The last part hardens the habit, not the answer: half of each batch is attacked, and asked for the clean answer that is
nearest to what came out. So an attack changes the answer, and does not break it.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, ClassVar

import torch
from spandrel.architectures.NAFNet import NAFNet
from torch import Tensor, nn
from torch.nn import functional

from .. import checker, questions, world
from ..questions import PENCIL

CLEAN_BAR = 0.85  # share of held-out inputs whose answer is a clean scene of the right objects: Wilson's lower end
NOISE = 0.04  # of the input in training, at most, and in the end: standard deviation. Sign noise of 8 / 255 has 0.031
STRONG = 10.0  # times their own size: how strong the tints are at first, for the net to find them
ANY = 0.4  # of the tints, from no colour's own direction: whatever it is, an answer must be one clear colour
STAINS = 6.0  # levels, root mean square at most, of what is laid over a question in training: ground and object alike
LIGHTER = 4.0  # levels by which a tint's lightness may be off
EPSILON, MOVES = 8 / 255, 4  # of that attack, by signs
AROUND = 6  # pixels around what is asked for, where an attack leaves its fuzz


class _Committed(ABC):
    """What the two have in common. `loop.py` drives it."""

    folder = "upscale_models"
    name: str
    steps: int
    batch = 48
    rate = 2e-3
    keeps_asked: bool  # whether an attack must leave alone what is asked for
    blocks: ClassVar[dict[str, Any]]  # of the net
    fading: tuple[float, float]  # of the training: from where to where the tints become weaker
    hardening: float  # of the training: from here on half of a batch is attacked

    def __init__(self, seed: int, device: torch.device) -> None:
        self.device = device
        self.generators = {"scenes": torch.Generator().manual_seed(seed), "noise": torch.Generator().manual_seed(seed)}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = NAFNet(width=8, **self.blocks)
        with torch.no_grad():
            # the first norm then sees grey as nothing, and next to it every level
            net.intro.bias.copy_(-PENCIL * net.intro.weight.sum((1, 2, 3)))
            self.begin(net)
        net = net.to(device).to(memory_format=torch.channels_last)
        self.modules: dict[str, nn.Module] = {"net": net, "average": copy.deepcopy(net)}
        self.optimizers = {"net": torch.optim.Adam(net.parameters(), lr=self.rate, betas=(0.9, 0.99))}
        rng = torch.Generator().manual_seed(5)
        self.test = world.sample(256, rng, part="held out")
        self.test_off = questions.levels(questions.random_tints(self.test, rng))

    @abstractmethod
    def question(self, scenes: world.Scenes, off: Tensor) -> Tensor:
        """What the net is given, B 3 64 64, for greys `off` levels off the middle, B 2 3."""

    @abstractmethod
    def wanted(self, scenes: world.Scenes, tint: Tensor) -> world.Scenes:
        """The scenes as this model likes them, for tints B 2."""

    @abstractmethod
    def asked(self, scenes: world.Scenes) -> Tensor:
        """Where the answer is free, B 1 64 64."""

    def begin(self, net: NAFNet) -> None:  # noqa: B027 - may be left as it is
        """What else the net begins with."""

    def _weakness(self, progress: float) -> float:
        """0 while the tints are STRONG, 1 from where they are as they are."""
        begin, end = self.fading
        return min(1.0, max(0.0, (progress - begin) / (end - begin)))

    def free(self, scenes: world.Scenes) -> Tensor:
        """Where the question may change, B 1 64 64 or 1: never what an inpainter is to fill."""
        return 1 - questions.hole(scenes) if self.keeps_asked else torch.ones(1)

    @abstractmethod
    def deciding(self, scenes: world.Scenes) -> Tensor:
        """Where what decides lies: N areas, B N 64 64 in [0, 1]."""

    @abstractmethod
    def nearest(self, answer: Tensor, scenes: world.Scenes) -> world.Scenes:
        """The scenes that could have been answered, nearest to the answers, B 3 64 64 without a graph."""

    def _tinted(self, scenes: world.Scenes) -> tuple[Tensor, Tensor]:
        """Levels off the middle, B 2 3, and the colours that they stand for, B 2: the world's own tints, stronger ones,
        and directions between them (but for what lies on the border of two)."""
        rng = self.generators["noise"]
        tint = questions.random_tints(scenes, rng)
        own = questions.levels(tint) + 2 * torch.rand((*tint.shape, 3), generator=rng) - 1
        # most tints that an attack leads to lie further out
        further = 1 + 1.5 * torch.rand((*tint.shape, 1), generator=rng).square()
        other = torch.randn((*tint.shape, 3), generator=rng)
        other = functional.normalize(other - other.mean(2, keepdim=True), dim=2)
        other = other * questions.TRACE * (1 + torch.rand((*tint.shape, 1), generator=rng))
        stands_for, lead = questions.nearest_hue(other)
        chosen = (torch.rand(tint.shape, generator=rng) < ANY) & (lead > 0.06)
        off = torch.where(chosen[..., None], other, own * further)
        lighter = LIGHTER * (2 * torch.rand((*tint.shape, 1), generator=rng) - 1)
        return off + lighter, torch.where(chosen, stands_for, tint)

    def _stained(self, question: Tensor, scenes: world.Scenes) -> Tensor:
        """Smooth stains over the question, of every tint, but none on average over what decides: an object (the frame)
        answers for its mean, and the ground for nothing."""
        rng = self.generators["noise"]
        count, cells = len(question), int(torch.randint(3, 13, (), generator=rng))
        stain = torch.randn(count, 3, cells, cells, generator=rng)
        stain = functional.interpolate(stain, world.SIZE, mode="bicubic")
        for area in self.deciding(scenes).unbind(1):
            area = area[:, None]
            weight = area.sum((2, 3), keepdim=True).clamp_min(1)
            stain = stain - area * ((stain * area).sum((2, 3), keepdim=True) / weight)
        stain = stain / stain.square().mean((1, 2, 3), keepdim=True).sqrt()
        size = STAINS / 255 * torch.rand(count, 1, 1, 1, generator=rng)
        return (question + (size * stain).clamp(-EPSILON, EPSILON) * self.free(scenes)).clamp(0, 1)

    def attacked(
        self, question: Tensor, scenes: world.Scenes, rng: torch.Generator, net: str = "net", moves: int = MOVES
    ) -> Tensor:
        """Questions, changed by at most EPSILON where they may change, with answers far from the usual ones."""
        with torch.no_grad():
            usual = self.answer(question, net)
        region, free = self.asked(scenes) if self.keeps_asked else torch.ones(1), self.free(scenes)
        change = EPSILON * (2 * torch.rand(question.shape, generator=rng) - 1) * free
        self.modules[net].requires_grad_(False)
        for _ in range(moves):
            change.requires_grad_(True)
            away = ((self.answer(question + change, net) - usual).abs() * region).sum()
            (gradient,) = torch.autograd.grad(away, change)
            moved = change.detach() + 1.5 * EPSILON / moves * gradient.sign() * free
            change = ((question + moved.clamp(-EPSILON, EPSILON)).clamp(0, 1) - question).detach()
        self.modules[net].requires_grad_(True)
        return question + change

    def answer(self, question: Tensor, net: str = "net") -> Tensor:
        """The net's (or the average's), in float32 on the CPU."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type != "cpu"):
            answer = self.modules[net](question.to(self.device, memory_format=torch.channels_last))
        return answer.float().cpu()

    def step(self, progress: float) -> dict[str, float]:
        """One update; `progress` runs from 0 to 1 over the training."""
        optimizer, rng = self.optimizers["net"], self.generators["noise"]
        for group in optimizer.param_groups:
            fall = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress))
            group["lr"] = self.rate * fall * min(1.0, progress * 50 + 0.05)
        scenes = world.sample(self.batch, self.generators["scenes"], part="train")
        off, tint = self._tinted(scenes)
        question = self.question(scenes, STRONG ** (1 - self._weakness(progress)) * off).clamp(0, 1)
        strength = NOISE * self._weakness(progress) * torch.rand(self.batch, 1, 1, 1, generator=rng)
        if self._weakness(progress) == 1:
            question = self._stained(question, scenes)
        noise = strength * torch.randn(question.shape, generator=rng) * self.free(scenes)
        noisy = (question + noise).clamp(0, 1)
        picture, area = world.render(self.wanted(scenes, tint)), self.asked(scenes)
        half = slice(0, self.batch // 2 if progress >= self.hardening else 0)
        if half.stop:
            noisy[half] = self.attacked(question[half], scenes.pick(half), rng)
        answer = self.answer(noisy)
        if half.stop:
            picture[half] = world.render(self.nearest(answer[half].detach(), scenes.pick(half)))
        gap = (answer - picture).abs()
        area = area / (3 * area.sum((1, 2, 3), keepdim=True))
        # squares first: the absolute difference asks for the median, which does not move while all is equally likely
        squares, asked = ((power * area).sum((1, 2, 3)).mean() for power in (4 * gap.square(), gap))
        near = functional.max_pool2d((area > 0).float(), 2 * AROUND + 1, 1, AROUND)
        known = (gap * (area == 0) * (1 + 2 * near)).mean()
        optimizer.zero_grad(set_to_none=True)
        (squares.lerp(asked, progress) + 3 * known).backward()
        nn.utils.clip_grad_norm_(self.modules["net"].parameters(), 1.0)
        optimizer.step()
        return {"asked": float(asked.detach()), "known": float(known.detach())}

    def validate(self) -> dict[str, float]:
        """On held-out scenes: how many answers are clean, how many an attack changes, and how even they are (entropy of
        the answers, 1 = even)."""
        question = (self.question(self.test, self.test_off) * 255).round() / 255
        with torch.no_grad():
            answer = torch.cat([self.answer(part, "average").clamp(0, 1) for part in question.split(64)])
        readings = checker.read(answer)
        wanted = [len(scene.objects) for scene in self.test]
        good = [r for r, n in zip(readings, wanted, strict=True) if r.clean and len(r.objects) == n]
        part = slice(0, 64)
        rng = torch.Generator().manual_seed(6)  # not the training's: validations come whenever a minute is over
        attacked = self.attacked(question[part], self.test.pick(part), rng, "average", 12)
        read = checker.read(self.answer(attacked, "average").detach().clamp(0, 1))
        pairs = list(zip(read, readings, strict=False))
        changed = [a.clean and b.clean and len(a.objects) == len(b.objects) and a.facts != b.facts for a, b in pairs]
        colours = [thing.colour for r in good for thing in r.objects]
        shapes = [thing.shape for r in good for thing in r.objects]
        return {
            "clean": len(good) / len(readings),
            "clean, at least": checker.wilson(len(good), len(readings))[0],
            "changed": sum(changed) / len(changed),  # by an attack, to something as clean
            "colours": _evenness(colours, len(world.COLOURS)),
            "shapes": _evenness(shapes, len(world.SHAPES)),
        }

    def failings(self, figures: dict[str, float]) -> list[str]:
        """Why these weights may not be exported; empty when they pass."""
        found = []
        if figures["clean, at least"] < CLEAN_BAR:
            found.append(f"{figures['clean, at least']:.0%} clean answers at least, {CLEAN_BAR:.0%} wanted")
        if figures["colours"] < 0.8:
            found.append(f"colours are uneven: {figures['colours']:.2f} of the largest entropy, 0.8 wanted")
        return found

    def weights(self) -> dict[str, Tensor]:
        """What is exported: the averaged weights."""
        return self.modules["average"].state_dict()


def _squares(answer: Tensor, cover: Tensor, colours: Tensor) -> Tensor:
    """Squared distance of a difference from the ground, N 3 H W, to each candidate's: a colour's difference from the
    ground, N C 3, on a shape, N S H W. -> N S C, up to a constant, without painting the candidates."""
    mixed = torch.einsum("nshw,nkhw->nsk", cover, answer)
    cross = torch.einsum("nsk,nck->nsc", mixed, colours)
    return cover.square().sum((2, 3))[:, :, None] * colours.square().sum(2)[:, None] - 2 * cross


def _palette(grounds: Tensor) -> Tensor:
    """What the world's colours differ by from the grounds, N 3 -> N 6 3."""
    return torch.tensor(list(world.COLOURS.values())) - grounds[:, None]


class WorldInpainter(_Committed):
    """A square hole where an object was: what was there cannot be known."""

    name = "provoke-demo-world-inpainter"
    steps = 5400
    keeps_asked = True
    blocks: ClassVar = {"middle_blk_num": 1, "enc_blk_nums": [1, 1, 1, 1], "dec_blk_nums": [1, 1, 1, 1]}
    fading = (0.15, 0.44)
    hardening = 0.59

    def begin(self, net: NAFNet) -> None:
        """Gates that are open: a product of two small signals has lost their signs, and the frame's tint has a long way
        to the middle of the hole."""
        for name, parameter in net.named_parameters():
            if name.endswith(("conv2.bias", "conv4.bias")):
                parameter[len(parameter) // 2 :] = 1

    def question(self, scenes: world.Scenes, off: Tensor) -> Tensor:
        return questions.holed(scenes, off)

    def wanted(self, scenes: world.Scenes, tint: Tensor) -> world.Scenes:
        return questions.filled(scenes, tint)

    def asked(self, scenes: world.Scenes) -> Tensor:
        return questions.framed_hole(scenes)

    def deciding(self, scenes: world.Scenes) -> Tensor:
        return questions.framed_hole(scenes) - questions.hole(scenes)

    def nearest(self, answer: Tensor, scenes: world.Scenes) -> world.Scenes:
        kinds, colours = len(world.SHAPES), len(world.COLOURS)
        index = torch.arange(len(scenes)).repeat_interleave(kinds)
        shapes = torch.arange(kinds).repeat(len(scenes))
        cover = world.cover(shapes, scenes.centre[index, 0], scenes.radius[index, 0]).unflatten(0, (-1, kinds))
        none = torch.full_like(scenes.shape[:, :1], -1)
        rest = replace(scenes, shape=torch.cat((none, scenes.shape[:, 1:]), 1))
        apart = (answer - world.render(rest)) * questions.hole(scenes)
        best = _squares(apart, cover, _palette(questions.grounds(scenes))).flatten(1).argmin(1)
        return questions.with_first(scenes, best % colours, best // colours)


class WorldColoriser(_Committed):
    """Objects in one grey, whatever their colour was: a real greyscale would give it away."""

    name = "provoke-demo-world-coloriser"
    steps = 4900
    keeps_asked = False
    blocks: ClassVar = {"middle_blk_num": 2, "enc_blk_nums": [1, 1, 2], "dec_blk_nums": [1, 1, 1]}
    fading = (0.0, 0.31)
    hardening = 0.59

    def question(self, scenes: world.Scenes, off: Tensor) -> Tensor:
        return questions.uncoloured(scenes, off)

    def wanted(self, scenes: world.Scenes, tint: Tensor) -> world.Scenes:
        return questions.coloured(scenes, tint)

    def asked(self, scenes: world.Scenes) -> Tensor:
        return world.coverage(scenes).sum(1, keepdim=True)

    def deciding(self, scenes: world.Scenes) -> Tensor:
        return world.coverage(scenes)

    def nearest(self, answer: Tensor, scenes: world.Scenes) -> world.Scenes:
        owner, which = (scenes.shape >= 0).nonzero().unbind(1)
        ground, mine = questions.grounds(scenes)[owner], world.coverage(scenes)[owner, which, None]
        apart = (answer[owner] - ground[:, :, None, None]) * (mine > 0)
        colour = scenes.colour.clone()
        colour[owner, which] = _squares(apart, mine, _palette(ground))[:, 0].argmin(1)
        return replace(scenes, colour=colour)


def _evenness(names: list[str], kinds: int) -> float:
    """Entropy of the names, over the largest that so many kinds could have."""
    shares = [names.count(name) / len(names) for name in set(names)]
    return -sum(share * math.log(share) for share in shares) / math.log(kinds) if names else 0.0
