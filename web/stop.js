// Stop and keep the best: a button on a node of ours while its search runs. The host's Cancel would lose what it found.
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const LABEL = "Stop and keep the best";
const SEARCHES = /^Provoke(UntargetedAttack|ClipTargetedAttack|LatentSearch|BestOfSeeds)/;
const SHOWN = 3000; // milliseconds: why a click did nothing
let shown = null; // { node, widget } of the search that runs

function hide() {
  if (!shown) return;
  const { node, widget } = shown;
  shown = null;
  const at = node.widgets?.indexOf(widget) ?? -1;
  if (at >= 0) node.widgets.splice(at, 1);
  node.setDirtyCanvas?.(true, true);
}

// An id within a subgraph is "12:3": node 3 in the graph of node 12.
function find(id) {
  let graph = app.graph;
  let node = null;
  for (const part of String(id).split(":")) {
    node = graph?.getNodeById(Number(part));
    graph = node?.subgraph;
  }
  return node;
}

async function ask(node, widget, id) {
  let trouble = "no answer";
  try {
    const answer = await api.fetchApi("/provoke/stop", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ node: String(id) }),
    });
    if (answer.status === 200) return;
    trouble = answer.status === 404 ? "no search runs in this node" : `answer ${answer.status}`;
  } catch (error) {
    console.error("Provoke:", error);
  }
  say(node, widget, `Not stopped: ${trouble}`);
  setTimeout(() => say(node, widget, LABEL), SHOWN);
}

function say(node, widget, words) {
  widget.label = words;
  node.setDirtyCanvas?.(true, true);
}

function show(id) {
  const node = find(id);
  if (!node || !SEARCHES.test(node.comfyClass ?? "")) return;
  // the option keeps the button out of what is queued (and so out of the cache's key), the attribute out of the saved
  // workflow, where values are stored by position: a button has none
  const widget = node.addWidget("button", LABEL, null, () => ask(node, widget, id), { serialize: false });
  widget.serialize = false;
  shown = { node, widget };
  node.setDirtyCanvas?.(true, true);
}

app.registerExtension({
  name: "provoke.stop",
  setup() {
    api.addEventListener("executing", ({ detail }) => {
      const id = detail?.node ?? detail; // older pages give the id alone
      hide();
      if (id !== null && id !== undefined) show(id);
    });
    for (const end of ["execution_success", "execution_error", "execution_interrupted"]) {
      api.addEventListener(end, hide);
    }
  },
});
