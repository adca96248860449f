"""What the page hears of a search while it runs, and what it can ask for after a reload.

One event, only to the client that queued the prompt: `provoke.curve`. A search's first says where it belongs (client,
workflow, node) and gives it a number; those after it have the number and what is new, at most every INTERVAL. GET
/provoke/curves?client=...&workflow=... gives the last curve of every node of that client's workflow, running or over,
and what that client has running elsewhere.

A node whose result the host still has is not executed again, by whomever it was queued: with &prompt=... it has the
curve of the search that its result came from.
"""

from __future__ import annotations

import copy
import itertools
import logging
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from comfy_execution.utils import get_executing_context

from . import recipe
from .curve import Curve, Reading

EVENT = "provoke.curve"
OUTPUT = "provoke_curve"  # in the node's `ui` output
ROUTE = "/provoke/curves"
INTERVAL = 0.2  # seconds between two events of a search
KEPT = 64  # searches that a page can still ask for: about a megabyte

LOG = logging.getLogger(__name__)

S = TypeVar("S")
K = TypeVar("K")

# From the time on, in milliseconds, which JavaScript has exactly: pages outlive the server, and one that began at 1
# again would give numbers that they know to other searches.
_numbers = itertools.count(time.time_ns() // 1_000_000)
_running: dict[str, Run] = {}  # by node id; a prompt runs one node at a time
_ended: list[Run] = []  # the one that ended last, until its node's output takes it along
_last: OrderedDict[tuple[str, str, str], Run] = OrderedDict()  # by client, workflow and node
_results: OrderedDict[str, Run] = OrderedDict()  # those that came to a result, by what decides it (recipe.keys)
_lock = threading.RLock()  # pages ask while the executor searches


def running_node() -> str:
    """The node that the host's executor is at; outside of it (scripts, tests) it is ""."""
    context = get_executing_context()
    return "" if context is None else str(context.node_id)


def page_server() -> Any:
    """The host's server, if this process has one, else None."""
    # the server imports the packs, never the other way round
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)


class Run:
    """One search of a node, and what its client has been told of it."""

    def __init__(self, node: str) -> None:
        context, server = get_executing_context(), page_server()
        self.node, self.number, self.curve = node, next(_numbers), Curve()
        self.report = ""  # what is said of it once it is over, where the node has no output for that
        self.prompt = "" if context is None else str(context.prompt_id)
        self.client: str | None = getattr(server, "client_id", None)
        self.workflow = _workflow_of(server, self.prompt)
        self._at, self._began = int(time.time()), time.monotonic()
        self._told, self._due = -1, self._began

    def whole(self) -> dict[str, Any]:
        """Everything, for JSON."""
        place = {"run": self.number, "prompt": self.prompt, "workflow": self.workflow, "node": self.node}
        return {**place, "at": self._at, **self.curve.told(), "report": self.report}

    def begin(self) -> None:
        """Tell its client, and remember it for a page that asks later."""
        self.keep()
        self._send(self.whole())

    def keep(self) -> None:
        """Remember it as the last of its client's node."""
        if self.client is not None and self.workflow:
            _keep(_last, (self.client, self.workflow, self.node), self)

    def again(self, client: str, workflow: str, node: str, prompt: str) -> Run:
        """The same search, over, as what another prompt's node has its result from."""
        made = copy.copy(self)
        made.number, made.client, made.workflow, made.node, made.prompt = next(_numbers), client, workflow, node, prompt
        return made

    def start(self, steps: int) -> None:
        """Steps begin, so many as far as is known. Those of an earlier search of the same node are gone."""
        again, self.curve = self.curve.step >= 0, Curve(steps=steps)
        if again:
            self.number, self._told, self.report = next(_numbers), -1, ""
            self.begin()

    def take(self, step: object) -> None:
        """A step more; told at once, or with those that come before the next event is due."""
        reading = Reading.of(step)
        now = time.monotonic()
        if reading is not None:
            self.curve.take(reading, now - self._began)
        if now >= self._due:
            self._due = now + INTERVAL
            self._news()

    def end(self, said: str) -> None:
        """Tell that it is over. said: why, where its last step does not say."""
        self.curve.over = True
        self.curve.said = self.curve.said or said
        self._news()

    def _news(self) -> None:
        report = {"report": self.report} if self.curve.over else {}
        self._send({"run": self.number, **self.curve.told(since=self._told), **report})
        self._told = self.curve.step

    def _send(self, data: dict[str, Any]) -> None:
        server = page_server()
        if server is not None and self.client is not None:  # None would be everybody
            server.send_sync(EVENT, data, self.client)


