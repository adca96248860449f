"""The pack's nodes are found where a person looks for nodes."""

from __future__ import annotations

from typing import Any

import pytest

from provoke.tools.browser import Tab

SEEN = 10  # of the nodes that the page lists: as far as a person looks
# Words of which the host's own nodes have so many that ours are listed, and further down.
CROWDED = {"CLIP", "ImageNet", "Qwen", "ReNO", "SAGE", "edit", "export", "latent", "rank", "sort"}
LONGEST = 32  # characters; of more the host's search finds nothing at all


def typed(words: str) -> str:
    """As many whole words as the host's search takes."""
    return words if len(words) <= LONGEST else words[:LONGEST].rpartition(" ")[0]


def test_every_node_is_found_by_its_name_and_by_its_aliases(tab: Tab, ours: dict[str, Any]) -> None:
    """It itself is listed, and one of ours among the first ones."""
    lost: list[str] = []
    low: set[str] = set()
    for node, definition in ours.items():
        for words in [definition["display_name"], *(definition.get("search_aliases") or [])]:
            found = tab.search(typed(words))
            lost += [] if node in found else [f"{node} under {words!r}"]
            low |= set() if set(found[:SEEN]) & set(ours) else {words}
    assert lost == []
    assert low - CROWDED == set()


def test_a_person_finds_one_in_the_list_of_nodes(tab: Tab, ours: dict[str, Any]) -> None:
    tab.page.get_by_text("Nodes", exact=True).first.click()
    box = tab.page.get_by_placeholder("Search", exact=False).first
    box.fill("latent search")
    name = ours["ProvokeLatentSearch"]["display_name"]
    tab.page.get_by_text(name).first.wait_for(timeout=30_000)
    box.fill("")
    tab.page.get_by_text("Nodes", exact=True).first.click()


@pytest.mark.parametrize(
    "words",
    ["variation", "seed", "diversity", "clip guidance", "textual inversion", "noise optimisation", "FGSM"],
)
def test_what_people_look_for_leads_here(tab: Tab, ours: dict[str, Any], words: str) -> None:
    assert set(tab.search(words)[:SEEN]) & set(ours)
