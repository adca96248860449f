"""Words on the terminal, and children that outlive what stops us by as long as they need to clean up."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from provoke.tools import console

ROOT = Path(__file__).resolve().parents[2]

CHILD = """
import signal, sys, time
from pathlib import Path
def stop(number, frame): raise SystemExit(7)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with SIGINT ignored
try:
    Path(sys.argv[1], "up").touch()
    time.sleep(60)
except KeyboardInterrupt:
    sys.exit(9)
finally:
    time.sleep(0.6)  # longer than subprocess.call waits
    Path(sys.argv[1], "clean").touch()
"""
PARENT = """
import signal, sys
sys.path.insert(0, sys.argv[1])
from tools.console import run_child
def stop(number, frame): raise SystemExit(128 + number)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(run_child([sys.executable, "-c", sys.argv[2], sys.argv[3]]))
"""


def test_a_child_gives_its_exit_status() -> None:
    assert console.run_child([sys.executable, "-c", "raise SystemExit(3)"]) == 3


@pytest.mark.skipif(sys.platform == "win32", reason="platform: no signals between processes on Windows")
@pytest.mark.parametrize(("sent", "group", "status"), [("SIGTERM", False, 143), ("SIGINT", True, 9)])
def test_a_child_cleans_up_before_we_end(sent: str, group: bool, status: int, tmp_path: Path) -> None:
    """SIGTERM reaches the parent alone and is passed on; Ctrl-C reaches the whole group."""
    command = [sys.executable, "-c", PARENT, str(ROOT), CHILD, str(tmp_path)]
    with subprocess.Popen(command, start_new_session=True) as parent:
        try:
            for _ in range(600):
                if (tmp_path / "up").exists():
                    break
                threading.Event().wait(0.05)
            number = getattr(signal, sent)
            os.killpg(parent.pid, number) if group else parent.send_signal(number)
            assert parent.wait(timeout=30) == status
        finally:
            parent.kill()
    assert (tmp_path / "clean").exists()


class Terminal(io.TextIOWrapper):
    """One that cannot show every character."""

    def isatty(self) -> bool:
        return True


def test_a_line_that_the_terminal_cannot_show(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", Terminal(written, encoding="ascii"))
    console.say("a → b")
    line = console.Progress("photo")
    line.update("Größe ≤ 3")
    line.close()
    assert b"a ? b" in written.getvalue()
    assert b"photo: Gr??e ? 3" in written.getvalue()
