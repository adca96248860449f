"""Save and Load Conditioning: what a file can hold comes back, what it cannot is said, nothing else is read."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import safetensors.torch
import torch

from provoke.core.errors import ProvokeError


@pytest.fixture(scope="module")
def nodes(comfy: ModuleType) -> ModuleType:
    import provoke.nodes

    return provoke.nodes


@pytest.fixture(scope="module")
def tiny(comfy: ModuleType) -> ModuleType:
    from provoke.tools import tiny

    return tiny


@pytest.fixture
def folders(comfy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Fresh input and output folders."""
    import folder_paths

    for kind in ("input", "output"):
        (tmp_path / kind).mkdir()
        monkeypatch.setattr(folder_paths, f"{kind}_directory", str(tmp_path / kind))
    return tmp_path


def rich() -> list[Any]:
    """What nodes of the host put into a conditioning: two regions, masks, percentages, several types."""
    rng = torch.Generator().manual_seed(0)
    first = {
        "pooled_output": torch.randn(1, 32, generator=rng), "start_percent": 0.25, "end_percent": 1.0, "strength": 0.7,
        "mask": torch.rand(1, 64, 64, generator=rng), "mask_strength": 0.5, "set_area_to_bounds": True,
        "area": (8, 8, 0, 4), "guidance": 3.5, "note": "règles – δ",
        "attention_mask": torch.ones(1, 9, dtype=torch.int64),
        "reference_latents": [torch.randn(1, 4, 8, 8, generator=rng)], "nothing": None, "deep": {"a": [1, (2, 3.5)]},
    }  # fmt: skip
    second = {"pooled_output": None, "area": ("percentage", 0.5, 0.5, 0.0, 0.0)}
    return [
        [torch.randn(1, 9, 32, generator=rng), first],
        [torch.randn(2, 18, 32, generator=rng).to(torch.bfloat16), second],
    ]


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and set(a) == set(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def save(nodes: ModuleType, conditioning: Any, prefix: str = "found", choice: str = "refuse") -> tuple[Any, str]:
    with torch.inference_mode():
        return nodes.SaveConditioning.execute(conditioning, prefix, choice).args


def load(nodes: ModuleType, name: str) -> Any:
    with torch.inference_mode():
        return nodes.LoadConditioning.execute(name).args[0]


def test_everything_comes_back(nodes, folders) -> None:
    given = rich()
    passed, report = save(nodes, given)
    assert passed is given
    assert "output/conditioning/found_00001_.safetensors" in report
    assert same(load(nodes, "conditioning/found_00001_.safetensors [output]"), given)


def test_the_report_gives_the_place_below_the_output_folder(nodes, tmp_path, monkeypatch) -> None:
    import folder_paths

    output = tmp_path / "conditioning" / "output"
    output.mkdir(parents=True)
    monkeypatch.setattr(folder_paths, "output_directory", str(output))
    assert save(nodes, rich())[1] == "saved as output/conditioning/found_00001_.safetensors"


def test_a_sampler_gives_the_same_picture(nodes, tiny, folders) -> None:
    import nodes as host

    model, negative = tiny.model("sd15"), tiny.conditioning("sd15", seed=2)
    positive = tiny.regional(tiny.conditioning("sd15", seed=1), tiny.conditioning("sd15", seed=6))
    save(nodes, positive)
    again = load(nodes, "conditioning/found_00001_.safetensors [output]")

    def sampled(conditioning: Any) -> torch.Tensor:
        latent = tiny.empty_latent("sd15")
        with torch.inference_mode():
            out = host.common_ksampler(model, 1, 2, 2.0, "euler", "normal", conditioning, negative, latent)
        return out[0]["samples"]

    assert torch.equal(sampled(again), sampled(positive))


def test_names_with_dots_do_not_collide(nodes, folders) -> None:
    a, b, c = (torch.full((1, 2), float(i)) for i in range(3))
    given = [[torch.zeros(1, 2, 3), {"x.y": a, "x": {"y": b, "z.w": c, "z": {"w": a}}}]]
    save(nodes, given)
    assert same(load(nodes, "conditioning/found_00001_.safetensors [output]"), given)


def test_files_count_up_and_none_is_overwritten(nodes, folders) -> None:
    for number in (1, 2, 3):
        assert f"a/b_0000{number}_.safetensors" in save(nodes, rich(), "a/b")[1]
    folder = folders / "output" / "conditioning" / "a"
    (folder / "b_00002_.safetensors").unlink()
    (folder / "b_00002_.safetensors").write_text("somebody's")
    assert "a/b_00004_" in save(nodes, rich(), "a/b")[1]
    assert (folder / "b_00002_.safetensors").read_text() == "somebody's"


def test_what_a_file_cannot_hold_is_refused_or_left_out_with_words(nodes, tiny, folders) -> None:
    controlled, _ = tiny.with_control(
        tiny.conditioning("sd15", seed=1), tiny.conditioning("sd15", seed=2), tiny.controlnet(), tiny.hint()
    )
    with pytest.raises(ProvokeError, match="control of entry 1"):
        save(nodes, controlled)
    assert not list((folders / "output").rglob("*.safetensors"))
    _, report = save(nodes, controlled, choice="leave out")
    assert "left out: control of entry 1" in report
    (entry,) = load(nodes, "conditioning/found_00001_.safetensors [output]")
    assert torch.equal(entry[0], controlled[0][0])
    assert "control" not in entry[1]
    strange = [[torch.zeros(1, 2, 4), {"kept": 1.0, "thing": [torch.ones(2), object()]}]]
    assert "thing of entry 1" in save(nodes, strange, "strange", "leave out")[1]
    assert load(nodes, "conditioning/strange_00001_.safetensors [output]")[0][1] == {"kept": 1.0}


@pytest.mark.parametrize("prefix", ["../x", "a/../../x", "/etc/x", "", "  ", "..", "a/../..", "a\0b", "a\nb"])
def test_a_name_that_leaves_the_folder_is_refused(nodes, folders, prefix: str) -> None:
    with pytest.raises(ProvokeError, match="leaves the folder"):
        save(nodes, rich(), prefix)
    assert not [path for path in folders.rglob("*") if path.is_file()]


def test_names_are_looked_up_and_never_joined(nodes, folders) -> None:
    secret = folders / "secret.safetensors"
    safetensors.torch.save_file({"x": torch.ones(1)}, secret)
    for name in ("../secret.safetensors", str(secret), "nothing.safetensors", ""):
        with pytest.raises(ProvokeError, match="There is no conditioning"):
            load(nodes, name)


def test_input_folder_and_its_subfolder_are_read(nodes, folders) -> None:
    save(nodes, rich())
    data = (folders / "output" / "conditioning" / "found_00001_.safetensors").read_bytes()
    (folders / "input" / "sent.safetensors").write_bytes(data)
    (folders / "input" / "conditioning").mkdir()
    (folders / "input" / "conditioning" / "also.safetensors").write_bytes(data)
    options = nodes.LoadConditioning.define_schema().inputs[0].options
    assert options == [
        "sent.safetensors",
        "conditioning/also.safetensors",
        "conditioning/found_00001_.safetensors [output]",
    ]
    for name in options:
        assert same(load(nodes, name), rich())
    before = nodes.LoadConditioning.fingerprint_inputs("sent.safetensors")
    save(nodes, rich()[:1])
    other = folders / "output" / "conditioning" / "found_00002_.safetensors"
    (folders / "input" / "sent.safetensors").write_bytes(other.read_bytes())
    assert nodes.LoadConditioning.fingerprint_inputs("sent.safetensors") != before


def crafted(entries: Any, tensors: dict[str, torch.Tensor] | None = None, **metadata: str) -> bytes:
    text = entries if isinstance(entries, str) else json.dumps(entries)
    known = {"format": "provoke conditioning 1", "entries": text, **metadata}
    return safetensors.torch.save(tensors or {"0.cond": torch.ones(1, 2, 4)}, known)


COND = {"tensor": "0.cond"}
HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "cannot be read"),
    "text": (b"hello" * 100, "cannot be read"),
    "foreign": (safetensors.torch.save({"emb_params": torch.ones(2, 4)}), "not one of ours"),
    "another format": (crafted([], format="provoke conditioning 99"), "not one of ours"),
    "no entries": (crafted([]), "no entries"),
    "not json": (crafted("{"), "cannot be read"),
    "deep": (crafted("[" * 100_000), "cannot be read"),
    "long": (crafted(" " * (2**20 + 1)), "far too long"),
    "no tensor": (crafted([{"cond": {"tensor": "1.cond"}, "extras": {}}]), "does not fit"),
    "a number for a tensor": (crafted([{"cond": {"value": 1}, "extras": {}}]), "without its tensor"),
    "whole numbers": (
        crafted([{"cond": COND, "extras": {}}], {"0.cond": torch.ones(1, 2, dtype=torch.int64)}), "without its tensor"
    ),
    "extras that are a list": (crafted([{"cond": COND, "extras": []}]), "an entry that is none"),
    "an object's name": (crafted([{"cond": COND, "extras": {"control": {"value": 5}}}]), "'control'"),
    "an unknown kind": (crafted([{"cond": COND, "extras": {"x": {"pickle": "gASV"}}}]), "does not fit"),
    "not a number": (
        crafted([{"cond": COND, "extras": {}}], {"0.cond": torch.full((1, 2, 4), float("nan"))}), "NaN"
    ),
    "NaN in the outline": (
        crafted([{"cond": COND, "extras": {"strength": {"value": float("nan")}}}], {"0.cond": torch.ones(1, 2, 4)}),
        "NaN is no number",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_and_foreign_files_are_refused_in_words(nodes, folders, name: str) -> None:
    data, words = HOSTILE[name]
    (folders / "input" / "bad.safetensors").write_bytes(data)
    with pytest.raises(ProvokeError, match=words):
        load(nodes, "bad.safetensors")


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.999])
def test_truncated_files_are_refused_in_words(nodes, folders, share: float) -> None:
    save(nodes, rich())
    data = (folders / "output" / "conditioning" / "found_00001_.safetensors").read_bytes()
    (folders / "input" / "cut.safetensors").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ProvokeError, match="cannot be read"):
        load(nodes, "cut.safetensors")


@pytest.mark.parametrize("what", [[], None, [[1, {}]], [[torch.ones(1, 2, 4)]]])
def test_what_is_no_conditioning_is_refused(nodes, folders, what: Any) -> None:
    with pytest.raises(ProvokeError, match="no conditioning"):
        save(nodes, what)


def test_numbers_that_json_has_none_for_are_left_out(nodes, folders) -> None:
    given = [[torch.ones(1, 2, 4), {"strength": float("inf"), "fine": 1}]]
    with pytest.raises(ProvokeError, match="strength of entry 1"):
        save(nodes, given)
