"""Embeddings as files: the host reads them by name, none is overwritten, and no name leaves the folder."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file

from provoke.core.errors import ProvokeError

VECTORS = {"clip_l": torch.arange(6.0).view(2, 3), "clip_g": torch.ones(2, 5)}


@pytest.fixture
def folder(comfy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The host's embeddings folders: the first and a second one."""
    import folder_paths

    places = [str(tmp_path / "first"), str(tmp_path / "second")]
    for place in places:
        os.mkdir(place)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "embeddings", (places, {".safetensors"}))
    return tmp_path


def test_the_host_finds_it_by_its_name(folder: Path) -> None:
    from comfy.sd1_clip import load_embed

    from provoke.host.embedding_files import save

    path, name = save(VECTORS, "styles/blue-ring.v1")
    assert path == folder / "first" / "styles" / "blue-ring.v1.safetensors"
    for key, vectors in VECTORS.items():
        found = load_embed(name, [str(folder / "first")], vectors.shape[1], key)
        assert torch.equal(found, vectors)
        assert found.dtype == torch.float32


def test_names_count_up_and_nothing_is_overwritten(folder: Path) -> None:
    from provoke.host.embedding_files import save

    (folder / "second" / "there.pt").write_bytes(b"x")  # another folder's, of another kind: a prompt would find it
    (folder / "first" / "below").mkdir()
    (folder / "first" / "below" / "deep.safetensors").write_bytes(b"x")
    found = [save({"clip_l": torch.full((1, 3), float(i))}, "one")[1] for i in range(3)]
    assert found == ["one", "one-2", "one-3"]
    for i, name in enumerate(found):
        assert float(load_file(folder / "first" / f"{name}.safetensors")["clip_l"][0, 0]) == i
    assert save(VECTORS, "there")[1] == "there-2"
    assert save(VECTORS, "deep")[1] == "deep-2"


@pytest.mark.parametrize(
    "name",
    [
        "", " ", "..", "../up", "a/../../up", "/etc/passwd", "C:\\x", "a:b", "two words", "a\nb", "a,b", "(a)", "<a>",
        "[a]", ".hidden", "a/.hidden", "a//b", "a/", "nul", "sub/CON.x", "x" * 200, "a\0b",
    ],
)  # fmt: skip
def test_hostile_names_are_refused(folder: Path, name: str) -> None:
    from provoke.host.embedding_files import save

    with pytest.raises(ProvokeError, match="name"):
        save(VECTORS, name)
    assert not list(folder.rglob("*.safetensors"))


@pytest.mark.skipif(os.name == "nt", reason="platform: links need rights on Windows")
def test_a_link_out_of_the_folder_is_not_followed(folder: Path, tmp_path: Path) -> None:
    from provoke.host.embedding_files import save

    (tmp_path / "outside").mkdir()
    (folder / "first" / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(ProvokeError, match="leaves the embeddings folder"):
        save(VECTORS, "link/x")


@pytest.mark.parametrize("vectors", [{}, {"clip_l": torch.full((1, 3), float("nan"))}, {"clip_l": torch.ones(3)}])
def test_what_is_no_embedding_is_refused(folder: Path, vectors: dict[str, torch.Tensor]) -> None:
    from provoke.host.embedding_files import save

    with pytest.raises(ProvokeError, match="empty or not finite"):
        save(vectors, "x")
