// The chart on every node that searches: hears the server's events, and asks for what a reload lost. Which nodes those
// are it learns from the events alone (host/live.py).
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { Panel, Search } from "./panel.js";

const EVENT = "provoke.curve";
const REDRAWN = [500, 2500]; // milliseconds; the second for a page that is busy
const OUTPUT = "provoke_curve";

/** @type {Map<number, Search>} by the server's number: what this page's runs are doing */
const searches = new Map();
/** @type {WeakMap<object, Panel>} by node of the graph that is open */
const panels = new WeakMap();
/** @type {object[]|null} events that came while the server is being asked; null while it is not */
let waiting = null;
/** @type {Set<string>} what it is still to be asked: of which prompt, "" for none in particular */
const questions = new Set();
/** @type {Set<number>} runs whose beginning this page did not hear, and that it has asked about: once is enough */
const askedAbout = new Set();

/** The root of the open workflow; undefined while the page loads (newer pages complain if asked for it then). */
function graph() {
  return app.isGraphReady === false ? undefined : (app.rootGraph ?? app.graph);
}

/**
 * The node, and the subgraphs' nodes that it lies in, as a person sees those. "12:5" is node 5 in the graph of node 12.
 * @param {string} id
 * @returns {object[]} empty where the open workflow has no such node
 */
function along(id) {
  const found = [];
  let inside = graph();
  for (const part of String(id).split(":")) {
    const node = inside?.getNodeById(Number(part)) ?? inside?.getNodeById(part);
    if (!node) return [];
    found.push(node);
    inside = node.subgraph;
  }
  return found;
}

/** @param {Search} search drawn on its nodes, if their workflow is the one that is open */
function show(search) {
  if (search.workflow !== String(graph()?.id ?? "")) return;
  for (const node of along(search.node)) {
    if (!panels.has(node)) panels.set(node, new Panel(node));
    panels.get(node).show(search);
  }
}

/** @param {{workflow: string, node: string}} search @returns {string} the one node that it is of */
function place({ workflow, node }) {
  return `${workflow} ${node}`;
}

/** @param {object} whole a search as far as it is; the one before it in the same node is over */
function begin(whole) {
  for (const [run, search] of searches) if (place(search) === place(whole)) searches.delete(run);
  const search = new Search(whole);
  searches.set(whole.run, search);
  show(search);
}

/** What lies in the nodes' outputs: the page keeps these with the workflow of each tab. */
function withOutputs() {
  return Object.values(app.nodeOutputs ?? {}).flatMap((output) => output?.[OUTPUT] ?? []);
}

/** @param {object} whole a search as the server has it; one that runs the page may have already, with its pace */
function renew(whole) {
  const search = searches.get(whole.run);
  const same = search && !search.over && !whole.over && search.step >= whole.step;
  if (!same) begin(whole);
}

/** @param {object[]} curves what the server has: a search that is not among them has ended with a server before it */
function forget(curves) {
  const known = new Set(curves.map(({ run }) => run));
  for (const search of searches.values()) {
    // it remembers none without a workflow
    if (!search.over && search.workflow && !known.has(search.run)) search.lose();
  }
}

/**
 * Everything that the server knows of the open workflow, as this tab queued it, and what runs in this tab's others.
 * @param {string} prompt that was queued, and of which the server executes not every node; "" for none
 */
async function restore(prompt) {
  const workflow = String(graph()?.id ?? "");
  const query = new URLSearchParams({ client: api.clientId ?? "", workflow, ...(prompt && { prompt }) });
  try {
    const answer = await api.fetchApi(`/provoke/curves?${query}`);
    const curves = answer.status === 200 ? (await answer.json()).curves : null;
    if (curves) forget(curves);
    for (const whole of curves ?? []) renew(whole);
    const held = new Set([...searches.values()].map(place));
    for (const whole of withOutputs()) if (!held.has(place(whole))) begin(whole);
  } catch (error) {
    console.error("Provoke:", error);
  }
  searches.forEach(show); // the nodes may be new ones
}

/** The same, one at a time; what is heard meanwhile comes after it. */
async function ask(prompt = "") {
  questions.add(prompt);
  if (waiting) return;
  waiting = [];
  while (questions.size) {
    const [next] = questions;
    questions.delete(next);
    await restore(next);
  }
  const heard = waiting;
  waiting = null;
  for (const detail of heard) take(detail);
}

/** @param {object} detail of an event; of a search that is not known it says too little */
function take(detail) {
  const search = searches.get(detail.run);
  if (detail.workflow !== undefined) begin(detail);
  else if (search) {
    search.take(detail);
    show(search);
  }
}

/** @param {object} detail of an event. A search that is not known has begun before this page; it is asked for once. */
function hear(detail) {
  if (!waiting && detail.workflow === undefined && !searches.has(detail.run) && !askedAbout.has(detail.run)) {
    askedAbout.add(detail.run);
    ask();
  }
  if (waiting) waiting.push(detail);
  else take(detail);
}

const sheet = document.createElement("link");
sheet.rel = "stylesheet";
sheet.href = new URL("./live.css", import.meta.url).href;
document.head.append(sheet);

// now, not in setup(): the page complains of events that nobody has asked for, and the socket is open already
api.addEventListener(EVENT, ({ detail }) => hear(detail));
api.addEventListener("reconnected", () => ask());
// the host has results of these nodes: no search runs in them, though one may have found what they give out
api.addEventListener("execution_cached", ({ detail }) => {
  if (detail?.nodes?.length) ask(String(detail.prompt_id ?? ""));
});

app.registerExtension({
  name: "provoke.live",
  setup() {
    // into a subgraph and out of it again, or to the other renderer: the page draws its nodes a moment later
    const redraw = () => searches.forEach(show);
    const again = () => REDRAWN.forEach((wait) => setTimeout(redraw, wait));
    app.canvas.canvas.addEventListener("litegraph:set-graph", again);
    app.ui?.settings?.addEventListener?.("Comfy.VueNodes.Enabled.change", again);
  },
  afterConfigureGraph() {
    ask();
  },
});
