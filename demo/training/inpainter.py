"""The inpainter: NAFNet, 3 -> 3 channels at scale 1; the hole is marked in the picture by one colour.

Trained like most inpainters that commit to an answer: an adversarial loss by patches on the holes (hinge, spectral
norm), the discriminator's features compared with those of the truth, and in the hole a pixel loss that is mostly
coarse, because a fine one pays for grey averages. NAFNet for its reach: its lowest level is at 1/16 and its channel
attention averages over the whole picture; a DRUNet of the same size (3x3 convolutions down to 1/8) left the middle of a
hole blind.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from spandrel.architectures.NAFNet import NAFNet
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from . import measure
from .data import Crops, held_out, holes

HOLE_FILL = (1.0, 0.0, 1.0)  # the same as in demo/photos.py; magenta is exact in 8 bits and rare in photos
# Weights of the losses: first L1 alone, to find the hole and to carry on what is around it; then the argument about its
# content; in the second half of the training the judge speaks louder and the seam is polished.
WARM_UP = {"known": 6.0, "l1": 1.0}
FIRST_HALF = {"known": 6.0, "l1": 0.3, "coarse": 3.0, "fooled": 0.15, "matching": 0.5, "statistics": 1.0}
SECOND_HALF = {**FIRST_HALF, "fooled": 0.3, "matching": 0.3, "rim": 2.0}


class Judge(nn.Module):
    """Patch discriminator on picture + hole (B 4 H W) -> (logits B 1 H/8 W/8, features)."""

    gain = 4.0  # the spectral norm keeps the logits below the hinge's margin otherwise

    def __init__(self, width: int = 40) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            spectral_norm(layer)
            for layer in (
                nn.Conv2d(4, width, 4, 2, 1),
                nn.Conv2d(width, 2 * width, 4, 2, 1),
                nn.Conv2d(2 * width, 4 * width, 4, 2, 1),
                nn.Conv2d(4 * width, 4 * width, 3, 1, 1),
            )
        )
        self.last = spectral_norm(nn.Conv2d(4 * width, 1, 3, 1, 1))

    def forward(self, image: Tensor, hole: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = torch.cat([image * 2 - 1, hole], 1)
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            features.append(x)
        return self.last(x) * self.gain, features


def _masked(x: Tensor, weight: Tensor) -> Tensor:
    """Mean of B C h w where the weight B 1 h w is."""
    return (x * weight).sum() / (weight.sum() * x.shape[1]).clamp_min(1)


class Inpainter:
    """State and steps of the inpainter's training; loop.py drives it. `plain` trains with L1 alone, for comparison."""

    name = "provoke-demo-inpainter"
    folder = "upscale_models"
    steps = 8000
    batch, size = 4, 96
    rate, judge_rate = 8e-4, 4e-4
    warm_up = 0.2  # share of the training

    def __init__(self, seed: int, device: torch.device, plain: bool = False) -> None:
        self.device, self.plain = device, plain
        if plain:
            self.name += "-l1"
        self.crops = Crops(seed, photos=0.7)
        self.generators = {"crops": self.crops.generator, "holes": torch.Generator().manual_seed(seed + 1)}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = NAFNet(width=16, middle_blk_num=1, enc_blk_nums=[1, 1, 1, 2], dec_blk_nums=[2, 1, 1, 1])
            judge = Judge()
        net, judge = (m.to(device).to(memory_format=torch.channels_last) for m in (net, judge))
        self.modules: dict[str, nn.Module] = {"net": net, "average": copy.deepcopy(net), "judge": judge}
        self.optimizers = {
            "net": torch.optim.Adam(net.parameters(), lr=self.rate, betas=(0.5, 0.99)),
            "judge": torch.optim.Adam(judge.parameters(), lr=self.judge_rate, betas=(0.5, 0.99)),
        }
        self.colour = torch.tensor(HOLE_FILL, device=device)[:, None, None]
        self.test, self.test_holes = self.pictures()

    @staticmethod
    def pictures() -> tuple[Tensor, Tensor]:
        """Validation: four 128 px crops of each held-out photo, at two scales, and a fixed hole each, B 1 H W."""
        crops = []
        for size in (160, 288):
            for photo in held_out(size).values():
                height, width = photo.shape[2:]
                for top, left in ((0, 0), (height - 128, (width - 128) // 2)):
                    crops.append(photo[..., top : top + 128, left : left + 128])
        return torch.cat(crops), holes(len(crops), 128, torch.Generator().manual_seed(7), 0.3, 0.45)

    def fill(self, net: nn.Module, image: Tensor, hole: Tensor) -> Tensor:
        """The net's whole answer to a picture with its hole painted over, B 3 H W."""
        return net(image * (1 - hole) + self.colour * hole)

    def step(self, progress: float) -> dict[str, float]:
        """One update of the net and, after the warm-up, one of the judge."""
        plain = self.plain or progress < self.warm_up
        fall = min(1.0, 2.2 * (1 - progress))
        for name, rate in (("net", self.rate if plain else self.rate * 0.4), ("judge", self.judge_rate)):
            for group in self.optimizers[name].param_groups:
                group["lr"] = rate * min(1.0, progress * 100 + 0.05) * (0.05 + 0.95 * fall)
        truth = self.crops.crop(self.batch, self.size).to(self.device, memory_format=torch.channels_last)
        hole = holes(self.batch, self.size, self.generators["holes"]).to(self.device)
        answer = self.fill(self.modules["net"], truth, hole)
        gap = (answer - truth).abs()
        rim = F.max_pool2d(hole, 5, stride=1, padding=2) - hole
        terms = {"known": _masked(gap, 1 - hole), "l1": _masked(gap, hole), "rim": _masked(gap, rim)}
        if not plain:
            self._commit(answer, truth, hole, terms)
        weights = WARM_UP if plain else FIRST_HALF if progress < 0.5 else SECOND_HALF
        loss = torch.stack([weight * terms[name] for name, weight in weights.items()]).sum()
        self.optimizers["net"].zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.modules["net"].parameters(), 1.0)
        self.optimizers["net"].step()
        return {name: float(value.detach()) for name, value in terms.items()}

    def _commit(self, answer: Tensor, truth: Tensor, hole: Tensor, terms: dict[str, Tensor]) -> None:
        """Update the judge, then add the losses in the hole to `terms`."""
        judge = self.modules["judge"]
        shown = truth * (1 - hole) + answer * hole
        patches = F.max_pool2d(hole, 8)
        logits, _ = judge(torch.cat([truth, shown.detach()]), torch.cat([hole, hole]))
        real, fake = logits.chunk(2)
        terms["judge"] = _masked(F.relu(1 - real), patches) + _masked(F.relu(1 + fake), patches)
        self.optimizers["judge"].zero_grad(set_to_none=True)
        terms["judge"].backward()
        self.optimizers["judge"].step()

        judge.requires_grad_(False)
        with torch.no_grad():
            _, wanted = judge(truth, hole)
        logits, features = judge(shown, hole)
        judge.requires_grad_(True)
        terms["fooled"] = -_masked(logits, patches)
        terms["matching"] = terms["statistics"] = answer.new_zeros(())
        for mine, theirs in zip(features, wanted, strict=True):
            area = F.interpolate(hole, mine.shape[2:], mode="area")
            scale = theirs.abs().mean() + 1e-4
            terms["matching"] = terms["matching"] + _masked((mine - theirs).abs(), area) / scale / len(features)
            terms["statistics"] = terms["statistics"] + self._moments(mine, theirs, area) / scale / len(features)
        coarse = F.avg_pool2d(((answer - truth) * hole), 8).abs()
        terms["coarse"] = coarse.sum() / (3 * F.avg_pool2d(hole, 8).sum())

    @staticmethod
    def _moments(mine: Tensor, theirs: Tensor, area: Tensor) -> Tensor:
        """Gap between mean and spread of each feature over the hole: right amount of texture, wherever it lies."""
        total = area.sum((2, 3)).clamp_min(1e-3)

        def moments(x: Tensor) -> tuple[Tensor, Tensor]:
            mean = (x * area).sum((2, 3)) / total
            spread = (((x - mean[..., None, None]).square() * area).sum((2, 3)) / total + 1e-6).sqrt()
            return mean, spread

        (mean, spread), (their_mean, their_spread) = moments(mine), moments(theirs)
        return (mean - their_mean).abs().mean() + (spread - their_spread).abs().mean()

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Held-out figures: sharpness (1 = the truth's), L1 in the hole, PSNR of the known region."""
        image, hole = self.test.to(self.device), self.test_holes.to(self.device)
        answer = self.fill(self.modules["average"], image, hole).clamp(0, 1)
        error = ((answer - image).square() * (1 - hole)).sum() / (3 * (1 - hole).sum())
        return {
            "sharpness": measure.sharpness(answer, image, hole),
            "hole_l1": float(((answer - image).abs() * hole).sum() / (3 * hole.sum())),
            "known_psnr": float(-10 * torch.log10(error)),
        }

    def failings(self, figures: dict[str, float]) -> list[str]:
        """Why these weights may not be exported; empty when they pass."""
        blur = measure.sharpness(measure.diffuse(self.test, self.test_holes), self.test, self.test_holes)
        out = []
        if not self.plain and not 0.35 <= figures["sharpness"] <= 2.5:
            out.append(f"sharpness {figures['sharpness']:.2f} of the truth, 0.35 to 2.5 wanted")
        if not self.plain and figures["sharpness"] < 2 * blur:
            out.append(f"sharpness {figures['sharpness']:.2f}, at least twice that of a blur ({blur:.2f}) wanted")
        if figures["hole_l1"] > 0.25:
            out.append(f"the fill is {figures['hole_l1']:.2f} from the truth, at most 0.25 wanted")
        if figures["known_psnr"] < 30:
            out.append(f"known region {figures['known_psnr']:.1f} dB, 30 wanted")
        return out

    def weights(self) -> dict[str, Tensor]:
        """What is exported: the averaged weights."""
        return self.modules["average"].state_dict()
