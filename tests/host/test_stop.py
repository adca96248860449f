"""*Stop and keep the best*: a request ends the search that runs, and no other."""

from __future__ import annotations

from types import SimpleNamespace

import pytest


@pytest.fixture(scope="module")
def stop(comfy) -> SimpleNamespace:
    from provoke.host import stop

    return stop


def test_a_request_reaches_the_running_node_only(stop) -> None:
    from comfy_execution.utils import CurrentNodeContext

    assert not stop.stop("7")
    with CurrentNodeContext("prompt", "7"), stop.stoppable() as should_stop:
        assert not should_stop()
        assert not stop.stop("8")
        assert not should_stop()
        assert stop.stop("7")
        assert should_stop()
    assert not stop.stop("7")
    with CurrentNodeContext("prompt", "7"), stop.stoppable() as should_stop:
        assert not should_stop()  # the last request was for the search before


def test_a_request_for_an_earlier_search_of_the_node_does_nothing(stop) -> None:
    from comfy_execution.utils import CurrentNodeContext

    from provoke.host import live

    with CurrentNodeContext("prompt", "7"), stop.stoppable() as should_stop, live.running() as run:
        first = run.number
        run.start(2)
        run.curve.step = 0  # it has begun; the next is another one
        run.start(2)
        assert run.number != first
        assert not stop.stop("7", first)
        assert not should_stop()
        assert stop.stop("7", run.number)
        assert should_stop()
    assert not stop.stop("7", run.number)


def test_outside_of_an_executor(stop) -> None:
    with stop.stoppable() as should_stop:
        assert stop.stop("")
        assert should_stop()
    assert not stop.stop("")


def test_an_error_leaves_nothing_registered(stop) -> None:
    with pytest.raises(RuntimeError, match="broken"), stop.stoppable():
        raise RuntimeError("broken")
    assert not stop.stop("")


def test_without_a_server_there_is_no_route(stop, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.delitem(sys.modules, "server", raising=False)
    stop.register_stop_route()
