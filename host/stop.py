"""*Stop and keep the best*: ending a search early, where the host's cancel would lose what it found."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from . import live

ROUTE = "/provoke/stop"

_running: dict[str, threading.Event] = {}  # by node id; a prompt runs one node at a time


@contextmanager
def stoppable() -> Iterator[Callable[[], bool]]:
    """Within: `stop` can end the running node's search. Gives what core.search wants as `should_stop`.

    The node is the one that the host's executor is at; outside of it (scripts, tests) it is "".
    """
    node = live.running_node()
    event = _running[node] = threading.Event()
    try:
        with live.running():  # the page shows its button from here on, before there is a step
            yield event.is_set
    finally:
        if _running.get(node) is event:
            del _running[node]


def stop(node: str, run: int | None = None) -> bool:
    """Asks the search in this node to end with its best so far. False where none is running there: a request for a
    search that is over must not end the next one.

    run: the number of the search that is meant, as its page knows it; without one, whatever runs there now.
    """
    event = _running.get(node)
    if event is None or (run is not None and run != live.number(node)):
        return False
    event.set()
    return True


def register_stop_route() -> None:
    """POST /provoke/stop {"node": id, "run": number} on the host's server, if this process has one.

    Without "run" whatever runs in that node is meant. Answers {"stopped": true}, or 404 where it does not run (any
    more), or 400 for another body.
    """
    server = live.page_server()
    if server is None:
        return
    from aiohttp import web

    @server.routes.post(ROUTE)
    async def answer(request: web.Request) -> web.Response:
        try:
            body = await request.json()
            node, run = body["node"], body.get("run")
        except (ValueError, KeyError, TypeError, AttributeError):
            node = run = None
        if node is None or not (run is None or type(run) is int):
            return web.json_response({"error": 'expected {"node": id}, or {"node": id, "run": number}'}, status=400)
        stopped = stop(str(node), run)
        return web.json_response({"stopped": stopped}, status=200 if stopped else 404)
