"""A sampler's graph of small genuine objects, in both forms, and what the host's own samplers make of it."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from provoke.tools.inprocess import execute

SEED = 5


class SamplerGraph:
    """What is wired to a sampler node.

    Args:
        tiny: provoke.tools.tiny. family: one of its.
        changes: model, vae, positive, negative, latent, batch (of an empty latent), control (a ControlNet on both
            conditionings), sampler, denoise.
    """

    def __init__(self, tiny: ModuleType, family: str = "sd15", **changes: Any) -> None:
        self.model = changes.get("model") or tiny.model(family)
        self.vae = changes.get("vae") or tiny.vae()
        positive = changes.get("positive") or tiny.conditioning(family, seed=1)
        negative = changes.get("negative") or tiny.conditioning(family, seed=2)
        if changes.get("control"):
            positive, negative = tiny.with_control(positive, negative, tiny.controlnet(), tiny.hint())
        self.positive, self.negative = positive, negative
        self.latent = changes.get("latent") or tiny.empty_latent(family, batch=changes.get("batch", 1))
        self.settings = {
            "steps": 2, "cfg": 2.0, "sampler_name": changes.get("sampler", "euler"), "scheduler": "normal",
            "denoise": changes.get("denoise", 1.0),
        }  # fmt: skip

    def inputs(self, form: str) -> dict[str, Any]:
        """A search's sockets in the form "KSampler" or "Custom", and KSampler's widgets."""
        if form == "Custom":
            return {**self.sockets(), "vae": self.vae}
        return {
            "model": self.model, "noise_seed": SEED, **self.settings, "positive": self.positive,
            "negative": self.negative, "latent_image": self.latent, "vae": self.vae,
        }  # fmt: skip

    def sockets(self) -> dict[str, Any]:
        """SamplerCustomAdvanced's."""
        from comfy_extras import nodes_custom_sampler as host

        s = self.settings
        with torch.inference_mode():
            return {
                "noise": host.RandomNoise.execute(SEED).args[0],
                "guider": host.CFGGuider.execute(self.model, self.positive, self.negative, s["cfg"]).args[0],
                "sampler": host.KSamplerSelect.execute(s["sampler_name"]).args[0],
                "sigmas": host.BasicScheduler.execute(self.model, s["scheduler"], s["steps"], s["denoise"]).args[0],
                "latent_image": self.latent,
            }

    def plain(self, seed: int = SEED, **changes: Any) -> Tensor:
        """What KSampler gives, with another positive, negative or latent."""
        import nodes

        given = {"positive": self.positive, "negative": self.negative, "latent": self.latent, **changes}
        s = self.settings
        with torch.inference_mode():
            out = nodes.common_ksampler(
                self.model, seed, s["steps"], s["cfg"], s["sampler_name"], s["scheduler"], **given, denoise=s["denoise"]
            )
        return out[0]["samples"].clone()

    def with_noise(self, noise: Any, latent: Any = None) -> Tensor:
        """What SamplerCustomAdvanced gives for a NOISE."""
        from comfy_extras import nodes_custom_sampler as host

        changed = {**self.sockets(), "noise": noise, **({} if latent is None else {"latent_image": latent})}
        with torch.inference_mode():
            return host.SamplerCustomAdvanced.execute(**changed).args[0]["samples"].clone()


def outputs(nodes: ModuleType, graph: SamplerGraph, node: str, **choices: Any) -> SimpleNamespace:
    """What a node of the pack gives for a graph, by the outputs' names, as the executor calls it."""
    kind = getattr(nodes, node)
    found = execute(kind, **graph.inputs("Custom" if node.endswith("Custom") else "KSampler"), **choices)
    return SimpleNamespace(**dict(zip([put.id for put in kind.define_schema().outputs], found, strict=True)))
