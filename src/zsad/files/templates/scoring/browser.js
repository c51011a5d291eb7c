// Scores images inside the browser: a worker runs the graph, and no image leaves the machine.

import { mapFromValues, pack } from "./maps.js";
import { alarmsAllowed, thresholdAbove } from "./promise.js";

const CONFIDENCE = 0.95;
const FEWEST_IMAGES = 3;

// `model` is the entry of the page's description with the address of its graph.
export async function openBrowserScorer(model, runtime) {
  const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
  const waiting = new Map();
  let number = 0;
  worker.addEventListener("message", ({ data: { id, error, ...answer } }) => {
    const { resolve, reject } = waiting.get(id);
    waiting.delete(id);
    if (error) reject(new Error(error));
    else resolve(answer);
  });
  worker.addEventListener("error", (event) => {
    event.preventDefault();
    const line = `the scoring program could not start: ${event.message || "a file of the page is missing"}`;
    for (const { reject } of waiting.values()) reject(new Error(line));
    waiting.clear();
  });

  function ask(message, transfer = []) {
    number += 1;
    worker.postMessage({ id: number, ...message }, transfer);
    return new Promise((resolve, reject) => waiting.set(number, { resolve, reject }));
  }

  async function raw(blob) {
    const begin = performance.now();
    const { width, height, score, map } = await ask({ blob });
    return { width, height, score, map, seconds: (performance.now() - begin) / 1000 };
  }

  const absolute = (path) => new URL(path, document.baseURI).href; // onnxruntime-web needs absolute addresses
  await ask({ graph: absolute(model.graph), runtime: absolute(runtime) });

  return {
    parallel: 1,
    learnsReferences: false,
    models: async () => [model],

    async score(image, { signal }) {
      signal?.throwIfAborted();
      const { map, width, height, score, seconds } = await raw(image.blob);
      const row = { name: image.name, score, threshold: model.threshold, width, height, seconds, error: null };
      return { row, readMap: await pack(mapFromValues(map, width, height, model.map_range)) };
    },

    // A threshold from the scores of good images, none of which is a reference: the promise is exact.
    async fit(images, { rate, signal, progress }) {
      const [found, failed] = [[], []];
      for (const image of images) {
        signal?.throwIfAborted();
        try {
          found.push({ name: image.name, score: (await raw(image.blob)).score });
        } catch (error) {
          failed.push({ name: image.name, error: error.message });
        }
        progress(found.length + failed.length, images.length);
      }
      if (found.length < FEWEST_IMAGES) {
        throw new Error(`a threshold needs at least ${FEWEST_IMAGES} good images that can be read, got ${found.length}`);
      }
      const scores = found.map((image) => image.score).sort((first, second) => first - second);
      model.threshold = thresholdAbove(scores, alarmsAllowed(scores.length, rate, CONFIDENCE));
      Object.assign(model, { normal_scores: scores, left_out: 0, confidence: CONFIDENCE, false_alarm_rate: rate });
      return { images: found, outliers: [], warnings: [], failed };
    },
  };
}
