"""The download commands of the help: what the hub's own parser makes of them is enough for our loaders, no pickles."""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.utils import filter_repo_objects

from provoke.scorers.classifiers import load_classifier
from provoke.scorers.files import PICKLES
from provoke.scorers.load import load_scorer
from provoke.scorers.load_language import load_language
from provoke.scorers.load_vlm import load_vlm
from provoke.tools import templates
from provoke.tools.pack import ROOT

from .conftest import DEMO, Folders
from .test_language import GPT2
from .test_vlm import ITM, OPT, llava

PAGES = (ROOT / "README.md", *sorted((ROOT / "web" / "docs").glob("*.md")))
COMMANDS = [found for page in PAGES for found in re.findall(r"\bhf download [^`\n]+", page.read_text(encoding="utf-8"))]
Load = Callable[[Path], object]
LOADERS: dict[str, Load] = {
    "provoke_clip": load_scorer,
    "provoke_classifiers": load_classifier,
    "provoke_vlm": load_vlm,
    "provoke_language": load_language,
}
"""By the folder of ComfyUI/models that each looks into."""
LIKE: dict[str, Callable[[Folders], Path]] = {
    "openai/clip-vit-large-patch14": lambda folders: folders.transformers(),
    "google/siglip-base-patch16-224": lambda folders: folders.transformers("siglip"),
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K": lambda folders: folders.open_clip(),
    "microsoft/resnet-50": lambda folders: DEMO / "weights" / "provoke_classifiers" / "provoke-demo-resnet",
    "Salesforce/blip2-itm-vit-g": lambda folders: ITM,
    "Salesforce/blip2-opt-2.7b": lambda folders: OPT,
    "llava-hf/llava-1.5-7b-hf": lambda folders: llava(folders, max_shard_size="100KB"),
    "openai-community/gpt2": lambda folders: GPT2,
    "Qwen/Qwen2.5-0.5B": lambda folders: GPT2,
}
"""By repository: a small model of the same kind, with the files that the libraries write for it."""
BESIDE = ("README.md", "pytorch_model.bin", "pytorch_model-00001-of-00002.bin")


def asked(command: str, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `hf` would download, by its own parser; a warning that it ignores a part of the command is an error."""
    given: dict[str, Any] = {}

    def keep(**arguments: Any) -> str:
        given.update(arguments)
        return str(arguments["local_dir"])

    hf, download = (importlib.import_module(f"huggingface_hub.cli.{name}") for name in ("hf", "download"))
    patch.setattr(download, "snapshot_download", keep)
    patch.setattr(download, "hf_hub_download", lambda **_arguments: pytest.fail("it takes one file only"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hf.app(shlex.split(command)[1:], standalone_mode=False)
    return given


def taken(given: dict[str, Any], names: list[str]) -> list[str]:
    """Which files of a repository it would take."""
    return list(
        filter_repo_objects(names, allow_patterns=given["allow_patterns"], ignore_patterns=given["ignore_patterns"])
    )


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.split()[2])
def test_what_it_downloads_loads(
    command: str, folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = asked(command, monkeypatch)
    kind = Path(given["local_dir"]).parent
    assert kind.parent == Path("ComfyUI/models")
    source = LIKE[given["repo_id"]](folders)
    (target := tmp_path / "downloaded").mkdir()
    found = taken(given, [*(path.name for path in source.iterdir()), *BESIDE])
    assert not [name for name in found if name.endswith(PICKLES)]
    for name in found:
        if (source / name).exists():
            shutil.copy(source / name, target)
    LOADERS[kind.name](target)
    # The small models' tokenizers lie in one file or in two; those of the hub have either.
    if kind.name != "provoke_classifiers":
        assert taken(given, ["tokenizer.json", "tokenizer_config.json"])[1:]


def test_every_kind_of_judge_and_every_template_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    places = [Path(asked(command, monkeypatch)["local_dir"]) for command in COMMANDS]
    assert {place.parent.name for place in places} == set(LOADERS)
    needed = {need for template in templates.load() for need in template.needs}
    folders = {need for need in needed if re.fullmatch(r"[\w.-]+", need) and not need.endswith(".safetensors")}
    assert folders
    assert folders <= {place.name for place in places}


def test_the_mistake_that_it_is_there_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """One --include, several patterns: what follows the first is read as names, and --include is ignored."""
    with pytest.raises(UserWarning, match="Ignoring"):
        asked('hf download a/b --include "*.json" "merges.txt" "vocab.json" --local-dir ComfyUI', monkeypatch)
