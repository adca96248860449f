"""Failure Report: what it writes and where, what it refuses, and that the JSON alone makes a picture again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from provoke.core.errors import ProvokeError
from provoke.demo.vision_models import SEARCHED
from provoke.demo.world import render, sample
from provoke.tools.inprocess import execute


@pytest.fixture(scope="module")
def nodes(comfy: ModuleType) -> ModuleType:
    import provoke.nodes as nodes
    from provoke.host.folders import register_model_folders

    register_model_folders()
    return nodes


@pytest.fixture
def output(comfy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh output folder."""
    import folder_paths

    folder = tmp_path / "output"
    folder.mkdir()
    monkeypatch.setattr(folder_paths, "output_directory", str(folder))
    return folder


def some(count: int, seed: int = 0) -> Any:
    scenes = sample(count, torch.Generator().manual_seed(seed), part="held out", objects=1)
    return scenes, render(scenes).movedim(1, -1)


def report(nodes: ModuleType, **inputs: Any) -> Any:
    """As the executor calls a node that takes lists: every input is one."""
    lists = {
        "prompts": ["a red circle"], "seed": [7], "notes": [""], "filename_prefix": ["failures/report"],
        "embedding": [""], **inputs,
    }  # fmt: skip
    with torch.inference_mode():
        return nodes.FailureReport.execute(**lists)


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_sheet_and_a_report_are_written(nodes: ModuleType, output: Path) -> None:
    _, images = some(5)
    found = report(nodes, images=[images[:3], images[3:]], notes=["euler, 20 steps", ""])
    sheet, text = found.args
    assert files(output) == ["failures/report_00001_.json", "failures/report_00001_.png"]
    told = json.loads((output / "failures/report_00001_.json").read_text(encoding="utf-8"))
    assert told == json.loads(text)
    assert told["format"] == "provoke failure report 1"
    assert told["notes"] == "euler, 20 steps"
    assert told["files"] == {"report": "failures/report_00001_.json", "sheet": "failures/report_00001_.png"}
    assert set(told["versions"]) == {"provoke", "comfyui", "torch", "python"}
    assert [one["number"] for one in told["pictures"]] == [1, 2, 3, 4, 5]
    assert [one["place"] for one in told["pictures"]] == [0, 1, 2, 3, 4]
    assert {one["prompt"] for one in told["pictures"]} == {"a red circle"}
    # the hash is that of the bytes that Save Image writes
    saved = np.clip(255.0 * images[4].numpy(), 0, 255).astype(np.uint8)
    assert told["pictures"][4]["sha256"] == hashlib.sha256(saved.tobytes()).hexdigest()
    with Image.open(output / "failures/report_00001_.png") as png:
        assert png.size == (sheet.shape[2], sheet.shape[1])
        np.testing.assert_array_equal(np.asarray(png), (sheet[0].numpy() * 255).round().astype(np.uint8))
    shown = found.ui.as_dict() if hasattr(found.ui, "as_dict") else found.ui
    assert shown["images"] == [{"filename": "report_00001_.png", "subfolder": "failures", "type": "output"}]


def test_files_count_up_and_none_is_touched(nodes: ModuleType, output: Path) -> None:
    _, images = some(1)
    (output / "failures").mkdir()
    (output / "failures/report_00002_.latent").write_bytes(b"mine")  # of a number that is free otherwise
    noise = {"samples": torch.randn(1, 4, 8, 8)}
    for _ in range(3):
        report(nodes, images=[images], noise=[noise])
    assert [name for name in files(output) if name.endswith(".json")] == [
        f"failures/report_0000{number}_.json" for number in (1, 3, 4)
    ]
    assert (output / "failures/report_00002_.latent").read_bytes() == b"mine"
    assert not (output / "failures/report_00002_.png").exists()


@pytest.mark.parametrize(
    "name",
    ["../out", "a/../../out", "/etc/out", "..", ".", "", "  ", "a/", "a/..", "C:out", "a\\..\\out", "a\nb", "a\0b",
     "x" * 300, 'a"b', "a?b"],
)  # fmt: skip
def test_no_name_leads_out_of_the_output_folder(nodes: ModuleType, output: Path, name: str) -> None:
    _, images = some(1)
    with pytest.raises(ProvokeError, match="filename_prefix"):
        report(nodes, images=[images], filename_prefix=[name])
    assert files(output.parent) == []


def test_no_link_leads_out_of_the_output_folder(nodes: ModuleType, output: Path) -> None:
    _, images = some(1)
    (output.parent / "elsewhere").mkdir()
    (output / "link").symlink_to(output.parent / "elsewhere")
    with pytest.raises(ProvokeError, match="leads out"):
        report(nodes, images=[images], filename_prefix=["link/report"])
    assert files(output.parent) == []


