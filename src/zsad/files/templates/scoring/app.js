// The page: which images there are, which one is looked at, and what happens when a person does something.

import { connectCamera } from "./camera.js";
import { connectDecision } from "./decision.js";
import { csvText, save, zip } from "./files.js";
import { chosen, dropped, onDrop } from "./gather.js";
import { connectKeys, connectTheme } from "./keys.js";
import { connectLearning } from "./learning.js";
import { createList } from "./list.js";
import { connectProgress } from "./progress.js";
import { counted, promiseSentences } from "./promise.js";
import { createStage, thumbnail } from "./stage.js";
import { askToken } from "./token.js";
import { verdictOf } from "./verdict.js";

const find = (id) => document.getElementById(id);
const page = JSON.parse(find("page").dataset.page);
const table = page.colours;

const state = {
  items: [],
  current: null,
  pinned: null, // the image that others are compared with
  models: [],
  model: null,
  byHand: null, // a threshold that a person has set
  get threshold() {
    return state.byHand ?? state.model?.threshold ?? null;
  },
  verdict(item) {
    if (item.status !== "done") return item.status;
    if (state.threshold === null) return "undecided";
    return item.score >= state.threshold ? "anomalous" : "normal";
  },
};
let scorer = null;
let run = null; // stops whatever is going on

const stage = createStage(find, table, (item) => scorer.overlay?.(item, { model: state.model.name }) ?? null);
const list = createList(find, { choose, markGood, reorder: refresh });
const showDecision = connectDecision(find, (value) => {
  state.byHand = value;
  refresh();
});
const learning = connectLearning(find, () => state.items.filter((item) => item.isGood), learn);
const progress = connectProgress(find, { cancel, resume });

// What is seen

let isDue = false;
function refresh() {
  if (isDue) return;
  isDue = true;
  requestAnimationFrame(() => {
    isDue = false;
    const isBare = state.items.length === 0;
    for (const id of ["stage", "list"]) find(id).hidden = isBare;
    find("empty").hidden = !isBare;
    find("columns").classList.toggle("bare", isBare);
    find("list-count").textContent = counted(state.items.length, "image");
    list.show(list.ordered(state.items), state);
    showDecision(state.items.filter((item) => item.status === "done").map((item) => item.score), state.model, state.byHand);
    learning.show();
    showVerdict();
    progress.showStopped(state.items.filter((item) => item.status === "stopped").length);
    find("compare").setAttribute("aria-pressed", String(state.pinned !== null));
  });
}

function showVerdict() {
  if (!state.current) return;
  const { kind, word, reason } = verdictOf(state.current, state);
  find("verdict").className = `verdict-line ${kind}`;
  find("verdict-symbol").setAttribute("href", `#sign-${kind}`);
  find("to-learning").hidden = kind !== "undecided" || state.model.cannot_fit !== null;
  // The same words again would be read out again.
  for (const [id, text] of [["verdict-word", word], ["verdict-reason", reason]]) {
    if (find(id).textContent !== text) find(id).textContent = text;
  }
}

function showImages() {
  if (state.current) stage.show([...new Set([state.pinned, state.current])].filter(Boolean));
}

function choose(item) {
  state.current = item;
  showImages();
  refresh();
  list.scrollTo(item);
}

function move(steps) {
  const ordered = list.ordered(state.items);
  const next = ordered[ordered.indexOf(state.current) + steps];
  if (next) choose(next);
}

function markGood(item) {
  item.isGood = !item.isGood;
  refresh();
}

function compare() {
  state.pinned = state.pinned ? null : state.current;
  showImages();
  refresh();
}

function complain(text) {
  find("trouble").textContent = text;
  find("trouble").hidden = !text;
}

// Images come and go

function add(images) {
  if (!images.length) return;
  complain("");
  const items = images.map(({ name, blob }) => ({
    name, blob, status: "waiting", score: null, error: null, row: null, readMap: null, thumbnail: null, isGood: false,
  }));
  state.items.push(...items);
  choose(items[0]);
  scoreWaiting();
}

