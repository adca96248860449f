"""The client against a server of a few lines: proxies, a server that dies, ports; and the demo around it."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from provoke.tools import demo, ports, sheet, templates, workflow
from provoke.tools.console import DevError
from provoke.tools.environment import Host
from provoke.tools.server import Client, Result, Server, ServerLost


class Handler(BaseHTTPRequestHandler):
    """Takes a websocket and a prompt as ComfyUI does, and then hangs up."""

    queued = threading.Event()

    def do_GET(self) -> None:
        if not self.path.startswith("/ws"):
            self.answer({"hello": 1})
            return
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        self.end_headers()
        self.queued.wait(20)
        self.close_connection = True

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer({"prompt_id": "1", "node_errors": {}})
        self.queued.set()

    def answer(self, body: dict[str, Any]) -> None:
        said = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The little server, where everything else would go through a proxy that is dead."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Handler, "queued", threading.Event())
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_a_proxy_is_not_asked_for_this_machine(url: str) -> None:
    assert Client(url).get("/system_stats") == {"hello": 1}
    assert Client(url).post("/prompt", {})["prompt_id"] == "1"


def test_a_server_that_dies_while_a_prompt_runs(url: str) -> None:
    with pytest.raises(ServerLost, match=r"ComfyUI was lost: (?s:.*)It ended with status 3\.") as caught:
        Client(url, lambda: "It ended with status 3.").run({})
    assert Handler.queued.is_set(), caught.value  # it got as far as that, past the proxy


def test_a_server_that_is_gone() -> None:
    with pytest.raises(ServerLost, match="ComfyUI was lost: "):
        Client(f"http://127.0.0.1:{ports.claim_port()}").run({})


def test_a_port_that_somebody_listens_on(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        assert ports.free_port(taken) != taken
        with pytest.raises(DevError, match=rf"Port {taken} on 127\.0\.0\.1 cannot be used"):
            Server(tmp_path, cpu=True, port=taken)
    with pytest.raises(DevError, match="Port 70000"):
        ports.claim_port(70000)


def test_the_port_of_a_server_that_just_ended_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as caller:
            server.accept()[0].close()  # the side that hangs up first keeps the port for a minute
            caller.recv(1)
    assert ports.claim_port(port) == port


class Dying:
    """Stands for the demo's server."""

    url, start_seconds = "http://127.0.0.1:9", 0.0

    def __init__(self, *_arguments: object, **_named: object) -> None:
        pass

    def __enter__(self) -> Dying:
        return self

    def __exit__(self, *_error: object) -> None:
        pass

    def problems(self) -> list[str]:
        return []

    def log_text(self) -> str:
        return "what it wrote"

    def client(self) -> Dying:
        return self

    def get(self, path: str) -> dict[str, Any]:
        return {}


def test_the_demo_keeps_what_it_has_when_the_server_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn: list[Path] = []

    def follow(client: Dying, prompt: object, template: templates.Template) -> Result:
        if template.name != "one":
            raise ServerLost("ComfyUI was lost: gone.")
        return Result("1", "success", {}, 1.0)

    found = [templates.Template(name, {"nodes": []}) for name in ("one", "two", "three")]
    monkeypatch.setattr(demo, "OUTPUT", tmp_path)
    monkeypatch.setattr(demo, "Server", Dying)
    monkeypatch.setattr(demo, "follow", follow)
    monkeypatch.setattr(demo, "collect", lambda *_a: [sheet.Cell(tmp_path / "a.png", "A picture.")])
    monkeypatch.setattr(templates, "load", lambda **_n: found)
    monkeypatch.setattr(workflow, "to_prompt", lambda *_a: {})
    monkeypatch.setattr(sheet, "draw", lambda sections, path: drawn.append(path))
    assert demo.run(Host("1", tmp_path), cpu=True, only=None) == 1
    said = capsys.readouterr().out
    assert "2 of 3 templates failed: two, three" in said
    assert drawn == [tmp_path / "run-001" / "contact-sheet.png"]
    assert (tmp_path / "run-001" / "server.log").read_text() == "what it wrote"
