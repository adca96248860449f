"""Words on the terminal, and commands whose failure explains itself. Standard library only."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

HEARTBEAT = 15.0  # seconds of silence after which a long command says that it is still alive
KEEP = 15  # last lines of a failed command that are worth showing


class DevError(Exception):
    """Something a person can act on: printed without a traceback."""


def say(text: str, to: TextIO | None = None) -> None:
    """Print one line now, also where the terminal cannot show every character."""
    stream = to or sys.stdout
    print(_printable(text, stream), file=stream, flush=True)


def _printable(text: str, stream: TextIO) -> str:
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


def took(seconds: float) -> str:
    """12.3 -> "12 s", 83 -> "1 min 23 s"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


@contextmanager
def step(what: str) -> Iterator[None]:
    """Announce a step, and say how long it took."""
    say(f"-- {what}")
    start = time.monotonic()
    yield
    say(f"   done in {took(time.monotonic() - start)}")


class Progress:
    """One line that is rewritten on a terminal, and printed now and then where output is a file."""

    def __init__(self, label: str, every: float = 10.0) -> None:
        self._label = label
        self._every = every
        self._live = sys.stdout.isatty()
        self._last = time.monotonic()
        self._width = 0

    def update(self, text: str) -> None:
        """Show `text` after the label."""
        line = f"   {self._label}: {text}"
        if self._live:
            print("\r" + _printable(line.ljust(self._width), sys.stdout), end="", flush=True)
            self._width = len(line)
        elif time.monotonic() - self._last >= self._every:
            self._last = time.monotonic()
            say(line)

    def close(self) -> None:
        """Clear the line, so that the next one starts on its own."""
        if self._live and self._width:
            print("\r" + " " * self._width + "\r", end="", flush=True)
        self._width = 0


def run_child(command: Sequence[str], **settings: Any) -> int:
    """Run a command in this terminal to its end, whatever stops us, so that it can clean up. Gives its exit status.

    Ctrl-C reaches it by itself; a SystemExit (SIGTERM, in dev.py) is passed on to it and raised again when it has
    ended. `settings` go to subprocess.Popen; a child that a signal ended counts as 128 + its number, as in a shell.
    """
    sys.stdout.flush()
    child = subprocess.Popen(list(command), **settings)
    asked: SystemExit | None = None
    while True:
        try:
            status = child.wait()
            break
        except KeyboardInterrupt:
            continue
        except SystemExit as error:
            asked = error
            child.terminate()
    if asked is not None:
        raise asked
    return 128 - status if status < 0 else status


class CommandError(DevError):
    """A command ended badly; its own last lines are in the message."""

    def __init__(self, what: str, code: int, tail: Sequence[str], log: Path, check: str) -> None:
        self.tail = list(tail)
        said = "\n".join(f"    {line}" for line in tail) or "    (nothing)"
        super().__init__(
            f"{what} failed (exit status {code}). It said last:\n{said}\n  All of it: {log}\n  To check: {check}"
        )


def run_logged(
    command: Sequence[str],
    *,
    what: str,
    log: Path,
    check: str,
    notable: Callable[[str], str | None] = lambda line: None,
    env: Mapping[str, str] | None = None,
) -> None:
    """Run a command with its output in a log file.

    `notable` picks (and may shorten) the lines that a person wants to see meanwhile; in longer silence a heartbeat
    shows that it is alive. Raises CommandError with the command's last lines and `check`, what a person can look at.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    ended = threading.Event()
    spoke = [start]

    def heartbeat() -> None:
        while not ended.wait(1.0):
            now = time.monotonic()
            if now - spoke[0] >= HEARTBEAT:
                spoke[0] = now
                say(f"   still at it after {took(now - start)}")

    tail: deque[str] = deque(maxlen=KEEP)
    with log.open("a", encoding="utf-8") as file:
        file.write(f"\n$ {' '.join(command)}\n")
        file.flush()
        with subprocess.Popen(
            list(command),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=dict(env) if env is not None else None,
        ) as process:
            alive = threading.Thread(target=heartbeat, daemon=True)
            alive.start()
            try:
                assert process.stdout is not None
                for line in process.stdout:
                    file.write(line)
                    line = line.rstrip()
                    if line:
                        tail.append(line)
                    shown = notable(line)
                    if shown:
                        spoke[0] = time.monotonic()
                        say(f"   {shown}")
                code = process.wait()
            except BaseException:
                process.terminate()
                raise
            finally:
                ended.set()
    if code != 0:
        raise CommandError(what, code, tail, log, check)
