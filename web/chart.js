// A small line chart without a library: the objective of a search over its steps, a line an image, and how much of the
// budget is used.

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 4000; // of the view box, which is stretched to what the node has: fine enough for whole numbers
const HEIGHT = 1000;
const MARGIN = 40;
const DRAWN = 160; // points of a line: more than a node's pixels show is time lost in every event
// Equally light, halfway between both themes' grounds: each has a contrast of more than 3 with either. Further lines
// have the same again, dashed.
const COLOURS = ["#2186df", "#d2641a", "#25965a", "#c85bab", "#a17f0d", "#8571eb", "#e15358", "#1c919d"];

/**
 * @typedef {object} Drawn
 * @property {number} steps how many are expected
 * @property {number} images how many are searched for, of which there may be fewer lines
 * @property {Array<Array<number|null>>} points step, share of the budget, and a score for each line
 * @property {Array<number>|null} best image, step and score of the best so far
 * @property {string} words what is said of it, for who does not see it
 */

/** @returns {SVGElement} with attributes */
function svg(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

/**
 * Lowest and highest score of all lines, a little apart where all are the same.
 * @param {Drawn["points"]} points
 * @returns {[number, number]|null} null where there is no score
 */
export function range(points) {
  let low = Infinity;
  let high = -Infinity;
  for (const point of points) {
    for (let k = 2; k < point.length; k++) {
      const score = point[k];
      if (score === null) continue;
      if (score < low) low = score;
      if (score > high) high = score;
    }
  }
  if (low > high) return null;
  const apart = Math.max(Math.abs(high), 1e-6) * 1e-3;
  return high - low < apart ? [low - apart, high + apart] : [low, high];
}

/**
 * @param {Drawn["points"]} points
 * @param {number} column which entry of a point
 * @param {(step: number) => number} x
 * @param {(value: number) => number} y
 * @returns {string} an SVG path, broken where a value is missing
 */
export function path(points, column, x, y) {
  let made = "";
  let pen = "M";
  for (const point of points) {
    const value = point[column];
    if (value === null || value === undefined) {
      pen = "M";
      continue;
    }
    made += pen + Math.round(x(point[0])) + " " + Math.round(y(value));
    pen = "L";
  }
  return made;
}

/**
 * @param {Drawn["points"]} points
 * @returns {Drawn["points"]} few of them, evenly, the last always
 */
export function thinned(points) {
  if (points.length <= DRAWN) return points;
  const apart = Math.ceil(points.length / DRAWN);
  const last = points.length - 1;
  return points.filter((_, index) => index % apart === 0 || index === last);
}

/** Numbers as a person reads them: three digits, no more. */
export function short(value) {
  return String(Number(Number(value).toPrecision(3)));
}

/** @param {number} k of which image @returns {SVGElement} its line, and what a pointer on it is told */
function line(k) {
  const again = k >= COLOURS.length ? " provoke-again" : "";
  const made = svg("path", { class: "provoke-line" + again, stroke: COLOURS[k % COLOURS.length], "data-image": k });
  made.append(svg("title", {}));
  return made;
}

/** The chart, as an element that fills its parent. */
export class Chart {
  constructor() {
    this.element = document.createElement("div");
    this.element.className = "provoke-plot";
    this._svg = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
    this._distance = svg("path", { class: "provoke-distance" });
    this._best = svg("path", { class: "provoke-best-point" });
    this._lines = svg("g", {});
    /** @type {SVGElement[]} by image; on the page the best one is the last, so that none covers it */
    this._drawn = [];
    this._svg.append(this._distance, this._lines, this._best);
    this._high = document.createElement("span");
    this._low = document.createElement("span");
    this._high.className = "provoke-high";
    this._low.className = "provoke-low";
    this.element.append(this._svg, this._high, this._low);
  }

  /** @param {Drawn} curve */
  draw({ steps, images, points: all, best, words }) {
    const points = thinned(all);
    const scores = range(points);
    // the best may be one that is not drawn
    if (scores && best) scores[1] = Math.max(scores[1], best[2]);
    const last = points.length ? points[points.length - 1][0] : 0;
    const end = Math.max(steps - 1, last, 1);
    const inside = HEIGHT - 2 * MARGIN;
    const x = (step) => MARGIN + ((WIDTH - 2 * MARGIN) * step) / end;
    const y = (low, high) => (value) => HEIGHT - MARGIN - (inside * (value - low)) / (high - low);
    const level = scores ? y(...scores) : () => HEIGHT / 2;
    const count = points.length ? points[0].length - 2 : 0;
    while (this._drawn.length > count) this._drawn.pop().remove();
    while (this._drawn.length < count) this._drawn.push(this._lines.appendChild(line(this._drawn.length)));
    this._drawn.forEach((drawn, k) => {
      const isBest = best !== null && best[0] === k;
      drawn.setAttribute("d", path(points, k + 2, x, level));
      drawn.classList.toggle("provoke-best", isBest);
      if (isBest && drawn !== this._lines.lastChild) this._lines.append(drawn);
      const title = `image ${k + 1} of ${images}`;
      if (drawn.firstChild.textContent !== title) drawn.firstChild.textContent = title;
    });
    this._svg.setAttribute("aria-label", `The objective of each image, step by step: ${words}`);
    this._distance.setAttribute("d", path(points, 1, x, y(0, Math.max(1, ...points.map((point) => point[1] ?? 0)))));
    // a line of no length with round ends is a dot that stretching leaves round
    const at = best && scores ? `M${Math.round(x(best[1]))} ${Math.round(level(Math.max(best[2], scores[0])))}h1` : "";
    this._best.setAttribute("d", at);
    this._high.textContent = scores ? short(scores[1]) : "";
    this._low.textContent = scores ? short(scores[0]) : "";
  }
}
