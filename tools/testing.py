"""`dev.py test`: one pytest per ComfyUI. Lint, types, import contracts are tests too (test_contracts.py).

One pytest for the newest host keeps one summary that counts everything; the tests sort themselves so that what is
quick and needs no host comes first (tests/conftest.py), and two workers take them file by file in that order.
"""

from __future__ import annotations

import os
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import chromium, comfy_cli, environment
from .console import run_child, say, took
from .environment import HOSTS, PAGE, ROOT, Host

REPORTS = HOSTS / "reports"
NO_TESTS = 5  # pytest's exit status
# A worker has a host, a server and a browser of its own (about 4 GiB); `-- -n 1` for one, `-- -n 0` for no worker.
WORKERS = 2


@dataclass(frozen=True)
class Outcome:
    """What one pytest run came to."""

    host: Host
    status: int
    passed: int
    failed: int
    skipped: int
    seconds: float


def run(hosts: Sequence[Host], everything: bool, extra: Sequence[str], *, browser: bool = True) -> int:
    """Run the tests: all of them on the first host, those that depend on a host on the others, each with its own page.
    Gives an exit status.

    browser: whether those in a real browser too, which is installed where it is missing.
    """
    comfy_cli.ensure()
    pages: dict[str, Path] = {}  # of the older hosts; the environment has the first one's
    if browser:
        chromium.ensure()
        pages = {host.version: environment.page_of(host) for host in hosts[1:]}
    else:
        say("   without the tests in a browser (--no-browser)")
        extra = [f"--ignore={ROOT / 'tests' / 'browser'}", *extra]
    outcomes = []
    for number, host in enumerate(hosts):
        say(f"\n-- tests with ComfyUI {host.version} ({host.path})")
        older = ["tests/host", "tests/server", *(["tests/browser"] if browser else [])]
        paths = ["tests"] if number == 0 else older
        page = pages.get(host.version)
        outcomes.append(_pytest(host, [path for path in paths if (ROOT / path).is_dir()], everything, extra, page))
    if len(hosts) > 1:
        _sum_up(outcomes)
    return next((outcome.status for outcome in outcomes if outcome.status), 0)


def _pytest(host: Host, paths: list[str], everything: bool, extra: Sequence[str], page: Path | None) -> Outcome:
    report = REPORTS / f"{host.version}.xml"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", *[str(ROOT / path) for path in paths]]
    command += ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT), f"--junitxml={report}", "--durations=10"]
    # Whole files, in their order: tests of core must come before whatever brings the host into a worker's process.
    command += ["-n", str(workers()), "--dist=loadfile", "--no-loadscope-reorder"]
    command += [*([] if everything else ["-m", "not long"]), *extra]
    variables = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME", PAGE)}
    # One thread: several make small tensors slower, and a loaded machine many times slower.
    variables |= {"COMFYUI_PATH": str(host.path), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    variables |= {PAGE: str(page)} if page else {}
    start = time.monotonic()
    status = run_child(command, cwd=ROOT, env=variables)
    passed, failed, skipped = _counts(report)
    return Outcome(host, status, passed, failed, skipped, time.monotonic() - start)


def workers() -> int:
    """How many processes share the tests: as many as there are cores, two at most."""
    return min(WORKERS, os.cpu_count() or 1)


def _counts(report: Path) -> tuple[int, int, int]:
    """(passed, failed or broken, skipped) from pytest's JUnit file; zeros when there is none."""
    if not report.exists():
        return 0, 0, 0
    totals = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
    for suite in ElementTree.parse(report).getroot().iter("testsuite"):
        for key in totals:
            totals[key] += int(suite.get(key, "0"))
    bad = totals["failures"] + totals["errors"]
    return totals["tests"] - bad - totals["skipped"], bad, totals["skipped"]


def _sum_up(outcomes: Sequence[Outcome]) -> None:
    """The table of hosts, and a last line like pytest's own over all of them."""
    say("")
    for outcome in outcomes:
        state = "ok" if outcome.status == 0 else "NO TESTS" if outcome.status == NO_TESTS else "FAILED"
        say(
            f"   ComfyUI {outcome.host.version:8} {state:8} {outcome.passed:5} passed {outcome.failed:3} failed "
            f"{outcome.skipped:3} skipped  {took(outcome.seconds)}"
        )
    counts = [
        (sum(outcome.failed for outcome in outcomes), "failed"),
        (sum(outcome.passed for outcome in outcomes), "passed"),
        (sum(outcome.skipped for outcome in outcomes), "skipped"),
    ]
    words = ", ".join(f"{count} {word}" for count, word in counts if count or word == "passed")
    seconds = sum(outcome.seconds for outcome in outcomes)
    say(f"===== {words} in {seconds:.2f}s with {len(outcomes)} versions of ComfyUI =====")
