"""Entering the user's sampling with gradients, and leaving no trace of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import comfy.model_patcher
import comfy.sample
import comfy.sampler_helpers
import comfy.samplers
import torch
from torch import Tensor, nn

from ...core.errors import GradientError, ProvokeError
from ..decode import Decoder
from ..gradients import gradient_session, normal
from ..memory import MARGIN, PROBE_BYTES, Ladder, Managed
from ..trees import mapped
from .evaluations import KEPT, KEPT_BY_CONTROLS, NESTED, ONCE, Evaluator, controls, swaps_weights
from .handle import Sampling
from .lean import lean_casts
from .patches import attention_with_backward, options_of, prepared, refuse_nested
from .probe import look
from .samplers import DifferentiableSampler, differentiable, forward_only
from .text import TextEncoder

T = TypeVar("T")


def guider_of(model: Any, positive: Any, negative: Any, cfg: float) -> Any:
    """The guider that a KSampler uses: for nodes in its form."""
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    return guider


def empty_fixed(model: Any, latent: dict[str, Any]) -> dict[str, Any]:
    """A LATENT with the channels and frames that the model wants if it is empty, as the host's samplers fix it."""
    refuse_nested(latent["samples"])
    ratios = [latent.get("downscale_ratio_spacial"), latent.get("downscale_ratio_temporal")]
    wanted = comfy.sample.fix_empty_latent_channels.__code__.co_argcount - 2  # 0.18 knows one ratio, later hosts two
    return {**latent, "samples": comfy.sample.fix_empty_latent_channels(model, latent["samples"], *ratios[:wanted])}


def inside(
    guider: Any,
    noise: Any,
    sampler: Any,
    sigmas: Tensor,
    latent: dict[str, Any],
    body: Callable[[Sampling], T],
    *,
    vae: Any = None,
    clip: Any = None,
    also: Sequence[Any] = (),
    notes: list[str] | None = None,
    check: bool = True,
    gradient: bool = True,
    beside: float = 0.0,
) -> T:
    """Runs `body` where a sampler runs, with everything loaded and differentiable, and returns what it returns.

    All that a sampler needs (loaded models, processed conditioning, registered hooks, prepared ControlNets) exists
    within `Sampler.sample` only, and is torn down after it: so the search runs there. The user's objects are not
    changed; afterwards, also after an error or a cancel, the host is as it was.

    Args:
        guider, noise, sampler, sigmas, latent: from sockets of those types, as SamplerCustomAdvanced takes them.
            `guider_of` makes a guider for the KSampler's form.
        body: gets the handle, in normal autograd mode. No `await` inside, and nothing that loads models.
        vae, clip: to be used within the body; loaded in the same request as the model, so that none unloads another.
        also: patchers of further models to be loaded with them (a second MODEL of a chain).
        notes: a list that receives in words what was replaced or stepped down.
        check: look first whether an evaluation is a function, and whether its gradient agrees with finite differences
            (some 25 forwards, once). What is cut or wrong is refused.
        gradient: False when the body asks for none through the model: then samplers and models without one are welcome
            too.
        beside: bytes that judges need for their backward (`judges.room`): asked for with the model's and the VAE's own.

    Raises:
        ProvokeError: a latent, schedule or object that does not fit. GradientError: a sampler, patch or model that no
            right gradient comes through, with the reason.
        Whatever the body raises, and the host's InterruptProcessingException.
    """
    notes = [] if notes is None else notes
    chosen = differentiable(sampler) if gradient else forward_only(sampler)
    _check_sigmas(sigmas)
    decoder = None if vae is None else Decoder(vae, notes)
    encoder = None if clip is None else TextEncoder(clip)
    _refuse_second_model(guider)
    own = copy.copy(guider)  # sampling writes to its guider; the user's stays as it is
    partners = [part.patcher for part in (decoder, encoder) if part is not None] + list(also)
    fixed = empty_fixed(guider.model_patcher, latent)
    beside += decoder.room(fixed["samples"].shape) if decoder is not None and (gradient or beside) else 0.0
    own.model_patcher = prepared(guider.model_patcher, partners, notes, backward=gradient, beside=beside * MARGIN)
    own.model_options = options_of(guider, own.model_patcher)
    drawn = noise.generate_noise(fixed)
    entry: _Inside[T] = _Inside(chosen, body, decoder, encoder, fixed, notes, check, gradient)
    entry.conditioning, entry.drawn = conditioning_of(guider), drawn
    try:
        # inference mode: the host's part runs as its executor runs nodes
        with _open(own.model_patcher, partners), torch.inference_mode(), attention_with_backward(notes):
            own.sample(
                drawn, fixed["samples"], entry, sigmas,
                denoise_mask=fixed.get("noise_mask"), disable_pbar=True, seed=noise.seed,
            )  # fmt: skip
    except BaseException:
        _clean_up(own)
        raise
    if not entry.result:
        raise ProvokeError(
            "A wrapper around the model's sampling did not call the sampler",
            "a model whose samplers run",
            "bypass the nodes that change how the model is sampled",
        )
    return entry.result[0]