@contextmanager
def running() -> Iterator[Run]:
    """Within: the running node searches, and its page shows it. A search within one is the same."""
    node = running_node()
    if node in _running:
        yield _running[node]
        return
    run = _running[node] = Run(node)
    said = "ended early"  # by Cancel, or by an error that the host tells
    try:
        run.begin()
        yield run
        said = "done"
    finally:
        del _running[node]
        run.end(said)
        if run.curve.step >= 0:
            recipe.searched(run.curve.facts())
            key = recipe.keys(run.prompt).get(node)
            if key is not None and said == "done":
                _keep(_results, key, run)
        _ended[:] = [run]


def number(node: str) -> int | None:
    """Of the search that runs in a node now, as its page knows it."""
    run = _running.get(node)
    return None if run is None else run.number


def reported(report: str) -> None:
    """For a search whose node has no output for a report (a SAMPLER's runs in the host's own node): the running node
    shows it beneath its chart, and the host's log has it."""
    with running() as run:
        run.report = report
        LOG.info("Provoke, node %s:\n%s", run.node, report)


def taken() -> dict[str, Any] | None:
    """For the `ui` output of the running node: the curve of the search that it has just ended, once. None without."""
    context = get_executing_context()
    if not _ended or context is None or (_ended[0].prompt, _ended[0].node) != (context.prompt_id, context.node_id):
        return None
    return {OUTPUT: [_ended.pop().whole()]}


def charted(steps: Iterator[S], total: int) -> Generator[S, None, None]:
    """The same steps, each drawn on the running node first. total: how many are expected."""
    with running() as run:
        run.start(total)
        for step in steps:
            run.take(step)
            yield step


def _workflow_of(server: Any, prompt: str) -> str:
    """The id of the page's workflow that a prompt was queued from; "" where there is none."""
    queue = getattr(server, "prompt_queue", None)
    for item in list(getattr(queue, "currently_running", {}).values()):
        if item[1] == prompt:
            workflow = (item[3].get("extra_pnginfo") or {}).get("workflow") or {}
            return str(workflow.get("id") or "")
    return ""


def cached(client: str, prompt: str) -> None:
    """From now on the nodes of a prompt that are not executed, because the host has their results, have the curves that
    these came from. Not a node whose last curve that is already, and none that this prompt has begun to search in."""
    workflow = recipe.workflow(prompt)
    for node, key in recipe.keys(prompt).items():
        with _lock:
            found, last = _results.get(key), _last.get((client, workflow, node))
            if found is None:
                continue
            if last is None or not (last.curve is found.curve or not last.curve.over or last.prompt == prompt):
                found.again(client, workflow, node, prompt).keep()


def _keep(store: OrderedDict[K, Run], key: K, run: Run) -> None:
    with _lock:
        store[key] = run
        store.move_to_end(key)
        while len(store) > KEPT:
            store.popitem(last=False)


def known(client: str, workflow: str) -> list[Run]:
    """For a page: the last search of each node of its workflow, and those that still run in another one of its
    workflows, the latest last. A page that has all of these needs to ask once only."""
    with _lock:
        every = list(_last.items())
    return [run for (whose, where, _), run in every if whose == client and (where == workflow or not run.curve.over)]


def register_curves_route() -> None:
    """GET /provoke/curves?client=...&workflow=... on the host's server, if this process has one.

    Answers {"curves": [...]}, see `known`; with &prompt=..., whose nodes the host has not all executed, see `cached`.
    """
    server = page_server()
    if server is None:
        return
    from aiohttp import web

    @server.routes.get(ROUTE)
    async def answer(request: web.Request) -> web.Response:
        client, prompt = request.query.get("client", ""), request.query.get("prompt", "")
        if client and prompt:
            cached(client, prompt)
        found = known(client, request.query.get("workflow", ""))
        return web.json_response({"curves": [run.whole() for run in found]})
