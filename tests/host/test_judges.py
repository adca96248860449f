"""Judges under the host's management, in its inference mode; their folders; the host's own pair as a judge."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

DEMO = Path(__file__).resolve().parents[2] / "demo" / "weights"
WIDTH = 32  # of the tiny pair's common space


@pytest.fixture(scope="session")
def judges(comfy: ModuleType) -> ModuleType:
    from provoke.host import judges

    return judges


@pytest.fixture(scope="session")
def load() -> SimpleNamespace:
    from provoke.scorers import classifiers
    from provoke.scorers.load import load_scorer

    return SimpleNamespace(scorer=load_scorer, classifier=classifiers.load_classifier, room=classifiers)


# ------------------------------------------------------------------------------------------------------ folders


@pytest.fixture
def places(comfy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Two model folders of each kind, as the host's own and the pack's."""
    import folder_paths

    roots = tmp_path / "models", tmp_path / "pack"
    for kind in ("provoke_clip", "provoke_classifiers"):
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, ([str(root / kind) for root in roots], set()))
        for root in roots:
            (root / kind).mkdir(parents=True)
    return roots


def entry(folder: Path, settings: str = "config.json") -> Path:
    folder.mkdir()
    (folder / settings).write_text("{}")
    return folder


def test_the_list(judges: ModuleType, places: tuple[Path, Path]) -> None:
    clip = places[0] / "provoke_clip"
    for folder, settings in (("b", "config.json"), ("a", "open_clip_config.json"), (".hidden", "config.json")):
        entry(clip / folder, settings)
    (clip / "tokenizer").mkdir()
    (clip / "lone.safetensors").touch()
    (clip / "pair.safetensors").touch()
    (clip / "pair.json").touch()
    first, second = clip / "b", entry(places[1] / "provoke_clip" / "b")
    other = entry(places[1] / "provoke_clip" / "c")
    assert judges.entries("provoke_clip") == ["a", "b", "c", "pair.safetensors"]
    assert judges.resolve("provoke_clip", "b") == first != second
    assert judges.resolve("provoke_clip", "c") == other
    assert judges.resolve("provoke_clip", "pair.safetensors") == clip / "pair.safetensors"
    assert judges.entries("provoke_classifiers") == []


@pytest.mark.parametrize("name", ["../secret", "..", "", ".", "/etc", "a/../../secret", "..\\secret", "none"])
def test_names_that_are_not_in_the_list(name: str, judges: ModuleType, places: tuple[Path, Path]) -> None:
    from provoke.core.errors import ProvokeError

    entry(places[0] / "provoke_clip" / "a")
    entry(places[0] / "secret")
    entry(places[0] / "provoke_classifiers" / "none")
    with pytest.raises(ProvokeError, match="There is no model"):
        judges.resolve("provoke_clip", name)


