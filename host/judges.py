"""Judges of pictures under the host's model management, their folders, and the host's own CLIP pair as a judge.

A judge is what the room scorers/ makes: something with a `module`. This room does not import it; what it needs from
there (a differentiable preprocessing for the pair) the node hands in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import comfy.clip_vision
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import folder_paths
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..core.errors import ProvokeError
from .checkpoint import checkpoint
from .gradients import GradientSession, gradient_session
from .inplace import Guard
from .memory import Managed, is_out_of_memory, most_kept, resident, without_dynamic_memory

CLIP_FOLDER, CLASSIFIER_FOLDER, VLM_FOLDER = "provoke_clip", "provoke_classifiers", "provoke_vlm"
LANGUAGE_FOLDER = "provoke_language"
SETTINGS = ("config.json", "open_clip_config.json")  # of an entry
LOOKED_AT = (512, 512)  # pixels of the picture that memory is counted on; judges make them as small as they want them
LARGEST = 1e3  # a projection's entries are below 1; memory that nobody wrote to holds anything

Preprocessing = Callable[[int, Sequence[float], Sequence[float]], Callable[[Tensor], Tensor]]


# ------------------------------------------------------------------------------------------------------ folders


def entries(kind: str) -> list[str]:
    """The names of a model folder's judges: subfolders with settings; for CLIP also `name.safetensors` files that have
    `name.json` (open_clip's config) beside them.

    Args:
        kind: CLIP_FOLDER, CLASSIFIER_FOLDER, VLM_FOLDER or LANGUAGE_FOLDER, registered with the host (host/folders.py).
    """
    return sorted(_places(kind))


def resolve(kind: str, name: str) -> Path:
    """Where an entry is. Names are looked up in the list, never joined to a path: "../x" is not in it.

    Raises: ProvokeError for a name that is not in the list.
    """
    places = _places(kind)
    if name not in places:
        folders = " or ".join(folder_paths.get_folder_paths(kind)[:2])
        known = f": {', '.join(sorted(places)[:8])}" if places else ""
        raise ProvokeError(
            f"There is no model {name!r}",
            f"one of the {len(places)} that are there{known}",
            f"choose another one, or put a folder with config.json and .safetensors into {folders}",
        )
    return places[name]


def _places(kind: str) -> dict[str, Path]:
    """By name. The first folder that has a name gives it, as everywhere in the host."""
    places: dict[str, Path] = {}
    known = folder_paths.get_folder_paths(kind) if kind in folder_paths.folder_names_and_paths else []
    for root in map(Path, known):
        for entry in sorted(root.iterdir()) if root.is_dir() else []:
            if entry.name.startswith("."):
                continue
            folder = entry.is_dir() and any((entry / name).is_file() for name in SETTINGS)
            single = kind == CLIP_FOLDER and entry.suffix == ".safetensors" and entry.with_suffix(".json").is_file()
            if folder or single:
                places.setdefault(entry.name, entry)
    return places


# ------------------------------------------------------------------------------------------------------ memory


class _Shell(nn.Module):
    """The patcher writes `device` and its bookkeeping onto a module, and a transformers model does not let it."""

    def __init__(self, judge: nn.Module) -> None:
        super().__init__()
        self.judge = judge


@dataclass(frozen=True)
class Held:
    """A judge that the host manages: what travels on a socket.

    judge: a Scorer or classifier of scorers/. patchers: for `load_models_gpu`, together with those of everything else
    that computes at the same time. modules: what gradients pass through, for a gradient session.
    """

    judge: Any
    patchers: tuple[Any, ...]
    modules: tuple[nn.Module, ...]

    def within(self, judge: Any, *others: Held) -> Held:
        """Another judge that computes with this one's modules (zero-shot), and with those of `others` (ensembles)."""
        held = (self, *others)
        patchers = {id(patcher): patcher for one in held for patcher in one.patchers}
        modules = {id(module): module for one in held for module in one.modules}
        return replace(self, judge=judge, patchers=tuple(patchers.values()), modules=tuple(modules.values()))


def manage(judge: Any) -> Held:
    """Puts a judge under the host's model management: counted, loaded, offloaded and unloaded like any model.

    Args:
        judge: with its `module` on the CPU; nobody else may move it from now on.
    """
    patcher = comfy.model_patcher.CoreModelPatcher(
        _Shell(judge.module),
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )
    return Held(judge, (patcher,), (judge.module,))


def judge_dtype() -> torch.dtype:
    """What judges are stored in and compute in: float32 on the CPU, half precision where the device does it well."""
    management = comfy.model_management
    device = management.get_torch_device()
    if management.is_device_cpu(device):
        return torch.float32
    if management.should_use_fp16(device):  # before bfloat16: three more bits; the judges scale their cotangents
        return torch.float16
    return torch.bfloat16 if management.should_use_bf16(device) else torch.float32


@contextmanager
def loaded(*held: Held) -> Iterator[torch.device]:
    """Within: the judges are on their device, loaded by one call. They stay there until the host wants the room.

    Where other models compute at the same time, their patchers belong into the same call: `load_models_gpu` may unload
    whatever is not in its list (`Held.patchers`).
    """
    with resident(Managed(*[patcher for one in held for patcher in one.patchers])) as residence:
        yield residence.device


@contextmanager
def judging(*held: Held) -> Iterator[GradientSession]:
    """Within: the judges are loaded, and gradients come through them although nodes run in inference mode.

    Without judges only the latter.
    """
    with (
        loaded(*held) if held else nullcontext(),
        gradient_session(*[module for one in held for module in one.modules]) as session,
    ):
        yield session


def room(held: Iterable[Held], pictures: int) -> float:
    """What these judges need in bytes, beside their weights, to look at so many pictures at once with a gradient: one
    copy of each. (Copies come one after the other.)

    Counted by looking at one grey picture. Loads them, one by one: call it before anything else is loaded, or ask for
    that again. Where there is no room to count, as much as the weights have.
    """
    return pictures * sum(map(_kept_by, held))


def _kept_by(held: Held) -> float:
    look = getattr(held.judge, "look", None)
    if look is None:  # a language model, which nobody asks for a gradient
        return 0.0
    try:
        with judging(held):
            grey = torch.full((1, 3, *LOOKED_AT), 0.5, device=held.patchers[0].load_device)
            return float(most_kept(look, grey, nn.ModuleList(held.modules)))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    comfy.model_management.soft_empty_cache()
    return float(sum(patcher.model_size() for patcher in held.patchers))


@contextmanager
def passed(*held: Held) -> Iterator[None]:
    """Within: gradients come through judges that somebody else has loaded, together with what they look at."""
    with gradient_session(*[module for one in held for module in one.modules]) if held else nullcontext():
        yield


# ------------------------------------------------------------------------------------------------------ the host's pair


class HostPair:
    """A CLIP and a CLIP_VISION of the host as a scorer (scorers/judge.py): text and pictures into one space.

    The picture side is the host's model on a preprocessing of ours, because the host's own rounds to 8 bit; each
    evaluation is a checkpoint, because its layers write over what a backward needs. Use it within `judging`.
    """

    scale, bias = 100.0, 0.0  # CLIP's temperature ends there (exp of the host's logit_scale, 4.6055)
    input_dtype = torch.float32  # whatever is stored: the host casts the weights

    def __init__(
        self, clip: Any, text: Any, key: str, module: nn.Module, vision: nn.Module, prepare: Any, size: int, device: Any
    ) -> None:
        self.name, self.size, self.module = "CLIP and CLIP_VISION", (size, size), module
        self._clip, self._text, self._key = clip, text, key
        self._vision: Any = vision
        self._prepare, self._device, self._guard = prepare, device, Guard()

    def encode_images(self, images: Tensor) -> Tensor:
        """B 3 H W in [0, 1] -> B D of length 1. Differentiable."""
        pixels = self._prepare(images.to(self._device))
        (vectors,) = checkpoint(self._vectors, pixels, around=self._guard.run)
        return nn.functional.normalize(vectors, dim=-1)

    def look(self, images: Tensor) -> Tensor:
        """All that it computes of pictures, differentiable: what memory is counted on."""
        return self.encode_images(images)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """N texts -> N D of length 1, no graph. Of a text longer than CLIP's 75 tokens the first 75 count."""
        with torch.inference_mode(False), torch.no_grad():
            return nn.functional.normalize(torch.cat([self._pooled(text) for text in texts]), dim=-1)

    def _vectors(self, pixels: Tensor) -> tuple[Tensor]:
        projected = self._vision(pixel_values=pixels)[2]
        return (projected.to(torch.promote_types(projected.dtype, torch.float32)),)

    def _pooled(self, text: str) -> Tensor:
        """The projected state at the end of the text, as `CLIP.encode_from_tokens` has it (without its loading)."""
        tokens = self._clip.tokenize(text)[self._key]
        self._text.reset_clip_options()
        try:
            self._text.set_clip_options({"projected_pooled": True, "execution_device": self._device})
            return self._text.encode_token_weights(tokens[:1])[1].to(self._device).float()
        finally:
            self._text.reset_clip_options()


def host_pair(clip: Any, clip_vision: Any, preprocessing: Preprocessing) -> Held:
    """The host's CLIP and CLIP_VISION as one judge.

    Args:
        clip: from a CLIP socket. Its encoder must have a text projection into the picture side's space: the CLIP-L of
            SDXL and SD1.5 checkpoints, for example, comes without.
        clip_vision: from a CLIP_VISION socket: a CLIP with its projection.
        preprocessing: size, mean and std to a function of pictures (`scorers.preprocess.for_host`).
    Raises:
        ProvokeError: a picture side that is no CLIP, or a CLIP without text projection or of another width.
    """
    vision_patcher = _vision_patcher(clip_vision)
    vision: Any = vision_patcher.model
    projection: Any = getattr(vision, "visual_projection", None)
    if clip_vision.model_type != "clip_vision_model" or not hasattr(projection, "weight"):
        raise ProvokeError(
            f"The CLIP_VISION is a {clip_vision.model_type} without a projection into a space that texts share",
            "the image side of a CLIP, with its visual_projection",
            "load a CLIP vision model (clip_vision_h, clip_vision_g, CLIP-ViT-L), or use Provoke's own scorer loader, "
            "which takes SigLIP as well",
        )
    _check_projection(projection, vision_patcher, "visual_projection", "CLIP_VISION")
    width = int(projection.weight.shape[0])
    patcher = without_dynamic_memory(clip.patcher, "CLIP")
    key, text = _text_side(patcher.model, width)
    _check_projection(text.transformer.text_projection, patcher, "text_projection", "CLIP")
    _check_file(clip.patcher, width)
    prepare = preprocessing(clip_vision.image_size, clip_vision.image_mean, clip_vision.image_std)
    both = nn.ModuleList([text, vision])
    pair = HostPair(clip, text, key, both, vision, prepare, clip_vision.image_size, vision_patcher.load_device)
    return Held(pair, (patcher, vision_patcher), (patcher.model, vision))


def _text_side(model: nn.Module, width: int) -> tuple[str, Any]:
    """The encoder (and its key among the tokens) that projects into a space of this width."""
    found: dict[str, int] = {}
    for key, name in (("g", "clip_g"), ("h", "clip_h"), ("l", "clip_l")):
        encoder: Any = getattr(model, name, None)
        projection = getattr(getattr(encoder, "transformer", None), "text_projection", None)
        if projection is not None:
            if int(projection.out_features) == width:
                return key, encoder
            found[f"CLIP-{key.upper()}"] = int(projection.out_features)
    widths = ", ".join(f"{name} into {of} dimensions" for name, of in found.items()) or "no CLIP text encoder at all"
    raise ProvokeError(
        f"The CLIP has {widths}, and the CLIP_VISION projects into {width}",
        "the two sides of one model: 768 is CLIP-L, 1024 is CLIP-H, 1280 is CLIP-bigG",
        "connect the text encoder that belongs to the vision model, or use Provoke's own scorer loader",
    )


def _check_projection(projection: Any, patcher: Any, what: str, socket: str) -> None:
    """The host makes a projection that no file filled (warning suppressed): of zeros, or of memory as it was."""
    weight: Tensor | None = projection.weight
    reason = ""
    if weight is None or weight.device.type == "meta":
        reason = "it was never loaded"
    else:
        values = weight.detach().float()
        if not bool(values.isfinite().all()) or float(values.abs().max()) > LARGEST:
            reason = "its memory was never written to"
        elif not bool(values.any()):
            reason = "it is zero"
        elif values.shape[0] == values.shape[1] and torch.equal(values, torch.eye(len(values), device=values.device)):
            reason = "it is the identity"
    if reason:
        raise _no_projection(f"The {socket} has no {what}: {reason}")


def _check_file(patcher: Any, width: int) -> None:
    """What a loader of the host remembers about its files tells for sure, where the memory may look like anything."""
    made = getattr(patcher, "cached_patcher_init", None)
    paths = made[1][0] if made and made[1] else None
    files = [paths] if isinstance(paths, str) else paths if isinstance(paths, (list, tuple)) else []
    if not files or not all(isinstance(file, str) and file.endswith(".safetensors") for file in files):
        return
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                names = [name for name in opened.keys() if "text_projection" in name]  # noqa: SIM118
                if any(opened.get_slice(name).get_shape()[:1] == [width] for name in names):
                    return
        except (OSError, SafetensorError):  # moved or replaced since: the weights are judged alone
            return
    raise _no_projection(f"{', '.join(Path(file).name for file in files)} has no text_projection of {width} dimensions")


def _no_projection(came: str) -> ProvokeError:
    return ProvokeError(
        came,
        "a complete CLIP: SD1.5 checkpoints and many CLIP-L files leave the text projection out, because pictures can "
        "be made without it",
        "use Load CLIP with the text encoder's own file (one that holds text_projection.weight), or use Provoke's own "
        "scorer loader",
    )


def _vision_patcher(clip_vision: Any) -> Any:
    """Its patcher, or that of a copy outside of dynamic VRAM: the loader does not say how to load it again, and a
    backward would read weights that were evicted meanwhile."""
    if not isinstance(clip_vision, comfy.clip_vision.ClipVisionModel):
        raise ProvokeError(
            f"The CLIP_VISION is a {type(clip_vision).__name__}",
            "what the host's Load CLIP Vision gives",
            "connect Load CLIP Vision",
        )
    patcher = clip_vision.patcher
    if not patcher.is_dynamic():
        return patcher
    kind = comfy.clip_vision.IMAGE_ENCODERS[clip_vision.model_type]
    copy = kind(clip_vision.config, clip_vision.dtype, patcher.offload_device, comfy.ops.manual_cast).eval()
    copy.load_state_dict(clip_vision.get_sd(), strict=False)
    return comfy.model_patcher.ModelPatcher(copy, patcher.load_device, patcher.offload_device)
