"""The host's samplers with gradients: the same code, run without the decorators that cut the graph."""

from __future__ import annotations

import ast
import functools
import inspect
import tokenize
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.abc import InspectLoader
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import comfy.samplers
import torch
from torch import Tensor

from ...core.errors import GradientError

# Measured right against finite differences, on eps, v and flow models, by the noise and by the conditioning
# (benchmarks/gradients/samplers.py). What is not in this list is refused, also when a newer host brings it.
_NAMES = """
    euler euler_cfg_pp euler_ancestral euler_ancestral_cfg_pp heun heunpp2 exp_heun_2_x0 exp_heun_2_x0_sde
    dpm_2 dpm_2_ancestral lms dpm_fast dpmpp_2s_ancestral dpmpp_2s_ancestral_cfg_pp dpmpp_sde dpmpp_sde_gpu
    dpmpp_2m dpmpp_2m_cfg_pp dpmpp_2m_sde dpmpp_2m_sde_gpu dpmpp_2m_sde_heun dpmpp_2m_sde_heun_gpu
    dpmpp_3m_sde dpmpp_3m_sde_gpu ddpm lcm ipndm ipndm_v deis
    res_multistep res_multistep_cfg_pp res_multistep_ancestral res_multistep_ancestral_cfg_pp
    gradient_estimation gradient_estimation_cfg_pp er_sde seeds_2 seeds_3 sa_solver sa_solver_pece
    ddim uni_pc uni_pc_bh2 euler_pp lcm_upscale
"""
_MEASURED = frozenset(_NAMES.split())

WRONG: dict[str, str] = {
    # PIDStepSizeController.propose_step leaves the graph, `float(error)`; within it the model would need a derivative
    # by the noise level, but ModelSamplingDiscrete.timestep looks that up in a table.
    "dpm_adaptive": "its step sizes follow the image, and models have no gradient by the noise level",
    # sample_ar_video: the caches that its model writes into.
    "ar_video": "its model keeps caches from step to step, which evaluating it again for the gradient would change",
}
"""Samplers of the host without a right gradient, and why."""

_FILES = frozenset(
    ("comfy/k_diffusion/sampling.py", "comfy/extra_samplers/uni_pc.py", "comfy_extras/nodes_advanced_samplers.py")
)
# `ksampler` makes these two anew for every SAMPLER: their code, not the function, is what stays the same.
_CLOSURES = {"dpm_fast_function": "dpm_fast", "dpm_adaptive_function": "dpm_adaptive"}


@dataclass(frozen=True)
class DifferentiableSampler:
    """A sampler of the host, with its options, whose result keeps its graph. Made by `differentiable`.

    Attributes:
        name: as the sampler widget has it ("dpmpp_2m"), or the name of the function that a custom sampler node uses.
        random_inpaint: whether KSAMPLER.sample draws new noise for the masked part ("ddim"); that is the caller's part.
    """

    name: str
    random_inpaint: bool
    _function: Callable[..., Tensor] = field(repr=False)
    _options: dict[str, Any] = field(repr=False)

    def __call__(
        self,
        model: object,
        x: Tensor,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Callable[[dict[str, Any]], None] | None = None,
    ) -> Tensor:
        """What the host's own function gives, bit for bit. Call it outside of inference mode.

        Args:
            model: called as `model(x, sigma, **extra_args)`; a KSamplerX0Inpaint, or something with its attributes.
            x: B C H W (or B C T H W), the scaled noise to start from.
            sigmas: steps + 1 noise levels; not changed. Afterwards scale back with `last_sigma`.
            extra_args: keyword arguments of the model; not changed (cfg_pp samplers change their copy). The noise of
                stochastic samplers comes from its "seed"; only lcm_upscale and churn draw from torch's global
                generator, which is as before afterwards, so that a second run draws the same.
            callback: called with the host's dict for every step.
        """
        own = x.device.type in ("cuda", "xpu")  # the devices with a generator that fork_rng can save
        with torch.random.fork_rng([x.device] if own else [], device_type=x.device.type if own else "cuda"):
            return self._function(
                model, x, sigmas.clone(), extra_args=dict(extra_args), callback=callback, disable=True, **self._options
            )

    def last_sigma(self, sigmas: Tensor) -> Tensor:
        """What KSAMPLER.sample has for `inverse_noise_scaling` in the end, of no dimension."""
        if self.name.startswith("uni_pc") and sigmas[-1] == 0:
            return sigmas.new_tensor(0.001)  # sample_unipc writes it into the tensor that its caller goes on using
        return sigmas[-1]


