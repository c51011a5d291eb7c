// The threshold: a slider over the histogram of the scores, and what it promises.

import { counted, promiseSentences } from "./promise.js";

const BINS = 48;
const SVG = "http://www.w3.org/2000/svg";

// `change(value)` gets a threshold set by hand; null goes back to the model's.
export function connectDecision(find, change) {
  const [slider, field, svg] = [find("slider"), find("threshold"), find("histogram")];
  const bars = Array.from({ length: BINS }, (_, index) => shape("rect", { x: index + 0.06, width: 0.88 }));
  const rugs = document.createElementNS(SVG, "g");
  const mark = shape("line", { y1: -6, y2: 100 });
  svg.append(...bars, rugs, mark);

  slider.addEventListener("input", () => change(Number(Number(slider.value).toPrecision(4))));
  field.addEventListener("input", () => {
    if (field.value === "") change(null);
    else if (Number.isFinite(field.valueAsNumber)) change(field.valueAsNumber);
  });
  find("reset").addEventListener("click", () => change(null));

  // scores: of all images; model: with its threshold and the scores of its good images; byHand: a threshold or null
  return function show(scores, model, byHand) {
    const threshold = byHand ?? model?.threshold ?? null;
    const good = model?.normal_scores ?? [];
    find("decision").hidden = !scores.length && threshold === null;
    const [low, high] = histogramRange([...scores, ...good, ...(threshold === null ? [] : [threshold])]);
    const place = (score) => ((score - low) / (high - low)) * BINS;

    const counts = new Array(BINS).fill(0);
    for (const score of scores) counts[Math.min(BINS - 1, Math.max(0, Math.floor(place(score))))] += 1;
    const tallest = Math.max(...counts, 1);
    bars.forEach((bar, index) => {
      const height = counts[index] ? Math.max(4, (100 * counts[index]) / tallest) : 0;
      set(bar, { y: 100 - height, height });
      bar.classList.toggle("over", threshold !== null && low + ((index + 0.5) / BINS) * (high - low) >= threshold);
    });
    rugs.replaceChildren(...good.map((score) => shape("line", { x1: place(score), x2: place(score), y1: 102, y2: 110, class: "rug" })));
    set(mark, { x1: place(threshold ?? low), x2: place(threshold ?? low), visibility: threshold === null ? "hidden" : "visible" });

    set(slider, { min: low, max: high });
    slider.value = threshold ?? high;
    slider.classList.toggle("unset", threshold === null);
    // While a person types, the field keeps what was typed.
    if (document.activeElement !== field) field.value = threshold === null ? "" : Number(threshold.toPrecision(4));
    find("low").textContent = short(low);
    find("high").textContent = short(high);
    find("axis").textContent = good.length ? `image score · ticks: ${good.length} good` : "image score";
    const own = model?.threshold ?? null;
    find("reset").hidden = byHand === null;
    find("reset").textContent = own === null ? "No threshold" : `Back to ${short(own)}`;

    const over = scores.filter((score) => threshold !== null && score >= threshold).length;
    find("flagged").textContent = threshold === null ? "" : `${over} of ${counted(scores.length, "image")} anomalous`;
    find("promise").textContent = promiseText(model, threshold);
    svg.setAttribute("aria-label", `Histogram of ${counted(scores.length, "image score")} from ${short(low)} to ${short(high)}`);
  };
}

function promiseText(model, threshold) {
  if (threshold === null) {
    return `No threshold yet: ${model?.cannot_fit ? "" : "show it good ones below, or "}move the slider.`;
  }
  if (!model.normal_scores.length) {
    return "Nothing is promised about false alarms, because no good images stand behind this threshold.";
  }
  const { alarms, promise } = promiseSentences(model, threshold);
  return `${alarms} ${promise}`;
}

// The range of the scores plus a margin, inside [0, 1] if they are.
export function histogramRange(scores) {
  if (!scores.length) return [0, 1];
  const [low, high] = scores.reduce(([least, most], score) => [Math.min(least, score), Math.max(most, score)], [Infinity, -Infinity]);
  const margin = Math.max(0.05 * (high - low), 0.005);
  const start = low < 0 ? low - margin : Math.max(0, low - margin);
  const end = high > 1 ? high + margin : Math.min(1, high + margin);
  return [Number(start.toPrecision(4)), Number(end.toPrecision(4))];
}

function short(value) {
  return String(Number(value.toPrecision(4)));
}

function shape(name, attributes) {
  return set(document.createElementNS(SVG, name), attributes);
}

function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}
