// The list of images: small heat map, name, score, verdict, and a mark for good ones.

const ORDERS = {
  added: () => 0,
  high: (first, second) => (second.score ?? -Infinity) - (first.score ?? -Infinity),
  low: (first, second) => (first.score ?? Infinity) - (second.score ?? Infinity),
  name: (first, second) => first.name.localeCompare(second.name, undefined, { numeric: true }),
};

// `choose(item)` and `markGood(item)` are called when a person clicks.
export function createList(find, { choose, markGood, reorder }) {
  const list = find("items");
  const rows = new Map();
  find("order").addEventListener("change", reorder);

  function rowOf(item) {
    if (rows.has(item)) return rows.get(item);
    const row = document.createElement("li");
    row.className = "item";
    const pick = Object.assign(document.createElement("button"), { type: "button", className: "pick" });
    const [image, name, facts] = [element("span", "blank"), element("span", "name", item.name), element("span", "facts")];
    name.title = item.name;
    pick.append(image, name, facts);
    pick.addEventListener("click", () => choose(item));
    const mark = Object.assign(document.createElement("button"), { type: "button", className: "mark", textContent: "✓" });
    mark.addEventListener("click", () => markGood(item));
    row.append(pick, mark);
    rows.set(item, { row, pick, image, facts, mark });
    return rows.get(item);
  }

  function fill(item, state) {
    const parts = rowOf(item);
    const isCurrent = item === state.current;
    parts.row.classList.toggle("current", isCurrent);
    parts.row.classList.toggle("failed", item.status === "failed");
    if (isCurrent) parts.pick.setAttribute("aria-current", "true");
    else parts.pick.removeAttribute("aria-current");
    parts.mark.setAttribute("aria-pressed", String(item.isGood));
    parts.mark.setAttribute("aria-label", `${item.name} is a good one`);
    parts.mark.title = "This is a good one (G)";
    const shown = `${item.status} ${item.score} ${state.verdict(item)} ${item.thumbnail}`;
    if (parts.shown === shown) return;
    parts.shown = shown;
    parts.facts.replaceChildren(...factsOf(item, state.verdict(item)));
    if (item.thumbnail && parts.image.src !== item.thumbnail) {
      const image = Object.assign(document.createElement("img"), { src: item.thumbnail, alt: "", decoding: "async" });
      parts.image.replaceWith(image);
      parts.image = image;
    }
  }

  return {
    // The images in the chosen order.
    ordered(items) {
      const compare = ORDERS[find("order").value];
      return items.map((item, place) => [item, place]).sort(([a, i], [b, j]) => compare(a, b) || i - j).map(([item]) => item);
    },

    show(ordered, state) {
      const kept = new Set(state.items);
      for (const item of rows.keys()) if (!kept.has(item)) rows.delete(item);
      for (const item of ordered) fill(item, state);
      const wanted = ordered.map((item) => rows.get(item).row);
      const isSame = wanted.length === list.children.length && wanted.every((row, place) => row === list.children[place]);
      if (!isSame) {
        const focused = document.activeElement;
        list.replaceChildren(...wanted);
        if (list.contains(focused)) focused.focus({ preventScroll: true });
      }
    },

    scrollTo(item) {
      rows.get(item)?.row.scrollIntoView({ block: "nearest" });
    },
  };
}

function factsOf(item, verdict) {
  if (item.status === "failed") return [element("span", "line", item.error)];
  if (item.status !== "done") {
    const words = { waiting: "waiting", scoring: "scoring …", stopped: "not scored" };
    return [element("span", "badge waiting", words[item.status])];
  }
  const score = element("span", "", item.score.toFixed(3));
  if (verdict === "undecided") return [score];
  return [score, element("span", `badge${verdict === "anomalous" ? " over" : ""}`, verdict)];
}

function element(name, className, text = "") {
  return Object.assign(document.createElement(name), { className, textContent: text });
}
