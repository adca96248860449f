"""One command for people who work on Provoke: `python dev.py demo | test | serve | run SCRIPT`.

Needs nothing but Python: it makes its own `.venv`, gets a ComfyUI to work with, and goes on inside that environment.
"""

import sys

if sys.version_info < (3, 10):  # noqa: UP036 - an older Python must get this sentence, not a SyntaxError further down
    sys.exit(
        "Provoke needs Python 3.10 or newer, and this is %d.%d (%s). Run dev.py with a newer one, for example: "  # noqa: UP031
        "python3.12 dev.py" % (sys.version_info[0], sys.version_info[1], sys.executable)
    )

import argparse
import os
import signal
from pathlib import Path
from types import FrameType
from typing import NoReturn

ROOT = Path(__file__).resolve().parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tools import environment  # noqa: E402 - standard library only
from tools.console import DevError, run_child, say  # noqa: E402


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line. What follows `--` goes to pytest (test), to ComfyUI (serve) or to the script (run)."""
    rest: list[str] = []
    if "--" in arguments:
        cut = arguments.index("--")
        arguments, rest = arguments[:cut], arguments[cut + 1 :]
    host = argparse.ArgumentParser(add_help=False)
    host.add_argument(
        "--comfyui",
        metavar="PATH",
        help="use the ComfyUI in this folder (or in COMFYUI_PATH) instead of the pinned one that dev.py gets itself",
    )
    parser = argparse.ArgumentParser(prog="dev.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="demo | test | serve | run")
    demo = commands.add_parser("demo", parents=[host], help="run every template in a real ComfyUI, leave the pictures")
    demo.add_argument("--cpu", action="store_true", help="do not use the GPU even if there is one")
    demo.add_argument("--only", metavar="NAME", help="only templates whose file name contains NAME")
    test = commands.add_parser("test", parents=[host], help="lint, types, import contracts, tests (-- goes to pytest)")
    test.add_argument("--all", action="store_true", help="also the long tests and the older hosts")
    test.add_argument("--no-browser", action="store_true", help="without the tests that drive a Chromium")
    serve = commands.add_parser("serve", parents=[host], help="open the same ComfyUI for a person (-- goes to it)")
    serve.add_argument("--cpu", action="store_true", help="do not use the GPU even if there is one")
    serve.add_argument("--port", type=int, help="port to listen on (default: 8188, or a free one)")
    serve.add_argument("--no-browser", action="store_true", help="do not open the page")
    script = commands.add_parser("run", parents=[host], help="a script of benchmarks/ or tools/ (-- goes to it)")
    script.add_argument("script", metavar="SCRIPT", help="for example benchmarks/untargeted/run.py")
    options = parser.parse_args(arguments)
    options.rest = rest
    if rest and options.command == "demo":
        parser.error("demo takes nothing after --")
    return options


def continue_inside(python: Path) -> int:
    """Run this very command in the environment's Python. Everything made so far is stamped, so it starts at once."""
    command = [str(python), str(ROOT / "dev.py"), *sys.argv[1:]]
    sys.stdout.flush()
    if os.name == "posix":  # one process less to stop; on Windows execv would detach from the console
        os.execv(command[0], command)
    return run_child(command)


def run_script(host: environment.Host, script: str, extra: list[str]) -> int:
    """Run a script of ours in the environment, with ComfyUI named in COMFYUI_PATH and one thread."""
    from tools.scripts import find

    path = find(script)
    settings = {"COMFYUI_PATH": str(host.path), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(ROOT / "tools" / "run.py"), str(path), *extra]
    return run_child(command, env=os.environ | settings)


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def main() -> int:
    options = parse(sys.argv[1:])
    signal.signal(signal.SIGTERM, _terminated)  # so that `finally` stops the server we started
    path = options.comfyui or os.environ.get("COMFYUI_PATH") or None
    everything = options.command == "test" and options.all
    python, hosts = environment.prepare(path, environment.versions(everything, own_host=path is not None))
    if not environment.is_running(python):
        return continue_inside(python)
    if options.command == "test":
        from tools import testing

        return testing.run(hosts, everything, options.rest, browser=not options.no_browser)
    if options.command == "demo":
        from tools import demo

        return demo.run(hosts[0], cpu=options.cpu, only=options.only)
    if options.command == "run":
        return run_script(hosts[0], options.script, options.rest)
    from tools import serve

    return serve.run(hosts[0], cpu=options.cpu, port=options.port, browser=not options.no_browser, extra=options.rest)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except DevError as error:
        say(f"\n{error}", to=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        say("\nStopped.", to=sys.stderr)
        sys.exit(130)