def right() -> tuple[str, ...]:
    """The samplers of the running host that can be differentiated, in the order of its sampler widget."""
    return tuple(name for name in comfy.samplers.SAMPLER_NAMES if name in _MEASURED)


def differentiable(sampler: Any) -> DifferentiableSampler:
    """The differentiable twin of what a SAMPLER socket or `comfy.samplers.sampler_object(name)` gives.

    Raises:
        GradientError: another kind of sampler, a function that is not the host's own, or one in `WRONG`.
    """
    if type(sampler) is not comfy.samplers.KSAMPLER:  # a subclass may sample in its own way
        raise _refusal(f"The sampler is of the kind {type(sampler).__module__}.{type(sampler).__qualname__}")
    function, options = sampler.sampler_function, dict(sampler.extra_options)
    random_inpaint = bool(sampler.inpaint_options.get("random", False))
    place = _closure(function) or _place(function)
    if place is None:
        where = f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', function)}"
        raise _refusal(f"The sampler is {where}, which is not a function of ComfyUI's own")
    name, copy = place
    if random_inpaint and name == "euler":
        name = "ddim"
    if name not in _MEASURED:
        raise _refusal(f"The sampler {name} has no right gradient: {WRONG.get(name, 'it has not been measured')}")
    if name == "lcm_upscale" and options.get("upscale_method", "bislerp") == "bislerp":
        raise GradientError(
            "The sampler lcm_upscale enlarges with bislerp, whose gradient is not a number where pixels are alike",
            "another upscale_method",
            "choose bilinear, bicubic, area or nearest-exact in SamplerLCMUpscale",
        )
    return DifferentiableSampler(name, random_inpaint, copy(), options)


def forward_only(sampler: Any) -> DifferentiableSampler:
    """As `differentiable`, for whoever asks for no gradient: any function of a KSAMPLER will do.

    Raises:
        GradientError: another kind of sampler.
    """
    try:
        return differentiable(sampler)
    except GradientError:
        if type(sampler) is not comfy.samplers.KSAMPLER:
            raise
    function = sampler.sampler_function
    name = getattr(function, "__name__", type(function).__name__).removeprefix("sample_")
    random_inpaint = bool(sampler.inpaint_options.get("random", False))
    return DifferentiableSampler(name, random_inpaint, function, dict(sampler.extra_options))


def split_post_cfg(model_options: dict[str, Any]) -> tuple[dict[str, Any], list[Callable[[dict[str, Any]], Tensor]]]:
    """Takes out the post-cfg functions by which cfg_pp samplers learn of the unconditional prediction.

    They keep what they see in a closure, and that has no gradient when it leaks out of a checkpoint. So a denoiser runs
    the model with the first of the two results, adds a post-cfg function of its own at the end of the list to have
    `args["uncond_denoised"]` as a second output of the checkpoint, and then, outside, calls every function with
    `{"denoised": ..., "uncond_denoised": ...}`. In every host measured they read those two keys only, and return
    `denoised` as it came: the result is to be ignored. Two or more calls of `cfg_function` in one evaluation
    (Guider_DualCFG may): the last one counts, as in the host.

    Args:
        model_options: what the sampler passed to the model; not changed. `disable_cfg1_optimization`, which cfg_pp
            samplers set so that there is an unconditional prediction at cfg 1, stays.
    """
    functions = model_options.get("sampler_post_cfg_function", [])
    own = [f for f in functions if _is_ours(f)]
    if not own:
        return model_options, []
    return {**model_options, "sampler_post_cfg_function": [f for f in functions if not _is_ours(f)]}, own


