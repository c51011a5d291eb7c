// Scores images on the server that handed out the page.

import { readPng16 } from "./maps.js";
import { recall, remember } from "./remember.js";

const PARALLEL = 4; // requests at once; the server joins them to batches
const BUSY = [429, 503];
const LONGEST_PAUSE = 30; // seconds
const MOST_TRIES = 60;

// `askToken(isWrong)` resolves with the token that a person types, or null.
export function openRemoteScorer(askToken) {
  let token = recall("sessionStorage", "zsad-token");
  let asking = null;

  async function request(path, options = {}) {
    for (let tries = 1; ; tries += 1) {
      const headers = token ? { Authorization: `Bearer ${token}` } : {};
      const used = token;
      const response = await reach(path, { ...options, headers });
      if (response.status === 401) {
        if (used === token && !(await newToken(used !== null))) throw new Error("the server wants a token: reload the page and type it");
      } else if (BUSY.includes(response.status) && tries < MOST_TRIES) {
        await pause(Number(response.headers.get("Retry-After")) || 1, options.signal);
      } else return response;
    }
  }

  // One question at a time, however many requests have been refused.
  async function newToken(isWrong) {
    asking ??= askToken(isWrong).finally(() => (asking = null));
    token = await asking;
    if (token) remember("sessionStorage", "zsad-token", token);
    return Boolean(token);
  }

  return {
    parallel: PARALLEL,
    learnsReferences: true,

    async models() {
      const answer = await json(await request("v1/models"));
      return answer.models;
    },

    async score(image, { model, signal }) {
      const found = await predict(image, model, "map=png16", signal);
      const { map, overlay: _, ...row } = found;
      if (row.error) return { row };
      const file = new Blob([fromBase64(map)]); // which the browser may move out of memory
      return { row, readMap: async () => readPng16(new Uint8Array(await file.arrayBuffer())) };
    },

    // The heat map over the image, drawn by the server, for kinds of files that the browser cannot show.
    async overlay(image, { model, signal }) {
      const found = await predict(image, model, "overlay=png", signal);
      return new Blob([fromBase64(found.overlay)], { type: "image/png" });
    },

    async fit(images, { model, rate, signal }) {
      const form = await formOf(images);
      form.append("rate", rate);
      return json(await request(`v1/fit?model=${encodeURIComponent(model)}`, { method: "POST", body: form, signal }));
    },
  };

  async function predict(image, model, wish, signal) {
    const form = await formOf([image]);
    const path = `v1/predict?${wish}&model=${encodeURIComponent(model)}`;
    const answer = await json(await request(path, { method: "POST", body: form, signal }));
    return answer.results[0];
  }
}

// A file that has changed since it was chosen would fail like a server that is gone.
async function formOf(images) {
  const form = new FormData();
  for (const { name, blob } of images) {
    await blob.slice(0, 1).arrayBuffer().catch(() => {
      throw new Error(`${name} has changed or is gone since it was added: add it again`);
    });
    form.append("file", blob, name);
  }
  return form;
}

async function reach(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("the server does not answer: is it running?");
  }
}

// The answer, or an error with the server's own line.
async function json(response) {
  const answer = await response.json().catch(() => null);
  if (response.ok && answer) return answer;
  const line = answer?.results?.[0]?.error ?? answer?.error ?? answer?.detail;
  throw new Error(typeof line === "string" ? line : `the server answers ${response.status} ${response.statusText}`);
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * Math.min(seconds, LONGEST_PAUSE));
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}

function fromBase64(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}
