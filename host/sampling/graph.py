"""What a sampler node of the host gets, in either of its forms, and that node's own result."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import comfy.model_management
import comfy.sample
import comfy.samplers
import torch
from torch import Tensor

from ...core.batches import joined
from ...core.errors import ProvokeError
from ..judges import Held, room
from .evaluations import KEPT_BY_CONTROLS, controls
from .handle import Conditioning, Sampling
from .inside import conditioning_of, empty_fixed, guider_of, inside

T = TypeVar("T")
Latent = dict[str, Any]


class SeedNoise:
    """The noise of a seed, a NOISE: what KSampler and the host's RandomNoise draw."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def generate_noise(self, latent: Latent) -> Tensor:
        """Like the latent's samples, on the CPU."""
        return comfy.sample.prepare_noise(latent["samples"], self.seed, latent.get("batch_index"))


@dataclass(frozen=True)
class Rendered:
    """The LATENTs that the host's sampler node gives: `output`, and `denoised`, its last prediction (the same thing
    where the form has none)."""

    output: Latent
    denoised: Latent


@dataclass(frozen=True)
class Graph(ABC):
    """Everything that goes into a sampler node. `ksampler` and `custom` make one; it is never changed, only replaced.

    conditioning: as on the sockets, by the guider's names ("positive", "negative"). latent: as it came. vae: from a VAE
    socket.
    """

    guider: Any
    noise: Any
    sampler: Any
    sigmas: Tensor
    latent: Latent
    vae: Any
    conditioning: dict[str, Conditioning]

    @property
    def batch(self) -> int:
        return len(self.latent["samples"])

    @property
    def steps(self) -> int:
        return max(0, len(self.sigmas) - 1)

    # ---------------------------------------------------------------------------------------------- running

    @torch.inference_mode()
    def rendered(self) -> Rendered:
        """What the host's own node gives, bit for bit, without its previews and its progress bar. Outside of `inside`
        only."""
        fixed = empty_fixed(self.guider.model_patcher, self.latent)
        samples, denoised = self._sampled(fixed, self.noise.generate_noise(fixed))
        out = {key: value for key, value in fixed.items() if not key.startswith("downscale_ratio_")}
        output = {**out, "samples": samples}
        return Rendered(output, output if denoised is None else {**fixed, "samples": denoised})

    @abstractmethod
    def _sampled(self, latent: Latent, noise: Tensor) -> tuple[Tensor, Tensor | None]:
        """The node's samples, and its last prediction if it gives one."""

    @torch.inference_mode()
    def pictures(self, latent: Latent) -> Tensor:
        """What the host's VAEDecode gives: B H W C. Outside of `inside` only."""
        images = self.vae.decode(latent["samples"])
        return images.reshape(-1, *images.shape[-3:]) if images.ndim == 5 else images

    def inside(
        self,
        body: Callable[[Sampling], T],
        *,
        judges: Sequence[Held] = (),
        clip: Any = None,
        notes: list[str] | None = None,
        gradient: bool = True,
        looks: int = 0,
    ) -> T:
        """`inside.inside` with the VAE, and judges (their gradients: `judges.passed`) and a CLIP loaded in the same
        request. looks: how many pictures the judges look at at once for a gradient."""
        patchers = [patcher for held in judges for patcher in held.patchers]
        return inside(
            self.guider, self.noise, self.sampler, self.sigmas, self.latent, body,
            vae=self.vae, clip=clip, also=patchers, notes=notes, gradient=gradient,
            beside=room(judges, looks) if looks else 0.0,
        )  # fmt: skip

    # ---------------------------------------------------------------------------------------------- with other inputs

    def with_noise(self, noise: Any) -> Graph:
        """With another NOISE: an object with `seed` and `generate_noise(latent)`."""
        return replace(self, noise=noise)

    def with_samples(self, samples: Tensor) -> Graph:
        """With another latent (B C h w, or B C T h w), its mask and batch index kept."""
        return replace(self, latent={**self.latent, "samples": samples})

    @abstractmethod
    def with_conditioning(self, changed: Mapping[str, Conditioning]) -> Graph:
        """With other conditionings, by name."""

    def controls(self) -> list[Any]:
        """The ControlNets in the conditioning, in the order of `Sampling.controls`."""
        return controls({name: [entry[1] for entry in entries] for name, entries in self.conditioning.items()})

    def with_hint(self, position: int, hint: Tensor) -> Graph:
        """With another control image (B 3 H W in [0, 1]) in the ControlNet at this position; the user's object stays as
        it is."""
        chosen, made = self.controls()[position], dict[int, Any]()

        def other(control: Any) -> Any:
            if control is None:
                return None
            if id(control) not in made:  # positive and negative share theirs
                made[id(control)] = new = copy.copy(control)
                vars(new).update(dict.fromkeys(name for name in KEPT_BY_CONTROLS[1:] if name in vars(new)))
                new.cond_hint_original = hint if control is chosen else control.cond_hint_original
                new.previous_controlnet = other(control.previous_controlnet)
            return made[id(control)]

        def hinted(extra: dict[str, Any]) -> dict[str, Any]:
            return {**extra, "control": other(extra["control"])} if "control" in extra else extra

        changed = {
            name: [[tensor, hinted(extra)] for tensor, extra in entries] for name, entries in self.conditioning.items()
        }
        return self.with_conditioning(changed)