def test_a_model_folder_that_does_not_exist(
    judges: ModuleType, places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import folder_paths

    monkeypatch.setitem(folder_paths.folder_names_and_paths, "provoke_clip", ([str(places[0] / "gone")], set()))
    assert judges.entries("provoke_clip") == []


# ------------------------------------------------------------------------------------------------------ management


def state(module: torch.nn.Module) -> dict[str, Any]:
    return {
        "tensors": {name: id(tensor) for name, tensor in [*module.named_parameters(), *module.named_buffers()]},
        "training": [one.training for one in module.modules()],
    }


@pytest.mark.parametrize(
    "name", ["provoke_clip/first", "provoke_clip/second", "provoke_classifiers/provoke-demo-resnet"]
)
def test_loaded_counted_differentiable_and_left_as_it_was(
    name: str, judges: ModuleType, load: SimpleNamespace, executor: None
) -> None:
    import comfy.model_management as management

    made = (load.scorer if "clip" in name else load.classifier)(DEMO / name)
    held = judges.manage(made)
    before = state(made.module)
    with judges.loaded(held) as device:
        assert any(loaded.model is held.patchers[0] for loaded in management.current_loaded_models)
        assert next(made.module.parameters()).device.type == device.type
    size = sum(tensor.nbytes for tensor in made.module.state_dict().values())
    assert held.patchers[0].model_size() == size
    image = torch.rand(2, 3, 50, 70)
    assert image.is_inference()
    run = made.encode_images if "clip" in name else made.logits
    wanted = run(image)
    with judges.judging(held):
        leaf = image.clone().requires_grad_(True)
        found = run(leaf)
        found.square().sum().backward()
        assert leaf.grad is not None
        assert bool(leaf.grad.any())
        torch.testing.assert_close(found.detach(), wanted)
    assert state(made.module) == before
    assert torch.equal(run(image), wanted)
    management.unload_all_models()
    assert not any(loaded.model is held.patchers[0] for loaded in management.current_loaded_models)
    assert torch.equal(run(image), wanted)


def test_judges_made_of_others(judges: ModuleType, load: SimpleNamespace, executor: None) -> None:
    names = ("provoke-demo-resnet", "provoke-demo-convnext")
    members = [judges.manage(load.classifier(DEMO / "provoke_classifiers" / name)) for name in names]
    both = members[0].within(load.room.Ensemble([one.judge for one in members]), *members[1:])
    assert both.patchers == (members[0].patchers[0], members[1].patchers[0])
    clip = judges.manage(load.scorer(DEMO / "provoke_clip" / "first"))
    zero = clip.within(load.room.ZeroShot(clip.judge, ["red circle", "blue ring"]))
    assert zero.patchers == clip.patchers
    with judges.judging(both, zero):
        leaf = torch.rand(1, 3, 64, 64).requires_grad_(True)
        (both.judge.logits(leaf)[:, 0].sum() + zero.judge.logits(leaf)[:, 0].sum()).backward()
        assert leaf.grad is not None
        assert bool(leaf.grad.any())


def test_precision_on_the_cpu(judges: ModuleType) -> None:
    assert judges.judge_dtype() == torch.float32


# ------------------------------------------------------------------------------------------------------ the host's pair


def vision(tmp_path: Path, **changes: Any) -> Any:
    """A CLIP_VISION of the host's own class, small; its weights are made in inference mode, as by its loader."""
    from comfy.clip_vision import ClipVisionModel

    from provoke.tools.tiny_weights import fill

    config = {
        "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 16,
        "image_size": 64, "num_channels": 3, "hidden_act": "quick_gelu", "projection_dim": WIDTH,
        "model_type": "clip_vision_model", **changes,
    }  # fmt: skip
    (tmp_path / "vision.json").write_text(json.dumps({key: value for key, value in config.items() if value}))
    with torch.inference_mode():
        made = ClipVisionModel(str(tmp_path / "vision.json"))
        made.model.float()
        fill(made.model, seed=3)
    return made


@pytest.fixture
def clip(comfy: ModuleType) -> Any:
    from provoke.tools.tiny_parts import clip

    return clip(width=WIDTH)


@pytest.fixture
def for_host() -> Callable[..., Any]:
    from provoke.scorers.preprocess import for_host

    return for_host


def host_vectors(made: Any, image: Tensor) -> Tensor:
    """What CLIPVisionEncode gives for B H W C."""
    with torch.inference_mode():
        return torch.nn.functional.normalize(made.encode_image(image)["image_embeds"], dim=-1)


def test_the_pair_gives_what_the_host_gives(
    judges: ModuleType, clip: Any, tmp_path: Path, for_host: Any, photo: Callable[..., Tensor], executor: None
) -> None:
    eye = vision(tmp_path)
    held = judges.host_pair(clip, eye, for_host)
    texts = ["a red circle", "two (green:1.4) squares", "word " * 100]
    with judges.judging(held):
        found = held.judge.encode_texts(texts)
        assert not found.is_inference()
    for text, row in zip(texts, found, strict=True):
        pooled = clip.encode_from_tokens(clip.tokenize(text), return_pooled=True)[1]  # without projection, as for SD1
        projected = clip.cond_stage_model.clip_l.transformer.text_projection(pooled)
        torch.testing.assert_close(row, torch.nn.functional.normalize(projected, dim=-1)[0], atol=1e-5, rtol=1e-4)
    assert clip.cond_stage_model.clip_l.return_projected_pooled is False
    for size in ((64, 64), (90, 70), (33, 200)):
        image = photo(2, *size)
        with judges.judging(held), torch.no_grad():
            ours = held.judge.encode_images(image.movedim(-1, 1))
        assert float((ours * host_vectors(eye, image)).sum(1).min()) > 0.999


def test_the_pairs_gradient(
    judges: ModuleType,
    clip: Any,
    tmp_path: Path,
    for_host: Any,
    photo: Callable[..., Tensor],
    finite_difference_error: Callable[..., float],
    executor: None,
) -> None:
    """The host's layers write over their activations (`x += ...`)."""
    eye = vision(tmp_path)
    held = judges.host_pair(clip, eye, for_host)
    before = [state(module) for module in held.modules]
    image = photo(2, 50, 81).movedim(-1, 1)
    with judges.judging(held):
        x = image.double()
        text = held.judge.encode_texts(["a red circle"])
        weight = torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(1)).double()
        eye.model.double()
        leaf = x.clone().requires_grad_(True)
        gradient = torch.autograd.grad(held.judge.encode_images(leaf), leaf, weight)[0]
        error = finite_difference_error(
            lambda y: held.judge.encode_images(y).detach(), x, weight, gradient, step=1e-6, count=16
        )
        eye.model.float()
    assert text.shape == (1, WIDTH)
    assert error < 1e-5
    assert [state(module)["training"] for module in held.modules] == [one["training"] for one in before]