def within(
    model_wrap: Any,
    sigmas: Tensor,
    extra_args: dict[str, Any],
    noise: Tensor,
    latent_image: Tensor,
    denoise_mask: Tensor | None,
    body: Callable[[Sampling], T],
    *,
    vae: Any,
    also: Sequence[Any] = (),
    notes: list[str] | None = None,
    beside: float = 0.0,
) -> T:
    """`inside` for a SAMPLER of the host: runs `body` within its own `sample`, and returns what the body returns.

    The model has been loaded by then and stays under whatever management it is: the body may evaluate it (in inference
    mode), and no gradient goes through it. Gradients go through the VAE's decoder.

    Args:
        model_wrap, sigmas, extra_args, noise, latent_image, denoise_mask: as the host calls `Sampler.sample`.
        vae, also, notes, beside: as in `inside`; loaded in one request with everything that the sampling has loaded.
    """
    notes = [] if notes is None else notes
    _check_sigmas(sigmas)
    _refuse_second_model(model_wrap)
    decoder = Decoder(vae, notes)
    model = model_wrap.inner_model
    latent = latent_image if torch.count_nonzero(latent_image) == 0 else model.process_latent_out(latent_image)
    sampler = forward_only(comfy.samplers.sampler_object("euler"))  # of the handle; the body does not sample
    entry: _Inside[T] = _Inside(sampler, body, decoder, None, {"samples": latent}, notes, False, False, False)
    entry.conditioning = conditioning_of(model_wrap)
    loaded = [one for one in model_wrap.loaded_models if isinstance(one, comfy.model_patcher.ModelPatcher)]
    wanted = PROBE_BYTES + (beside + decoder.room(latent_image.shape)) * MARGIN
    Managed(model_wrap.model_patcher, *loaded, decoder.patcher, *also).ask(wanted)
    with _open(decoder.patcher, also):
        entry.sample(model_wrap, sigmas, extra_args, None, noise, latent_image, denoise_mask, True)
    return entry.result[0]


class _Inside(comfy.samplers.Sampler, Generic[T]):  # type: ignore[misc]
    """The sampler that the guider is given: it opens the session and calls the body."""

    def __init__(
        self,
        sampler: DifferentiableSampler,
        body: Callable[[Sampling], T],
        decoder: Decoder | None,
        encoder: TextEncoder | None,
        latent: dict[str, Any],
        notes: list[str],
        check: bool,
        gradient: bool,
        through_model: bool = True,
    ) -> None:
        self._through_model = through_model
        self._sampler, self._body, self._decoder, self._encoder = sampler, body, decoder, encoder
        self._latent, self._notes, self._check, self._gradient = latent, notes, check, gradient
        self.conditioning: dict[str, Any] = {}
        self.drawn: Tensor | None = None
        self.result: list[T] = []

    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: Tensor,
        latent_image: Tensor,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        if self.result:
            raise ProvokeError(
                "A wrapper around the model's sampling calls the sampler more than once",
                "a model that is sampled once",
                "bypass the nodes that change how the model is sampled",
            )
        if self.drawn is not None and not torch.equal(noise.to(self.drawn), self.drawn):
            raise ProvokeError(
                "A node on the model changes the noise before the sampler gets it (FreeNoise of context windows)",
                "a model that samples from the noise that is connected, so that what is found can be used",
                "turn freenoise off in the context windows node",
            )
        found = controls(model_wrap.conds)
        roots: list[nn.Module] = []
        if self._through_model:
            roots = [model_wrap.inner_model, *_modules(model_wrap.loaded_models), *_modules_of_controls(found)]
        roots += [part.module for part in (self._decoder, self._encoder) if part is not None]
        roots = list({id(root): root for root in roots}.values())
        swapped = model_wrap.inner_model if self._through_model and swaps_weights(model_wrap.conds) else None
        # foreign: GGUF's weights cannot be aliased; they become ordinary tensors in every forward, and the check tells
        with gradient_session(*roots, foreign=True) as session, lean_casts(roots, swapped):
            before = model_wrap.conds
            model_wrap.conds = mapped(before, _usable)
            extra = {**extra_args, "model_options": mapped(extra_args["model_options"], _usable)}
            ladder = Ladder("gradient of the sampling", [KEPT, ONCE, NESTED], self._notes)
            evaluator = Evaluator(model_wrap, ladder)
            schedule = evaluator.keyframes.state()
            handle = Sampling(
                evaluator, self._sampler, ladder=ladder, notes=self._notes, decode=self._decoder,
                encoder=self._encoder, inputs={
                    "noise": _usable(noise),
                    "latent": _usable(self._latent["samples"]).to(noise.device, torch.float32),
                    "model_latent": _usable(latent_image),
                    "mask": None if denoise_mask is None else _usable(denoise_mask),
                    "sigmas": _usable(sigmas),
                    "conditioning": mapped(self.conditioning, _usable),
                    "batch_index": self._latent.get("batch_index"),
                    "extra": extra,
                },
            )  # fmt: skip
            try:
                with hints_usable(found):
                    if self._gradient:
                        look(handle, check=self._check)
                    session.refresh()  # a ControlNet with a VAE loads it in its first evaluation
                    self.result.append(self._body(handle))
            finally:
                model_wrap.conds = before
                evaluator.keyframes.put_back(schedule)
        return latent_image