function remove(items) {
  const gone = new Set(items);
  const ordered = list.ordered(state.items);
  const place = ordered.indexOf(state.current);
  state.items = state.items.filter((item) => !gone.has(item));
  for (const item of gone) if (item.thumbnail) URL.revokeObjectURL(item.thumbnail);
  if (gone.has(state.pinned)) state.pinned = null;
  if (gone.has(state.current)) {
    state.current = ordered.slice(place).concat(ordered.slice(0, place).reverse()).find((item) => !gone.has(item)) ?? null;
    showImages();
  }
  refresh();
}

// Scoring

async function scoreWaiting() {
  if (run || !scorer) return; // who scores now takes the new images too
  run = new AbortController();
  const { signal } = run;
  const lanes = Array.from({ length: scorer.parallel }, async () => {
    for (let item = nextWaiting(); item && !signal.aborted; item = nextWaiting()) await scoreItem(item, signal);
  });
  await Promise.all(lanes);
  run = null;
  progress.hide();
  refresh();
}

function nextWaiting() {
  const waiting = state.items.filter((item) => item.status === "waiting");
  progress.show("Scoring", state.items.filter((item) => ["done", "failed"].includes(item.status)).length, state.items.length);
  // The image that a person looks at comes first.
  return waiting.includes(state.current) ? state.current : waiting[0];
}

async function scoreItem(item, signal) {
  item.status = "scoring";
  refresh();
  try {
    const { row, readMap } = await scorer.score(item, { model: state.model.name, signal });
    if (row.error) throw new Error(row.error);
    signal.throwIfAborted();
    if (item.thumbnail) URL.revokeObjectURL(item.thumbnail);
    const url = await thumbnail(item, await readMap(), table);
    Object.assign(item, { status: "done", error: null, score: row.score, row, readMap, thumbnail: url });
  } catch (error) {
    if (signal.aborted) item.status = "stopped";
    else Object.assign(item, { status: "failed", error: error.message, score: null, row: null, readMap: null });
  }
  stage.forget(item);
  if (item === state.current || item === state.pinned) showImages();
  refresh();
}

function cancel() {
  run?.abort();
  for (const item of state.items) if (item.status === "waiting") item.status = "stopped";
  refresh();
}

function resume() {
  for (const item of state.items) if (item.status === "stopped") item.status = "waiting";
  scoreWaiting();
}

function scoreAgain() {
  for (const item of state.items) item.status = "waiting";
  scoreWaiting();
}

// Models and learning

async function loadModels(from) {
  state.models = await from.models();
  const names = state.models.map((model) => model.name);
  const kept = names.includes(state.model?.name) ? state.model.name : names[0];
  find("model").replaceChildren(...names.map((name) => new Option(name, name)));
  find("model").value = kept;
  find("model-choice").hidden = names.length < 2;
  useModel(kept);
}

function useModel(name) {
  state.model = state.models.find((model) => model.name === name);
  const { method, backbone, class_name: className, references } = state.model;
  const product = className === "object" ? "" : className; // what prompts say where nobody has named the product
  find("about").textContent = [method && `${method} on ${backbone}`, product, references && `compares with ${counted(references, "good image")}`]
    .filter(Boolean).join(" · ");
  learning.show(state.model);
}

async function learn(images, rate) {
  if (run) throw new Error("images are being scored: wait until they are done, or cancel");
  run = new AbortController();
  progress.show("Learning", 0, images.length);
  try {
    const found = await scorer.fit(images, {
      model: state.model.name, rate, signal: run.signal, progress: (done, of) => progress.show("Learning", done, of),
    });
    await loadModels(scorer);
    state.byHand = null;
    if (scorer.learnsReferences) for (const item of state.items) item.status = "waiting";
    return learntLines(found, state.model);
  } finally {
    run = null;
    progress.hide();
    refresh();
    scoreWaiting();
  }
}

