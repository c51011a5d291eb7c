// The keyboard, the help, and the switch between light and dark.

import { recall, remember } from "./remember.js";

// Keys do nothing while a person types, and Space presses the button that has the focus.
export function connectKeys(find, { move, compare, toggleHeat, toggleSize, markGood, remove, escape }) {
  const actions = {
    ArrowLeft: () => move(-1),
    ArrowRight: () => move(1),
    " ": toggleHeat,
    c: compare,
    z: toggleSize,
    g: markGood,
    o: () => find("files").click(),
    Delete: remove,
    Escape: escape,
    "?": () => find("help").showModal(),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const { target, key } = event;
    if (target.matches("input, select, textarea")) return;
    if (key === " " && target.matches("button, a, summary")) return;
    const action = actions[key.length === 1 ? key.toLowerCase() : key];
    if (!action) return;
    event.preventDefault();
    action();
  });
  find("help-open").addEventListener("click", () => find("help").showModal());
}

// The theme of the system, until a person chooses one; the choice is kept.
export function connectTheme(button) {
  const root = document.documentElement;
  const kept = recall("localStorage", "zsad-theme");
  if (kept) root.dataset.theme = kept;
  button.addEventListener("click", () => {
    const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = isDark ? "light" : "dark";
    remember("localStorage", "zsad-theme", root.dataset.theme);
  });
}