class hints_usable:
    """Within: what ControlNets hold of their hints may be used by autograd."""

    NAMES = (*KEPT_BY_CONTROLS, "extra_concat_orig", "extra_concat")

    def __init__(self, found: Sequence[Any]) -> None:
        self._before = [(c, {name: value for name, value in vars(c).items() if name in self.NAMES}) for c in found]

    def __enter__(self) -> None:
        for control, before in self._before:
            vars(control).update(mapped(before, _usable))

    def __exit__(self, *error: object) -> None:
        for control, before in self._before:
            vars(control).update(before)


def _usable(tensor: Tensor) -> Tensor:
    return normal(tensor) if tensor.is_inference() else tensor


def _modules(loaded: Sequence[Any]) -> list[nn.Module]:
    """The modules of additional models: patchers, and some that are modules themselves."""
    found = [getattr(one, "model", one) for one in loaded]
    return [one for one in found if isinstance(one, nn.Module)]


def _modules_of_controls(found: Sequence[Any]) -> list[nn.Module]:
    """T2IAdapter holds its network itself: the host's loading knows nothing of it."""
    return [value for control in found for value in vars(control).values() if isinstance(value, nn.Module)]


def _refuse_second_model(guider: Any) -> None:
    """A guider with a second model, for the negative (DualModelGuider), keeps its conditioning where nobody sees it."""
    others = [
        name
        for name, value in vars(guider).items()
        if isinstance(value, comfy.model_patcher.ModelPatcher) and value is not guider.model_patcher
    ]
    if others:
        raise GradientError(
            f"The guider {type(guider).__name__} runs a second model ({', '.join(others)})",
            "a guider with one model: CFGGuider, BasicGuider, DualCFGGuider, PerpNegGuider",
            "connect a guider of that kind",
        )


_OPENED: list[Any] = []  # patchers whose modules a run holds, the outermost first


@contextmanager
def _open(patcher: Any, partners: Sequence[Any]) -> Iterator[None]:
    """Refuses a run within a run that would load another state (other LoRAs) of a model that is open: both share the
    module, and loading patches its weights."""
    for one in (patcher, *partners):
        if any(one is not other and one.model is other.model for other in _OPENED):
            raise ProvokeError(
                "Two runs, one within the other, share a model's weights (clones of one MODEL, with or without LoRA)",
                "two models that were loaded separately",
                "load the second stage's model with a loader node of its own",
            )
    _OPENED.append(patcher)
    try:
        yield
    finally:
        _OPENED.remove(patcher)


def conditioning_of(guider: Any) -> dict[str, Any]:
    """The guider's conditionings as they were on their sockets; `convert_cond` has moved things around."""
    hidden = ("cross_attn", "model_conds", "uuid")
    return {
        name: [[c.get("cross_attn"), {key: value for key, value in c.items() if key not in hidden}] for c in conds]
        for name, conds in guider.original_conds.items()
    }


def _check_sigmas(sigmas: Tensor) -> None:
    if not isinstance(sigmas, Tensor) or sigmas.ndim != 1 or len(sigmas) < 2:
        came = tuple(sigmas.shape) if isinstance(sigmas, Tensor) else type(sigmas).__name__
        raise ProvokeError(
            f"The schedule (SIGMAS) is {came}", "at least two values: one step", "raise steps, or denoise above 0"
        )


def _clean_up(guider: Any) -> None:
    """What `CFGGuider.outer_sample` leaves undone when an error or a cancel goes through it: it cleans its models up
    after success only, and a ControlNet would keep its hint (and the graph in it)."""
    conds, loaded = getattr(guider, "conds", None), getattr(guider, "loaded_models", None)
    if conds is not None and loaded is not None:
        with torch.inference_mode():
            comfy.sampler_helpers.cleanup_models(conds, loaded)
    for name in ("conds", "loaded_models", "inner_model"):
        vars(guider).pop(name, None)
