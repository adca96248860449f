"""A real Chromium on the real page, headless: for the browser tests, their screenshots and a benchmark.

Playwright drives the browser that the system has; it never downloads one of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from . import chromium as installed
from .console import DevError
from .server import Client, Server

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page

ARGUMENTS = (
    "--no-sandbox",  # a container's root cannot have one, and only our own server is opened
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-color-profile=srgb",
)
SIZE = (1600, 1000)  # pixels of the page
FRAME = (64, 100, 1520, 840)  # left, top, width, height of what no bar of the page covers
READY = 180.0  # seconds that a cold page may take on a slow machine
CANVAS, NODES_2 = "canvas", "Nodes 2.0"
RENDERERS = (CANVAS, NODES_2)
# What a person has once the first visit is over, and no pop-up that comes when it likes.
SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Release.Status": "skipped",
    "Comfy.Workflow.ShowMissingModelsWarning": False,  # it asks where they could be had
    "Comfy.Minimap.Visible": False,
    "Comfy.Notification.ShowVersionUpdates": False,
    "Comfy.Graph.CanvasInfo": False,
    "LiteGraph.Canvas.MinFontSizeForLOD": 0,  # words are drawn however small they are
}
EARLY = "graph accessed before initialization"
SHOWN = 64  # nodes: what the page's own search box asks for
ENDS = ("execution_success", "execution_error", "execution_interrupted")
STORE = "document.querySelector('#vue-app').__vue_app__.config.globalProperties.$pinia._s.get"


@contextmanager
def chromium() -> Iterator[Browser]:
    """One that runs, without a window and with a profile of its own that is gone afterwards. Raises DevError."""
    program = installed.find()
    if program is None:
        raise DevError(installed.MISSING)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(program), args=list(ARGUMENTS), headless=True)
        try:
            yield browser
        finally:
            browser.close()


def settle(server: Server) -> None:
    """A user's folder and settings as they are after the first visit, so that the page has nothing to ask or miss."""
    user = server.base / "user" / "default"
    for folder in ("workflows", "subgraphs"):
        (user / folder).mkdir(parents=True, exist_ok=True)
    (user / "user.css").touch()
    (user / "comfy.templates.json").write_text("[]", encoding="utf-8")
    configure(server.client(), SETTINGS)


def configure(client: Client, settings: dict[str, Any]) -> None:
    """Set settings of the page, for pages that are opened from now on."""
    client.post("/settings", settings)


