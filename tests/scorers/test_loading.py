"""Folders that are incomplete, foreign or hostile: what is there, what was expected, what to change."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from provoke.scorers.classifiers import load_classifier
from provoke.scorers.load import load_scorer

from .conftest import OPEN_CLIP, Folders

WRITERS: dict[str, tuple[Callable[[Folders], Path], Callable[[Path], object]]] = {
    "open_clip": (lambda folders: folders.open_clip(), load_scorer),
    "clip": (lambda folders: folders.transformers(), load_scorer),
    "siglip": (lambda folders: folders.transformers("siglip"), load_scorer),
    "classifier": (lambda folders: folders.classifier(), load_classifier),
}


@pytest.fixture(params=WRITERS)
def case(request: pytest.FixtureRequest, folders: Folders) -> tuple[Path, Callable[[Path], object]]:
    write, load = WRITERS[request.param]
    return write(folders), load


def weights(folder: Path) -> Path:
    return next(folder.glob("*.safetensors"))


def config(folder: Path) -> Path:
    return next(path for name in ("open_clip_config.json", "config.json") if (path := folder / name).is_file())


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def refused(load: Callable[[Path], object], path: Path, kind: type[Exception], words: str) -> None:
    """All three parts of the message are there, and it is the kind of error that nodes catch."""
    with pytest.raises(kind, match=words) as caught:
        load(path)
    assert "Expected: " in str(caught.value)
    assert "To fix it: " in str(caught.value)


Case = tuple[Path, Callable[[Path], object]]


def test_a_missing_folder(case: Case, tmp_path: Path) -> None:
    refused(case[1], tmp_path / "nowhere", FileNotFoundError, "nowhere")


def test_an_empty_folder(case: Case, folders: Folders) -> None:
    refused(case[1], folders.new(), FileNotFoundError, r"config.json")


def test_missing_settings(case: Case) -> None:
    config(case[0]).unlink()
    refused(case[1], case[0], FileNotFoundError, "config.json")


def test_settings_that_are_no_json(case: Case) -> None:
    config(case[0]).write_text("{'model_type': ")
    refused(case[1], case[0], ValueError, "is not JSON")
    config(case[0]).write_text("[1]")
    refused(case[1], case[0], ValueError, "holds a list")


def test_missing_weights(case: Case) -> None:
    weights(case[0]).unlink()
    refused(case[1], case[0], FileNotFoundError, r"safetensors")


def test_pickles_only(case: Case) -> None:
    weights(case[0]).rename(case[0] / "pytorch_model.bin")
    refused(case[1], case[0], ValueError, "pickle files: they can run any code")


@pytest.mark.parametrize("size", [0, 100, -1000])
def test_truncated_weights(case: Case, size: int) -> None:
    whole = weights(case[0]).read_bytes()
    weights(case[0]).write_bytes(whole[:size])
    refused(case[1], case[0], ValueError, "cannot be read as safetensors")


def test_weights_of_another_shape(case: Case) -> None:
    file = weights(case[0])
    tensors = load_file(file)
    name = next(name for name, tensor in tensors.items() if tensor.ndim == 2 and "position" not in name)
    tensors[name] = torch.zeros(3, 5)
    save_file(tensors, file, {"format": "pt"})
    refused(case[1], case[0], ValueError, r"shape|size mismatch|mismatched")


def test_weights_of_another_model(case: Case) -> None:
    save_file({"a": torch.zeros(3), "b": torch.zeros(3)}, weights(case[0]), {"format": "pt"})
    refused(case[1], case[0], ValueError, "missing")


def test_a_tensor_is_missing(case: Case) -> None:
    file = weights(case[0])
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("bias"))
    del tensors[name]
    save_file(tensors, file, {"format": "pt"})
    refused(case[1], case[0], ValueError, "1 tensors are missing")


@pytest.mark.parametrize(
    "hostile",
    [
        {"auto_map": {"AutoModel": "evil.Model"}},
        {"deep": {"er": [{"auto_map": {"AutoConfig": "evil.Config"}}]}},
        {"_attn_implementation": "someone/kernel"},
        {"architecture": "hf-hub:someone/model"},
        {"quantization_config": {"quant_method": "bitsandbytes"}},
        {"transformers_weights": "../other/model.safetensors"},
    ],
)
def test_settings_that_ask_for_code_or_files_from_elsewhere(case: Case, hostile: dict[str, Any]) -> None:
    change(config(case[0]), **hostile)
    refused(case[1], case[0], ValueError, "asks for code or files from elsewhere")


def test_parts_that_ask_for_code(folders: Folders) -> None:
    for name in ("preprocessor_config.json", "tokenizer_config.json"):
        folder = folders.transformers()
        change(folder / name, auto_map={"AutoTokenizer": ["evil.T", None]})
        refused(load_scorer, folder, ValueError, f"{name} asks for code")
    folder = folders.open_clip()
    change(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.T", None]})
    refused(load_scorer, folder, ValueError, "asks for code")


def test_an_adapter(folders: Folders) -> None:
    folder = folders.transformers()
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/model"}')
    refused(load_scorer, folder, ValueError, "adapter")


@pytest.mark.parametrize(
    "name", ["../model.safetensors", "/etc/passwd", "a/b.safetensors", "..\\x.safetensors", "x.bin"]
)
def test_an_index_that_points_out_of_the_folder(name: str, folders: Folders) -> None:
    folder = folders.transformers()
    weights(folder).rename(folder.parent / "model.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"logit_scale": name}}))
    refused(load_scorer, folder, ValueError, "names the file")


def test_a_shard_is_missing(folders: Folders) -> None:
    folder = folders.transformers(max_shard_size="30KB")
    sorted(folder.glob("model-*.safetensors"))[1].unlink()
    refused(load_scorer, folder, FileNotFoundError, "which its index lists")


def test_each_loader_says_what_a_foreign_folder_is(folders: Folders) -> None:
    refused(load_scorer, folders.classifier(), ValueError, "'vit'.*Expected: clip or siglip")
    folder = folders.transformers()
    change(folder / "config.json", model_type="bert")
    refused(load_classifier, folder, ValueError, "'bert'.*an image classifier")
    refused(load_classifier, folders.open_clip(), FileNotFoundError, "config.json does not exist")


def test_open_clip_settings_that_would_fetch_something(folders: Folders) -> None:
    folder = folders.open_clip()
    model = json.loads(json.dumps(OPEN_CLIP["model_cfg"]))
    model["text_cfg"]["hf_model_name"] = "someone/roberta"
    change(folder / "open_clip_config.json", model_cfg=model)
    refused(load_scorer, folder, ValueError, "which open_clip would fetch")


def test_open_clip_settings_that_describe_nothing(folders: Folders) -> None:
    folder = folders.open_clip()
    for part in ({"vision_cfg": {"no_such": 1}}, {"vision_cfg": {"timm_model_name": "no_such_model"}}, {"no_such": 1}):
        change(folder / "open_clip_config.json", model_cfg={**OPEN_CLIP["model_cfg"], **part})
        refused(load_scorer, folder, ValueError, "does not describe a model")
    change(folder / "open_clip_config.json", model_cfg=[])
    refused(load_scorer, folder, ValueError, "an open_clip config")


def test_a_vocabulary_without_tokenizer(folders: Folders) -> None:
    refused(load_scorer, folders.open_clip(tokenizer=False), FileNotFoundError, "has no tokenizer")


def test_the_tokenizer_of_another_model(folders: Folders) -> None:
    folder = folders.open_clip()
    words = json.loads((folder / "vocab.json").read_text())
    (folder / "vocab.json").write_text(json.dumps({word: index + 100 for word, index in words.items()}))
    refused(lambda path: load_scorer(path).encode_texts(["a red circle"]), folder, ValueError, "the model knows 647")


def test_a_file_that_is_no_safetensors(tmp_path: Path) -> None:
    (tmp_path / "clip.pt").write_bytes(b"x")
    refused(load_scorer, tmp_path / "clip.pt", ValueError, "pickle")


def test_a_precision_that_gradients_do_not_survive(folders: Folders) -> None:
    folder = folders.open_clip()
    refused(lambda path: load_scorer(path, torch.float8_e4m3fn), folder, ValueError, "float8")


def test_importing_is_light() -> None:
    root = Path(__file__).resolve().parents[2]
    code = (
        "import importlib, importlib.util, pkgutil, sys\n"
        f"root = {str(root)!r}\n"
        "spec = importlib.util.spec_from_file_location('provoke', root + '/__init__.py',"
        " submodule_search_locations=[root])\n"
        "sys.modules['provoke'] = module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "import provoke.scorers as room\n"
        "for info in pkgutil.iter_modules(room.__path__): importlib.import_module('provoke.scorers.' + info.name)\n"
        "heavy = {'open_clip', 'transformers', 'timm', 'safetensors', 'PIL', 'torchvision'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