def test_names_that_are_fine(nodes: ModuleType, output: Path) -> None:
    _, images = some(1)
    for name in ("report", "a/b/c", "späte Fehler", "v1.2"):
        report(nodes, images=[images], filename_prefix=[name])
        assert (output / f"{name}_00001_.json").is_file()


def test_which_judge_said_what(nodes: ModuleType, output: Path) -> None:
    scenes, images = some(4, seed=5)
    judges = [execute(nodes.LoadClassifier, classifier=name)[0] for name in SEARCHED[:2]]
    thing = " ".join(scenes[2].facts.objects[0])
    (objective,) = execute(
        nodes.RobustClassObjective, classifier=judges[0], class_name=thing, second_classifier=judges[1]
    )
    parts = [execute(nodes.ScoreImages, images=part, objective=objective)[0] for part in (images[:1], images[1:])]
    prompts = [" ".join(scene.facts.objects[0]) for scene in scenes]
    told = json.loads(report(nodes, images=[images], scores=parts, prompts=prompts, seed=[1, 2]).args[1])["pictures"]
    assert [one["prompt"] for one in told] == prompts
    assert [(one["seed"], one["place"]) for one in told] == [(1, 0), (1, 0), (2, 0), (2, 0)]  # each prompt a batch
    totals = torch.cat([scores.total for scores in parts]).tolist()
    assert [one["score"] for one in told] == totals
    for one, agrees in zip(told, torch.cat([scores.agreed for scores in parts]).tolist(), strict=True):
        (votes,) = one["votes"].values()
        assert list(votes) == list(SEARCHED[:2])
        assert one["agreed"] is agrees is all(value > 0 for value in votes.values())
    assert told[2]["agreed"]


@pytest.mark.parametrize(
    ("prompts", "seeds", "places"),
    [
        (1, 1, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]),  # Search Noise
        (3, 1, [0, 1, 2, 3] * 3),  # Learn Token: a batch to each prompt
        (1, 4, [0, 1, 2] * 4),
        (3, 6, [0, 1] * 6),  # Search Prompt: a batch to each prompt and seed
        (12, 12, [0] * 12),
        (2, 3, [0, 1, 2, 3, 0, 1, 0, 1, 0, 1, 2, 3]),
    ],
)
def test_a_place_is_that_in_the_batch_of_a_prompt_and_a_seed(
    nodes: ModuleType, output: Path, prompts: int, seeds: int, places: list[int]
) -> None:
    _, images = some(12)
    asked = {"prompts": ["the same"] * prompts, "seed": list(range(seeds))}
    told = json.loads(report(nodes, images=[images], **asked).args[1])["pictures"]
    assert [one["place"] for one in told] == places


def test_figures_that_are_none_are_null_and_strange_text_is_kept(nodes: ModuleType, output: Path) -> None:
    from provoke.nodes.objective import Scores

    _, images = some(2)
    prompt = '</script>"\\ \n\t\x07 赤い丸 🎈 \ud800 ' + "long " * 200
    scores = Scores(torch.tensor([float("nan"), float("inf")]), {"x": torch.tensor([0.0, -1.0])}, {"x": 1.0})
    text = report(nodes, images=[images], scores=[scores], prompts=[prompt]).args[1]
    told = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert [one["score"] for one in told["pictures"]] == [None, None]
    assert told["pictures"][0]["prompt"] == prompt


