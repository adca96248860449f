"""From the page's own list, as a person does it: a template out of the Templates dialog, run."""

from __future__ import annotations

from provoke.tools.browser import Tab
from provoke.tools.server import Server

from .test_runs import KIND, NAME, SEEDS

# what a person who is in a hurry changes: the last seed is one that nobody has run
SHORT = """([type, seed]) => {
    const node = window.app.graph._nodes.find((node) => node.type === type);
    for (const [name, value] of [["steps", 2], ["count", 2], ["seed", seed]])
        node.widgets.find((widget) => widget.name === name).value = value;
}"""


def test_a_template_out_of_the_dialog_runs(tab: Tab, server: Server) -> None:
    page = tab.page
    page.get_by_role("button", name="Templates", exact=True).click()
    page.get_by_text("provoke", exact=True).first.click()
    page.get_by_test_id(f"template-workflow-{NAME}").click()
    page.wait_for_function("(type) => window.app.graph._nodes.some((node) => node.type === type)", arg=KIND)
    page.get_by_test_id("template-workflows-content").wait_for(state="detached")
    page.evaluate(SHORT, [KIND, next(SEEDS)])
    tab.frame()
    tab.run()
    assert tab.wait_for_end() == "execution_success"
    tab.wait_for_words("all steps done")
    (said,) = tab.charts()
    assert "step 2 of 2" in said
    pictures = page.evaluate(
        "() => window.app.graph._nodes.filter((node) => node.type === 'SaveImage' || node.type === 'PreviewImage')"
        ".map((node) => (window.app.nodeOutputs[node.id]?.images ?? []).length)"
    )
    assert pictures
    assert all(pictures)
    assert server.problems() == []