def _is_ours(function: object) -> bool:
    return getattr(function, "__module__", None) in _COPIES


def _refusal(came: str) -> GradientError:
    return GradientError(
        came,
        f"one of: {', '.join(right())}",
        "choose one of these in the sampler widget, in KSamplerSelect, or in the node that makes the sampler",
    )


def _host() -> Path:
    return Path(comfy.samplers.__file__).resolve().parent.parent


def _place(function: Any) -> tuple[str, Callable[[], Any]] | None:
    """The name of one of the host's own functions, and how to have its copy; None for anything else."""
    original = inspect.unwrap(function) if callable(function) else None
    if not isinstance(original, FunctionType):
        return None
    space, key = original.__globals__, original.__name__
    file = Path(space.get("__file__") or "").resolve()
    if space.get(key) is not function or not file.is_relative_to(_host()):
        return None
    relative = file.relative_to(_host()).as_posix()
    if relative not in _FILES:
        return None
    return key.removeprefix("sample_").replace("unipc", "uni_pc"), lambda: getattr(_copy(relative), key)


def _closure(function: Any) -> tuple[str, Callable[[], Any]] | None:
    """`_place` for the functions within `comfy.samplers.ksampler`, which call k_diffusion by its module."""
    if not isinstance(function, FunctionType) or function.__code__ not in comfy.samplers.ksampler.__code__.co_consts:
        return None
    name = _CLOSURES.get(function.__name__)
    if name is None:
        return None

    def rebound() -> FunctionType:
        space = {**function.__globals__, "k_diffusion_sampling": _copy("comfy/k_diffusion/sampling.py")}
        return FunctionType(function.__code__, space, function.__name__, function.__defaults__, function.__closure__)

    return name, rebound


_COPIES: set[str] = set()  # the names of the modules that `_copy` made


@functools.cache
def _copy(relative: str) -> ModuleType:
    """A second module from one of the host's files, not in sys.modules. The host's own stays as it is."""
    path = _host() / relative
    parts = Path(relative).with_suffix("").parts
    module = ModuleType(f"provoke_differentiable.{'.'.join(parts)}")
    module.__file__, module.__package__ = str(path), ".".join(parts[:-1])  # for its relative imports
    _Loader(path).exec_module(module)
    _COPIES.add(module.__name__)
    return module


class _Loader(InspectLoader):
    """Python's own import, of a source that is changed on the way. (A file loader would take the host's cache.)"""

    def __init__(self, path: Path) -> None:
        self.path = path

    def get_source(self, fullname: str) -> str:
        with tokenize.open(self.path) as file:
            return file.read()

    def get_code(self, fullname: str) -> CodeType:
        tree = _WithGradient().visit(ast.parse(self.get_source(fullname)))
        # Lines are the host's own, so a traceback shows them from the host's file.
        code: CodeType = compile(ast.fix_missing_locations(tree), self.path, "exec")
        return code


class _WithGradient(ast.NodeTransformer):
    """What is between the host's source and a right gradient. None of it touches a value."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        self.generic_visit(node)
        cuts = ("torch.no_grad()", "torch.inference_mode()")
        node.decorator_list = [d for d in node.decorator_list if ast.unparse(d) not in cuts]
        return node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        called = ast.unparse(node.func)
        if called == "d_cur.detach":
            # sample_ipndm_v, sample_deis: the derivatives of earlier steps, which the next steps depend on.
            return ast.parse("d_cur", mode="eval").body
        if called == "deis.get_deis_coeff_list":
            # deis.cal_intergrand differentiates by the noise level within, and frees that graph; what it gives would
            # still hang on it, and `backward` run into it. It depends on sigmas alone.
            node.func = ast.parse(f"torch.no_grad()({called})", mode="eval").body
        return node