@dataclass(frozen=True)
class _KSampler(Graph):
    """The form of KSampler."""

    settings: dict[str, Any]  # steps, cfg, sampler_name, scheduler, denoise

    def _sampled(self, latent: Latent, noise: Tensor) -> tuple[Tensor, Tensor | None]:
        samples = comfy.sample.sample(
            self.guider.model_patcher, noise, positive=self.conditioning["positive"],
            negative=self.conditioning["negative"], latent_image=latent["samples"], **self.settings,
            noise_mask=latent.get("noise_mask"), disable_pbar=True, seed=self.noise.seed,
        )  # fmt: skip
        return samples, None

    def with_conditioning(self, changed: Mapping[str, Conditioning]) -> Graph:
        conditioning = {**self.conditioning, **_known(changed, self.conditioning)}
        guider = guider_of(self.guider.model_patcher, **conditioning, cfg=self.settings["cfg"])
        return replace(self, guider=guider, conditioning=conditioning)


@dataclass(frozen=True)
class _Custom(Graph):
    """The form of SamplerCustomAdvanced."""

    def _sampled(self, latent: Latent, noise: Tensor) -> tuple[Tensor, Tensor | None]:
        last: dict[str, Tensor] = {}

        def callback(step: int, x0: Tensor, x: Tensor, total: int) -> None:
            last["x0"] = x0

        samples = self.guider.sample(
            noise, latent["samples"], self.sampler, self.sigmas, denoise_mask=latent.get("noise_mask"),
            callback=callback, disable_pbar=True, seed=self.noise.seed,
        ).to(comfy.model_management.intermediate_device())  # fmt: skip
        model = self.guider.model_patcher.model
        return samples, model.process_latent_out(last["x0"].cpu()) if last else None

    def with_conditioning(self, changed: Mapping[str, Conditioning]) -> Graph:
        guider = copy.copy(self.guider)
        guider.original_conds = dict(guider.original_conds)
        guider.inner_set_conds(_known(changed, self.conditioning))
        return replace(self, guider=guider, conditioning={**self.conditioning, **changed})


def ksampler(
    model: Any, noise_seed: int, steps: int, cfg: float, sampler_name: str, scheduler: str,
    positive: Conditioning, negative: Conditioning, latent_image: Latent, denoise: float, vae: Any,
) -> Graph:  # fmt: skip
    """The form of KSampler, by its own words."""
    with torch.inference_mode():  # as the node itself: the schedule is that of its sampler
        own = comfy.samplers.KSampler(
            model, steps=steps, device=model.load_device, sampler=sampler_name, scheduler=scheduler, denoise=denoise,
            model_options=model.model_options,
        )  # fmt: skip
    settings = {"steps": steps, "cfg": cfg, "sampler_name": sampler_name, "scheduler": scheduler, "denoise": denoise}
    return _KSampler(
        guider=guider_of(model, positive, negative, cfg), noise=SeedNoise(noise_seed),
        sampler=comfy.samplers.sampler_object(sampler_name), sigmas=own.sigmas, latent=latent_image, vae=vae,
        conditioning={"positive": positive, "negative": negative}, settings=settings,
    )  # fmt: skip


def custom(noise: Any, guider: Any, sampler: Any, sigmas: Tensor, latent_image: Latent, vae: Any) -> Graph:
    """The form of SamplerCustomAdvanced."""
    return _Custom(guider, noise, sampler, sigmas, latent_image, vae, conditioning_of(guider))


def _known(changed: Mapping[str, Conditioning], known: Mapping[str, Conditioning]) -> Mapping[str, Conditioning]:
    for name in changed:
        if name not in known:
            raise ProvokeError(
                f"The guider has no conditioning of the name {name!r}",
                "one of: " + ", ".join(known),
                "use a guider with that input (CFGGuider has positive and negative)",
            )
    return changed


def image_major(runs: Sequence[Latent]) -> Latent:
    """Several runs' LATENTs of B each as one of B * len(runs): image 0's results first, then image 1's. Masks and batch
    indices follow."""
    if len(runs) == 1:
        return runs[0]
    first, count, size = runs[0], len(runs), len(runs[0]["samples"])
    out = {**first, "samples": joined([run["samples"] for run in runs])}
    mask = first.get("noise_mask")
    if isinstance(mask, Tensor) and len(mask) > 1:
        # a mask of fewer than B is repeated by the host, one after the other
        whole = mask.repeat(-(-size // len(mask)), *[1] * (mask.ndim - 1))[:size]
        out["noise_mask"] = whole.repeat_interleave(count, 0)
    if "batch_index" in first:
        out["batch_index"] = [index for index in first["batch_index"] for _ in range(count)]
    return out
