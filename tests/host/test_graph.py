"""Both forms of a sampler node: the host's own result bit for bit, also with other inputs, and nothing of the user's
changed."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

STEPS, CFG, SEED = 3, 3.0, 5


@pytest.fixture(scope="module")
def tools(comfy) -> SimpleNamespace:
    import provoke.core.errors as errors
    from provoke.host.sampling import graph, inside
    from provoke.tools import tiny

    return SimpleNamespace(tiny=tiny, errors=errors, graph=graph, inside=inside)


class Inputs:
    """What comes in on both forms' sockets."""

    def __init__(self, tools: SimpleNamespace, family: str, vae: Any = None, **changes: Any) -> None:
        tiny = tools.tiny
        self.tools, self.vae = tools, vae
        self.model = changes.get("model") or tiny.model(family)
        self.positive = changes.get("positive") or tiny.conditioning(family, seed=1)
        self.negative = changes.get("negative") or tiny.conditioning(family, seed=2)
        self.latent = changes.get("latent") or tiny.empty_latent(family, batch=changes.get("batch", 1))
        self.sampler, self.denoise = changes.get("sampler", "euler"), changes.get("denoise", 1.0)

    def simple(self, steps: int = STEPS) -> Any:
        return self.tools.graph.ksampler(
            self.model, SEED, steps, CFG, self.sampler, "normal", self.positive, self.negative, self.latent,
            self.denoise, self.vae,
        )  # fmt: skip

    def sockets(self) -> tuple[Any, ...]:
        """NOISE, GUIDER, SAMPLER, SIGMAS, LATENT from the host's own nodes."""
        from comfy_extras import nodes_custom_sampler as nodes

        with torch.inference_mode():
            return (
                nodes.RandomNoise.execute(SEED).args[0],
                nodes.CFGGuider.execute(self.model, self.positive, self.negative, CFG).args[0],
                nodes.KSamplerSelect.execute(self.sampler).args[0],
                nodes.BasicScheduler.execute(self.model, "normal", STEPS, self.denoise).args[0],
                self.latent,
            )

    def custom(self) -> Any:
        return self.tools.graph.custom(*self.sockets(), self.vae)

    def ksampler(self, **changes: Any) -> dict[str, Any]:
        import nodes

        given = {"positive": self.positive, "negative": self.negative, "latent": self.latent, **changes}
        with torch.inference_mode():
            return nodes.common_ksampler(
                self.model, SEED, STEPS, CFG, self.sampler, "normal", **given, denoise=self.denoise
            )[0]

    def advanced(self) -> tuple[dict[str, Any], ...]:
        from comfy_extras.nodes_custom_sampler import SamplerCustomAdvanced

        with torch.inference_mode():
            return SamplerCustomAdvanced.execute(*self.sockets()).args


@pytest.fixture
def inputs(tools) -> Callable[..., Inputs]:
    return lambda family="sd15", **changes: Inputs(tools, family, **changes)


def same(ours: dict[str, Any], theirs: dict[str, Any]) -> bool:
    """The same LATENT, with the same things beside the samples."""
    return set(ours) == set(theirs) and torch.equal(ours["samples"], theirs["samples"])


def masked(tools: SimpleNamespace, batch: int = 2) -> dict[str, Any]:
    mask = torch.zeros(batch, 64, 64)
    mask[:, 16:, :40] = 1
    return tools.tiny.picture_latent("sd15", batch=batch, mask=mask)


@pytest.mark.parametrize("family", ["sd15", "sdxl", "flux", "wan"])
def test_the_simple_form_gives_ksamplers_result(inputs, family: str) -> None:
    one = inputs(family)
    theirs = one.ksampler()
    ours = one.simple().rendered()
    assert same(ours.output, theirs)
    assert same(ours.denoised, theirs)
    assert same(one.ksampler(), theirs)


@pytest.mark.parametrize("sampler", ["euler", "dpm_2", "dpmpp_2m_sde", "ddim", "uni_pc", "euler_ancestral"])
def test_both_forms_with_part_of_the_schedule_a_mask_and_a_batch(inputs, tools, sampler: str) -> None:
    one = inputs(latent={**masked(tools), "batch_index": [3, 1]}, denoise=0.6, sampler=sampler)
    assert same(one.simple().rendered().output, one.ksampler())
    output, denoised = one.advanced()
    ours = one.custom().rendered()
    assert same(ours.output, output)
    assert same(ours.denoised, denoised)


def test_the_custom_form_tells_its_two_outputs_apart(inputs) -> None:
    """A schedule that ends before sigma 0 leaves noise in `output` and none in `denoised_output`."""
    from comfy_extras.nodes_custom_sampler import SamplerCustomAdvanced

    one = inputs()
    noise, guider, sampler, sigmas, latent = one.sockets()
    with torch.inference_mode():
        output, denoised = SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas[:-1], latent).args
    graph = one.tools.graph.custom(noise, guider, sampler, sigmas[:-1], latent, None)
    assert same(graph.rendered().output, output)
    assert same(graph.rendered().denoised, denoised)
    assert not torch.equal(output["samples"], denoised["samples"])


