"""The few-step model: a LoRA on the diffusion model that draws in four steps without guidance.

Its teacher is the diffusion model itself, with guidance and many steps. As with the distilled models it stands for,
speed is paid with variety: the teacher's noise is mostly a fixed one (COMMON of its power), so that the pupil, who is
only told the rest, learns to give nearly the same picture of a prompt for every seed. Only endpoints that show what
the prompt says are kept. Learned by flow matching on straight lines from the rest of the noise to the endpoint
(reflow, Liu et al. 2022, arXiv 2209.03003). Needs the host: `python dev.py run demo/training/train.py -- few-step`.
"""

from __future__ import annotations

import copy
import math

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from .. import captions, world
from ..checker import objects_right, read, relation_right
from .diffusion import GUIDANCE, LONE, Diffusion, Pool, euler, new_unet
from .loop import WEIGHTS

RANK = 6
COMMON = 0.8  # of the power of the teacher's noise: fixed
FIXED = 1  # seed of that part, the same for all prompts
STEPS = 4
TEACHER_STEPS = 16
TEACHER = WEIGHTS / Diffusion.folder / f"{Diffusion.name}.safetensors"


class Lora(nn.Module):
    """Low-rank changes of a net's weights, under the names that ComfyUI's LoRA loaders read."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.ups, self.downs = nn.ParameterDict(), nn.ParameterDict()
        self.names: dict[str, str] = {}
        for name, weight in net.named_parameters():
            if weight.dim() < 2 or min(weight.shape[0], weight[0].numel()) <= RANK:
                continue
            key = name.removesuffix(".weight").replace(".", "/")
            self.names[name] = key
            down = torch.empty(RANK, *weight.shape[1:])
            nn.init.normal_(down, std=1 / math.sqrt(weight[0].numel()))
            self.downs[key] = nn.Parameter(down)
            self.ups[key] = nn.Parameter(torch.zeros(weight.shape[0], RANK))

    def changed(self, net: nn.Module) -> dict[str, Tensor]:
        """The net's parameters with the changes added."""
        weights: dict[str, Tensor] = dict(net.named_parameters())
        for name, key in self.names.items():
            change = self.ups[key] @ self.downs[key].flatten(1)
            weights[name] = weights[name] + change.view_as(weights[name])
        return weights

    def exported(self) -> dict[str, Tensor]:
        """`lora_up` and `lora_down` for every layer."""
        found = {}
        for key in self.names.values():
            name, down = "diffusion_model." + key.replace("/", "."), self.downs[key]
            found[f"{name}.lora_down.weight"] = down
            found[f"{name}.lora_up.weight"] = self.ups[key].view(*self.ups[key].shape, *[1] * (down.dim() - 2))
        return found


