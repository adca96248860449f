"""What a page makes of a search that it has not seen from its beginning, or not to its end: after a reload, with
another workflow in front, and after a server that went away.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from provoke.tools.browser import RENDERERS, Tab

from .test_runs import KIND, NAME, searching

Graphs = Callable[[str], dict[str, Any]]
LONG = 9000  # steps: it still runs when a slow machine has the page again
INTERRUPT = "() => window.app.api.interrupt()"


@contextmanager
def asked(tab: Tab) -> Iterator[list[str]]:
    """What the page asks for curves."""
    found: list[str] = []

    def look(request: Any) -> None:
        if "/provoke/curves" in request.url:
            found.append(request.url)

    tab.page.on("request", look)
    try:
        yield found
    finally:
        tab.page.remove_listener("request", look)


def step(tab: Tab) -> int:
    """That the first chart has come to."""
    return int(tab.page.evaluate("() => document.querySelector('.provoke-live').dataset.step"))


@pytest.mark.parametrize("renderer", RENDERERS)
def test_in_the_middle_of_a_run_the_chart_comes_back_and_goes_on(tab: Tab, graph: Graphs, renderer: str) -> None:
    tab.render(renderer)
    tab.load(NAME, searching(graph, LONG))
    tab.frame()
    tab.run()
    tab.wait_for_step(2)
    tab.reload()
    tab.wait_for_step(3)
    with asked(tab) as questions:
        tab.wait_for_step(step(tab) + 5)
    assert questions == []
    button = tab.page.locator(".provoke-stop").first
    button.click()
    tab.wait_for_words("stopped by request, best kept", timeout=120)
    assert not button.is_visible()


def test_a_search_of_a_workflow_that_is_not_in_front_is_asked_for_a_few_times_only(tab: Tab, graph: Graphs) -> None:
    running = {**searching(graph, LONG), "id": str(uuid.uuid4())}
    tab.load(NAME, running)
    tab.run()
    tab.wait_for_step(2)
    tab.load("Another", {**searching(graph, 2), "id": str(uuid.uuid4())})
    heard = "() => { window.heard = 0; window.app.api.addEventListener('provoke.curve', () => window.heard++); }"
    with asked(tab) as questions:
        tab.reload()
        tab.page.evaluate(heard)
        tab.page.wait_for_function("() => window.heard >= 10")
    assert tab.charts() == []
    assert 0 < len(questions) <= 4  # when it opens, for the search, and once more for each draft that it opens
    tab.load(NAME, running)
    tab.wait_for_words("left")
    tab.page.evaluate(INTERRUPT)
    tab.wait_for_words("ended early", timeout=120)


# A search of the open workflow that the server knows nothing of, as a page has it whose server began anew meanwhile.
UNKNOWN = """(kind) => {
    const { api, graph } = window.app;
    const { id } = graph._nodes.find((node) => node.type === kind);
    const place = { run: 4711, prompt: 'p', workflow: String(graph.id), node: String(id), report: '', at: 0 };
    const curve = { steps: 9, step: 2, seconds: 1, cost: 2, images: 1, best: [0, 1, 0.5], over: false, said: '' };
    const detail = { ...place, ...curve, points: [[0, 0, 0.1], [1, 0, 0.5], [2, 0, 0.4]] };
    api.dispatchEvent(new CustomEvent('provoke.curve', { detail }));
}"""


def test_a_search_that_the_server_does_not_know_is_over(tab: Tab, graph: Graphs) -> None:
    tab.load(NAME, searching(graph, 2))
    tab.frame()
    tab.page.evaluate(UNKNOWN, KIND)
    tab.wait_for_words("left")
    button = tab.page.locator(".provoke-stop").first
    button.click()
    tab.page.get_by_text("Not stopped: this search runs no more").wait_for()
    tab.page.evaluate("() => window.app.api.socket.close()")  # it connects again, as after a restart
    tab.wait_for_words("lost: the server no longer knows of it")
    assert not button.is_visible()
    assert "left" not in tab.charts()[0]


def test_the_button_says_that_it_stops_until_the_search_is_over(tab: Tab, graph: Graphs) -> None:
    tab.load(NAME, searching(graph, LONG))
    tab.frame()
    tab.run()
    tab.wait_for_step(2)
    tab.page.route("**/provoke/stop", lambda route: route.fulfill(json={"stopped": True}))  # a step that takes long
    button = tab.page.locator(".provoke-stop").first
    button.click()
    tab.page.wait_for_timeout(4000)
    assert (button.inner_text(), button.is_disabled()) == ("Stopping after this step", True)
    tab.page.unroute("**/provoke/stop")
    tab.page.evaluate(INTERRUPT)
    tab.wait_for_words("ended early", timeout=120)
    tab.page.evaluate(UNKNOWN, KIND)  # another run
    tab.wait_for_words("left")
    assert (button.inner_text(), button.is_disabled()) == ("Stop and keep the best", False)