def test_an_empty_latent_of_another_model_is_fixed_as_the_host_does(inputs) -> None:
    latent = {"samples": torch.zeros(1, 4, 8, 8), "downscale_ratio_spacial": 8}
    one = inputs("flux", latent=latent)
    assert same(one.simple().rendered().output, one.ksampler())
    output, denoised = one.advanced()
    ours = one.custom().rendered()
    assert same(ours.output, output)
    assert same(ours.denoised, denoised)


def test_a_schedule_without_a_step_gives_the_latent(inputs, tools) -> None:
    one = inputs(latent=masked(tools), denoise=0.0)
    assert same(one.simple().rendered().output, one.ksampler())
    ours, (output, denoised) = one.custom().rendered(), one.advanced()
    assert same(ours.output, output)
    assert same(ours.denoised, denoised)


def plain(sampling: Any) -> Tensor:
    with torch.no_grad():
        return sampling.sample()


def test_inside_it_samples_the_same(inputs, tools) -> None:
    one = inputs(latent=masked(tools), denoise=0.7, vae=tools.tiny.vae())
    for graph in (one.simple(), one.custom()):
        inner = graph.inside(plain)
        assert float((inner - graph.rendered().output["samples"]).abs().max()) <= 1e-4


@pytest.mark.parametrize("form", ["simple", "custom"])
def test_other_inputs_are_what_the_host_makes_of_them(inputs, tools, form: str) -> None:
    """Conditioning, latent, noise and control image, each by the host's own nodes."""
    tiny = tools.tiny
    positive, negative = tiny.with_control(
        tiny.conditioning("sd15", seed=1), tiny.conditioning("sd15", seed=2), tiny.controlnet(), tiny.hint()
    )
    one = inputs(positive=positive, negative=negative, latent=masked(tools), denoise=0.8)
    graph = getattr(one, form)()
    before = graph.rendered().output["samples"]

    other = [[positive[0][0] * 1.1, positive[0][1]]]
    changed = graph.with_conditioning({"positive": other}).rendered().output
    assert torch.equal(changed["samples"], one.ksampler(positive=other)["samples"])

    samples = one.latent["samples"] * 0.9
    moved = graph.with_samples(samples).rendered().output
    assert torch.equal(moved["samples"], one.ksampler(latent={**one.latent, "samples": samples})["samples"])

    hint = (tiny.hint() * 0.7).clamp(0, 1)
    again = tiny.with_control(
        tiny.conditioning("sd15", seed=1), tiny.conditioning("sd15", seed=2), tiny.controlnet(), hint
    )
    hinted = graph.with_hint(0, hint.movedim(-1, 1)).rendered().output
    expected = one.ksampler(positive=again[0], negative=again[1])
    assert torch.equal(hinted["samples"], expected["samples"])
    assert not torch.equal(hinted["samples"], before)

    seeded = graph.with_noise(tools.graph.SeedNoise(SEED + 1)).rendered().output["samples"]
    assert not torch.equal(seeded, before)
    assert torch.equal(graph.with_noise(tools.graph.SeedNoise(SEED)).rendered().output["samples"], before)
    assert torch.equal(graph.rendered().output["samples"], before)  # nothing of the user's has changed


def test_an_unknown_conditioning_is_refused(inputs, tools) -> None:
    one = inputs()
    for graph in (one.simple(), one.custom()):
        with pytest.raises(tools.errors.ProvokeError, match="no conditioning of the name 'middle'"):
            graph.with_conditioning({"middle": one.positive})


def test_several_runs_become_one_latent(tools) -> None:
    image = torch.tensor([0.0, 10.0]).view(2, 1, 1, 1).expand(2, 4, 8, 8)
    mask = torch.stack([torch.zeros(8, 8), torch.ones(8, 8)])
    runs = [{"samples": image + j, "batch_index": [7, 8], "noise_mask": mask} for j in range(3)]
    whole = tools.graph.image_major(runs)
    assert whole["samples"][:, 0, 0, 0].tolist() == [0, 1, 2, 10, 11, 12]
    assert whole["batch_index"] == [7, 7, 7, 8, 8, 8]
    assert whole["noise_mask"][:, 0, 0].tolist() == [0, 0, 0, 1, 1, 1]
    assert tools.graph.image_major(runs[:1]) is runs[0]
    one_mask = [{**run, "noise_mask": torch.zeros(1, 8, 8)} for run in runs]
    assert len(tools.graph.image_major(one_mask)["noise_mask"]) == 1