def refused(judges: ModuleType, clip: Any, eye: Any, for_host: Any, words: str) -> None:
    from provoke.core.errors import ProvokeError

    with pytest.raises(ProvokeError, match=words):
        judges.host_pair(clip, eye, for_host)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.0, "it is zero"),
        (float("nan"), "its memory was never written"),
        (3e38, "its memory was never written"),
        (None, "it is the identity"),
    ],
)
def test_a_missing_text_projection(
    value: float | None, words: str, judges: ModuleType, clip: Any, tmp_path: Path, for_host: Any
) -> None:
    weight = clip.cond_stage_model.clip_l.transformer.text_projection.weight
    with torch.inference_mode():
        weight.copy_(torch.eye(WIDTH) if value is None else torch.full((WIDTH, WIDTH), value))
    refused(judges, clip, vision(tmp_path), for_host, f"The CLIP has no text_projection: {words}")


def test_a_file_without_text_projection(judges: ModuleType, clip: Any, tmp_path: Path, for_host: Any) -> None:
    """Whatever the memory looks like: the loader remembers the file."""
    file = tmp_path / "clip_l.safetensors"
    clip.patcher.cached_patcher_init = (None, ([str(file)], None))
    save_file({"text_model.final_layer_norm.weight": torch.ones(WIDTH)}, file)
    refused(judges, clip, vision(tmp_path), for_host, "clip_l.safetensors has no text_projection of 32 dimensions")
    save_file({"text_projection.weight": torch.ones(WIDTH, WIDTH)}, file)
    judges.host_pair(clip, vision(tmp_path), for_host)
    clip.patcher.cached_patcher_init = (None, (str(tmp_path / "moved.safetensors"), None))
    judges.host_pair(clip, vision(tmp_path), for_host)


def test_pairs_that_do_not_belong_together(judges: ModuleType, clip: Any, tmp_path: Path, for_host: Any) -> None:
    refused(judges, clip, vision(tmp_path, projection_dim=24), for_host, "CLIP-L into 32 dimensions.*projects into 24")
    refused(judges, clip, vision(tmp_path, projection_dim=None), for_host, "without a projection")
    refused(judges, clip, vision(tmp_path, model_type="siglip_vision_model"), for_host, "siglip_vision_model")
    refused(judges, clip, SimpleNamespace(), for_host, "SimpleNamespace")


def test_a_vision_model_under_dynamic_memory(
    judges: ModuleType, clip: Any, tmp_path: Path, for_host: Any, photo: Callable[..., Tensor], executor: None
) -> None:
    """It is copied out of it: nothing of the original is touched, and the copy gives the same."""
    eye = vision(tmp_path)
    wanted = host_vectors(eye, photo(1, 64, 64))
    eye.patcher.is_dynamic = lambda: True
    held = judges.host_pair(clip, eye, for_host)
    assert held.patchers[1] is not eye.patcher
    with judges.judging(held), torch.no_grad():
        found = held.judge.encode_images(photo(1, 64, 64).movedim(-1, 1))
    assert float((found * wanted).sum()) > 0.999
