// Keeps a choice for the next visit, where the browser lets pages keep anything.

export function recall(storage, name) {
  try {
    return window[storage].getItem(name);
  } catch {
    return null; // storage is switched off
  }
}

export function remember(storage, name, value) {
  try {
    window[storage].setItem(name, value);
  } catch {
    // The choice holds until the page is closed.
  }
}
