"""Run a script of ours as a module of the pack, so that it imports as everything else does: relatively.

python tools/run.py benchmarks/untargeted/run.py [arguments]      (`python dev.py run SCRIPT` does it)
"""

from __future__ import annotations

import runpy
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def main() -> None:
    signal.signal(signal.SIGTERM, _terminated)  # so that `finally` stops what the script started
    sys.path[0] = str(ROOT)
    from tools import pack, scripts

    pack.load()
    sys.path.pop(0)  # the host has modules of its own named `nodes` and so on
    script = scripts.find(sys.argv[1]).relative_to(ROOT)
    del sys.argv[0]
    runpy.run_module(".".join(["provoke", *script.with_suffix("").parts]), run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
