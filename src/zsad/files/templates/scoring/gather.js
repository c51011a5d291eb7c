// Brings images into the page: files, folders, dropped and pasted ones.

const NAMED = /\.(png|jpe?g|jfif|webp|bmp|gif|tiff?|avif|jp2|ppm|pgm|dcm|dicom|nii|nii\.gz)$/i;

// The files of a choice or of a paste; of a folder, only those that look like images, in natural order.
export function chosen(list) {
  const files = Array.from(list);
  const isFolder = files.some((file) => file.webkitRelativePath);
  const wanted = isFolder ? files.filter((file) => NAMED.test(file.name) && !file.name.startsWith(".")) : files;
  return inOrder(wanted.map((file) => ({ name: file.webkitRelativePath || file.name, blob: file })));
}

// The files of a drop, with everything in dropped folders.
export async function dropped(transfer) {
  // The entries are gone once the handler of the drop returns, so all are taken before the first `await`.
  const entries = Array.from(transfer.items, (item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return chosen(transfer.files);
  const found = await Promise.all(entries.map((entry) => filesOf(entry, true)));
  return inOrder(found.flat());
}

async function filesOf(entry, isChosen) {
  if (entry.isFile) {
    if (!isChosen && (!NAMED.test(entry.name) || entry.name.startsWith("."))) return [];
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    return [{ name: entry.fullPath.replace(/^\//, ""), blob: file }];
  }
  const reader = entry.createReader();
  const children = [];
  for (;;) {
    // A reader hands out at most a hundred entries at a time.
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) break;
    children.push(...some);
  }
  return (await Promise.all(children.map((child) => filesOf(child, false)))).flat();
}

function inOrder(images) {
  return images.sort((first, second) => first.name.localeCompare(second.name, undefined, { numeric: true }));
}

// Calls `take(images)` for whatever is dropped on an element; the class "aimed" marks it meanwhile.
export function onDrop(element, take) {
  let depth = 0;
  const holdsFiles = (event) => event.dataTransfer?.types.includes("Files");
  const leave = () => {
    depth = 0;
    element.classList.remove("aimed");
  };
  element.addEventListener("dragenter", (event) => {
    if (!holdsFiles(event)) return;
    depth += 1;
    element.classList.add("aimed");
  });
  element.addEventListener("dragleave", () => {
    depth -= 1;
    if (depth <= 0) leave();
  });
  element.addEventListener("dragover", (event) => {
    if (holdsFiles(event)) event.preventDefault();
  });
  window.addEventListener("drop", leave, true); // before an element inside takes it
  element.addEventListener("drop", async (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    event.stopPropagation();
    take(await dropped(event.dataTransfer));
  });
}
