// The image that is looked at, under its heat map; or two of them side by side, on one colour scale.

import { heatPixels, rangeOf } from "./maps.js";

const THUMBNAIL = 104; // pixels: twice the size shown, for dense screens
const OVERLAY_QUALITY = 0.92;

// `table`: 256 colours, [red, green, blue] each. `drawOverlay(item)`: the server's image of a file that the
// browser cannot show, or null.
export function createStage(find, table, drawOverlay) {
  let ticket = 0;
  const look = { heat: true, strength: 0.78, scale: "fixed" };
  const opened = new Map(); // what is on show, with the decoded image and map
  drawLegend(find("legend"), table);

  // Opens what is shown and is not open yet, and forgets the rest.
  async function open(items) {
    const found = await Promise.all(items.map(async (item) => opened.get(item) ?? openItem(item, drawOverlay)));
    return new Map(items.map((item, index) => [item, found[index]]));
  }

  async function show(items) {
    ticket += 1;
    const own = ticket;
    const found = await open(items);
    if (own !== ticket) return; // another image was chosen meanwhile
    opened.clear();
    for (const [item, parts] of found) opened.set(item, parts);
    const maps = Array.from(found.values(), (parts) => parts.map).filter(Boolean);
    const range = chosenRange(maps, look.scale);
    find("views").replaceChildren(...Array.from(found, ([item, parts]) => view(item, parts, range, found.size > 1)));
    applyLook();
    find("legend-low").textContent = range ? `${shortValue(range[0])} normal` : "";
    find("legend-high").textContent = range ? `anomalous ${shortValue(range[1])}` : "";
  }

  function view(item, parts, range, isNamed) {
    const figure = element("figure", "view");
    if (!parts.picture) {
      figure.append(element("p", "missing", parts.reason));
      return figure;
    }
    const layers = element("div", "layers");
    layers.setAttribute("role", "img");
    layers.setAttribute("aria-label", parts.map ? `Heat map over ${item.name}` : item.name);
    const photo = canvasOf(parts.picture.width, parts.picture.height);
    photo.getContext("2d").drawImage(parts.picture, 0, 0);
    layers.append(photo);
    if (parts.map && range && !parts.isOverlay) {
      const heat = canvasOf(parts.map.width, parts.map.height);
      heat.className = "heat";
      heat.getContext("2d").putImageData(heatPixels(parts.map, range, table), 0, 0);
      layers.append(heat);
    }
    for (const canvas of layers.children) limitEnlarging(canvas, parts.picture);
    figure.append(layers);
    if (isNamed || parts.isOverlay) {
      const caption = element("figcaption", "");
      caption.append(element("span", "", item.name), element("span", "", parts.isOverlay ? "drawn by the server" : scoreText(item)));
      figure.append(caption);
    }
    return figure;
  }

  function applyLook() {
    for (const heat of find("views").querySelectorAll(".heat")) heat.style.opacity = look.heat ? look.strength : 0;
    find("heat").setAttribute("aria-pressed", String(look.heat));
  }

  function toggleHeat() {
    look.heat = !look.heat;
    applyLook();
  }

  function toggleSize() {
    const isActual = find("views").classList.toggle("actual");
    find("actual").setAttribute("aria-pressed", String(isActual));
  }

  find("heat").addEventListener("click", toggleHeat);
  find("actual").addEventListener("click", toggleSize);
  find("strength").addEventListener("input", (event) => {
    look.strength = Number(event.target.value) / 100;
    look.heat = true;
    applyLook();
  });
  find("scale").addEventListener("change", (event) => {
    look.scale = event.target.value;
    show([...opened.keys()]);
  });

  return {
    show,
    toggleHeat,
    toggleSize,
    // The image has been scored anew.
    forget(item) {
      opened.delete(item);
    },
    // Image and heat map as one JPEG, as the page shows them on the scale of all images.
    async overlay(item) {
      const parts = await openItem(item, drawOverlay);
      if (!parts.picture) throw new Error(parts.reason);
      const canvas = canvasOf(parts.picture.width, parts.picture.height);
      const context = canvas.getContext("2d");
      context.drawImage(parts.picture, 0, 0);
      if (!parts.isOverlay) {
        context.globalAlpha = look.strength;
        context.drawImage(heatCanvas(parts.map, table), 0, 0, canvas.width, canvas.height);
      }
      return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", OVERLAY_QUALITY));
    },
  };
}

// A small image with its heat map as an object URL; null for a file that the browser cannot show.
export async function thumbnail(item, map, table) {
  const picture = await createImageBitmap(item.blob).catch(() => null);
  if (!picture && !map) return null;
  const { width, height } = picture ?? map;
  const scale = Math.min(1, THUMBNAIL / Math.min(width, height));
  const canvas = canvasOf(Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale)));
  const context = canvas.getContext("2d");
  if (picture) context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  picture?.close();
  if (map) {
    const heat = canvasOf(canvas.width, canvas.height);
    heat.getContext("2d").putImageData(heatPixels(map, [map.low, map.high], table, heat.width, heat.height), 0, 0);
    context.globalAlpha = 0.78;
    context.drawImage(heat, 0, 0);
  }
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.85));
  return URL.createObjectURL(blob);
}

async function openItem(item, drawOverlay) {
  const map = item.readMap ? await item.readMap() : null;
  try {
    return { picture: await createImageBitmap(item.blob), map };
  } catch {
    const drawn = map && (await drawOverlay(item).catch(() => null));
    if (drawn) return { picture: await createImageBitmap(drawn), map, isOverlay: true };
    return { picture: null, map: null, reason: item.error ?? `${item.name}: this browser cannot show this kind of file` };
  }
}

function chosenRange(maps, scale) {
  if (!maps.length) return null;
  return scale === "shown" ? rangeOf(maps) : [Math.min(...maps.map((map) => map.low)), Math.max(...maps.map((map) => map.high))];
}

function heatCanvas(map, table) {
  const canvas = canvasOf(map.width, map.height);
  canvas.getContext("2d").putImageData(heatPixels(map, [map.low, map.high], table), 0, 0);
  return canvas;
}

// Small images are enlarged, at most four times, because more shows only blur.
function limitEnlarging(canvas, { width, height }) {
  canvas.style.maxWidth = `${4 * width}px`;
  canvas.style.maxHeight = `${4 * height}px`;
}

function drawLegend(canvas, table) {
  const context = canvas.getContext("2d");
  table.forEach(([red, green, blue], level) => {
    context.fillStyle = `rgb(${red} ${green} ${blue})`;
    context.fillRect(level, 0, 1, 1);
  });
}

function canvasOf(width, height) {
  return Object.assign(document.createElement("canvas"), { width, height });
}

function element(name, className, text = "") {
  return Object.assign(document.createElement(name), { className, textContent: text });
}

function scoreText(item) {
  return item.score === null ? "" : `score ${item.score.toFixed(4)}`;
}

function shortValue(value) {
  return String(Number(value.toPrecision(3)));
}
