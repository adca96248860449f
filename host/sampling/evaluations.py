"""One model evaluation as a differentiable function: `CFGGuider.predict_noise` and all that a graph put around it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import comfy.samplers
import torch
from torch import Tensor

from ..checkpoint import checkpoint
from ..gradients import normal_arguments
from ..inplace import Guard
from ..memory import Ladder, Rung, bytes_kept, is_out_of_memory
from ..progress import check_cancelled
from ..trees import floating, replaced
from ..units import Guards, checkpointed, repeated_blocks
from .keyframes import Keyframes
from .samplers import split_post_cfg

T = TypeVar("T")
Conds = dict[str, list[dict[str, Any]]]

KEPT = Rung("every evaluation's graph kept", single=False)
ONCE = Rung("one checkpoint per model evaluation")
NESTED = Rung("checkpoints inside the model")
COST = {KEPT: 2.0, ONCE: 3.0, NESTED: 4.0}  # forwards per differentiated evaluation


class Evaluator:
    """The user's guider with gradients: x0 = D(x, sigma), for the conditioning of the moment.

    Why at this level: everything below is the host's own code (wrappers, CFG, areas, hooks, ControlNets, patches), and
    a checkpoint around `apply_model` would be silently wrong with a ControlNet, whose outputs the UNet pops out of
    their dictionary.

    Args:
        guider: within `Sampler.sample`, where its models are loaded and its conds are processed.
        ladder: how much of the graph is kept; goes down when memory runs out.
    """

    def __init__(self, guider: Any, ladder: Ladder) -> None:
        self.guider, self.ladder = guider, ladder
        self.conds: Conds = guider.conds
        self.hints: dict[int, Tensor] = {}  # id(ControlBase) -> B C H W, its hint in place of the graph's
        self.keyframes = Keyframes(guider.conds, guider.model_patcher)
        self.guard = Guard(always=swaps_weights(guider.conds))
        self.constant: Callable[[Tensor], bool] = lambda sigma: False  # evaluations that carry no gradient
        self.count = 0  # evaluations so far, those of a backward not counted
        self.hidden = False  # patches hold inference tensors in their closures
        self.blocks = repeated_blocks(guider.inner_model.diffusion_model)
        self._guards: Guards = defaultdict(Guard)
        self._half = guider.inner_model.get_dtype_inference() == torch.float16

    @property
    def needs_checkpoints(self) -> bool:
        """Whether a graph must not be kept: later evaluations overwrite its weights (a LoRA on one side, or one whose
        strength follows a schedule), or float16 needs its scaling."""
        return self.guard.always or self.keyframes.scheduled or self._half

    def __getattr__(self, name: str) -> Any:
        """k-diffusion's samplers look for `inner_model`, `model_patcher` and so on: they are the guider's."""
        return getattr(self.guider, name)

    def __call__(self, x: Tensor, timestep: Tensor, model_options: dict[str, Any] = {}, seed: Any = None) -> Tensor:  # noqa: B006 (the guider's own signature)
        """x0 prediction for x (B C ...) at sigmas `timestep` (B), as `CFGGuider.__call__`."""
        check_cancelled()
        self.count += 1
        options, own = split_post_cfg(model_options)
        function, given = self._function(x, timestep, options, seed, bool(own))
        outputs = self._with_gradient(function, given) if self._wanted(given, timestep) else _without(function, given)
        return self._after(own, outputs, x, timestep, model_options)

    def bytes_kept(self, x: Tensor, timestep: Tensor, model_options: dict[str, Any], seed: Any) -> int:
        """What the graph of one evaluation keeps, without the weights and x. (The guard's copies come on top.)"""
        function, (_, *rest) = self._function(x, timestep, model_options, seed, False)
        return bytes_kept(lambda leaf: function(leaf, *rest)[0], x, self.guider.inner_model)

    def _function(
        self, x: Tensor, timestep: Tensor, options: dict[str, Any], seed: Any, with_uncond: bool
    ) -> tuple[Callable[..., tuple[Tensor, ...]], list[Tensor]]:
        """The evaluation as a function of all that it depends on, and these tensors, x first."""
        given = [x, *floating(self.conds), *self.hints.values()]
        conds, hints, state = self.conds, dict(self.hints), self.keyframes.state()
        first: list[bool] = []

        def function(*tensors: Tensor) -> tuple[Tensor, ...]:
            if first:  # again, in the backward: the schedule is at its end by now
                self.keyframes.put_back(state)
            first.append(True)
            table = {id(before): now for before, now in zip(given, tensors, strict=True)}
            now_hints = {key: table.get(id(hint), hint) for key, hint in hints.items()}
            return self._evaluate(tensors[0], timestep, replaced(conds, table), now_hints, options, seed, with_uncond)

        return function, given

    def _wanted(self, given: list[Tensor], timestep: Tensor) -> bool:
        wanted = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given)
        return wanted and not self.constant(timestep)

    def _with_gradient(self, function: Callable[..., tuple[Tensor, ...]], given: list[Tensor]) -> tuple[Tensor, ...]:
        if self.ladder.rung is KEPT:
            try:
                return self.guard.kept(lambda: function(*given))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            self.ladder.step_down()  # what was kept so far stays
        return checkpoint(function, *given, around=self.around, half=self._half)

    def around(self, piece: Callable[[], T]) -> T:
        """Runs one evaluation's forward and backward: guarded, and finer when memory runs out."""
        while True:
            try:
                nested = self.ladder.rung is NESTED
                with checkpointed(self.blocks, self._guards, self._remember) if nested else nullcontext():
                    return self.guard.run(piece)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            self.ladder.step_down()

    def _remember(self) -> Callable[[], AbstractContextManager[None]]:
        """What a block needs when it runs again, in the middle of a backward and outside of `_evaluate`: the weights of
        its hooks (by then they are those of the last hook group), and usable tensors."""
        patcher = self.guider.inner_model.current_patcher
        hooks = patcher.current_hooks

        @contextmanager
        def again() -> Iterator[None]:
            patcher.apply_hooks(hooks)
            with self._usable():
                yield

        return again

    def _usable(self) -> AbstractContextManager[Any]:
        return normal_arguments() if self.hidden else nullcontext()

    def _evaluate(
        self,
        x: Tensor,
        timestep: Tensor,
        conds: Conds,
        hints: Mapping[int, Tensor],
        options: dict[str, Any],
        seed: Any,
        with_uncond: bool,
    ) -> tuple[Tensor, ...]:
        uncond: list[Tensor] = []
        if with_uncond:
            options = dict(options)
            functions = list(options.get("sampler_post_cfg_function", []))
            options["sampler_post_cfg_function"] = [*functions, lambda args: _noted(args, uncond)]
            options["disable_cfg1_optimization"] = True  # as the cfg_pp samplers ask for
        before = self.guider.conds
        self.guider.conds = conds
        try:
            with hinted(conds, hints), self._usable():
                denoised = self.guider(x, timestep, model_options=options, seed=seed)
        finally:
            self.guider.conds = before
        return (denoised, *uncond)

    @staticmethod
    def _after(own: list[Any], outputs: tuple[Tensor, ...], x: Tensor, sigma: Tensor, options: Any) -> Tensor:
        """The sampler's own post-CFG functions, outside of the checkpoint: what they keep must carry its gradient."""
        denoised = outputs[0]
        for function in own:
            args = {"denoised": denoised, "uncond_denoised": outputs[1], "input": x, "sigma": sigma}
            denoised = function({**args, "model_options": options})
        return denoised


