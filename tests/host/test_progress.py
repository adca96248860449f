"""Driving a search in the host; model folders; the API module."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

pytestmark = pytest.mark.usefixtures("executor")


@pytest.fixture
def bar(comfy: Any) -> Iterator[list[tuple[Any, ...]]]:
    """What the server's progress hook gets; it polls for cancel, as `hijack_progress` in the host's main.py does."""
    import comfy.model_management as mm
    import comfy.utils

    calls: list[tuple[Any, ...]] = []

    def hook(value: int, total: int, preview: Any, node_id: Any = None) -> None:
        mm.throw_exception_if_processing_interrupted()
        calls.append((value, total, preview))

    before = comfy.utils.PROGRESS_BAR_HOOK
    comfy.utils.set_progress_bar_global_hook(hook)
    yield calls
    comfy.utils.set_progress_bar_global_hook(before)
    mm.interrupt_current_processing(False)


def steps(count: int, ended: list[str]) -> Iterator[int]:
    try:
        yield from range(count)
    finally:
        ended.append("closed")


def test_every_step_is_counted_and_the_last_returned(host: SimpleNamespace, bar: list[tuple[Any, ...]]) -> None:
    ended: list[str] = []
    last = host.progress.drive(steps(5, ended), 5, lambda step: torch.full((1, 1024, 600, 3), 0.5))
    assert (last, ended) == (4, ["closed"])
    assert bar[-1][:2] == (5, 5)
    kind, picture, size = bar[0][2]
    assert kind == "JPEG"
    assert isinstance(picture, Image.Image)
    assert picture.size == (300, 512)
    assert size == 512
    assert picture.getpixel((9, 9)) == (128, 128, 128)


def test_previews_are_rare_and_never_made_in_vain(
    host: SimpleNamespace, bar: list[tuple[Any, ...]], comfy: Any
) -> None:
    import comfy.utils

    asked: list[int] = []
    host.progress.drive(steps(200, []), 200, lambda step: asked.append(step))
    assert 200 in [value for value, *_ in bar]
    assert len(asked) == 200  # nothing was shown, so it goes on asking
    asked.clear()
    host.progress.drive(steps(200, []), 200, lambda step: (asked.append(step), torch.zeros(1, 8, 8, 3))[1])
    assert 1 <= len(asked) < 20
    asked.clear()
    comfy.utils.set_progress_bar_global_hook(None)  # no server: nobody looks
    assert host.progress.drive(steps(3, []), 3, lambda step: asked.append(step)) == 2
    assert asked == []


@pytest.mark.parametrize("server", [True, False])
def test_cancel_takes_effect_in_the_next_step(server: bool, host: SimpleNamespace, bar: list[Any], comfy: Any) -> None:
    import comfy.model_management as mm
    import comfy.utils

    if not server:
        comfy.utils.set_progress_bar_global_hook(None)
    ended: list[str] = []
    seen: list[int] = []

    def run() -> Iterator[int]:
        for step in steps(100, ended):
            seen.append(step)
            if step == 3:
                mm.interrupt_current_processing(True)
            yield step

    with pytest.raises(mm.InterruptProcessingException):
        host.progress.drive(run(), 100, lambda step: None)
    assert seen == [0, 1, 2, 3]
    assert ended == ["closed"]
    assert not mm.processing_interrupted()


def test_more_or_fewer_steps_than_expected(host: SimpleNamespace, bar: list[tuple[Any, ...]]) -> None:
    assert host.progress.drive(steps(7, []), 3, lambda step: None) == 6
    assert host.progress.drive(steps(1, []), 30, lambda step: None) == 0
    assert all(value <= total for value, total, _ in bar)
    with pytest.raises(RuntimeError, match="no step"):
        host.progress.drive(steps(0, []), 3, lambda step: None)


def test_check_cancelled(host: SimpleNamespace, bar: list[Any]) -> None:
    import comfy.model_management as mm

    host.progress.check_cancelled()
    mm.interrupt_current_processing(True)
    with pytest.raises(mm.InterruptProcessingException):
        host.progress.check_cancelled()
    host.progress.check_cancelled()


def test_cancel_between_tiles(host: SimpleNamespace, build: Any, photo: Any, bar: list[Any]) -> None:
    import comfy.model_management as mm

    image = photo(1, 200, 200)
    with host.open(build.compact(), image) as opened:
        opened._backward.step_down()
        opened._backward.step_down()
        output, pullback = opened.vjp(image.movedim(-1, 1))
        mm.interrupt_current_processing(True)
        with pytest.raises(mm.InterruptProcessingException):
            pullback(torch.ones_like(output))


def test_demo_weights_are_listed(host: SimpleNamespace, comfy: Any, monkeypatch: Any, tmp_path: Path) -> None:
    import folder_paths

    before = folder_paths.get_folder_paths("upscale_models")
    host.folders.register_model_folders()
    host.folders.register_model_folders()
    now = folder_paths.get_folder_paths("upscale_models")
    ours = str(Path(host.package.__file__).resolve().parent.parent / "demo" / "weights" / "upscale_models")
    assert now.count(ours) == 1
    assert now[0] == before[0] != ours
    assert any(name.startswith("provoke-demo-") for name in folder_paths.get_filename_list("upscale_models"))
    monkeypatch.setattr(host.folders, "_WEIGHTS", tmp_path / "missing")
    host.folders.register_model_folders()
    assert folder_paths.get_filename_list("upscale_models")


def test_schema_drops_what_the_host_lacks(host: SimpleNamespace) -> None:
    io = host.api.io
    made = host.api.schema(
        node_id="ProvokeTest",
        display_name="Test",
        category="Provoke/test",
        search_aliases=["x"],
        has_intermediate_output=True,
        some_field_of_the_future=True,
        inputs=[io.Image.Input("image", tooltip="a picture"), io.Int.Input("steps", default=3, advanced=True)],
        outputs=[io.Image.Output()],
    )
    assert made.node_id == "ProvokeTest"
    assert made.search_aliases == ["x"]
    assert not hasattr(made, "some_field_of_the_future")
