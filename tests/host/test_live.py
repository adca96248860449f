"""What the page hears of a search: where it is, what is new, when it is over; and no other client."""

from __future__ import annotations

import json
import math
import sys
from collections import OrderedDict
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.usefixtures("comfy")


class Page:
    """A stand-in for the host's server: which client queued what, and what was sent to whom."""

    def __init__(self) -> None:
        self.client_id: str | None = "tab"
        self.sent: list[tuple[str, dict[str, Any], str]] = []
        self.execute("prompt", "flow")

    def execute(self, prompt: str, workflow: str) -> None:
        extra = {"extra_pnginfo": {"workflow": {"id": workflow}}}
        self.prompt_queue = SimpleNamespace(currently_running={0: (0, prompt, {}, extra, [])})

    def send_sync(self, event: str, data: dict[str, Any], client: str) -> None:
        self.sent.append((event, json.loads(json.dumps(data, allow_nan=False)), client))

    def told(self) -> list[dict[str, Any]]:
        return [data for _, data, _ in self.sent]


@pytest.fixture
def live(comfy: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    from provoke.host import live

    monkeypatch.setattr(live, "INTERVAL", 0.0)
    monkeypatch.setattr(live, "_ended", [])
    monkeypatch.setattr(live, "_last", OrderedDict())
    monkeypatch.setattr(live, "_results", OrderedDict())
    return live


@pytest.fixture
def page(live: Any, monkeypatch: pytest.MonkeyPatch) -> Page:
    page = Page()
    monkeypatch.setitem(sys.modules, "server", SimpleNamespace(PromptServer=SimpleNamespace(instance=page)))
    return page


@pytest.fixture
def node(live: Any) -> Iterator[None]:
    from comfy_execution.utils import CurrentNodeContext

    with CurrentNodeContext("prompt", "12:5"):
        yield


def step(i: int, scores: list[float], last: int = 2) -> dict[str, Any]:
    return {
        "score": torch.tensor(scores),
        "distance": torch.full((len(scores),), 0.5 * i),
        "limit": 2.0,
        "cost": 3.0 * i,
        "stopped": "all steps done" if i == last else "",
    }


def all_steps(rows: list[list[float]]) -> Iterator[dict[str, Any]]:
    for i, row in enumerate(rows):
        yield step(i, row, len(rows) - 1)


@pytest.mark.usefixtures("node")
def test_a_search_from_its_beginning_to_its_end(live: Any, page: Page) -> None:
    given = all_steps([[0.0, 1.0], [5.0, 2.0], [3.0, math.nan]])
    assert len(list(live.charted(given, 3))) == 3
    first, *news = page.told()
    assert {event for event, *_ in page.sent} == {live.EVENT}
    assert {client for *_, client in page.sent} == {"tab"}
    assert (first["node"], first["workflow"], first["prompt"]) == ("12:5", "flow", "prompt")
    assert not any("workflow" in later for later in news)
    assert len({told["run"] for told in page.told()}) == 1
    assert [point for told in page.told() for point in told["points"]] == [
        [0, 0.0, 0.0, 1.0], [1, 0.25, 5.0, 2.0], [2, 0.5, 3.0, None],
    ]  # fmt: skip
    assert news[-1]["best"] == [0, 1, 5.0]
    assert (news[-1]["over"], news[-1]["said"], news[-1]["cost"], news[-1]["steps"]) == (True, "all steps done", 6.0, 3)


@pytest.mark.usefixtures("node")
def test_nobody_hears_where_nobody_queued(live: Any, page: Page) -> None:
    page.client_id = None  # to the host it would mean everybody
    list(live.charted(all_steps([[0.0], [1.0]]), 2))
    assert page.sent == []


@pytest.mark.usefixtures("node")
def test_a_page_that_asks_later_gets_the_last_search(live: Any, page: Page) -> None:
    list(live.charted(all_steps([[0.0], [1.0]]), 2))
    list(live.charted(all_steps([[0.0], [4.0]]), 2))
    run = live._last["tab", "flow", "12:5"]
    assert run.whole()["best"] == [0, 1, 4.0]
    assert run.whole()["over"]
    assert run.number == page.told()[-1]["run"]
    page.client_id = "another"
    list(live.charted(all_steps([[0.0], [9.0]]), 2))
    assert live._last["tab", "flow", "12:5"] is run  # two tabs do not mix


@pytest.mark.usefixtures("node")
def test_a_page_with_another_workflow_in_front_gets_what_runs_and_no_more(live: Any, page: Page) -> None:
    """Or it would ask again at every event."""
    steps = live.charted(all_steps([[0.0], [1.0], [2.0]]), 3)
    next(steps)
    (run,) = live.known("tab", "another")
    assert (run.node, run.workflow) == ("12:5", "flow")
    assert live.known("tab", "flow") == [run]
    assert live.known("another tab", "flow") == live.known("another tab", "another") == []
    list(steps)
    assert live.known("tab", "another") == []
    assert live.known("tab", "flow") == [run]


def test_a_server_that_started_again_does_not_use_numbers_again(live: Any) -> None:
    """Pages know the old ones."""
    number = live.Run("5").number
    assert number > 1.7e12  # milliseconds: it began after 2023
    assert number < 2**53  # JavaScript has it exactly


def queued(prompt: str, workflow: str, values: dict[str, int]) -> dict[str, Any]:
    """As the host has a prompt that it was sent, for as long as somebody holds it: nodes with a value each."""
    from provoke.host import recipe

    nodes = {node: {"class_type": "ProvokeTest", "inputs": {"seed": seed}} for node, seed in values.items()}
    extra = {"extra_pnginfo": {"workflow": {"id": workflow}}}
    return recipe.prepared({"prompt": nodes, "extra_data": extra, "prompt_id": prompt})


@pytest.mark.usefixtures("node")
def test_a_node_that_is_not_executed_again_has_the_curve_of_its_result(live: Any, page: Page) -> None:
    """For another client, in another workflow, under another number, also once other values have been tried."""
    from comfy_execution.utils import CurrentNodeContext

    first = queued("prompt", "flow", {"12:5": 1})
    with live.running() as run:
        list(live.charted(all_steps([[0.0], [4.0]]), 2))
        live.reported("score  4")
    other = queued("elsewhere", "copy", {"7": 1, "8": 2})
    live.cached("another", "elsewhere")
    (shown,) = live.known("another", "copy")
    assert (shown.node, shown.prompt, shown.client) == ("7", "elsewhere", "another")
    assert shown.number != run.number
    told = shown.whole()
    assert (told["best"], told["over"], told["report"], told["at"]) == (
        [0, 1, 4.0],
        True,
        "score  4",
        run.whole()["at"],
    )
    assert live.known("tab", "flow") == [run]
    live.cached("another", "elsewhere")
    assert live.known("another", "copy") == [shown]  # it has that curve
    live.cached("tab", "prompt")
    assert live.known("tab", "flow") == [run]  # it was this prompt's own

    later = queued("later", "flow", {"12:5": 3})
    page.execute("later", "flow")
    with CurrentNodeContext("later", "12:5"):
        list(live.charted(all_steps([[0.0], [9.0]]), 2))
    (changed,) = live.known("tab", "flow")
    assert changed.whole()["best"] == [0, 1, 9.0]
    back = queued("back", "flow", {"12:5": 1})
    live.cached("tab", "back")
    (shown,) = live.known("tab", "flow")
    assert (shown.curve, shown.prompt) == (run.curve, "back")
    assert all((first, other, later, back))


@pytest.mark.usefixtures("node")
def test_what_runs_or_failed_gives_no_curve_to_others_and_keeps_its_own(live: Any, page: Page) -> None:
    from comfy_execution.utils import CurrentNodeContext

    def failing() -> Iterator[dict[str, Any]]:
        yield step(0, [1.0])
        raise KeyboardInterrupt

    held = [queued("prompt", "flow", {"12:5": 1}), queued("again", "copy", {"12:5": 1})]
    with pytest.raises(KeyboardInterrupt):
        list(live.charted(failing(), 5))
    live.cached("tab", "again")
    assert live.known("tab", "copy") == []
    list(live.charted(all_steps([[0.0], [1.0]]), 2))
    held.append(queued("running", "copy", {"12:5": 1}))
    page.execute("running", "copy")
    with CurrentNodeContext("running", "12:5"), live.running() as run:
        live.cached("tab", "again")
        assert live.known("tab", "copy") == [run]
    live.cached("tab", "running")  # which has searched itself, though in vain
    assert live.known("tab", "copy") == [run]
    live.cached("tab", "nothing of that name")


@pytest.mark.usefixtures("node")
def test_the_nodes_output_brings_the_curve_along_once(live: Any, page: Page) -> None:
    from provoke.host.api import io

    assert io.NodeOutput(1).ui is None
    list(live.charted(all_steps([[0.0], [1.0]]), 2))
    given = io.NodeOutput(1, 2)
    assert given.args == (1, 2)
    (curve,) = given.ui[live.OUTPUT]
    assert (curve["node"], curve["best"], curve["over"]) == ("12:5", [0, 1, 1.0], True)
    json.dumps(curve, allow_nan=False)
    assert io.NodeOutput(1).ui is None
    list(live.charted(all_steps([[0.0]]), 1))
    assert io.NodeOutput(1, ui={"text": ("mine",)}).ui == {"text": ("mine",)}


@pytest.mark.usefixtures("node")
def test_a_report_comes_with_the_end_and_stays_with_the_curve(
    live: Any, page: Page, caplog: pytest.LogCaptureFixture
) -> None:
    """Of a search whose node has no output for it."""
    with caplog.at_level("INFO", logger=live.__name__), live.running():
        list(live.charted(all_steps([[0.0], [1.0]]), 2))
        live.reported("score  1 (0)")
    last = page.told()[-1]
    assert (last["over"], last["report"]) == (True, "score  1 (0)")
    assert not any(told.get("report") for told in page.told()[:-1])
    assert live._last["tab", "flow", "12:5"].whole()["report"] == "score  1 (0)"
    assert caplog.messages == ["Provoke, node 12:5:\nscore  1 (0)"]
    list(live.charted(all_steps([[0.0]]), 1))
    assert page.told()[-1]["report"] == ""  # another search's is not its own


def test_another_nodes_output_does_not(live: Any, page: Page) -> None:
    from comfy_execution.utils import CurrentNodeContext

    from provoke.host.api import io

    with CurrentNodeContext("prompt", "12:5"):
        list(live.charted(all_steps([[0.0]]), 1))
    with CurrentNodeContext("prompt", "6"):
        assert io.NodeOutput(1).ui is None
    with CurrentNodeContext("later", "12:5"):
        assert io.NodeOutput(1).ui is None


@pytest.mark.usefixtures("node")
def test_old_searches_are_forgotten(live: Any, page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "KEPT", 3)
    for tab in range(9):
        page.client_id = f"tab {tab}"
        list(live.charted(all_steps([[0.0]]), 1))
    assert [key[0] for key in live._last] == ["tab 6", "tab 7", "tab 8"]


@pytest.mark.usefixtures("node")
def test_it_is_over_after_cancel_and_two_searches_are_told_apart(live: Any, page: Page) -> None:
    def cancelled() -> Iterator[dict[str, Any]]:
        yield step(0, [1.0])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(live.charted(cancelled(), 5))
    assert (page.told()[-1]["over"], page.told()[-1]["said"]) == (True, "ended early")
    assert live._running == {}
    with live.running():  # a button before there is a step, and then two searches after one another
        begun = page.told()[-1]
        list(live.charted(all_steps([[1.0], [2.0]]), 2))
        list(live.charted(all_steps([[7.0]]), 1))
    assert (begun["step"], begun["over"]) == (-1, False)
    assert page.told()[-1]["run"] != begun["run"]
    assert page.told()[-1]["best"] == [0, 0, 7.0]


@pytest.mark.usefixtures("node")
def test_events_are_rare(live: Any, page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "INTERVAL", 3600.0)
    list(live.charted(all_steps([[float(i)] for i in range(300)]), 300))
    assert len(page.sent) <= 4  # it began, its first step, its end
    assert [point[0] for told in page.told() for point in told["points"]] == list(range(300))


def test_a_long_search_keeps_few_points(live: Any) -> None:
    from provoke.host.curve import POINTS, Curve, Reading

    curve, last = Curve(steps=20_000), 19_999
    for i in range(20_000):
        said = "done" if i == last else ""
        curve.take(Reading(torch.tensor([float(i == 7)] * 40), stopped=said), 0.0)
    told = curve.told()
    assert POINTS // 2 <= len(told["points"]) <= POINTS + 1
    assert told["points"][-1][0] == last
    assert told["best"] == [0, 7, 1.0]  # though that step is drawn no longer
    assert told["images"] == 40
    assert len(told["points"][0]) == 2 + 16


def test_what_has_no_score_has_no_curve(live: Any) -> None:
    from provoke.host.curve import Reading

    assert Reading.of(3) is None
    assert Reading.of({"i": 3}) is None
    found = Reading.of(SimpleNamespace(step={"score": torch.tensor([2.0])}))
    assert found is not None
    assert found.row() == ([2.0], None)
    boundless = Reading(torch.tensor([1.0]), torch.tensor([3.0]), limit=1e6)
    assert boundless.row() == ([1.0], None)


def test_outside_of_a_server_nothing_is_told(live: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "server", raising=False)
    assert len(list(live.charted(all_steps([[0.0], [1.0]]), 2))) == 2
    live.register_curves_route()
