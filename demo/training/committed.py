"""The world's inpainter and coloriser: where many answers are right, they settle on one clean answer.

Averaged over all right answers, a picture would be grey. So the loss is the distance to the *nearest* clean answer
(each sample is pulled to the candidate that it is closest to already), and the share of the candidates over a batch is
pushed to be even, or all samples would settle on the same one: clustering by information maximisation (Krause et al.
2010), with pictures for clusters. What decides between the answers is then whatever the net finds in its input.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod

import torch
from spandrel.architectures.NAFNet import NAFNet
from torch import Tensor, nn

from .. import checker, world

MARK = (1.0, 0.0, 1.0)  # the hole's colour, as in the photo inpainter
PENCIL = 0.5  # what the coloriser is given instead of a colour: on no ground
CLEAN_BAR = 0.85  # share of held-out inputs whose answer is a clean scene of the right objects
NOISE = 0.02  # of the input, in training


class _Committed(ABC):
    """What the two have in common. `loop.py` drives it."""

    folder = "upscale_models"
    name: str
    steps = 9000
    batch = 24
    rate = 2e-3
    temperature = 0.03  # L1 distance at which a candidate counts e times less
    evenness = 0.15

    def __init__(self, seed: int, device: torch.device) -> None:
        self.device = device
        self.generators = {"scenes": torch.Generator().manual_seed(seed), "noise": torch.Generator().manual_seed(seed)}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = NAFNet(width=12, middle_blk_num=2, enc_blk_nums=[1, 1, 2], dec_blk_nums=[1, 1, 1])
        net = net.to(device).to(memory_format=torch.channels_last)
        self.modules: dict[str, nn.Module] = {"net": net, "average": copy.deepcopy(net)}
        self.optimizers = {"net": torch.optim.Adam(net.parameters(), lr=self.rate, betas=(0.9, 0.99))}
        self.test = world.sample(256, torch.Generator().manual_seed(5), part="held out")

    @abstractmethod
    def question(self, scenes: world.Scenes) -> Tensor:
        """What the net is given, B 3 64 64."""

    @abstractmethod
    def distances(self, answer: Tensor, scenes: world.Scenes) -> tuple[Tensor, Tensor]:
        """L1 distance of each answered part to each candidate, N K; and of what is known to what it has to be, B."""

    def step(self, progress: float) -> dict[str, float]:
        """One update; `progress` runs from 0 to 1 over the training."""
        optimizer = self.optimizers["net"]
        for group in optimizer.param_groups:
            fall = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress))
            group["lr"] = self.rate * fall * min(1.0, progress * 50 + 0.05)
        scenes = world.sample(self.batch, self.generators["scenes"], part="train")
        question = self.question(scenes)
        noise = NOISE * torch.randn(question.shape, generator=self.generators["noise"])
        answer = self.modules["net"]((question + noise).to(self.device, memory_format=torch.channels_last)).cpu()
        distance, known = self.distances(answer, scenes)
        share = torch.softmax(-distance / self.temperature, -1)
        nearest = (share * distance).sum(-1).mean()
        mean = share.mean(0)
        entropy = -(mean * (mean + 1e-9).log()).sum() / math.log(share.shape[-1])
        loss = nearest + known.mean() - self.evenness * entropy
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.modules["net"].parameters(), 1.0)
        optimizer.step()
        return {
            "nearest": float(nearest.detach()),
            "known": float(known.mean().detach()),
            "even": float(entropy.detach()),
        }

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


class WorldInpainter(_Committed):
    """A square hole where an object was: what was there cannot be known."""

    name = "provoke-demo-world-inpainter"

    def question(self, scenes: world.Scenes) -> Tensor:
        picture, hole = world.render(scenes), _hole(scenes)
        return picture * (1 - hole) + torch.tensor(MARK)[:, None, None] * hole

    def distances(self, answer: Tensor, scenes: world.Scenes) -> tuple[Tensor, Tensor]:
        hole, count = _hole(scenes), len(world.SHAPES) * len(world.COLOURS)
        kinds = torch.arange(count).repeat(len(scenes))
        index = torch.arange(len(scenes)).repeat_interleave(count)
        candidates = scenes.pick(index)
        candidates.shape[:, 0], candidates.colour[:, 0] = kinds // len(world.COLOURS), kinds % len(world.COLOURS)
        pictures = world.render(candidates).unflatten(0, (len(scenes), count))
        gap = (answer[:, None] - pictures).abs() * hole[:, None]
        distance = gap.sum((2, 3, 4)) / (3 * hole.sum((1, 2, 3)))[:, None]
        # two objects that are alike have no caption
        same = kinds.view(-1, count) == (scenes.shape[:, 1] * len(world.COLOURS) + scenes.colour[:, 1])[:, None]
        known = ((answer - world.render(scenes)).abs() * (1 - hole)).mean((1, 2, 3))
        return distance + 10.0 * same, 2 * known


class WorldColoriser(_Committed):
    """Objects in one grey, whatever their colour was: a real greyscale would give it away."""

    name = "provoke-demo-world-coloriser"

    def question(self, scenes: world.Scenes) -> Tensor:
        return self._ground(scenes) * (1 - self._all(scenes)) + PENCIL * self._all(scenes)

    def distances(self, answer: Tensor, scenes: world.Scenes) -> tuple[Tensor, Tensor]:
        cover, ground = world.coverage(scenes), self._ground(scenes)
        palette = torch.tensor(list(world.COLOURS.values()))
        parts = []
        for i in range(2):
            there = scenes.shape[:, i] >= 0
            area = cover[there, i, None, None]  # N 1 1 H W
            gap = (answer[there, None] - palette[None, :, :, None, None]).abs() * area
            parts.append(gap.sum((2, 3, 4)) / (3 * area.sum((2, 3, 4))))
        known = ((answer - ground).abs() * (1 - self._all(scenes))).mean((1, 2, 3))
        return torch.cat(parts), 2 * known

    @staticmethod
    def _all(scenes: world.Scenes) -> Tensor:
        return world.coverage(scenes).sum(1, keepdim=True).clamp(max=1)

    @staticmethod
    def _ground(scenes: world.Scenes) -> Tensor:
        grounds = torch.tensor(list(world.BACKGROUNDS.values()))
        return grounds[scenes.background][:, :, None, None].expand(-1, -1, world.SIZE, world.SIZE)


def _hole(scenes: world.Scenes) -> Tensor:
    """A square around the first object, B 1 64 64, that says nothing of its shape: 1 inside."""
    half = 1.15 * scenes.radius[:, 0] + 2
    place = torch.arange(world.SIZE) + 0.5
    away = (place[None, None] - scenes.centre[:, 0, :, None]).abs()  # B 2 64: x, y
    inside = (away <= half[:, None, None]).float()
    return (inside[:, 1, :, None] * inside[:, 0, None, :])[:, None]


def _evenness(names: list[str], kinds: int) -> float:
    """Entropy of the names, over the largest that so many kinds could have."""
    shares = [names.count(name) / len(names) for name in set(names)]
    return -sum(share * math.log(share) for share in shares) / math.log(kinds) if names else 0.0
