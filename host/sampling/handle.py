"""What the body of `inside` gets: the user's sampler run, decode and text encoder as differentiable functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import comfy.sample
import comfy.sampler_helpers
import comfy.samplers
import torch
from torch import Tensor

from ...core.errors import GradientError, ProvokeError
from ..chance import chance, same_chance
from ..decode import Decoder
from ..gradients import normal
from ..memory import Ladder
from ..trees import mapped
from .evaluations import KEPT, Conds, Denoiser, Evaluator, controls
from .routes import EXACT, OneStep, Residual, Route
from .samplers import DifferentiableSampler, split_post_cfg
from .text import TextEncoder

Conditioning = list[Any]  # the host's CONDITIONING: [[tensor, {...}], ...]


class Sampling:
    """A user's sampling, opened for gradients. Made by `inside`; of no use after it, nor is a graph through it: detach
    what leaves the body.

    Everything is in the units of the host's sockets: noise as a NOISE gives it (standard normal), latents as a LATENT
    holds them, conditionings as on a CONDITIONING socket, hints as a ControlNet gets them (B 3 H W in [0, 1]). Whatever
    of it wants a gradient gets one; the rest is the graph's own.

    Attributes:
        noise, latent: B C h w (B C T h w for video), float32: the graph's own; model_latent: the latent in the model's
            space.
        conditioning: what the guider was given, by its name there ("positive", "negative").
        controls: the ControlNets in it, in the order in which they are met.
        chance: the states of the global generators as the host's sampler finds them.
        sigmas: the schedule, n + 1 values for n steps.
        decode: latent -> B 3 H W in [0, 1], or None where no VAE came.
        encoder: the text encoder, or None where no CLIP came.
        notes: in words, what was replaced or done because memory was short.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        sampler: DifferentiableSampler,
        *,
        inputs: Mapping[str, Any],
        decode: Decoder | None,
        encoder: TextEncoder | None,
        ladder: Ladder,
        notes: list[str],
    ) -> None:
        self.evaluator, self._sampler, self._ladder = evaluator, sampler, ladder
        self.noise: Tensor = inputs["noise"]
        self.latent: Tensor = inputs["latent"]
        self.mask: Tensor | None = inputs["mask"]
        self.sigmas: Tensor = inputs["sigmas"]
        self.conditioning: dict[str, Conditioning] = inputs["conditioning"]
        self.model_latent: Tensor = inputs["model_latent"]
        self._extra: dict[str, Any] = inputs["extra"]
        self._batch_index = inputs["batch_index"]
        self.decode, self.encoder, self.notes = decode, encoder, notes
        self.controls = controls(evaluator.conds)
        self._conds = evaluator.conds
        self._model: Any = evaluator.guider.inner_model
        self.device = self.noise.device
        self.chance = chance([self.device])

    @property
    def steps(self) -> int:
        return len(self.sigmas) - 1

    @property
    def batch(self) -> int:
        return len(self.noise)

    @property
    def seed(self) -> int:
        """Of the noise that an SDE sampler draws on its way."""
        return int(self._extra["seed"] or 0)

    def sample(
        self,
        *,
        noise: Tensor | None = None,
        latent: Tensor | None = None,
        conditioning: Mapping[str, Conditioning] | None = None,
        hints: Mapping[int, Tensor] | None = None,
        seed: int | None = None,
        route: Route = EXACT,
    ) -> Tensor:
        """The latent that the host's sampler gives, in the units of a LATENT, float32.

        Args:
            noise: like `self.noise`. latent: like `self.latent`, for img2img and inpainting.
            conditioning: replaces the guider's, by name; entries in the order of the original.
            hints: by position in `self.controls`, B 3 H W in [0, 1].
            seed: of an SDE sampler's own noise.
            route: see routes.py.

        Raises:
            ProvokeError: a wrong shape, an unknown name or ControlNet.
            GradientError: gradients were wanted and the route lets none through.
            The host's InterruptProcessingException on cancel.
        """
        wanted = torch.is_grad_enabled() and any(
            tensor.requires_grad for tensor in _tensors((noise, latent, conditioning, hints))
        )
        noise = self.noise if noise is None else self._like(noise, self.noise, "noise")
        start = self.model_latent if latent is None else self._model_in(self._like(latent, self.latent, "latent"))
        self.evaluator.conds = self._processed(conditioning, noise, start, latent is not None)
        self.evaluator.hints = self._hints(hints or {})
        self.evaluator.keyframes.start()
        try:
            with same_chance(self.chance):  # patches that draw (ToMe, HyperTile) draw what they draw in the host's run
                out = self._run(noise, start, self._extra["seed"] if seed is None else seed, route)
        finally:
            self.evaluator.conds, self.evaluator.hints = self._conds, {}
        if wanted and not out.requires_grad:
            raise GradientError(
                "No gradient reaches what is searched: the gradient route goes through the last steps only",
                "a route that the noise, or whatever is searched, has a part in",
                "choose another gradient route (exact, or residual)",
            )
        return out

    def sample_all(self, runs: Sequence[Mapping[str, Any]]) -> Tensor:
        """Several prompts and seeds, one run after the other, each with its arguments of `sample`. Rows in order."""
        if len(runs) > 1 and self._ladder.rung is KEPT:
            self._ladder.start(1)  # room was found for one run's graphs
        return torch.cat([self.sample(**run) for run in runs])

    def noise_of(self, seed: int) -> Tensor:
        """What the host's RandomNoise gives for another seed, like `self.noise`. (`prepare_noise` without its
        `torch.manual_seed`, the global one.)"""
        rng = torch.Generator().manual_seed(seed)
        return comfy.sample.prepare_noise_inner(self.latent.cpu(), rng, self._batch_index).to(self.noise)

    def denoised(self, x: Tensor, sigma: Tensor, conds: Conds | None = None) -> Tensor:
        """The x0 prediction for a noisy latent in the model's own space (B C h w) at one sigma: one evaluation.

        conds: from `processed`, in the place of the graph's own.
        """
        options = self._extra["model_options"]
        before = self.evaluator.conds
        if conds is not None:  # the look at the model puts conds of its own there
            self.evaluator.conds = conds
        try:
            return self.evaluator(x, sigma.expand(len(x)), options, self._extra["seed"])
        finally:
            self.evaluator.conds = before

    def processed(self, conditioning: Mapping[str, Conditioning]) -> Conds:
        """Conditionings in the place of the guider's, by name, as `denoised` takes them."""
        return self._processed(conditioning, self.noise, self.model_latent, False)

    def latent_of(self, x: Tensor) -> Tensor:
        """What is in the model's own space (B C h w) in the units of a LATENT, float32. Differentiable."""
        return self._model_out(x)

    @property
    def model_sampling(self) -> Any:
        """The host's: how this model's noise levels, inputs and predictions go together."""
        return self._model.model_sampling

    def bytes_kept(self, x: Tensor, sigma: Tensor) -> int:
        """What the graph of `denoised` keeps, in bytes, without the weights and x."""
        options = self._extra["model_options"]
        return self.evaluator.bytes_kept(x, sigma.expand(len(x)), options, self._extra["seed"])

    def evaluations(self) -> int:
        """Model evaluations of one run, counted by running the sampler on a model that predicts zero."""
        counted = _Zero(self.evaluator)
        denoiser = Denoiser(counted, self.sigmas, self.model_latent, self.noise)
        with torch.no_grad():
            start = self._noised(self.noise, self.model_latent)
            self._sampler(denoiser, start, self.sigmas, self._arguments(0))
        return counted.count

    # ---------------------------------------------------------------------------------------------- running

    def _run(self, noise: Tensor, latent: Tensor, seed: Any, route: Route) -> Tensor:
        """`KSAMPLER.sample`, with gradients, by a route."""
        evaluator, sampling = self.evaluator, self._model.model_sampling
        sigmas = self.sigmas
        blend = noise
        if self._sampler.random_inpaint:  # "ddim": noise of its own where the mask keeps the picture
            rng = torch.Generator().manual_seed(int(seed) + 1)
            blend = torch.randn(noise.shape, generator=rng).to(noise)
        denoiser = Denoiser(evaluator, sigmas, latent, blend)
        x = self._noised(noise, latent)
        before = evaluator.constant
        try:
            if isinstance(route, OneStep):
                return self._one_step(denoiser, x, seed, min(route.at, self.steps - 1))
            if isinstance(route, Residual) and route.steps < self.steps:
                first, before_it = (float(sigmas[self.steps - route.steps - i]) for i in (0, 1))
                late = first * (before_it / first) ** 0.25  # churn evaluates a little above the step's sigma
                evaluator.constant = lambda sigma: float(sigma[0]) > late
                fixed = x.detach()
                x = fixed if route.weight == 1 else fixed + (1 - route.weight) * (x - fixed)
            x = self._sampler(denoiser, x, sigmas, self._arguments(seed))
        finally:
            evaluator.constant = before
        return self._model_out(sampling.inverse_noise_scaling(self._sampler.last_sigma(sigmas), x))

    def _one_step(self, denoiser: Denoiser, x: Tensor, seed: Any, at: int) -> Tensor:
        arguments = self._arguments(seed)
        if at > 0:
            self.evaluator.constant = lambda sigma: True
            x = self._sampler(denoiser, x, self.sigmas[: at + 1], arguments)
            self.evaluator.constant = lambda sigma: False
        return self._model_out(denoiser(x, self.sigmas[at].expand(len(x)), **arguments))

    def _arguments(self, seed: Any) -> dict[str, Any]:
        return {"model_options": self._extra["model_options"], "seed": seed, "denoise_mask": self.mask}

    def _noised(self, noise: Tensor, latent: Tensor) -> Tensor:
        sigma = self.sigmas[0]
        return self._model.model_sampling.noise_scaling(sigma, noise, latent, self.whole(sigma))

    def whole(self, sigma: Tensor) -> bool:
        """Whether nothing is left of the latent at this sigma: `Sampler.max_denoise`."""
        largest = float(self._model.model_sampling.sigma_max)
        return math.isclose(largest, float(sigma), rel_tol=1e-5) or float(sigma) > largest

    def _model_in(self, latent: Tensor) -> Tensor:
        """LATENT -> the model's space. `CFGGuider.inner_sample` leaves an empty latent as it is."""
        if not latent.requires_grad and torch.count_nonzero(latent) == 0:
            return latent
        return self._model.process_latent_in(latent)

    def _model_out(self, x: Tensor) -> Tensor:
        return self._model.process_latent_out(x.to(torch.float32))

    # ---------------------------------------------------------------------------------------------- inputs

    def _processed(
        self, conditioning: Mapping[str, Conditioning] | None, noise: Tensor, latent: Tensor, other_latent: bool
    ) -> Conds:
        """The guider's conds with other ones in their place, processed by the host. Once a run: what every step uses is
        computed, and differentiated, once."""
        if conditioning is None and not other_latent:
            return self._conds
        conds: Conds = {}
        for name in {**self.conditioning, **(conditioning or {})}:
            if name not in self.conditioning:
                raise ProvokeError(
                    f"The guider has no conditioning of the name {name!r}",
                    "one of: " + ", ".join(self.conditioning),
                    "use a guider with that input (CFGGuider has positive and negative)",
                )
            given = (conditioning or {}).get(name, self.conditioning[name])
            conds[name] = comfy.sampler_helpers.convert_cond(mapped(given, _own))
            for entry, known in zip(conds[name], self._conds[name], strict=False):
                entry.pop("hooks", None)
                if known.get("hooks") is not None:
                    entry["hooks"] = known["hooks"]  # as registered when the run began
        _refuse_strangers(conds, self.controls)
        return comfy.samplers.process_conds(
            self._model, noise.detach(), conds, self.device, latent, self.mask, self._extra["seed"],
            latent_shapes=[tuple(noise.shape)],
        )  # fmt: skip

    def _there(self, tensor: Tensor) -> Tensor:
        return normal(tensor) if tensor.is_inference() else tensor

    def _like(self, tensor: Tensor, known: Tensor, what: str) -> Tensor:
        if tensor.shape != known.shape:
            raise ProvokeError(
                f"The {what} is {tuple(tensor.shape)}",
                f"{tuple(known.shape)}, as the graph's own",
                "give one for every latent of the batch, of its size",
            )
        return self._there(tensor).to(known)

    def _hints(self, hints: Mapping[int, Tensor]) -> dict[int, Tensor]:
        chosen = {}
        for position, hint in hints.items():
            if not 0 <= position < len(self.controls):
                raise ProvokeError(
                    f"There is no ControlNet {position}: the conditioning has {len(self.controls)}",
                    "a position from 0",
                    "connect a conditioning that went through Apply ControlNet",
                )
            control = self.controls[position]
            if getattr(control, "vae", None) is not None:
                # get_control would encode it in every evaluation, and load the VAE there
                raise GradientError(
                    "This ControlNet encodes its hint with a VAE, within every model evaluation",
                    "a ControlNet that looks at pixels (those of SD 1.5 and SDXL)",
                    "search another input, or use a ControlNet without a VAE",
                )
            chosen[id(control)] = self._there(hint).to(self.device)
        return chosen


