"""Whether the gradient through each of the host's samplers is right, and its value the host's own.

    python dev.py run benchmarks/gradients/samplers.py -- [--out FILE]

A smooth toy network behind the host's own model_sampling, cfg_function and KSamplerX0Inpaint; one checkpoint per model
evaluation; all in float64. The error is the relative L2 distance between the vector of directional derivatives by
backward and by central differences, along random and block directions, by the noise and by the conditioning.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

HERE = Path(__file__).resolve().parent
KINDS = ("eps", "v", "flow")
BAR = 0.01
SHAPE = (2, 4, 4, 4)  # B C H W
CONDS = (2, 2, 3, 5)  # positive and negative, B, tokens, width
STEPS = 6
RANDOM = 16  # directions
STEP = 1e-5  # of the central differences, along directions of norm 1


@contextmanager
def in_float64() -> Iterator[None]:
    """Some samplers make tensors of their own in the default type, and cannot mix."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def model_sampling(kind: str) -> Any:
    """As model_base.model_sampling makes it."""
    import comfy.model_sampling as s

    schedule, formula = {
        "eps": (s.ModelSamplingDiscrete, s.EPS),
        "v": (s.ModelSamplingDiscrete, s.V_PREDICTION),
        "flow": (s.ModelSamplingDiscreteFlow, s.CONST),
    }[kind]
    return type("ModelSampling", (schedule, formula), {})()


class Guider:
    """What a KSamplerX0Inpaint and the samplers see of a CFGGuider, around a smooth network."""

    def __init__(self, kind: str, conds: Tensor | None = None, cfg: float = 3.0) -> None:
        self.inner_model = SimpleNamespace(model_sampling=model_sampling(kind))
        self.model_patcher = SimpleNamespace(model=self, get_model_object=lambda name: getattr(self.inner_model, name))
        self.conds = randn(*CONDS, seed=1) if conds is None else conds
        self.cfg = cfg
        self._first, self._last = 0.3 * randn(8, 4, 3, 3, seed=2), 0.2 * randn(4, 8, 1, 1, seed=3)
        self._width, self._wide = randn(5, 6, seed=4), randn(6, 8, seed=5)

    def __call__(self, x: Tensor, timestep: Tensor, model_options: dict[str, Any], seed: int | None = None) -> Tensor:
        import comfy.samplers

        positive, negative = (self._denoised(x, timestep, c) for c in self.conds)
        return comfy.samplers.cfg_function(
            self.inner_model, positive, negative, self.cfg, x, timestep, model_options=model_options
        )

    def _denoised(self, x: Tensor, sigma: Tensor, cond: Tensor) -> Tensor:
        ms = self.inner_model.model_sampling
        seen = ms.calculate_input(sigma, x)
        first, last, width, wide = (w.to(x.dtype) for w in (self._first, self._last, self._width, self._wide))
        context = torch.tanh(cond.to(x.dtype) @ width).mean(1) @ wide + torch.log1p(sigma.to(x.dtype))[:, None]
        hidden = torch.tanh(torch.nn.functional.conv2d(seen, first, padding=1) + context[:, :, None, None])
        return ms.calculate_denoised(sigma, 0.8 * seen + torch.nn.functional.conv2d(hidden, last), x)


class Denoiser:
    """One checkpoint per evaluation: only x and the conditioning get gradients, nothing that a closure took out."""

    def __init__(self, guider: Guider, sigmas: Tensor) -> None:
        import comfy.samplers

        self.inner_model = guider
        self._inpaint = comfy.samplers.KSamplerX0Inpaint(guider, sigmas)

    def __call__(self, x: Tensor, sigma: Tensor, model_options: dict[str, Any], **rest: Any) -> Tensor:
        from ...host.sampling.samplers import split_post_cfg

        options, functions = split_post_cfg(model_options)
        guider = self.inner_model

        def evaluate(x: Tensor, conds: Tensor) -> tuple[Tensor, ...]:
            seen: list[Tensor] = []

            def last(args: dict[str, Any]) -> Tensor:
                seen.append(args["uncond_denoised"])
                return args["denoised"]

            before, guider.conds = guider.conds, conds
            mine = {**options, "sampler_post_cfg_function": [*options.get("sampler_post_cfg_function", []), last]}
            try:
                denoised = self._inpaint(x, sigma, model_options=mine, **rest)
            finally:
                guider.conds = before
            return denoised, seen[-1]

        denoised, uncond = _Checkpoint.apply(evaluate, x, guider.conds)
        for function in functions:
            function({"denoised": denoised, "uncond_denoised": uncond})
        return denoised


class _Checkpoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, evaluate: Callable[..., tuple[Tensor, ...]], *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.evaluate = evaluate
        ctx.save_for_backward(*inputs)
        with torch.no_grad():
            return tuple(y.clone() for y in evaluate(*inputs))  # or what a closure kept would be the output itself

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        leaves = [x.detach().requires_grad_(True) for x in ctx.saved_tensors]
        with torch.enable_grad():
            outputs = ctx.evaluate(*leaves)
        return (None, *torch.autograd.grad(outputs, leaves, cotangents))


def extra_args() -> dict[str, Any]:
    return {"denoise_mask": None, "model_options": {}, "seed": 7}


def levels(kind: str, steps: int = STEPS) -> Tensor:
    """The host's "normal" schedule, as float64."""
    import comfy.samplers

    return comfy.samplers.calculate_sigmas(model_sampling(kind), "normal", steps).double()


def by_host(sampler: Any, kind: str, noise: Tensor, sigmas: Tensor) -> Tensor:
    """KSAMPLER.sample."""
    torch.manual_seed(3)
    args = {name: value for name, value in extra_args().items() if name != "denoise_mask"}
    with torch.no_grad():
        return sampler.sample(Guider(kind), sigmas, args, None, noise, torch.zeros_like(noise), disable_pbar=True)


