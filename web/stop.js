// Stop and keep the best: asks the server to end a search early. The host's Cancel would lose what it found.
import { api } from "../../scripts/api.js";

const LABEL = "Stop and keep the best";
const STOPPING = "Stopping after this step";
const SHOWN = 3000; // milliseconds: why a click did nothing

/**
 * @param {{node: string, run: number}} search its node, as the server has it ("12:5" within a subgraph), and its
 *   number: another one may have begun in that node
 * @returns {Promise<string>} "" once the server has taken the request, else why it has not
 */
async function ask({ node, run }) {
  try {
    const answer = await api.fetchApi("/provoke/stop", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ node: String(node), run }),
    });
    if (answer.status === 200) return "";
    return answer.status === 404 ? "this search runs no more" : `answer ${answer.status}`;
  } catch (error) {
    console.error("Provoke:", error);
    return "no answer";
  }
}

/** The button of the search that it follows. */
export class StopButton {
  constructor() {
    this._search = null;
    this._timer = 0;
    this.element = document.createElement("button");
    this.element.type = "button";
    this.element.className = "provoke-stop";
    this.element.title = "Ends the search after this step, and goes on with the best found so far.";
    this.element.addEventListener("pointerdown", (event) => event.stopPropagation()); // or the node would be dragged
    this.element.addEventListener("click", (event) => {
      event.stopPropagation();
      if (this._search) this._press(this._search);
    });
    this._reset();
  }

  /** @param {object} search which a click ends from now on; one that is being stopped stays so until it is over */
  follow(search) {
    const another = this._search?.run !== search.run;
    this._search = search;
    if (another || search.over) this._reset();
  }

  async _press(search) {
    this.element.disabled = true;
    const trouble = await ask(search);
    if (this._search.run !== search.run || this._search.over) return;
    this.element.textContent = trouble ? `Not stopped: ${trouble}` : STOPPING;
    if (trouble) this._timer = setTimeout(() => this._reset(), SHOWN);
  }

  /** As it was before it was pressed. */
  _reset() {
    clearTimeout(this._timer);
    this.element.disabled = false;
    this.element.textContent = LABEL;
  }
}
