// "These are good ones": good images are collected, and the scorer learns from them.

import { chosen, onDrop } from "./gather.js";
import { counted } from "./promise.js";

const FEWEST = 3;
const ADVISED = 20;

// `marked()`: images of the list that are marked as good. `learn(images, rate)` resolves with what came of it.
export function connectLearning(find, marked, learn) {
  let added = [];

  function take(images) {
    added.push(...images);
    show();
  }

  function show(model) {
    if (model !== undefined) {
      find("learning-off").hidden = model.cannot_fit === null;
      find("learning-off").textContent = model.cannot_fit ?? "";
      find("learning-body").hidden = model.cannot_fit !== null;
    }
    const [here, there] = [marked().length, added.length];
    const parts = [here && `${here} marked in the list`, there && `${there} chosen`].filter(Boolean);
    const count = here + there;
    const advice = count < FEWEST ? `${FEWEST - count} more to go` : count < ADVISED ? `${ADVISED} promise more` : "";
    find("good-count").textContent = count
      ? `${counted(count, "good image")}: ${parts.join(", ")}${advice ? `; ${advice}` : ""}.`
      : "Choose them here, drop them here, or mark images of the list with ✓.";
    find("learn").textContent = count ? `Learn from ${counted(count, "image")}` : "Learn";
    find("learn").disabled = count < FEWEST;
  }

  for (const [button, input] of [["good-add", "good-files"], ["good-folder", "good-folder-files"]]) {
    find(button).addEventListener("click", () => find(input).click());
    find(input).addEventListener("change", (event) => {
      take(chosen(event.target.files));
      event.target.value = "";
    });
  }
  onDrop(find("learning"), (images) => {
    if (!find("learning-body").hidden) take(images);
  });

  find("learn").addEventListener("click", async () => {
    const images = [...marked(), ...added];
    const answer = find("learnt");
    find("learn").disabled = true;
    try {
      const lines = await learn(images, Number(find("rate").value));
      added = [];
      answer.classList.remove("failed");
      answer.replaceChildren(...lines.map(([kind, text]) => line(text, kind)));
      answer.hidden = false;
    } catch (error) {
      if (error.name !== "AbortError") {
        answer.classList.add("failed");
        answer.replaceChildren(line(error.message));
        answer.hidden = false;
      }
    }
    show();
  });

  return { show, forget: () => (find("learnt").hidden = true) };
}

function line(text, className = "") {
  return Object.assign(document.createElement("p"), { textContent: text, className });
}