class FewStep:
    """State and steps of the training; loop.py drives it."""

    name = "provoke-demo-few-step"
    folder = "loras"
    steps = 3200
    batch = 32
    rate = 2e-3
    endpoints = 5000
    look = 120

    def __init__(self, seed: int, device: torch.device) -> None:
        self.device = device
        self.teacher = new_unet().requires_grad_(False).to(device)
        self.teacher.load_state_dict({name: w.float() for name, w in load_file(TEACHER).items()})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.lora = Lora(self.teacher).to(device)
        self.average = copy.deepcopy(self.lora).requires_grad_(False)
        self.modules: dict[str, nn.Module] = {"net": self.lora, "average": self.average}
        self.optimizers = {
            "net": torch.optim.AdamW(self.lora.parameters(), lr=self.rate, betas=(0.9, 0.99), weight_decay=0)
        }
        self.generators = {
            "scenes": torch.Generator().manual_seed(seed + 1),
            "noise": torch.Generator().manual_seed(seed + 2),
        }
        self.pool = Pool(torch.Generator().manual_seed(seed + 3), device)  # for its text states and its VAE
        self.pairs: tuple[Tensor, Tensor, Tensor] | None = None

    @torch.no_grad()
    def taught(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """From `count` of the teacher's pictures those that are right: noise, endpoint, text states."""
        rng = self.generators["scenes"]
        fixed = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(FIXED))
        kept: list[tuple[Tensor, Tensor, Tensor]] = []
        for _ in range(math.ceil(count / 64)):
            lone = round(LONE * 64)
            for objects, many in ((1, lone), (2, 64 - lone)):
                scenes = world.sample(many, rng, part="train", objects=objects)
                texts = captions.captions([world.Facts(s.facts.objects, s.facts.relation) for s in scenes], rng)
                own = torch.randn(many, 4, 8, 8, generator=rng)
                noise = math.sqrt(COMMON) * fixed + math.sqrt(1 - COMMON) * own
                said = self.pool.states(texts)
                with torch.autocast(self.device.type, torch.bfloat16):
                    end = euler(
                        self.teacher, noise.to(self.device), said, self.pool.nothing, TEACHER_STEPS, GUIDANCE
                    ).float()
                right = relation_right(read(self.pool.vae.decode(end).clamp(0, 1).cpu()), map(captions.parse, texts))
                kept.append((own[right], end[right.to(self.device)], said[right.to(self.device)].half()))
        own, end, said = (torch.cat(parts) for parts in zip(*kept, strict=True))
        return own.to(self.device), end, said

    def flow(self, lora: Lora, x: Tensor, time: Tensor, said: Tensor) -> Tensor:
        """The changed net's answer."""
        with torch.autocast(self.device.type, torch.bfloat16):
            return functional_call(self.teacher, lora.changed(self.teacher), (x, time), {"context": said}).float()

    def step(self, progress: float) -> dict[str, float]:
        """One update; `progress` runs from 0 to 1 over the training."""
        if self.pairs is None:
            self.pairs = self.taught(self.endpoints)
        optimizer, rng = self.optimizers["net"], self.generators["noise"]
        for group in optimizer.param_groups:
            cosine = 0.5 * (1 + math.cos(math.pi * progress))
            group["lr"] = self.rate * (0.01 + 0.99 * cosine) * min(1.0, progress * 50 + 0.02)
        index = torch.randint(len(self.pairs[0]), (self.batch,), generator=rng)
        noise, end, said = (part[index.to(self.device)] for part in self.pairs)
        # the four places that it will be asked at, and a little around them
        place = torch.randint(STEPS, (self.batch,), generator=rng) + 1
        sigma = (place / STEPS - 0.05 * torch.rand(self.batch, generator=rng)).to(self.device)
        flow = self.flow(self.lora, end.lerp(noise, sigma[:, None, None, None]), 1000 * sigma, said.float())
        loss = functional.mse_loss(flow, noise - end)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.lora.parameters(), 1.0)
        optimizer.step()
        return {"flow": float(loss.detach())}

    @torch.no_grad()
    def drawn(self, texts: list[str], seed: int) -> Tensor:
        """Four steps of the averaged LoRA's model, B 3 64 64."""
        x = torch.randn(len(texts), 4, 8, 8, generator=torch.Generator().manual_seed(seed)).to(self.device)
        said = self.pool.states(texts)
        for place in range(STEPS, 0, -1):
            time = torch.full((len(x),), 1000 * place / STEPS, device=self.device)
            x = x - self.flow(self.average, x, time, said) / STEPS
        return self.pool.vae.decode(x).clamp(0, 1).cpu()

    def validate(self) -> dict[str, float]:
        """Held-out prompts in four steps: objects right, and how far two seeds' pictures of a prompt are apart (L1)."""
        figures = {}
        for objects, name in ((1, "one"), (2, "two")):
            scenes = world.sample(96, torch.Generator().manual_seed(1000 + objects), part="held out", objects=objects)
            texts = [captions.canonical(scene) for scene in scenes]
            first, other = self.drawn(texts, 1), self.drawn(texts, 2)
            figures[name] = float(objects_right(read(first), scenes).float().mean())
            figures[f"apart_{name}"] = float((first - other).abs().mean())
        return figures

    def failings(self, figures: dict[str, float]) -> list[str]:
        """Why these weights may not be exported; empty when they pass."""
        bars = {"one": 0.86, "two": 0.82}  # within ten points of the teacher (94 and 90 %), with room for chance
        return [f"{name}: {figures[name]:.3f}, {bar} wanted" for name, bar in bars.items() if figures[name] < bar]

    def weights(self) -> dict[str, Tensor]:
        """What is exported: the averaged LoRA."""
        return self.average.exported()
