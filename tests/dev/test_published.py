"""What the registry and the page's template browser read: pyproject, icon, thumbnails."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from PIL import Image

from provoke.tools import templates, thumbnails
from provoke.tools.environment import NEWEST, OLDER
from provoke.tools.pack import ROOT

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10; mypy brings this one
    import tomli as tomllib  # type: ignore[no-redef]

EVERY = templates.load()
KILOBYTES = 1024


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)


def test_the_registry_gets_all_that_it_asks_for(project: dict[str, Any]) -> None:
    said, comfy = project["project"], project["tool"]["comfy"]
    assert re.fullmatch(r"[a-z][a-z0-9._-]{0,99}", said["name"])
    assert "comfyui" not in said["name"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", said["version"])
    assert said["description"]
    assert said["license"] == {"text": "MIT"}
    assert {"Homepage", "Repository", "Documentation", "Issues"} <= set(said["urls"])
    assert any(line.startswith("Operating System :: ") for line in said["classifiers"])
    assert comfy["DisplayName"]
    assert all((ROOT / folder).is_dir() for folder in comfy["includes"])


def test_the_oldest_host_that_is_asked_for_is_the_oldest_that_is_tested(project: dict[str, Any]) -> None:
    oldest = min((NEWEST, *OLDER), key=lambda version: [int(part) for part in version.split(".")])
    assert project["tool"]["comfy"]["requires-comfyui"] == f">={oldest}"


def test_the_icon_is_one_that_the_registry_takes(project: dict[str, Any]) -> None:
    file = ROOT / "web" / project["tool"]["comfy"]["Icon"].rpartition("/")[2]
    with Image.open(file) as icon:
        assert icon.size == (400, 400)
    assert file.stat().st_size < 50 * KILOBYTES


def test_nothing_is_published_without_a_publisher(project: dict[str, Any]) -> None:
    """By hand only, and the first step of it looks at what stands here."""
    workflow = (ROOT / ".github" / "workflows" / "publish.yml").read_text(encoding="utf-8")
    assert re.search(r"^on:\n  workflow_dispatch:\n(?! )", workflow, re.MULTILINE)
    assert workflow.index("Is there a publisher?") < workflow.index("publish-node-action")
    addresses = [*project["project"]["urls"].values(), project["tool"]["comfy"]["Icon"]]
    published = bool(project["tool"]["comfy"]["PublisherId"])
    assert all(("PUBLISHER/" in address) != published for address in addresses)


@pytest.mark.parametrize("template", EVERY, ids=lambda template: template.name)
def test_every_template_has_a_small_picture(template: templates.Template) -> None:
    """Beside its JSON and with its name, as the page looks for it; tools/thumbnails.py makes them."""
    file = thumbnails.path(template.name)
    assert file.is_file(), "run `python dev.py run tools/thumbnails.py`"
    with Image.open(file) as picture:
        assert picture.format == "JPEG"
        assert picture.size == (thumbnails.WIDTH, thumbnails.HEIGHT)
        assert any(low != high for low, high in picture.convert("RGB").getextrema())
    assert file.stat().st_size < 40 * KILOBYTES


def test_no_picture_is_left_of_a_template_that_went() -> None:
    assert {path.stem for path in templates.FOLDER.glob("*.jpg")} == {template.name for template in EVERY}
    assert set(thumbnails.LIKE) <= {template.name for template in EVERY if template.needs}
    assert set(thumbnails.LIKE.values()) <= {template.name for template in EVERY if not template.needs}


def test_templates_and_blueprints_are_small() -> None:
    for folder in ("example_workflows", "subgraphs"):
        for path in (ROOT / folder).glob("*.json"):
            json.loads(path.read_text(encoding="utf-8"))
            assert path.stat().st_size < 60 * KILOBYTES
