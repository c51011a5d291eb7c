// Anomaly maps: read from 16-bit PNG without loss, which a canvas would cut to 8 bits, and drawn in colours.
//
// A map is { width, height, levels, low, high }: levels are whole numbers from 0 to 65535 (Uint16Array, row by
// row), and `low` and `high` the values that 0 and 65535 stand for.

const LAST = 65535;
const RANGE_KEY = "zsad:map_range";
const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];

export function valueAt(map, index) {
  return map.low + (map.levels[index] * (map.high - map.low)) / LAST;
}

// The map of float values, rounded to whole levels.
export function mapFromValues(values, width, height, [low, high]) {
  const levels = new Uint16Array(values.length);
  for (let index = 0; index < values.length; index += 1) {
    const level = ((values[index] - low) / (high - low)) * LAST;
    levels[index] = Math.min(LAST, Math.max(0, Math.round(level) || 0));
  }
  return { width, height, levels, low, high };
}

// The smallest and the largest value of some maps.
export function rangeOf(maps) {
  let [low, high] = [Infinity, -Infinity];
  for (const map of maps) {
    let [least, most] = [LAST, 0];
    for (const level of map.levels) {
      if (level < least) least = level;
      if (level > most) most = level;
    }
    const step = (map.high - map.low) / LAST;
    low = Math.min(low, map.low + least * step);
    high = Math.max(high, map.low + most * step);
  }
  return high > low ? [low, high] : [low, low + 1];
}

// Colours of a map at any size, as ImageData. The higher a value, the more opaque its colour; a smooth step
// keeps low values nearly clear, since a good surface must look like the image itself.
export function heatPixels(map, [low, high], table, width = map.width, height = map.height) {
  const pixels = new ImageData(width, height);
  const scale = (map.high - map.low) / LAST / (high - low);
  const start = (map.low - low) / (high - low);
  const words = new Uint32Array(pixels.data.buffer);
  const colours = packedColours(table);
  for (let y = 0, index = 0; y < height; y += 1) {
    const row = Math.floor(((y + 0.5) * map.height) / height) * map.width;
    for (let x = 0; x < width; x += 1, index += 1) {
      const column = width === map.width ? x : Math.floor(((x + 0.5) * map.width) / width);
      const share = start + map.levels[row + column] * scale;
      words[index] = colours[share <= 0 ? 0 : share >= 1 ? 255 : Math.round(share * 255)];
    }
  }
  return pixels;
}

function packedColours(table) {
  const bytes = new Uint8Array(4 * 256);
  for (let level = 0; level < 256; level += 1) {
    const share = level / 255;
    bytes.set([...table[level], Math.round(255 * share * share * (3 - 2 * share))], 4 * level);
  }
  return new Uint32Array(bytes.buffer);
}

// Keeps a map in little memory until somebody looks at it.
export async function pack(map) {
  const { levels, ...rest } = map;
  const packed = new Blob([await through(new CompressionStream("deflate"), levels)]);
  return async () => {
    const bytes = await through(new DecompressionStream("deflate"), packed);
    return { ...rest, levels: new Uint16Array(bytes.buffer) };
  };
}

// Reads the kind of PNG that zsad writes for maps: one channel of 16 bits, not interlaced.
export async function readPng16(bytes) {
  if (SIGNATURE.some((byte, index) => bytes[index] !== byte)) throw new Error("the map is no PNG file");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const parts = [];
  let [width, height, range] = [0, 0, null];
  for (let place = SIGNATURE.length; place < bytes.length; ) {
    const length = view.getUint32(place);
    const kind = String.fromCharCode(...bytes.subarray(place + 4, place + 8));
    const body = bytes.subarray(place + 8, place + 8 + length);
    if (kind === "IHDR") {
      [width, height] = [view.getUint32(place + 8), view.getUint32(place + 12)];
      if (body[8] !== 16 || body[9] !== 0 || body[12] !== 0) throw new Error("the map is no grey PNG of 16 bits");
    } else if (kind === "IDAT") parts.push(body);
    else if (kind === "tEXt") range ??= textRange(body);
    place += 12 + length;
  }
  if (range === null) throw new Error("the map does not tell its value range");
  const filtered = await through(new DecompressionStream("deflate"), ...parts);
  return { width, height, levels: unfiltered(filtered, width, height), low: range[0], high: range[1] };
}

function textRange(body) {
  const text = new TextDecoder("latin1").decode(body);
  return text.startsWith(`${RANGE_KEY}\0`) ? text.slice(RANGE_KEY.length + 1).split(" ").map(Number) : null;
}

// Undoes the five filters of PNG (ISO/IEC 15948, clause 9), with two bytes a pixel.
function unfiltered(filtered, width, height) {
  const stride = 2 * width;
  let above = new Uint8Array(stride);
  const levels = new Uint16Array(width * height);
  for (let y = 0; y < height; y += 1) {
    const start = y * (stride + 1) + 1;
    const row = filtered.subarray(start, start + stride);
    const filter = filtered[start - 1];
    for (let i = 0; filter > 0 && i < stride; i += 1) {
      const left = i < 2 ? 0 : row[i - 2];
      if (filter === 1) row[i] += left;
      else if (filter === 2) row[i] += above[i];
      else if (filter === 3) row[i] += (left + above[i]) >> 1;
      else row[i] += paeth(left, above[i], i < 2 ? 0 : above[i - 2]);
    }
    for (let x = 0; x < width; x += 1) levels[y * width + x] = (row[2 * x] << 8) | row[2 * x + 1];
    above = row;
  }
  return levels;
}

function paeth(left, above, corner) {
  const [byLeft, byAbove, byCorner] = [Math.abs(above - corner), Math.abs(left - corner), Math.abs(left + above - 2 * corner)];
  if (byLeft <= byAbove && byLeft <= byCorner) return left;
  return byAbove <= byCorner ? above : corner;
}

async function through(stream, ...parts) {
  return new Uint8Array(await new Response(new Blob(parts).stream().pipeThrough(stream)).arrayBuffer());
}
