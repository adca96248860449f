"""The diffusion model: the host's UNetModel, flow matching in the demo VAE's latents, told by the first CLIP's states.

Latents and text states are cached: a pool of scenes, of which some are replaced by new ones in every step. Times are
logit-normal (Esser et al. 2024, arXiv 2403.03206); the target is noise minus latent, as the host's CONST expects it.
Needs the host: `python dev.py run demo/training/train.py -- diffusion`.
"""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .. import captions, world
from ..checker import objects_right, read, relation_right
from ..clip_models import Tokenizer, load_clip, text_states
from ..generators import UNET
from .vae import trained

USUAL = 0.5  # of the captions: in their usual form, the objects in the scene's order
UNSAID = 0.1  # of the captions: empty, for classifier-free guidance
LONE = 0.35  # of the scenes: one object
GUIDANCE = 3.0


def new_unet() -> nn.Module:
    """The host's UNetModel, initialised as Stable Diffusion's is: `disable_weight_init` leaves memory as it was."""
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock, UNetModel

    net = UNetModel(**UNET, operations=comfy.ops.disable_weight_init)
    for module in net.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            if module.bias is not None:
                bound = 1 / math.sqrt(module.weight[0].numel())
                nn.init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, (nn.GroupNorm, nn.LayerNorm)):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
    for module in net.modules():  # what is added to a residual stream starts at nothing
        if isinstance(module, ResBlock):
            nn.init.zeros_(module.out_layers[-1].weight)
        if hasattr(module, "proj_out"):
            nn.init.zeros_(module.proj_out.weight)
    nn.init.zeros_(net.out[-1].weight)
    return net.requires_grad_(True)


