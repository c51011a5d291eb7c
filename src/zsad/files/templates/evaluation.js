"use strict";
(() => {
  const number = (cell) => (cell.dataset.value === undefined ? NaN : Number(cell.dataset.value));

  // The summarising rows stay at the end, however the others are sorted; undefined values come last.
  function sort(table, column, descending) {
    const body = table.tBodies[0];
    const rows = Array.from(body.rows);
    const means = rows.filter((row) => row.classList.contains("mean"));
    const others = rows.filter((row) => !row.classList.contains("mean"));
    const sign = descending ? -1 : 1;
    others.sort((a, b) => {
      const [left, right] = [a.cells[column], b.cells[column]];
      if (left.classList.contains("number")) {
        const [x, y] = [number(left), number(right)];
        if (Number.isNaN(x) || Number.isNaN(y)) return Number(Number.isNaN(x)) - Number(Number.isNaN(y));
        return sign * (x - y);
      }
      return sign * left.textContent.localeCompare(right.textContent, undefined, { numeric: true });
    });
    body.append(...others, ...means);
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("thead button");
    if (!button) return;
    const head = button.closest("th");
    const isNumber = head.classList.contains("number");
    const now = head.getAttribute("aria-sort");
    const descending = now ? now === "ascending" : isNumber;
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    sort(head.closest("table"), head.cellIndex, descending);
  });

  const runs = document.querySelectorAll("details.run");
  const all = (open) => () => runs.forEach((run) => { run.open = open; });
  document.getElementById("open-all").addEventListener("click", all(true));
  document.getElementById("close-all").addEventListener("click", all(false));

  // A link of the overview opens the run that it leads to.
  function follow() {
    const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const run = target && target.closest("details.run");
    if (run) {
      run.open = true;
      target.scrollIntoView();
    }
  }
  window.addEventListener("hashchange", follow);
  follow();
})();