def _own(tensor: Tensor) -> Tensor:
    """A copy, with its gradient: WAN21's extra_conds, for one, writes into the conditioning."""
    return tensor.clone()


class _Zero:
    """An evaluator that predicts zero and counts."""

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator, self.count = evaluator, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._evaluator, name)

    def __call__(self, x: Tensor, timestep: Tensor, model_options: Any = None, seed: Any = None) -> Tensor:
        self.count += 1
        zero = torch.zeros_like(x)
        for function in split_post_cfg(model_options or {})[1]:  # the sampler's own: those of the graph want a model
            function({"denoised": zero, "uncond_denoised": zero, "input": x, "sigma": timestep})
        return zero


def _tensors(value: Any) -> list[Tensor]:
    found: list[Tensor] = []
    mapped(value, lambda tensor: found.append(tensor) or tensor)  # type: ignore[func-returns-value]
    return found


def _refuse_strangers(conds: Conds, known: list[Any]) -> None:
    """ControlNets that were not loaded with the run."""
    strangers = [control for control in controls(conds) if all(control is not one for one in known)]
    if strangers:
        raise ProvokeError(
            "The conditioning brings a ControlNet that the run was not opened with",
            "the ControlNets of the guider's own conditioning",
            "put the ControlNet into the conditioning that the node gets",
        )