def test_the_workflow_goes_along_unless_the_host_is_told_otherwise(
    nodes: ModuleType, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import comfy.cli_args

    _, images = some(1)
    graph = {"1": {"class_type": "ProvokeFailureReport", "inputs": {}}}
    hidden = SimpleNamespace(prompt=graph, extra_pnginfo={"workflow": {"nodes": []}})
    monkeypatch.setattr(nodes.FailureReport, "hidden", hidden)
    assert json.loads(report(nodes, images=[images]).args[1])["graph"] == {"workflow": {"nodes": []}, "prompt": graph}
    with Image.open(output / "failures/report_00001_.png") as png:
        assert json.loads(png.text["prompt"]) == graph  # so the page opens the sheet as a workflow
    monkeypatch.setattr(comfy.cli_args.args, "disable_metadata", True)
    assert json.loads(report(nodes, images=[images]).args[1])["graph"] == {}
    with Image.open(output / "failures/report_00002_.png") as png:
        assert png.text == {}


def test_half_a_report_is_none(nodes: ModuleType, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, images = some(1)

    def full(*_: Any, **__: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="no space"):
        report(nodes, images=[images], noise=[{"samples": torch.randn(1, 4, 8, 8)}])
    assert files(output) == []


def test_an_embedding_is_named_with_its_hash(
    nodes: ModuleType, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import folder_paths

    folder = tmp_path / "embeddings"
    folder.mkdir()
    (folder / "found.safetensors").write_bytes(b"an embedding")
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "embeddings", ([str(folder)], {".safetensors"}))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    _, images = some(1)
    for name in ("found", "found.safetensors", "embedding:found"):
        told = json.loads(report(nodes, images=[images], embedding=[name]).args[1])
        wanted = {"name": "found.safetensors", "sha256": hashlib.sha256(b"an embedding").hexdigest()}
        assert told["embeddings"] == [wanted]
    for name in ("lost", "../embeddings/found", str(folder / "found")):
        with pytest.raises(ProvokeError, match="no embedding"):
            report(nodes, images=[images], embedding=[name])


def test_what_does_not_go_together_is_refused_in_words(nodes: ModuleType, output: Path) -> None:
    from provoke.nodes.objective import Scores

    _, images = some(3)
    scores = Scores(torch.zeros(2), {"x": torch.zeros(2)})
    refused: list[tuple[dict[str, Any], str]] = [
        ({"prompts": ["a", "b"]}, "2 prompts for 3 pictures"),
        ({"seed": [1, 2]}, "2 seeds for 3 pictures"),
        ({"scores": [scores]}, "2 scores for 3 pictures"),
        ({"images": [images[:0]]}, "0 pictures came in"),
        ({"images": [images[:1].expand(401, -1, -1, -1)]}, "401 pictures"),
        ({"images": [images[:1], images[1:, ..., :1]]}, r"\(2, 64, 64, 1\) \(B H W C\)"),
        ({"images": [images[..., 0]]}, r"\(3, 64, 64\) \(B H W C\)"),
        (
            {"noise": [{"samples": torch.zeros(1, 4, 8, 8)}, {"samples": torch.zeros(1, 4, 9, 8)}]},
            "of different sizes",
        ),
    ]
    for inputs, words in refused:
        with pytest.raises(ProvokeError, match=words):
            report(nodes, **{"images": [images], **inputs})
    assert files(output) == []


class Painter:
    """The host's own nodes on the demo's few-step model."""

    def __init__(self, nodes: ModuleType) -> None:
        with torch.inference_mode():
            self.model, self.clip, self.vae = nodes.LoadDemoModels.execute("4 steps").args

    def drawn(self, prompt: str, noise: Any, latent: Any) -> torch.Tensor:
        """B H W 3."""
        from comfy_extras.nodes_custom_sampler import (
            BasicGuider,
            BasicScheduler,
            KSamplerSelect,
            SamplerCustomAdvanced,
        )

        from nodes import CLIPTextEncode, VAEDecode

        with torch.inference_mode():
            (positive,) = CLIPTextEncode().encode(self.clip, prompt)
            guider = BasicGuider.execute(self.model, positive).args[0]
            sigmas = BasicScheduler.execute(self.model, "simple", 4, 1.0).args[0]
            sampler = KSamplerSelect.execute("euler").args[0]
            found = SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, latent).args[0]
            return VAEDecode().decode(self.vae, found)[0]


def test_a_picture_is_made_again_from_the_json_alone(nodes: ModuleType, output: Path) -> None:
    """A noise that no seed gives, saved beside the report: through Load Latent and Noise from Latent, bit for bit."""
    from nodes import LoadLatent

    painter, rng = Painter(nodes), torch.Generator().manual_seed(11)
    found = {"samples": torch.randn(2, 4, 8, 8, generator=rng)}
    empty = {"samples": torch.zeros(2, 4, 8, 8)}
    (noise,) = execute(nodes.NoiseFromLatent, latent=found)
    images = painter.drawn("a red circle on white", noise, empty)
    report(nodes, images=[images], prompts=["a red circle on white"], noise=[found])
    del found, noise, images

    told = json.loads((output / "failures/report_00001_.json").read_text(encoding="utf-8"))
    kept = output / told["files"]["noise"]
    assert hashlib.sha256(kept.read_bytes()).hexdigest() == told["files"]["noise_sha256"]
    name = f"{told['files']['noise']} [output]"
    assert LoadLatent.VALIDATE_INPUTS(name) is True
    (latent,) = LoadLatent().load(name)
    first = told["pictures"][0]
    (noise,) = execute(nodes.NoiseFromLatent, latent=latent, seed=first["seed"])
    again = painter.drawn(first["prompt"], noise, {"samples": torch.zeros_like(latent["samples"])})
    for picture, one in zip(again, told["pictures"], strict=True):
        levels = np.clip(255.0 * picture.numpy(), 0, 255).astype(np.uint8)
        assert levels.shape == (one["height"], one["width"], 3)
        assert hashlib.sha256(levels.tobytes()).hexdigest() == one["sha256"]
