"""The world's inpainter and coloriser: where many answers are right, they settle on one clean answer.

Averaged over all right answers, a picture would be grey. So training asks for one of them, by a taste that is as
arbitrary as any model's: it goes by the place in the picture, and by the ground or the shape. All colours and shapes
come in turn, and near the edge between two places little decides.

The last part makes good patients of them: half of each batch is attacked. One quarter is pushed anywhere, and asked for
the clean answer that is nearest to what came out: so an attack changes the answer, and does not break it. The other is
pushed to a random answer by less, and asked for that one: so they are easily led, as large models are, and small ones
not by themselves. Random noise leads them nowhere.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from dataclasses import replace

import torch
from spandrel.architectures.NAFNet import NAFNet
from torch import Tensor, nn

from .. import checker, world
from ..questions import grounds, hole, holed, uncoloured

MIDDLE = (16.0, 48.0)  # pixels, of 64: where most centres lie
CLEAN_BAR = 0.85  # share of held-out inputs whose answer is a clean scene of the right objects
NOISE = 0.04  # of the input in training, at most: standard deviation
ATTACKED = 0.7  # of the training: from here on half of a batch is attacked
PUSHED, LED, MOVES = 8 / 255, 4 / 255, 3  # how far its two quarters may change, and in how many sign steps


def stripe(place: Tensor, number: int) -> Tensor:
    """In which of `number` stripes of MIDDLE a centre lies: pixels -> 0 to number - 1. The outer ones reach further."""
    low, high = MIDDLE
    return ((place - low) / (high - low) * number).floor().long().clamp(0, number - 1)


class _Committed(ABC):
    """What the two have in common. `loop.py` drives it."""

    folder = "upscale_models"
    name: str
    keeps_asked: bool  # whether an attack must leave alone what is asked for
    steps = 1500
    batch = 48
    rate = 2e-3

    def __init__(self, seed: int, device: torch.device) -> None:
        self.device = device
        self.generators = {"scenes": torch.Generator().manual_seed(seed), "noise": torch.Generator().manual_seed(seed)}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = NAFNet(width=8, middle_blk_num=2, enc_blk_nums=[1, 1, 1, 2], dec_blk_nums=[1, 1, 1, 1])
        net = net.to(device).to(memory_format=torch.channels_last)
        self.modules: dict[str, nn.Module] = {"net": net, "average": copy.deepcopy(net)}
        self.optimizers = {"net": torch.optim.Adam(net.parameters(), lr=self.rate, betas=(0.9, 0.99))}
        self.test = world.sample(256, torch.Generator().manual_seed(5), part="held out")

    @abstractmethod
    def question(self, scenes: world.Scenes) -> Tensor:
        """What the net is given, B 3 64 64."""

    @abstractmethod
    def wanted(self, scenes: world.Scenes) -> tuple[world.Scenes, Tensor]:
        """The scenes as this model likes them; and where it was asked, B 1 64 64."""

    @abstractmethod
    def nearest(self, answer: Tensor, scenes: world.Scenes) -> world.Scenes:
        """The scenes that could have been answered, nearest to the answers, B 3 64 64 without a graph."""

    @abstractmethod
    def any_answer(self, scenes: world.Scenes) -> world.Scenes:
        """The scenes with a random answer each."""

    def attacked(self, question: Tensor, scenes: world.Scenes, epsilon: float, picture: Tensor, sign: float) -> Tensor:
        """Questions, changed by at most epsilon where they may change, with answers nearer to (sign -1) or further from
        (1) the pictures."""
        net, rng = self.modules["net"], self.generators["noise"]
        asked = self.wanted(scenes)[1]
        free = 1 - asked if self.keeps_asked else torch.ones_like(asked)
        change = epsilon * (2 * torch.rand(question.shape, generator=rng) - 1) * free
        net.requires_grad_(False)
        for _ in range(MOVES):
            change.requires_grad_(True)
            score = sign * ((self.answer(question + change) - picture).abs() * asked).sum()
            (gradient,) = torch.autograd.grad(score, change)
            moved = change.detach() + 1.5 * epsilon / MOVES * gradient.sign() * free
            change = ((question + moved.clamp(-epsilon, epsilon)).clamp(0, 1) - question).detach()
        net.requires_grad_(True)
        return question + change

    def answer(self, question: Tensor) -> Tensor:
        """The net's, in float32 on the CPU."""
        with torch.autocast(self.device.type, torch.bfloat16):
            answer = self.modules["net"](question.to(self.device, memory_format=torch.channels_last))
        return answer.float().cpu()

    def step(self, progress: float) -> dict[str, float]:
        """One update; `progress` runs from 0 to 1 over the training."""
        optimizer, rng = self.optimizers["net"], self.generators["noise"]
        for group in optimizer.param_groups:
            fall = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress))
            group["lr"] = self.rate * fall * min(1.0, progress * 50 + 0.05)
        scenes = world.sample(self.batch, self.generators["scenes"], part="train")
        question = self.question(scenes)
        strength = NOISE * torch.rand(self.batch, 1, 1, 1, generator=rng)
        noisy = (question + strength * torch.randn(question.shape, generator=rng)).clamp(0, 1)
        wanted, area = self.wanted(scenes)
        picture = world.render(wanted)
        quarter = self.batch // 4 if progress >= ATTACKED else 0
        pushed, led = slice(0, quarter), slice(quarter, 2 * quarter)
        if quarter:
            noisy[pushed] = self.attacked(question[pushed], scenes.pick(pushed), PUSHED, picture[pushed], 1.0)
            picture[led] = world.render(self.any_answer(scenes.pick(led)))
            noisy[led] = self.attacked(question[led], scenes.pick(led), LED, picture[led], -1.0)
        answer = self.answer(noisy)
        if quarter:
            picture[pushed] = world.render(self.nearest(answer[pushed].detach(), scenes.pick(pushed)))
        gap = (answer - picture).abs()
        area = area / (3 * area.sum((1, 2, 3), keepdim=True))
        # squares first: the absolute difference asks for the median, which does not move while all is equally likely
        squares, asked = ((power * area).sum((1, 2, 3)).mean() for power in (4 * gap.square(), gap))
        known = (gap * (area == 0)).mean()
        optimizer.zero_grad(set_to_none=True)
        (squares.lerp(asked, progress) + 2 * known).backward()
        nn.utils.clip_grad_norm_(self.modules["net"].parameters(), 1.0)
        optimizer.step()
        return {"asked": float(asked.detach()), "known": float(known.detach())}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """On held-out scenes: how many answers are clean, and how even they are (entropy of the answers, 1 = even)."""
        question = self.question(self.test).to(self.device)
        answer = torch.cat([self.modules["average"](part).clamp(0, 1).cpu() for part in question.split(64)])
        readings = checker.read(answer)
        wanted = [len(scene.objects) for scene in self.test]
        good = [r for r, n in zip(readings, wanted, strict=True) if r.clean and len(r.objects) == n]
        colours = [thing.colour for r in good for thing in r.objects]
        shapes = [thing.shape for r in good for thing in r.objects]
        return {
            "clean": len(good) / len(readings),
            "colours": _evenness(colours, len(world.COLOURS)),
            "shapes": _evenness(shapes, len(world.SHAPES)),
        }

    def failings(self, figures: dict[str, float]) -> list[str]:
        """Why these weights may not be exported; empty when they pass."""
        found = []
        if figures["clean"] < CLEAN_BAR:
            found.append(f"{figures['clean']:.0%} clean answers, {CLEAN_BAR:.0%} wanted")
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
    keeps_asked = True

    def question(self, scenes: world.Scenes) -> Tensor:
        return holed(scenes)

    def wanted(self, scenes: world.Scenes) -> tuple[world.Scenes, Tensor]:
        across, down = scenes.centre[:, 0].unbind(1)
        light, even = scenes.background // 2, scenes.background % 2
        colour, shape = 2 * stripe(across, 3) + light, 2 * stripe(down, 2) + even
        # two objects that are alike have no caption
        alike = (colour == scenes.colour[:, 1]) & (shape == scenes.shape[:, 1])
        return self._with(scenes, (colour + alike) % len(world.COLOURS), shape), hole(scenes)

    @staticmethod
    def _with(scenes: world.Scenes, colour: Tensor, shape: Tensor) -> world.Scenes:
        """The scenes with another first object."""
        return replace(
            scenes,
            colour=torch.stack((colour, scenes.colour[:, 1]), 1),
            shape=torch.stack((shape, scenes.shape[:, 1]), 1),
        )

    def any_answer(self, scenes: world.Scenes) -> world.Scenes:
        rng = self.generators["noise"]
        colour, shape = (torch.randint(n, (len(scenes),), generator=rng) for n in (len(world.COLOURS), 4))
        return self._with(scenes, colour, shape)

    def nearest(self, answer: Tensor, scenes: world.Scenes) -> world.Scenes:
        kinds, colours = len(world.SHAPES), len(world.COLOURS)
        index = torch.arange(len(scenes)).repeat_interleave(kinds)
        shapes = torch.arange(kinds).repeat(len(scenes))
        cover = world.cover(shapes, scenes.centre[index, 0], scenes.radius[index, 0]).unflatten(0, (-1, kinds))
        none = torch.full_like(scenes.shape[:, :1], -1)
        rest = replace(scenes, shape=torch.cat((none, scenes.shape[:, 1:]), 1))
        apart = (answer - world.render(rest)) * hole(scenes)
        best = _squares(apart, cover, _palette(grounds(scenes))).flatten(1).argmin(1)
        return self._with(scenes, best % colours, best // colours)


class WorldColoriser(_Committed):
    """Objects in one grey, whatever their colour was: a real greyscale would give it away."""

    name = "provoke-demo-world-coloriser"
    keeps_asked = False

    def question(self, scenes: world.Scenes) -> Tensor:
        return uncoloured(scenes)

    def wanted(self, scenes: world.Scenes) -> tuple[world.Scenes, Tensor]:
        across, down = scenes.centre.unbind(2)
        colour = (4 * stripe((across + down) / 2, 3) + scenes.shape) % len(world.COLOURS)
        area = world.coverage(scenes).sum(1, keepdim=True)
        return replace(scenes, colour=torch.where(scenes.shape >= 0, colour, -1)), area

    def any_answer(self, scenes: world.Scenes) -> world.Scenes:
        colour = torch.randint(len(world.COLOURS), scenes.shape.shape, generator=self.generators["noise"])
        return replace(scenes, colour=torch.where(scenes.shape >= 0, colour, -1))

    def nearest(self, answer: Tensor, scenes: world.Scenes) -> world.Scenes:
        owner, which = (scenes.shape >= 0).nonzero().unbind(1)
        ground, mine = grounds(scenes)[owner], world.coverage(scenes)[owner, which, None]
        apart = (answer[owner] - ground[:, :, None, None]) * (mine > 0)
        colour = scenes.colour.clone()
        colour[owner, which] = _squares(apart, mine, _palette(ground))[:, 0].argmin(1)
        return replace(scenes, colour=colour)


def _evenness(names: list[str], kinds: int) -> float:
    """Entropy of the names, over the largest that so many kinds could have."""
    shares = [names.count(name) / len(names) for name in set(names)]
    return -sum(share * math.log(share) for share in shares) / math.log(kinds) if names else 0.0
