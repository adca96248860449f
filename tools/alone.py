"""One process at a time, by a lock of the system's on a file. Standard library only."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from .console import say

if sys.platform == "win32":
    import msvcrt

    def _lock(file: IO[bytes]) -> bool:
        file.seek(0)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
else:
    import fcntl

    def _lock(file: IO[bytes]) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks: as well as it goes
            return True
        return True


@contextmanager
def alone(path: Path, who: str) -> Iterator[None]:
    """Hold the lock of a file, after waiting (and saying so, with `who`) for a process that has it.

    The system takes the lock back from a process that ends in whatever way, so that none is ever left over.
    """
    with path.open("ab") as file:
        waiting = False
        while not _lock(file):
            if not waiting:
                say(f"-- {who}: waiting for it")
                waiting = True
            time.sleep(0.2)
        yield
