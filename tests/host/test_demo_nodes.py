"""The demo world's nodes, and the pack without its demo folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from provoke.demo.captions import parse
from provoke.demo.photos import photo_names
from provoke.demo.world import SIZE, sample, split

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def nodes(comfy: ModuleType) -> ModuleType:
    import provoke.nodes as nodes

    return nodes


def test_the_photos_that_the_schema_names_are_there(nodes: ModuleType) -> None:
    from provoke.nodes.demo_photo import PHOTOS

    assert list(PHOTOS) == photo_names()


@pytest.mark.parametrize("objects", ["one or two", "one", "two"])
def test_scenes_are_held_out_and_read_back(nodes: ModuleType, objects: str) -> None:
    from provoke.nodes.demo_scene import QUESTIONS

    image, mask, whole, said = nodes.DemoScene.execute(3, 12, objects, QUESTIONS[0]).args
    assert image.shape == whole.shape == (12, SIZE, SIZE, 3)
    assert mask.shape == (12, SIZE, SIZE)
    assert bool((mask == 1).all())
    assert torch.equal(image, whole)
    assert torch.equal((image * 255).round() / 255, image)
    facts = [parse(line) for line in said.split("\n")]
    assert {split(f) for f in facts} == {"held out"}
    if objects != "one or two":
        assert {len(f.objects) for f in facts} == {1 if objects == "one" else 2}
    read, summary, clean, different = nodes.ReadDemoScene.execute(image).args
    assert [parse(line).ordered() for line in read.split("\n")] == [f.ordered() for f in facts]
    assert summary.startswith("12 of 12 are clean scenes")
    assert (clean, different) == (12, len({f.ordered() for f in facts}))


def test_equal_seeds_give_equal_scenes_and_others_do_not(nodes: ModuleType) -> None:
    from provoke.nodes.demo_scene import QUESTIONS

    first, again, other = (nodes.DemoScene.execute(seed, 3, "one", QUESTIONS[0]).args[0] for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert nodes.DemoScene.execute(2**64 - 1, 1, "one", QUESTIONS[0]).args[0].shape[0] == 1


@pytest.mark.parametrize("which", [1, 2])
def test_what_is_missing_is_marked(nodes: ModuleType, which: int) -> None:
    from provoke.nodes.demo_scene import QUESTIONS

    image, mask, whole, _ = nodes.DemoScene.execute(4, 6, "two", QUESTIONS[which]).args
    changed = (image - whole).abs().amax(-1) > 0
    assert bool(changed.flatten(1).any(1).all())
    # the inpainter's hole has a frame of three pixels, which is not part of it
    reach = torch.nn.functional.max_pool2d(mask[:, None], 7, 1, 3)[:, 0] if which == 1 else mask
    assert not bool((changed & (reach == 0)).any())


def test_reading_says_what_is_no_scene(nodes: ModuleType) -> None:
    from provoke.core.errors import ProvokeError

    noise = torch.rand(2, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(0))
    read, summary, clean, different = nodes.ReadDemoScene.execute(noise).args
    assert all(line.startswith("no clean scene: ") for line in read.split("\n"))
    assert (summary, clean, different) == ("0 of 2 are clean scenes", 0, 0)
    with pytest.raises(ProvokeError, match="64 x 64"):
        nodes.ReadDemoScene.execute(torch.zeros(1, 32, 32, 3))


def test_diagonal_objects_have_no_relation(nodes: ModuleType) -> None:
    import dataclasses

    from provoke.demo.world import render

    scene = sample(1, torch.Generator().manual_seed(1), objects=2)
    scene = dataclasses.replace(
        scene,
        centre=torch.tensor([[[17.0, 17.0], [46.0, 46.0]]]),
        radius=torch.full((1, 2), 11.0),
        shape=torch.tensor([[0, 1]]),
        colour=torch.tensor([[0, 1]]),
    )
    (read, *_) = nodes.ReadDemoScene.execute(render(scene).movedim(1, -1)).args
    assert ", diagonally, on " in read


def test_without_the_demo_folder_the_pack_loads_and_says_what_is_missing(comfy: ModuleType, tmp_path: Path) -> None:
    for name in ("nodes", "host", "core", "scorers"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "__init__.py", tmp_path)
    code = (
        "import sys, asyncio, importlib.util; sys.path.insert(0, sys.argv[1])\n"
        "from comfy.cli_args import args; args.cpu = True\n"
        "import folder_paths\n"
        "spec = importlib.util.spec_from_file_location('pack', sys.argv[2] + '/__init__.py',"
        " submodule_search_locations=[sys.argv[2]])\n"
        "sys.modules['pack'] = pack = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(pack)\n"
        "extension = asyncio.run(pack.comfy_entrypoint())\n"
        "asyncio.run(extension.on_load())\n"
        "nodes = {n.GET_SCHEMA().node_id: n for n in asyncio.run(extension.get_node_list())}\n"
        "assert 'ProvokeUntargetedAttack' in nodes\n"
        "try: nodes['ProvokeDemoPhoto'].execute('coffee')\n"
        "except ValueError as error: print(error)\n"
    )
    root = str(Path(sys.modules["comfy"].__path__[0]).parent)
    ran = subprocess.run(
        [sys.executable, "-c", code, root, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert ran.returncode == 0, ran.stderr
    assert "The demo world is not there: no photos.py" in ran.stdout
    assert "install the pack again" in ran.stdout
