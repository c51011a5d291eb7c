// Files for downloading: a table, and an archive of several files. Pure functions of their contents.

export const COLUMNS = ["name", "score", "is_anomalous", "threshold", "width", "height", "seconds", "error"];

// What a spreadsheet takes for a formula; ' before it makes it text. The same rule as zsad/files/csv_tables.py.
const BEGINS = "[-=+@＝＋－＠]";
const FORMULA = new RegExp(`^(?=\\s*${BEGINS}|[\\t\\r\\n])|(?<=[,;|\\t\\r\\n"])(?=${BEGINS})`, "g");

// A table as CSV text, with the mark of UTF-8, without which Excel garbles what is not ASCII.
export function csvText(rows) {
  const lines = [COLUMNS, ...rows.map((row) => COLUMNS.map((column) => row[column]))];
  return `\uFEFF${lines.map((cells) => cells.map(cell).join(",")).join("\n")}\n`;
}

function cell(value) {
  if (value === null || value === undefined) return "";
  if (typeof value !== "string") return String(value);
  const safe = value.replace(FORMULA, "'");
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

// A ZIP archive without compression, because JPEG files do not shrink.
// Source: PKWARE, APPNOTE.TXT 6.3.10, sections 4.3.7, 4.3.12 and 4.3.16.
export async function zip(files) {
  const parts = [];
  const directory = [];
  let place = 0;
  for (const { name, blob } of unique(files)) {
    const bytes = new Uint8Array(await blob.arrayBuffer());
    const path = new TextEncoder().encode(name);
    // version 2.0, names in UTF-8, stored, 1980-01-01 00:00, checksum, sizes, length of the name, no extra field
    const common = [[2, 20], [2, 0x800], [2, 0], [2, 0], [2, 0x21], [4, crc32(bytes)], [4, bytes.length], [4, bytes.length], [2, path.length], [2, 0]];
    const header = record([[4, 0x04034b50], ...common]);
    parts.push(header, path, blob);
    directory.push(record([[4, 0x02014b50], [2, 20], ...common, [2, 0], [2, 0], [2, 0], [4, 0], [4, place]]), path);
    place += header.length + path.length + bytes.length;
  }
  const length = directory.reduce((sum, part) => sum + part.length, 0);
  const count = directory.length / 2;
  const end = record([[4, 0x06054b50], [2, 0], [2, 0], [2, count], [2, count], [4, length], [4, place], [2, 0]]);
  return new Blob([...parts, ...directory, end], { type: "application/zip" });
}

// Names of their own for files of the same name, without folders: a.jpg, a-2.jpg.
function unique(files) {
  const used = new Set();
  return files.map(({ name, blob }) => {
    const [, stem, suffix] = /^(.*?)(\.[^.]*)?$/s.exec(name.replaceAll(/[/\\:]/g, "_"));
    let chosen = `${stem}${suffix ?? ""}`;
    for (let number = 2; used.has(chosen.toLowerCase()); number += 1) chosen = `${stem}-${number}${suffix ?? ""}`;
    used.add(chosen.toLowerCase());
    return { name: chosen, blob };
  });
}

function record(fields) {
  const bytes = new Uint8Array(fields.reduce((sum, [size]) => sum + size, 0));
  let place = 0;
  for (const [size, value] of fields) {
    for (let byte = 0; byte < size; byte += 1) bytes[place + byte] = (value >>> (8 * byte)) & 255;
    place += size;
  }
  return bytes;
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit += 1) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

function crc32(bytes) {
  let value = ~0;
  for (const byte of bytes) value = CRC_TABLE[(value ^ byte) & 255] ^ (value >>> 8);
  return ~value >>> 0;
}

// Hands a file to the browser's downloads.
export function save(name, blob) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
