"""A real ComfyUI server with the pack in it, and a client that queues prompts and follows them."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import websocket

from . import pack
from .console import DevError
from .environment import PAGE
from .ports import claim_port
from .server_log import problems

START = 300.0  # seconds a cold start may take: imports alone take 15 on a quiet machine
Prompt = dict[str, dict[str, Any]]
# A server on this machine is never reached through a proxy, whatever http_proxy says.
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


class ServerLost(DevError):
    """The server ended, or could not be reached any more, while a client needed it."""


ARGUMENTS = ("--database-url", "sqlite:///:memory:", "--disable-api-nodes")


def with_page() -> tuple[str, ...]:
    """ARGUMENTS, and the page that PROVOKE_PAGE names, where it does."""
    page = os.environ.get(PAGE)
    return (*ARGUMENTS, *(["--front-end-root", page] if page else []))


class Server:
    """ComfyUI's `main.py` in a base directory of its own with the pack linked into custom_nodes; a context manager.

    `base` None makes a temporary directory that is removed at the end. Raises DevError with the log's last lines when
    the server does not come up, or when somebody listens on `port`.
    """

    def __init__(
        self,
        host: Path,
        *,
        cpu: bool,
        base: Path | None = None,
        port: int | None = None,
        arguments: Sequence[str] = ARGUMENTS,
        root: Path = pack.ROOT,
    ) -> None:
        self._host, self._cpu, self._arguments, self._root = host, cpu, list(arguments), root
        self.port = claim_port(port or 0)
        self._temporary = base is None
        # The name must not hold the pack's own: problems() looks for that in the log.
        self.base = base or Path(tempfile.mkdtemp(prefix="comfy-base-"))
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = self.base / "server.log"
        self.start_seconds = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._link: Path | None = None

    def __enter__(self) -> Server:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start(self) -> None:
        self.base.mkdir(parents=True, exist_ok=True)
        old = self.base / "custom_nodes" / pack.NAME
        pack.unlink(old)
        self._link = pack.link(old.parent, self._root)
        command = [sys.executable, "-u", "main.py", "--base-directory", str(self.base), "--port", str(self.port)]
        command += ["--listen", "127.0.0.1", *(["--cpu"] if self._cpu else []), *self._arguments]
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "PYTHONSAFEPATH")}
        # The pack reaches no network by itself: a library of its that tries fails here, and is seen.
        environment |= {"HF_HUB_OFFLINE": "1", "PYTHONIOENCODING": "utf-8"}
        start = time.monotonic()
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=self._host, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment
            )
        client = Client(self.url)
        while True:
            code = self._process.poll()
            if code is not None:
                raise DevError(f"ComfyUI at {self._host} ended while starting (status {code}).\n{self._tail()}")
            if time.monotonic() - start > START:
                raise DevError(f"ComfyUI at {self._host} did not answer within {START:.0f} s.\n{self._tail()}")
            try:
                client.get("/system_stats", timeout=5)
                break
            except (OSError, ValueError):
                time.sleep(0.25)
        self.start_seconds = time.monotonic() - start

    def wait(self) -> int:
        """Until the server ends by itself."""
        assert self._process is not None
        return self._process.wait()

    def stop(self) -> None:
        """End the process that was started here (by its id), and remove what was made for it."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._link is not None:
            pack.unlink(self._link)
            self._link = None
        if self._temporary:
            shutil.rmtree(self.base, ignore_errors=True)

    def log_text(self) -> str:
        """What the server wrote so far, without colours."""
        text = self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""
        return re.sub(r"\x1b\[[0-9;]*m", "", text)

    def problems(self) -> list[str]:
        """What its log says of the pack's failures and warnings."""
        return problems(self.log_text())

    def client(self) -> Client:
        """Someone who talks to it, and who tells how it ended when it does."""
        return Client(self.url, self._ending)

    def _ending(self) -> str:
        try:
            state = f"It ended with status {self._process.wait(timeout=5)}." if self._process else "It was not started."
        except subprocess.TimeoutExpired:
            state = "Its process still runs."
        return f"{state}\n{self._tail()}"

    def _tail(self) -> str:
        lines = self.log_text().rstrip().splitlines()[-25:]
        return "  Its log ends:\n" + "\n".join(f"    {line}" for line in lines)


