"use strict";
// The page of an evaluation: sortable tables, and run sections that open and close.
(() => {
  const numberIn = (cell) => (cell.dataset.value === undefined ? NaN : Number(cell.dataset.value));

  // Rows with means stay at the end in every order, and undefined values come last.
  function sort(table, column, descending) {
    const body = table.tBodies[0];
    const rows = Array.from(body.rows);
    const means = rows.filter((row) => row.classList.contains("mean"));
    const others = rows.filter((row) => !row.classList.contains("mean"));
    const sign = descending ? -1 : 1;
    others.sort((firstRow, secondRow) => {
      const first = firstRow.cells[column];
      const second = secondRow.cells[column];
      if (first.classList.contains("number")) {
        const difference = numberIn(first) - numberIn(second);
        if (!Number.isNaN(difference)) return sign * difference;
        return Number(Number.isNaN(numberIn(first))) - Number(Number.isNaN(numberIn(second)));
      }
      return sign * first.textContent.localeCompare(second.textContent, undefined, { numeric: true });
    });
    body.append(...others, ...means);
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("thead button");
    if (!button) return;
    const head = button.closest("th");
    const isNumber = head.classList.contains("number");
    const order = head.getAttribute("aria-sort");
    const descending = order ? order === "ascending" : isNumber; // numbers start with the highest
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    sort(head.closest("table"), head.cellIndex, descending);
  });

  const runs = document.querySelectorAll("details.run");
  const setAll = (open) => runs.forEach((run) => { run.open = open; });
  document.getElementById("open-all").addEventListener("click", () => setAll(true));
  document.getElementById("close-all").addEventListener("click", () => setAll(false));

  // A link in the overview opens the run that it leads to.
  function openLinkedRun() {
    const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const run = target && target.closest("details.run");
    if (run) {
      run.open = true;
      target.scrollIntoView();
    }
  }
  window.addEventListener("hashchange", openLinkedRun);
  openLinkedRun();
})();
