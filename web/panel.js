// What a node shows of its search: the chart, a line of words, and the button that ends it.
import { Chart, short } from "./chart.js";
import { StopButton } from "./stop.js";

const NAME = "provoke_live";
const HEIGHT = 150; // pixels that it takes on the node
const REPORT = 130; // more, where there is a report
const POINTS = 1024; // then every second one goes
const RECENT = 12; // events whose pace says how long the rest takes

/** "1 min 5 s" @param {number} seconds */
export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  const minutes = Math.floor(whole / 60);
  return minutes < 60 ? `${minutes} min ${whole % 60} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** "07:12", with the date where that is not today's @param {number} seconds since 1970 */
export function moment(seconds) {
  const at = new Date(1000 * seconds);
  const time = at.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
  return at.toDateString() === new Date().toDateString() ? time : `${at.toLocaleDateString()} ${time}`;
}

/** One search, put together from the server's events. */
export class Search {
  /** @param {object} whole as host/live.py's Run.whole has it */
  constructor(whole) {
    Object.assign(this, whole);
    this.points = whole.points.slice();
    this._pace = [];
    this._earlier = whole.over; // it was when this page was told of it
  }

  /** @param {object} news the same without its place, and with the new points only */
  take(news) {
    const { points, ...rest } = news;
    const last = this.points.length ? this.points[this.points.length - 1][0] : -1;
    for (const point of points) if (point[0] > last) this.points.push(point);
    if (this.points.length > POINTS) this.points = this.points.filter((_, index) => index % 2 === 0);
    Object.assign(this, rest);
    this._pace.push([news.step, news.seconds]);
    if (this._pace.length > RECENT) this._pace.shift();
  }

  /** It ended with its server, which told nobody. */
  lose() {
    this.over = true;
    this.said = "lost: the server no longer knows of it";
  }

  /** Seconds that it still takes, by its pace of late; null while that is unknown. */
  left() {
    const begin = this._pace[0];
    const end = this._pace[this._pace.length - 1];
    const steps = this.steps - 1 - this.step;
    if (this.step < 1 || steps < 0) return null;
    if (begin && end[0] > begin[0]) return ((end[1] - begin[1]) / (end[0] - begin[0])) * steps;
    return (this.seconds / (this.step + 1)) * steps;
  }

  /** What is said above the chart. */
  words() {
    if (this.step < 0) return this.over ? this.said : "getting ready";
    const said = [`step ${this.step} of ${this.steps - 1}`];
    if (this.best) {
      const which = this.images > 1 ? `, image ${this.best[0] + 1} of ${this.images}` : "";
      said.push(`best ${short(this.best[2])} (step ${this.best[1]}${which})`);
    }
    if (this.cost) said.push(`${short(this.cost)} model runs a result`);
    const left = this.over ? null : this.left();
    said.push(left === null ? duration(this.seconds) : `${duration(this.seconds)}, about ${duration(left)} left`);
    if (this.over && this.said) said.push(this.said);
    // the node may say other values by now
    if (this._earlier && this.at) said.push(`run of ${moment(this.at)}`);
    return said.join(" · ");
  }
}

/** The widget on one node. */
export class Panel {
  /** @param {object} node of the page's graph */
  constructor(node) {
    this._node = node;
    this._search = null;
    this._due = 0;
    this._words = line("provoke-words");
    this._chart = new Chart();
    this._legend = line("provoke-legend");
    this._stop = new StopButton();
    const foot = document.createElement("div");
    foot.className = "provoke-foot";
    foot.append(this._legend, this._stop.element);
    this.element = document.createElement("div");
    this.element.className = "provoke-live";
    this._report = document.createElement("pre");
    this._report.className = "provoke-report";
    // its text is there to be read and copied: neither moves the node or the view
    for (const kind of ["pointerdown", "wheel"]) this._report.addEventListener(kind, (event) => event.stopPropagation());
    this.element.append(this._words, this._chart.element, foot, this._report);
    // the option keeps it out of what is queued (and so out of the cache's key), the attribute out of the saved
    // workflow, where values are stored by position: it has none
    const height = () => HEIGHT + (this._report.textContent ? REPORT : 0);
    const options = { serialize: false, hideOnZoom: false, getMinHeight: height, getMaxHeight: () => 2 * height() };
    this._widget = node.addDOMWidget(NAME, NAME, this.element, options);
    this._widget.serialize = false;
    keep(node, this._widget);
    node.setDirtyCanvas?.(true, true); // both renderers make room where the node is too small
  }

  /** @param {Search} search drawn from now on; in the next frame, however many events come until then */
  show(search) {
    this._search = search;
    if (!this._due) {
      this._due = requestAnimationFrame(() => {
        this._due = 0;
        this._draw();
      });
    }
  }

  /**
   * Nodes 2.0 draws of a subgraph's node nothing but its inputs, and makes the node anew whenever it is seen again: there
   * the chart is put into the page's node itself. On the canvas the page takes it back to where its widget is.
   */
  mount() {
    if (!this._node.isSubgraphNode?.()) return;
    const nodes2 = globalThis.LiteGraph?.vueNodesMode;
    const drawn = nodes2 ? document.querySelector(`[data-node-id="${this._node.id}"]`) : null;
    if (drawn && !drawn.contains(this.element)) drawn.append(this.element);
    this.element.classList.toggle("provoke-mounted", drawn !== null);
  }

  /** @param {string} report what is said of the search under its chart; "" for nothing */
  _tell(report) {
    if (this._report.textContent === report) return;
    this._report.textContent = report;
    this.element.classList.toggle("provoke-reported", report !== "");
    this._node.setDirtyCanvas?.(true, true);
  }

  _draw() {
    this.mount();
    const { over, step, steps, images, points, best } = this._search;
    const words = this._search.words();
    this._tell(this._search.report ?? "");
    this.element.classList.toggle("provoke-running", !over);
    this._stop.follow(this._search);
    this.element.dataset.step = String(step);
    this._words.textContent = words;
    this._words.title = words;
    this._chart.draw({ steps, images, points, best, words });
    const used = points.length ? points[points.length - 1][1] : null;
    this._legend.textContent = used === null ? "objective: more is better" : `objective; dashed: ${Math.round(100 * used)} % of the budget used`;
  }
}

/** A subgraph's node makes its list of widgets anew from its inputs whenever it is asked: the chart follows them. */
function keep(node, widget) {
  const own = Object.getOwnPropertyDescriptor(node, "widgets");
  if (!node.isSubgraphNode?.() || !own?.get || node.widgets.includes(widget)) return;
  Object.defineProperty(node, "widgets", { ...own, get: () => [...own.get.call(node), widget] });
}

function line(name) {
  const made = document.createElement("div");
  made.className = name;
  return made;
}
