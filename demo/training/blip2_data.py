"""What the demo's BLIP-2 is trained on: disturbed pictures, what covers their patches, true and wrong captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .. import captions, world
from ..world import BACKGROUNDS, COLOURS, SHAPES, Facts, Scene, Scenes, coverage, render, sample
from . import classifiers, clip, vae
from .language import Words

PATCH = 8  # pixels a side
PATCHES = (len(COLOURS) + 1, len(SHAPES) + 1, 4, len(BACKGROUNDS))  # colour, shape, role of what covers it; the ground
COVERED = 0.08  # of a patch, from which on something covers it
CLEAN, AGAIN = 0.2, 0.3  # of the batches: as rendered; through the VAE
LATENT_NOISE = 0.25  # at most, of latents whose standard deviation is about 1


def patches(scenes: Scenes) -> Tensor:
    """B 64 4: of what covers each patch its colour and shape (or none) and its role (none, lone, the left or upper,
    the other), and the ground."""
    covered = functional.avg_pool2d(coverage(scenes), PATCH).flatten(2)  # B 2 64
    most, which = covered.max(1)
    some = most > COVERED
    later = torch.stack((scenes.relation % 2 == 1, scenes.relation % 2 == 0), 1)  # right or lower: B 2
    role = torch.where(scenes.relation[:, None] < 0, 1, 2 + later.long())
    named = [
        torch.where(some, kind.gather(1, which), none)
        for kind, none in ((scenes.colour, len(COLOURS)), (scenes.shape, len(SHAPES)), (role, 0))
    ]
    return torch.stack((*named, scenes.background[:, None].expand_as(which)), 2)


@dataclass
class Batch:
    images: Tensor  # B 3 64 64 in [0,1]
    patches: Tensor  # B 64 4
    ids: Tensor  # T L; the first B are the pictures' own
    mask: Tensor  # T L
    owner: Tensor  # T: the picture that brought it
    pictures: Tensor  # B 7: clip.truth of the pictures
    texts: Tensor  # T 7
    spoken: Tensor  # T 5

    @property
    def true(self) -> Tensor:
        """B T bool: whether the caption is true of the picture, and says all of it but perhaps the ground."""
        ground = self.texts[None, :, -1]
        known = (ground == clip.UNSAID) | (ground == self.pictures[:, None, -1])
        return (self.pictures[:, None, 0] == self.texts[None, :, 0]) & known


class Stream(clip.Stream):
    """Random batches of disturbed pictures, their captions and wrong captions."""

    def __init__(self, seed: int, autoencoder: vae.Taesd | None = None) -> None:
        super().__init__(seed)
        self.words = Words()
        self.autoencoder = autoencoder or vae.trained()

    @torch.no_grad()
    def again(self, images: Tensor) -> Tensor:
        """Through the VAE, with up to LATENT_NOISE in its latents."""
        device = next(self.autoencoder.parameters()).device
        strength = LATENT_NOISE * torch.rand(len(images), 1, 1, 1, generator=self.generator)
        with torch.autocast(device.type, torch.bfloat16):
            latents = self.autoencoder.encode(images.to(device))
            moved = latents + (strength * torch.randn(latents.shape, generator=self.generator)).to(device)
            return self.autoencoder.decode(moved).float().clamp(0, 1).cpu()

    def disturbed(self, images: Tensor) -> Tensor:
        chance = self.chance()
        if chance < CLEAN:
            return images
        return self.again(images) if chance < CLEAN + AGAIN else classifiers.disturbed(images, self.generator)

    def scenes(self, count: int) -> Scenes:
        lone = count // 4
        ones, twos = (sample(n, self.generator, part="train", objects=k) for n, k in ((lone, 1), (count - lone, 2)))
        return world.batch([*ones, *twos])

    def told(self, scenes: Sequence[Scene]) -> list[Facts]:
        """The facts of each, a third with the ground."""
        plain = [Facts(s.facts.objects, s.facts.relation) for s in scenes]
        return [s.facts if self.chance() < captions.NAMED else f for s, f in zip(scenes, plain, strict=True)]

    def matching(self, count: int) -> Batch:
        scenes = self.scenes(count)
        each = list(scenes)
        facts = self.told(each)
        wrong = [self.wrong(scene) for scene in each]
        owner = [*range(count), *(i for i, found in enumerate(wrong) for _ in found)]
        facts += [f for found in wrong for f in found]
        texts = self.said(facts)
        ids, mask = self.words(texts)
        return Batch(
            self.disturbed(render(scenes)),
            patches(scenes),
            ids,
            mask,
            torch.tensor(owner),
            torch.tensor([clip.truth(scene.facts) for scene in each]),
            torch.tensor([clip.truth(f) for f in facts]),
            torch.tensor([clip.spoken(captions.parse(text)) for text in texts]),
        )