class Rejected(Exception):
    """The server refused a prompt. `text` is what a user would read, `body` the server's JSON."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        self.status, self.body = status, body
        error = body.get("error")
        lines = [str(error.get("message", "")) if isinstance(error, dict) else str(error or body)]
        for node, found in body.get("node_errors", {}).items():
            for error in found.get("errors", []):
                lines.append(f"node {node} ({found.get('class_type')}): {error.get('message')} {error.get('details')}")
        self.text = "\n".join(line.strip() for line in lines if line.strip())
        super().__init__(f"{status}: {self.text}")


@dataclass
class Picture:
    """An image that a prompt left behind; `index` and `count` place it among its node's."""

    node: str
    index: int
    count: int
    filename: str
    subfolder: str
    type: str


@dataclass
class Result:
    """How a prompt ended: status "success", "error" or "interrupted", and the `ui` outputs of its nodes."""

    prompt_id: str
    status: str
    outputs: dict[str, dict[str, Any]]
    seconds: float
    error: str = ""
    error_node: str = ""

    @property
    def pictures(self) -> list[Picture]:
        """Every image, node by node."""
        found = []
        for node, output in self.outputs.items():
            lists = [value for key, value in output.items() if key.endswith("images") and isinstance(value, list)]
            images = [image for part in lists for image in part if isinstance(image, dict) and "filename" in image]
            for index, image in enumerate(images):
                place = image["filename"], image.get("subfolder", ""), image.get("type", "output")
                found.append(Picture(node, index, len(images), *place))
        return found

    @property
    def texts(self) -> dict[str, str]:
        """What nodes that show text (Preview Any) showed."""
        return {
            node: "\n".join(str(part) for part in output["text"])
            for node, output in self.outputs.items()
            if output.get("text")
        }


@dataclass
class Event:
    """Something heard while a prompt runs: kind "node" (it began) or "progress" (value of maximum)."""

    kind: str
    node: str
    value: float = 0.0
    maximum: float = 0.0