def by_us(sampler: Any, kind: str, noise: Tensor, conds: Tensor | None, sigmas: Tensor) -> Tensor:
    """The differentiable twin; `sampler` is what `differentiable` gave."""
    import comfy.samplers

    torch.manual_seed(3)
    guider = Guider(kind, conds)
    ms = guider.inner_model.model_sampling
    full = comfy.samplers.Sampler().max_denoise(guider, sigmas)
    x = ms.noise_scaling(sigmas[0], noise, torch.zeros_like(noise), full)
    x = sampler(Denoiser(guider, sigmas), x, sigmas, extra_args())
    return ms.inverse_noise_scaling(sampler.last_sigma(sigmas), x)


def directions(variable: Tensor, random: int) -> list[Tensor]:
    """Random ones, then random ones within a batch item, a channel (or token), and a region (or half of a token)."""
    blocks = torch.zeros(3, *variable.shape)
    if variable.ndim == 4 and variable.shape == SHAPE:
        blocks[0, 1], blocks[1, :, 2], blocks[2, ..., 1:3, :2] = 1, 1, 1
    else:
        blocks[0, 0, 1], blocks[1, 0, :, 1], blocks[2, :, :, 0, :2] = 1, 1, 1
    masks = [torch.ones_like(variable)] * random + list(blocks)
    found = [randn(*variable.shape, seed=100 + i) * mask for i, mask in enumerate(masks)]
    return [d / d.norm() for d in found]


def errors(twin: Any, kind: str, steps: int = STEPS, random: int = RANDOM) -> dict[str, float]:
    """Relative L2 error of the directional derivatives, by "noise" and by "conds"."""
    with in_float64():
        variables = {"noise": randn(*SHAPE, seed=8), "conds": randn(*CONDS, seed=1)}
        sigmas = levels(kind, steps)

        def loss(noise: Tensor, conds: Tensor) -> Tensor:
            image = by_us(twin, kind, noise, conds, sigmas)
            return (image * randn(*image.shape, seed=9)).sum() + 0.1 * image.pow(2).sum()

        leaves = {name: v.clone().requires_grad_(True) for name, v in variables.items()}
        gradients = dict(zip(leaves, torch.autograd.grad(loss(**leaves), list(leaves.values())), strict=True))
        found = {}
        for name, variable in variables.items():
            along = directions(variable, random)
            backward = torch.stack([(gradients[name] * d).sum() for d in along])
            moved = [[loss(**{**variables, name: variable + s * STEP * d}).detach() for s in (1, -1)] for d in along]
            differences = torch.stack([(up - down) / (2 * STEP) for up, down in moved])
            found[name] = float((backward - differences).norm() / differences.norm())
        return found


def same_value(sampler: Any, twin: Any, kind: str, steps: int = STEPS) -> bool:
    """Bit for bit, in float32, the type that the host samples in."""
    noise, sigmas = randn(*SHAPE, seed=8).float(), levels(kind, steps).float()
    ours = by_us(twin, kind, noise.clone().requires_grad_(True), None, sigmas)
    return torch.equal(ours, by_host(sampler, kind, noise, sigmas.clone())) and bool(ours.isfinite().all())


def samplers() -> dict[str, Any]:
    """All of the host's: the sampler widget's, and those that only a node makes."""
    import comfy.samplers
    from comfy_extras.nodes_advanced_samplers import SamplerEulerCFGpp, SamplerLCMUpscale

    found = {name: comfy.samplers.sampler_object(name) for name in comfy.samplers.SAMPLER_NAMES}
    found["euler_pp"] = SamplerEulerCFGpp.execute("alternative").args[0]
    found["lcm_upscale"] = SamplerLCMUpscale.execute(1.5, -1, "bilinear").args[0]
    return found


def unchecked(sampler: Any) -> Any:
    """What `differentiable` gives, also for samplers that it refuses."""
    from ...host.sampling import samplers as ours

    function = sampler.sampler_function
    place = ours._closure(function) or ours._place(function)
    if place is None:
        raise TypeError(f"{function} is not the host's")
    return ours.DifferentiableSampler(place[0], False, place[1](), dict(sampler.extra_options))


def main() -> None:
    parser = argparse.ArgumentParser(description="Gradients through every sampler of one host (COMFYUI_PATH).")
    parser.add_argument("--out", type=Path, default=HERE / "samplers.json", help="other hosts' figures in it stay")
    out = parser.parse_args().out
    from ...tools.inprocess import open_pack

    open_pack()
    import comfyui_version

    lines = {}
    for name, sampler in samplers().items():
        twin = unchecked(sampler)
        row: dict[str, Any] = {}
        for kind in KINDS:
            found = errors(twin, kind)
            row[kind] = [float(f"{found[variable]:.1e}") for variable in ("noise", "conds")]
        row["same value"] = all(same_value(sampler, twin, kind) for kind in KINDS)
        lines[name] = row
        print(name, row, flush=True)
    result = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    result[comfyui_version.__version__] = {
        "date": datetime.date.today().isoformat(),
        "command": "python dev.py run benchmarks/gradients/samplers.py",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "relative L2 error": "by the noise, by the conditioning",
        "steps": STEPS,
        "directions": f"{RANDOM} random, 3 blocks",
        "samplers": lines,
    }
    text = json.dumps(result, indent=1)
    flat = re.sub(r"\{\n\s+\"eps\".*?\}", lambda row: re.sub(r"\s+", " ", row.group()), text, flags=re.DOTALL)
    out.write_text(flat + "\n", encoding="utf-8")  # a line per sampler


if __name__ == "__main__":
    main()
