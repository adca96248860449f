// Stop and keep the best: asks the server to end a search early. The host's Cancel would lose what it found.
import { api } from "../../scripts/api.js";

const LABEL = "Stop and keep the best";
const SHOWN = 3000; // milliseconds: why a click did nothing

/**
 * @param {string} id of the node that searches, as the server has it ("12:5" within a subgraph)
 * @returns {Promise<string>} "" once the server has taken the request, else why it has not
 */
async function ask(id) {
  try {
    const answer = await api.fetchApi("/provoke/stop", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ node: String(id) }),
    });
    if (answer.status === 200) return "";
    return answer.status === 404 ? "no search runs in this node" : `answer ${answer.status}`;
  } catch (error) {
    console.error("Provoke:", error);
    return "no answer";
  }
}

/**
 * @param {() => string} node the id of the node that searches now
 * @returns {HTMLButtonElement}
 */
export function stopButton(node) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "provoke-stop";
  button.textContent = LABEL;
  button.title = "Ends the search after this step, and goes on with the best found so far.";
  button.addEventListener("pointerdown", (event) => event.stopPropagation()); // or the node would be dragged
  button.addEventListener("click", async (event) => {
    event.stopPropagation();
    button.disabled = true;
    const trouble = await ask(node());
    button.textContent = trouble ? `Not stopped: ${trouble}` : "Stopping after this step";
    setTimeout(() => reset(button), SHOWN);
  });
  return button;
}

/** As it was before it was pressed. */
function reset(button) {
  button.disabled = false;
  button.textContent = LABEL;
}
