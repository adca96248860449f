"""Every template that runs on what the pack brings: opened, run from the button, its curves drawn, its pictures there.

Searches take three steps here; what they find in all of theirs, `dev.py demo` and the tests of the server see.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from provoke.tools import templates
from provoke.tools.browser import RENDERERS, Tab
from provoke.tools.server import Server
from provoke.tools.templates import Template

RUNNABLE = templates.runnable(templates.load())
STEPS = 3
# Shortens every search, as a person would; gives how many there are. A sampler's own steps are none of a search.
SHORTEN = """(steps) => window.app.graph._nodes.filter((node) => {
    const of = (name) => node.widgets?.find((widget) => widget.name === name);
    const found = of('search_steps') ?? (of('scheduler') ? undefined : of('steps'));
    if (!node.type.startsWith('Provoke') || !found) return false;
    found.value = steps;
    return true;
}).length"""
# The pictures of each node that shows or saves some.
PICTURES = """() => window.app.graph._nodes.filter((node) => ['SaveImage', 'PreviewImage'].includes(node.type))
    .map((node) => [node.title, (window.app.nodeOutputs[node.id]?.images ?? []).length])"""
# Points of each chart's first line.
POINTS = """() => [...document.querySelectorAll('.provoke-live')]
    .map((chart) => (chart.querySelector('.provoke-line')?.getAttribute('d') ?? '').split('L').length)"""


# both renderers, in turn: each of them opens all templates in test_templates
@pytest.mark.parametrize(
    ("template", "renderer"),
    [(template, RENDERERS[i % len(RENDERERS)]) for i, template in enumerate(RUNNABLE)],
    ids=[template.name for template in RUNNABLE],
)
def test_it_runs_from_the_button_to_its_pictures(
    tab: Tab, graph: Callable[[str], Any], server: Server, template: Template, renderer: str
) -> None:
    tab.render(renderer)
    assert tab.load(template.name, graph(template.name)) == []
    tab.frame()
    searches = tab.page.evaluate(SHORTEN, STEPS)
    tab.run()
    assert tab.wait_for_end() == "execution_success", server.problems()
    pictures = tab.page.evaluate(PICTURES)
    assert all(count for _, count in pictures), pictures
    if searches:
        tab.wait_for_words("all steps done")
        # a chart with a line for each search (Search Prompt's has fewer points: the last step is the choice of words)
        drawn = f"(count) => ({POINTS})().filter((points) => points > 1).length >= count"
        tab.page.wait_for_function(drawn, arg=searches, timeout=30_000)
    assert server.problems() == []