class Pool:
    """Latents and text states of many scenes. `generator` is the only source of chance."""

    size = 24_000
    first = 3_000

    def __init__(self, generator: torch.Generator, device: torch.device) -> None:
        self.generator, self.device = generator, device
        self.clip, self.vae = load_clip("first").to(device), trained().to(device)
        self.tokenizer = Tokenizer()
        self.nothing = self.states([""])
        length, width = self.nothing.shape[1:]
        side = world.SIZE // 8
        self.latents = torch.empty(self.size, 4, side, side, dtype=torch.float16, device=device)
        self.texts = torch.empty(self.size, length, width, dtype=torch.float16, device=device)
        self.filled = self.next = 0

    @torch.no_grad()
    def states(self, texts: list[str]) -> Tensor:
        """Texts -> N 77 width, as the host's CLIPTextEncode gives them."""
        return text_states(self.clip, self.tokenizer(texts).to(self.device))

    @torch.no_grad()
    def add(self, count: int) -> None:
        """New scenes, in the place of the oldest when the pool is full."""
        rng, lone = self.generator, round(LONE * count)
        for objects, many in ((1, lone), (2, count - lone)):
            scenes = world.sample(many, rng, part="train", objects=objects)
            named = (torch.rand(many, generator=rng) < captions.NAMED).tolist()
            usual = (torch.rand(many, generator=rng) < USUAL).tolist()
            texts = captions.captions(scenes, rng)
            for index, (scene, named_one, usual_one) in enumerate(zip(scenes, named, usual, strict=True)):
                if usual_one:
                    texts[index] = captions.canonical(scene, background=named_one)
            places = (self.next + torch.arange(many)) % self.size
            self.latents[places] = self.vae.encode(world.render(scenes).to(self.device)).half()
            self.texts[places] = self.states(texts).half()
            self.next = (self.next + many) % self.size
            self.filled = min(self.size, self.filled + many)

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Random latents B 4 8 8 and their text states B 77 width."""
        index = torch.randint(self.filled, (count,), generator=self.generator)
        return self.latents[index].float(), self.texts[index].float()


@torch.no_grad()
def euler(net: nn.Module, noise: Tensor, said: Tensor, unsaid: Tensor, steps: int, guidance: float) -> Tensor:
    """The flow from noise to latents in equal steps, with classifier-free guidance (1: without)."""
    x = noise
    sigmas = torch.linspace(1, 0, steps + 1, device=noise.device)
    for sigma, after in itertools.pairwise(sigmas):
        time = (1000 * sigma).expand(len(x))
        flow = net(x, time, context=said)
        if guidance != 1:
            flow = flow.lerp(net(x, time, context=unsaid.expand_as(said)), 1 - guidance)
        x = x + (after - sigma) * flow.float()
    return x


class Diffusion:
    """State and steps of the diffusion model's training; loop.py drives it."""

    name = "provoke-demo-diffusion"
    folder = "diffusion_models"
    steps = 20_000
    batch = 32
    fresh, at_once = 4, 64  # new scenes for each step, and how many are made at a time
    rate = 2e-3
    falls = 0.3  # of the training, at its end: the step size falls to nothing
    look = 400  # seconds between two validations

    def __init__(self, seed: int, device: torch.device) -> None:
        self.device = device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = new_unet()
        self.net = net.to(device)
        self.modules: dict[str, nn.Module] = {"net": self.net, "average": copy.deepcopy(net).requires_grad_(False)}
        groups = [
            {"params": [p for p in net.parameters() if p.dim() > 1], "weight_decay": 0.01},
            {"params": [p for p in net.parameters() if p.dim() < 2], "weight_decay": 0.0},
        ]
        self.optimizers = {"net": torch.optim.AdamW(groups, lr=self.rate, betas=(0.9, 0.99))}
        self.generators = {
            "scenes": torch.Generator().manual_seed(seed + 1),
            "noise": torch.Generator().manual_seed(seed + 2),
        }
        self.pool = Pool(self.generators["scenes"], device)
        self.due = 0  # new scenes not yet made

    def loss(self, latents: Tensor, said: Tensor) -> Tensor:
        """Flow matching: the mean square of what is missing to noise minus latent."""
        rng, count = self.generators["noise"], len(latents)
        noise = torch.randn(latents.shape, generator=rng).to(self.device)
        sigma = torch.sigmoid(torch.randn(count, generator=rng)).to(self.device)
        unsaid = (torch.rand(count, generator=rng) < UNSAID).to(self.device)
        said = torch.where(unsaid[:, None, None], self.pool.nothing, said)
        mixed = torch.lerp(latents, noise, sigma[:, None, None, None])
        with torch.autocast(self.device.type, torch.bfloat16):
            flow = self.net(mixed, 1000 * sigma, context=said)
        return functional.mse_loss(flow.float(), noise - latents)

    def step(self, progress: float) -> dict[str, float]:
        """One update; `progress` runs from 0 to 1 over the training."""
        optimizer = self.optimizers["net"]
        for group in optimizer.param_groups:
            group["lr"] = self.rate * min(1.0, progress * 200 + 0.02, (1 - progress) / self.falls + 0.01)
        if not self.pool.filled:
            self.pool.add(self.pool.first)
        self.due += self.fresh
        if self.due >= self.at_once:
            self.due -= self.at_once
            self.pool.add(self.at_once)
        loss = self.loss(*self.pool.draw(self.batch))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        optimizer.step()
        return {"flow": float(loss.detach())}

    def drawn(self, scenes: world.Scenes, seed: int, *, steps: int = 20, guidance: float = GUIDANCE) -> Tensor:
        """The averaged net's pictures of the scenes' usual captions, B 3 64 64."""
        noise = torch.randn(len(scenes), 4, 8, 8, generator=torch.Generator().manual_seed(seed)).to(self.device)
        said = self.pool.states([captions.canonical(scene) for scene in scenes])
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16):
            latents = euler(self.modules["average"], noise, said, self.pool.nothing, steps, guidance).float()
        with torch.no_grad():
            return self.pool.vae.decode(latents).clamp(0, 1).cpu()

    def validate(self) -> dict[str, float]:
        """Held-out prompts, drawn in 20 steps: the share whose objects (and how they lie) the checker reads right."""
        figures: dict[str, Any] = {}
        for objects, name in ((1, "one"), (2, "two")):
            scenes = world.sample(96, torch.Generator().manual_seed(1000 + objects), part="held out", objects=objects)
            readings = read(self.drawn(scenes, seed=objects))
            figures[name] = float(objects_right(readings, scenes).float().mean())
            if objects == 2:
                figures["relation"] = float(relation_right(readings, scenes).float().mean())
        return figures

    def failings(self, figures: dict[str, float]) -> list[str]:
        """Why these weights may not be exported; empty when they pass."""
        bars = {"one": 0.92, "two": 0.62}
        return [f"{name}: {figures[name]:.3f}, {bar} wanted" for name, bar in bars.items() if figures[name] < bar]

    def weights(self) -> dict[str, Tensor]:
        """What is exported: the averaged weights."""
        return self.modules["average"].state_dict()