class Client:
    """Talks to one server over HTTP and websocket. `ending` tells, when it is lost, what became of it."""

    def __init__(self, url: str, ending: Callable[[], str] = lambda: "") -> None:
        self.url = url
        self._ending = ending
        self.id = uuid.uuid4().hex

    def get(self, path: str, timeout: float = 60) -> Any:
        """GET, decoded from JSON."""
        return json.loads(self.read(path, timeout))

    def read(self, path: str, timeout: float = 60) -> bytes:
        """GET, as bytes. Raises urllib's HTTPError (an OSError) on a status that is not 2xx."""
        with _direct(self.url + path, timeout=timeout) as answer:
            return bytes(answer.read())

    def post(self, path: str, body: dict[str, Any] | None = None, timeout: float = 60) -> Any:
        """POST JSON. Raises Rejected with the server's own explanation on status 400."""
        request = urllib.request.Request(
            self.url + path, data=json.dumps(body or {}).encode(), headers={"Content-Type": "application/json"}
        )
        try:
            with _direct(request, timeout=timeout) as answer:
                said = answer.read()
        except urllib.error.HTTPError as error:
            with error:
                said = error.read()
            try:
                explained = json.loads(said)
            except ValueError:
                raise error from None
            raise Rejected(error.code, explained) from None
        return json.loads(said) if said.strip() else None

    def interrupt(self) -> None:
        """What the Cancel button does."""
        self.post("/interrupt")

    def fetch(self, picture: Picture) -> bytes:
        """The file of an image. Raises ServerLost."""
        query = {"filename": picture.filename, "subfolder": picture.subfolder, "type": picture.type}
        with self._reached():
            return self.read("/view?" + urllib.parse.urlencode(query))

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Turn a broken connection into ServerLost; what the server itself answers, and time limits, are no such."""
        try:
            yield
        except (TimeoutError, urllib.error.HTTPError):
            raise
        except (websocket.WebSocketException, http.client.HTTPException, OSError) as error:
            raise ServerLost(f"ComfyUI was lost: {error or type(error).__name__}. {self._ending()}".rstrip()) from None

    def run(
        self,
        prompt: Prompt,
        *,
        timeout: float = 900,
        on_event: Callable[[Event], None] = lambda event: None,
        workflow: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> Result:
        """Queue a prompt and follow it to its end. `on_event` is called from here, and may call `interrupt`.

        What is saved on the way carries `metadata`; `workflow` is short for that of the page.

        Raises Rejected when the server refuses it, TimeoutError when it does not end in time (it is interrupted then),
        ServerLost when the server ends meanwhile.
        """
        with self._reached():
            return self._follow(prompt, timeout, on_event, metadata if workflow is None else {"workflow": workflow})

    def _follow(
        self, prompt: Prompt, timeout: float, on_event: Callable[[Event], None], metadata: dict[str, Any] | None
    ) -> Result:
        address = self.url.replace("http", "ws", 1) + f"/ws?clientId={self.id}"
        place = urllib.parse.urlsplit(self.url)
        # Connected here, as the library would ask a proxy. It closes what it is given.
        direct = socket.create_connection((place.hostname, place.port or 80), timeout=30)
        socket_ = websocket.create_connection(address, timeout=30, socket=direct)
        try:
            # Asked for by the page too: previews then come with the node that they belong to.
            features = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}
            socket_.send(json.dumps(features))
            body: dict[str, Any] = {"prompt": prompt, "client_id": self.id}
            if metadata is not None:
                body["extra_data"] = {"extra_pnginfo": metadata}
            start = time.monotonic()
            prompt_id = self._queue(body)
            result = Result(prompt_id, "", {}, 0.0)
            while not result.status:
                left = start + timeout - time.monotonic()
                if left <= 0:
                    self.interrupt()
                    raise TimeoutError(f"The prompt did not end within {timeout:.0f} s.")
                socket_.settimeout(min(left, 10))
                try:
                    message = socket_.recv()
                except websocket.WebSocketTimeoutException:
                    continue
                self._hear(message, result, on_event)
            result.seconds = time.monotonic() - start
        finally:
            socket_.close()
        result.outputs = self._outputs(prompt_id)
        return result

    def _queue(self, body: dict[str, Any]) -> str:
        """Queue a prompt. The server also takes one of which only a part can run; here that is refused too."""
        answer = self.post("/prompt", body)
        if answer.get("node_errors"):
            self.post("/queue", {"delete": [answer["prompt_id"]]})
            self.post("/interrupt", {"prompt_id": answer["prompt_id"]})
            raise Rejected(200, {"error": {"message": "Only a part of the prompt can run"}, **answer})
        return str(answer["prompt_id"])

    def _hear(self, message: str | bytes, result: Result, on_event: Callable[[Event], None]) -> None:
        """Take in one message: binary ones are previews, the others JSON with a type."""
        if isinstance(message, bytes):
            return
        heard = json.loads(message)
        kind, data = heard["type"], heard.get("data") or {}
        if data.get("prompt_id", result.prompt_id) != result.prompt_id:
            return
        if kind == "executing" and data.get("node") is None and "prompt_id" in data:
            result.status = "success"
        elif kind == "executing" and data.get("node") is not None:
            on_event(Event("node", str(data["node"])))
        elif kind == "progress":
            on_event(Event("progress", str(data.get("node")), data["value"], data["max"]))
        elif kind == "execution_error":
            result.status, result.error_node = "error", str(data.get("node_id", ""))
            result.error = f"{data.get('exception_type')}: {data.get('exception_message')}"
        elif kind == "execution_interrupted":
            result.status = "interrupted"

    def _outputs(self, prompt_id: str) -> dict[str, dict[str, Any]]:
        """The `ui` outputs from the history, which is written just after the last message."""
        for _ in range(40):
            history = self.get(f"/history/{prompt_id}")
            if prompt_id in history:
                return dict(history[prompt_id].get("outputs", {}))
            time.sleep(0.05)
        return {}
