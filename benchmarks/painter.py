"""The demo's text-to-image models through the host's own nodes: what benchmarks of sampler searches draw with."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

SAMPLER, SCHEDULER = "euler", "simple"
Conditioning = list[Any]
Latent = dict[str, Any]


class DemoPainter:
    """One of the models, loaded once, and how it is sampled.

    Args:
        nodes: the pack's, from tools.inprocess.open_pack.
        model: of Load Demo Models.
        steps, cfg: KSampler's.
    """

    def __init__(self, nodes: Any, model: str, steps: int, cfg: float) -> None:
        self.nodes, self.steps, self.cfg = nodes, steps, cfg
        with torch.inference_mode():
            self.model, self.clip, self.vae = nodes.LoadDemoModels.execute(model).args

    @cached_property
    def first(self) -> Any:
        """The CLIP that searches follow."""
        return self._scorer("first")

    @cached_property
    def second(self) -> Any:
        """The CLIP that none follows."""
        return self._scorer("second")

    def _scorer(self, name: str) -> Any:
        with torch.inference_mode():
            return self.nodes.LoadScorer.execute(name).args[0]

    def conditioning(self, text: str) -> Conditioning:
        """CLIP Text Encode."""
        from nodes import CLIPTextEncode

        with torch.inference_mode():
            found: Conditioning = CLIPTextEncode().encode(self.clip, text)[0]
        return found

    def empty(self, count: int = 1, *, same_noise: bool = False) -> Latent:
        """Empty Latent Image. same_noise: all rows get the first one's."""
        from nodes import EmptyLatentImage

        with torch.inference_mode():
            latent: Latent = EmptyLatentImage().generate(64, 64, count)[0]
        return {**latent, "batch_index": [0] * count} if same_noise else latent

    def sockets(self, what: str | Conditioning, seed: int) -> dict[str, Any]:
        """What a search's node in KSampler's form gets, for one latent."""
        return {
            "model": self.model, "vae": self.vae, "noise_seed": seed, "steps": self.steps, "cfg": self.cfg,
            "sampler_name": SAMPLER, "scheduler": SCHEDULER, "positive": self._told(what),
            "negative": self.conditioning(""), "latent_image": self.empty(), "denoise": 1.0,
        }  # fmt: skip

    def draw(self, what: str | Conditioning, seed: int, count: int = 1, *, same_noise: bool = False) -> Tensor:
        """KSampler and VAE Decode: pictures B 3 64 64 of a prompt, or of a CONDITIONING of batch 1 or `count`."""
        from nodes import KSampler

        positive, negative = self._told(what), self.conditioning("")
        latent = self.empty(count, same_noise=same_noise)
        with torch.inference_mode():
            drawn = KSampler().sample(
                self.model, seed, self.steps, self.cfg, SAMPLER, SCHEDULER, positive, negative, latent
            )[0]
        return self.decoded(drawn)

    def decoded(self, latent: Latent) -> Tensor:
        """VAE Decode: B 3 64 64."""
        from nodes import VAEDecode

        with torch.inference_mode():
            pictures: Tensor = VAEDecode().decode(self.vae, latent)[0]
            return pictures.movedim(-1, 1).clone()

    def _told(self, what: str | Conditioning) -> Conditioning:
        return self.conditioning(what) if isinstance(what, str) else what
