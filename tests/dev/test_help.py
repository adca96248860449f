"""The help pages: the same questions answered for every node, from what the page shows beside a node."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt  # comes with import-linter, by way of rich
from markdown_it.token import Token

from provoke.tools import pictures, thumbnails
from provoke.tools.pack import ROOT

DOCS = ROOT / "web" / "docs"
# The snapshot of the schemas, which tests/host holds to the nodes themselves.
NODES: dict[str, dict[str, Any]] = json.loads((ROOT / "tests" / "host" / "schemas.json").read_text(encoding="utf-8"))
# Another form of a node: its page says what is different, and the other page has the widgets.
FORMS = {
    "ProvokeUntargetedAttackSamplerCustom": "ProvokeUntargetedAttackSampler",
    "ProvokeClipTargetedAttackSamplerCustom": "ProvokeClipTargetedAttackSampler",
    "ProvokeLatentSearchCustom": "ProvokeLatentSearch",
    "ProvokeVlmInversion": "ProvokeVlmInversionSampler",
}
# What the page of one node says of its widgets by naming another one's, whose words they are.
KSAMPLER = {"model", "noise_seed", "steps", "cfg", "sampler_name", "scheduler", "positive", "negative", "latent_image"}
KSAMPLER |= {"denoise", "vae"}
BORROWED = {
    "ProvokeClipTargetedAttack": "ProvokeUntargetedAttack",
    "ProvokeClipTargetedAttackSampler": "ProvokeUntargetedAttackSampler",
}


def with_the_rest(node: str) -> str:
    """A page, and those whose words it borrows, each of which it must name."""
    text = page(node)
    while other := FORMS.get(node) or BORROWED.get(node):
        title = NODES[other]["display_name"].partition(" (")[0]
        assert title in page(node), f"{node} does not name {title}, whose page has the rest"
        text += page(other)
        node = other
    return text


def page(node: str) -> str:
    return (DOCS / f"{node}.md").read_text(encoding="utf-8")


def rows(text: str) -> list[str]:
    """The lines of its tables."""
    return [line for line in text.splitlines() if line.startswith("|")]


def spans(node: str) -> list[Token]:
    """What stands in the paragraphs, headings and cells of a page, as CommonMark reads it."""
    found = MarkdownIt("commonmark").enable("table").parse(page(node))
    return [span for block in found for span in block.children or []]


def test_every_node_has_a_page_and_no_page_is_left_over() -> None:
    assert {path.stem for path in DOCS.glob("*.md")} == set(NODES)


@pytest.mark.parametrize("node", NODES)
def test_it_begins_with_what_the_node_does(node: str) -> None:
    """The node's title, then two sentences or more."""
    title, _, rest = page(node).partition("\n")
    assert title == f"# {NODES[node]['display_name']}"
    first = rest.strip().split("\n\n")[0]
    assert not first.startswith(("|", "!", "#", "-")), "no sentence before tables and pictures"
    assert len(re.findall(r"[.?!:;](?:\s|$)", first)) >= 2, first


@pytest.mark.parametrize("node", NODES)
def test_it_has_a_picture_from_a_real_run(node: str) -> None:
    """With a text for those who do not see it, and a file that a committed script makes."""
    found = re.findall(r"!\[([^\]]+)\]\((images/[^)]+)\)", page(node))
    assert found, "no picture"
    for text, file in found:
        assert len(text.split()) >= 3
        assert (DOCS / file).is_file(), file
        assert made_by_a_script(Path(file).stem), f"{file}: no script makes it"


@pytest.mark.parametrize("node", NODES)
def test_it_links_to_no_file_beside_it(node: str) -> None:
    """The page takes the sources of pictures from where the help lies, not links: those lead to its own root."""
    links = [str(span.attrGet("href")) for span in spans(node) if span.type == "link_open"]
    assert not [link for link in links if not link.startswith("https://")]


@pytest.mark.parametrize("node", NODES)
def test_its_asterisks_and_paragraphs_are_what_they_look_like(node: str) -> None:
    """No asterisk is left over from emphasis within emphasis, and the source is a paragraph of its own."""
    assert not [span.content for span in spans(node) if span.type == "text" and "*" in span.content]
    assert not re.search(r"[^\n]\nSource: ", page(node))


def made_by_a_script(name: str) -> bool:
    """Whether tools/pictures.py or tools/thumbnails.py has it."""
    return name in pictures.PICTURES or name in thumbnails.HELP


@pytest.mark.parametrize("node", NODES)
def test_every_input_is_explained(node: str) -> None:
    """In a table, by its name; a number with its unit and its sensible range."""
    text = with_the_rest(node)
    tables = "\n".join(rows(text))
    sampler = "KSampler's" in text
    for put in NODES[node]["inputs"]:
        known = f"`{put['id']}`" in tables or (f"`{put['id']}`" in text and put["type"] not in ("INT", "FLOAT"))
        assert known or (sampler and put["id"] in KSAMPLER), f"{put['id']} is in no table"


@pytest.mark.parametrize("node", NODES)
def test_what_comes_out_is_explained(node: str) -> None:
    text = with_the_rest(node)
    for put in NODES[node]["outputs"]:
        assert f"`{put['id']}`" in text, f"{put['id']} is not mentioned"


# Nodes that draw a curve while they run (VLM Inversion: on the host's sampler node), which are those that search.
# tests/host/test_recipe.py holds this way of telling them to the nodes themselves.
CURVES = [
    node
    for node, made in NODES.items()
    if made["category"] in ("Provoke/attack", "Provoke/search")
    and {"steps", "search_steps", "seeds"} & {put["id"] for put in made["inputs"]}
]


@pytest.mark.parametrize("node", CURVES)
def test_it_says_how_to_read_the_curve(node: str) -> None:
    """In a section of its own: what is drawn, which way is better, and what a flat line or a jagged one means."""
    sections = with_the_rest(node).split("## How to read the curve\n")[1:]
    assert sections, "no section 'How to read the curve'"
    words = "\n".join(section.partition("\n## ")[0] for section in sections)
    assert re.search(r"\b[Uu]p (?:is better|means)|only goes up", words), "which way is better?"
    assert re.search(r"\b[Ff]lat|All points on one height|does not climb", words), "what if nothing moves?"
    if node not in UNBOUNDED:
        assert re.search(r"[Dd]ashed", words), "the dashed line, the share of the budget, is not explained"


def test_nodes_with_a_curve_are_known() -> None:
    assert len(CURVES) == 13


# Prompts, seeds and a latent that only the model's pull holds have no budget.
UNBOUNDED = {"ProvokePromptSearch", "ProvokeBestOfSeeds", "ProvokeVlmInversionSampler", "ProvokeVlmInversion"}


@pytest.mark.parametrize("node", NODES)
def test_it_says_what_to_try_and_where_it_comes_from(node: str) -> None:
    text = with_the_rest(node)
    assert re.search(r"^(?:## |\*\*)(?:When|If) (?:nothing happens|it does not work)", text, re.MULTILINE)
    assert re.search(r"\bSource: ", text)