class Tab:
    """The page of ComfyUI in one tab, and what it complained of.

    Args:
        browser: from `chromium`. url: of the server. renderer: one of RENDERERS. size: of the page, in pixels.
    """

    def __init__(self, browser: Browser, url: str, renderer: str = CANVAS, size: Sequence[int] = SIZE) -> None:
        self._url = url
        self.complaints: list[str] = []
        self.outside: list[str] = []  # what it asked of other servers
        context = browser.new_context(viewport={"width": size[0], "height": size[1]}, locale="en-US")
        self.page: Page = context.new_page()
        self.page.set_default_timeout(READY * 1000)
        self.page.on("console", self._hear)
        session = context.new_cdp_session(self.page)
        session.on("Runtime.consoleAPICalled", self._trace)
        session.send("Runtime.enable")
        self.page.on("pageerror", lambda error: self.complaints.append(f"uncaught: {error}"))
        self.page.on("request", lambda request: self._look(request.url))
        self.page.goto(url)
        self._ready()
        self.render(renderer)

    def _hear(self, message: ConsoleMessage) -> None:
        # what the host looks for and lacks is its own affair, and so are the models of its default workflow
        where = message.location["url"]
        lacks = "Failed to load resource" in message.text and "/extensions/provoke/" not in where
        host = lacks or "missingModelDownload" in where or EARLY in message.text
        if message.type == "error" and not host:
            self.complaints.append(f"{message.text} ({where})")

    def _trace(self, call: dict[str, Any]) -> None:
        """The page says EARLY of itself as it opens; who asked for the graph tells whether it was the pack."""
        asked = any(
            "/extensions/provoke/" in frame["url"] for frame in call.get("stackTrace", {}).get("callFrames", [])
        )
        said = " ".join(str(word.get("value")) for word in call["args"])
        if asked and EARLY in said:
            self.complaints.append(f"{said} (asked by the pack)")

    def _look(self, url: str) -> None:
        if not url.startswith((self._url, "data:", "blob:")):
            self.outside.append(url)

    def _ready(self) -> None:
        self.page.wait_for_function(
            "() => window.app?.extensionManager?.workflow?.activeWorkflow?.changeTracker && window.app.graph?._nodes"
        )
        self.page.evaluate(
            "(ends) => { window.provokeEnds = []; for (const end of ends)"
            " window.app.api.addEventListener(end, () => window.provokeEnds.push(end)) }",
            ENDS,
        )

    def close(self) -> None:
        """With everything that it stored."""
        self.page.context.close()

    def reload(self) -> None:
        """What F5 does."""
        self.page.wait_for_timeout(1500)  # the page writes its draft a moment after a change
        self.page.reload()
        self._ready()

    def render(self, renderer: str) -> None:
        """Switch to one of RENDERERS."""
        self.set("Comfy.VueNodes.Enabled", renderer == NODES_2)
        self.page.wait_for_timeout(300)

    def set(self, setting: str, value: Any) -> None:
        """As the settings dialog does."""
        self.page.evaluate("([name, value]) => window.app.extensionManager.setting.set(name, value)", [setting, value])

    def load(self, name: str, graph: dict[str, Any]) -> list[str]:
        """Open a workflow in place of the one that is open. Gives the types of nodes that the page does not have."""
        self.page.evaluate(
            """async ([name, graph]) => {
                const workflows = window.app.extensionManager.workflow;
                const before = workflows.activeWorkflow;
                await window.app.loadGraphData(graph, true, true, name);
                if (before && before !== workflows.activeWorkflow) await workflows.closeWorkflow(before);
            }""",
            [name, graph],
        )
        missing: list[str] = self.page.evaluate(
            "() => window.app.graph._nodes.filter((node) => !node.isSubgraphNode?.()"
            " && !(node.type in window.LiteGraph.registered_node_types)).map((node) => node.type)"
        )
        return missing

    def frame(self) -> None:
        """Move the view so that the whole workflow is seen."""
        self.page.evaluate(
            """([left, top, width, height]) => {
                const { canvas, graph } = window.app;
                const groups = graph._groups.map((group) => group._bounding);
                const things = [...graph._nodes.map((node) => node.boundingRect), ...groups];
                const low = (k) => Math.min(...things.map((box) => box[k]));
                const high = (k) => Math.max(...things.map((box) => box[k] + box[k + 2]));
                const [x, y] = [low(0), low(1)];
                const scale = Math.min(width / (high(0) - x), height / (high(1) - y), 1);
                canvas.ds.scale = scale;
                canvas.ds.offset[0] = left / scale - x;
                canvas.ds.offset[1] = top / scale - y;
                canvas.setDirty(true, true);
            }""",
            FRAME,
        )
        self.page.wait_for_timeout(700)  # what is drawn lazily as it comes into view

    def picture(self) -> bytes:
        """What is seen of the workflow, as PNG."""
        left, top, width, height = FRAME
        return self.page.screenshot(clip={"x": left, "y": top, "width": width, "height": height})

    def run(self) -> None:
        """Press Run."""
        self.page.evaluate("() => { window.provokeEnds.length = 0 }")
        self.page.get_by_test_id("queue-button").first.click()

    def ended(self) -> str:
        """How the run that was started last ended; "" while it has not."""
        return str(self.page.evaluate("() => window.provokeEnds[0] ?? ''"))

    def wait_for_end(self, timeout: float = 240.0) -> str:
        """Gives one of ENDS."""
        self.page.wait_for_function("() => window.provokeEnds.length > 0", timeout=timeout * 1000)
        return self.ended()

    def charts(self) -> list[str]:
        """What the charts that are seen say, in words."""
        return [words.inner_text() for words in self.page.locator(".provoke-words").all() if words.is_visible()]

    def wait_for_words(self, words: str, timeout: float = 30.0) -> None:
        """Until a chart that is seen says so."""
        said = self.page.locator(".provoke-words", has_text=words).filter(visible=True)
        said.first.wait_for(timeout=timeout * 1000)

    def wait_for_step(self, step: int, timeout: float = 240.0) -> None:
        """Until the first chart has come that far."""
        self.page.wait_for_function(
            "(step) => Number(document.querySelector('.provoke-live')?.dataset.step ?? -1) >= step",
            arg=step,
            timeout=timeout * 1000,
        )

    def lines(self) -> list[str]:
        """The curves of the first chart, as SVG paths, by image."""
        found: list[str] = self.page.evaluate(
            "() => [...(document.querySelector('.provoke-live')?.querySelectorAll('.provoke-line') ?? [])]"
            ".sort((one, other) => one.dataset.image - other.dataset.image).map((line) => line.getAttribute('d'))"
        )
        return found

    def search(self, words: str) -> list[str]:
        """The ids of the nodes that the page's search shows, the best first."""
        found: list[str] = self.page.evaluate(
            f"(words) => {STORE}('nodeDef').nodeSearchService.searchNode(words, [], {{ limit: {SHOWN} }})"
            ".map((found) => found.name)",
            words,
        )
        return found