function learntLines(found, model) {
  const threshold = Number(model.threshold.toPrecision(4));
  return [
    ["", `Learnt from ${counted(found.images.length, "good image")}; the threshold is now ${threshold}.`],
    ["", promiseSentences(model, model.threshold).promise],
    ...found.warnings.map((sentence) => ["warning", sentence]),
    ...found.failed.map(({ name, error }) => ["warning", `${name}: ${error}`]),
  ];
}

// Downloads

function rows() {
  return state.items.map((item) => ({
    name: item.name,
    score: item.score,
    is_anomalous: item.status === "done" && state.threshold !== null ? item.score >= state.threshold : null,
    threshold: state.threshold,
    width: item.row?.width ?? null,
    height: item.row?.height ?? null,
    seconds: item.row?.seconds ?? null,
    error: item.error ?? (item.status === "done" ? null : "not scored"),
  }));
}

async function saveOverlays() {
  const files = [];
  const done = state.items.filter((item) => item.status === "done");
  const own = (run ??= new AbortController());
  try {
    for (const item of done) {
      if (own.signal.aborted) return;
      progress.show("Drawing", files.length, done.length);
      const blob = await stage.overlay(item).catch(() => null); // a file that neither side can show
      if (blob) files.push({ name: `${item.name.replace(/\.[^.]*$/, "")}_overlay.jpg`, blob });
    }
    if (files.length) save("overlays.zip", await zip(files));
  } finally {
    run = null;
    progress.hide();
  }
}

// What a person can do

for (const [button, input] of [["add", "files"], ["add-folder", "folder-files"]]) {
  find(button).addEventListener("click", () => find(input).click());
  find(input).addEventListener("change", (event) => {
    add(chosen(event.target.files));
    event.target.value = "";
  });
}
find("empty").addEventListener("click", () => find("files").click());
onDrop(document.body, add);
document.addEventListener("paste", async (event) => add(event.clipboardData.files.length ? await dropped(event.clipboardData) : []));
connectCamera(
  Object.fromEntries(["open", "video", "shutter", "close", "status"].map((name) => [name, find(`camera-${name}`)]).concat([["dialog", find("camera")]])),
  add,
);
connectKeys(find, {
  move,
  compare,
  toggleHeat: stage.toggleHeat,
  toggleSize: stage.toggleSize,
  markGood: () => state.current && markGood(state.current),
  remove: () => state.current && remove([state.current]),
  escape: () => (run ? cancel() : state.pinned && compare()),
});
connectTheme(find("theme-switch"));
find("compare").addEventListener("click", compare);
find("clear").addEventListener("click", () => {
  cancel();
  remove(state.items);
});
find("model").addEventListener("change", (event) => {
  useModel(event.target.value);
  state.byHand = null;
  learning.forget();
  scoreAgain();
});
find("save-csv").addEventListener("click", () => save("results.csv", new Blob([csvText(rows())], { type: "text/csv" })));
find("save-json").addEventListener("click", () => {
  const { name, method, backbone } = state.model;
  const content = { model: { name, method, backbone }, threshold: state.threshold, results: rows() };
  save("results.json", new Blob([JSON.stringify(content, null, 1)], { type: "application/json" }));
});
find("save-overlays").addEventListener("click", saveOverlays);

async function start() {
  refresh();
  try {
    const opened = await (page.browser ? openBrowser() : openRemote());
    await loadModels(opened);
    scorer = opened; // images that came meanwhile have waited for this
    document.body.dataset.ready = "true";
  } catch (error) {
    complain(`Nothing can be scored: ${error.message}.`);
  }
  progress.hide();
  refresh();
  scoreWaiting();
}

async function openRemote() {
  const { openRemoteScorer } = await import("./remote.js");
  return openRemoteScorer((isWrong) => askToken(find, isWrong));
}

async function openBrowser() {
  const { openBrowserScorer } = await import("./browser.js");
  progress.show("Loading the model", 0, 0);
  const opened = await openBrowserScorer(page.browser.model, page.browser.runtime);
  window.zsadScore = async (blob) => {
    const { row } = await opened.score({ name: "image", blob }, {});
    return { score: row.score, width: row.width, height: row.height };
  };
  return opened;
}

start();
