"""*Stop and keep the best* over HTTP, in a real server: the search ends early, its best goes on to the next nodes."""

from __future__ import annotations

from typing import Any

import pytest

from provoke.tools.server import Client, Event, Rejected, Server

from .test_templates import long_run

ROUTE = "/provoke/stop"


def test_the_running_search_ends_and_keeps_its_best(
    server: Server, client: Client, definitions: dict[str, Any], ours: dict[str, Any]
) -> None:
    _, searching, prompt = long_run(definitions, ours)
    outputs = ours[prompt[searching]["class_type"]]["output_name"]
    prompt["said"] = {"class_type": "PreviewAny", "inputs": {"source": [searching, outputs.index("report")]}}
    heard: list[float] = []
    asked: list[float] = []

    def stop_in_the_middle(event: Event) -> None:
        if event.kind == "progress" and event.node == searching:
            heard.append(event.value)
            if len(heard) == 4:
                asked.append(event.value)
                with pytest.raises(Rejected):  # a page's button for a search that was there before
                    client.post(ROUTE, {"node": searching, "run": 1})
                assert client.post(ROUTE, {"node": searching}) == {"stopped": True}

    result = client.run(prompt, on_event=stop_in_the_middle, timeout=300)
    assert result.status == "success", result.error
    assert asked
    # the step that was running, and one that began while the request was on its way
    assert heard[-1] <= asked[0] + 2
    assert "stopped by request, best kept" in "".join(result.texts["said"])
    assert result.pictures
    assert server.problems() == []


def test_a_request_for_nothing_that_runs(client: Client) -> None:
    with pytest.raises(Rejected) as caught:
        client.post(ROUTE, {"node": "4711"})
    assert caught.value.status == 404
    assert "stopped" in caught.value.text


@pytest.mark.parametrize("body", [{"nodes": "1"}, ["1"], {"node": "1", "run": "2"}, {"node": "1", "run": True}, "node"])
def test_another_body_is_refused_in_words(client: Client, body: Any) -> None:
    with pytest.raises(Rejected, match="expected"):
        client.post(ROUTE, body)


def test_the_button_is_served(client: Client) -> None:
    assert ROUTE.encode() in client.read("/extensions/provoke/stop.js")
    assert "/extensions/provoke/stop.js" in client.get("/extensions")