def _without(function: Callable[..., tuple[Tensor, ...]], given: list[Tensor]) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return tuple(y.detach() for y in function(*given))


def _noted(args: dict[str, Any], uncond: list[Tensor]) -> Tensor:
    uncond[:] = [args["uncond_denoised"]]
    return args["denoised"]


def swaps_weights(conds: Conds) -> bool:
    """Whether a model's weights change within one evaluation: between two groups of hooks (a LoRA on one side), where
    `copy_to_param` writes through `.data`, past autograd's version counters."""
    return len({id(c.get("hooks")) for cond in conds.values() for c in cond}) > 1


def controls(conds: Conds) -> list[Any]:
    """Every ControlNet in the conditioning, once, each chain from its end."""
    found: dict[int, Any] = {}
    for cond in conds.values():
        for c in cond:
            control = c.get("control")
            while control is not None:
                found.setdefault(id(control), control)
                control = control.previous_controlnet
    return list(found.values())


KEPT_BY_CONTROLS = ("cond_hint_original", "cond_hint", "control_input")  # the last is T2IAdapter's features


@contextmanager
def hinted(conds: Conds, hints: Mapping[int, Tensor]) -> Iterator[None]:
    """Within: ControlNets see other hints. `get_control` keeps the resized hint (and a T2IAdapter its features), and a
    graph with it: so these are made anew inside, and put back after."""
    changed = [control for control in controls(conds) if id(control) in hints] if hints else []
    before = [{name: value for name, value in vars(c).items() if name in KEPT_BY_CONTROLS} for c in changed]
    try:
        for control, kept in zip(changed, before, strict=True):
            vars(control).update(dict.fromkeys(kept), cond_hint_original=hints[id(control)])
        yield
    finally:
        for control, kept in zip(changed, before, strict=True):
            vars(control).update(kept)


class Denoiser(comfy.samplers.KSamplerX0Inpaint):  # type: ignore[misc]
    """What a k-diffusion sampler calls: the evaluator, and the host's own blending with a mask around it.

    The blending is outside of the checkpoint, in plain autograd: it is where noise and latent enter once more.
    """

    def __init__(self, evaluator: Any, sigmas: Tensor, latent: Tensor, noise: Tensor) -> None:
        super().__init__(evaluator, sigmas)
        self.latent_image, self.noise = latent, noise
