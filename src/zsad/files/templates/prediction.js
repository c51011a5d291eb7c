"use strict";
(() => {
  const find = (id) => document.getElementById(id);
  const grid = find("grid");
  const cards = Array.from(grid.children).map((element) => ({
    element,
    score: Number(element.dataset.score),
    path: element.dataset.path,
    size: element.dataset.size,
    original: element.dataset.original || "",
    link: element.querySelector("a"),
    badge: element.querySelector(".badge"),
    bar: element.querySelector(".relative"),
  }));
  const slider = find("slider");
  const field = find("threshold");
  const low = Number(slider.min);
  const high = Number(slider.max);
  const bars = Array.from(document.querySelectorAll(".histogram rect"));
  const plural = (count) => (count === 1 ? "1 picture" : `${count} pictures`);
  const distance = Number(grid.dataset.distance);
  let threshold = null;
  let visible = cards;

  function chosen(name) {
    return document.querySelector(`input[name=${name}]:checked`).value;
  }

  function decide(value) {
    threshold = value;
    let flagged = 0;
    for (const card of cards) {
      const over = threshold !== null && card.score >= threshold;
      flagged += over ? 1 : 0;
      card.over = over;
      card.element.classList.toggle("over", over);
      card.badge.hidden = threshold === null;
      card.badge.classList.toggle("over", over);
      card.badge.textContent = over ? "anomalous" : "normal";
      if (card.bar) {
        // as zsad.types.ScoreScale: 0.5 at the threshold, 0.1 one distance below it
        const steps = threshold === null ? 0 : (card.score - threshold) / distance;
        card.bar.hidden = threshold === null;
        card.bar.firstElementChild.style.width = `${50 * (1 + Math.tanh(0.5 * Math.log(9) * steps))}%`;
      }
    }
    bars.forEach((bar, index) => {
      const centre = low + ((index + 0.5) / bars.length) * (high - low);
      bar.classList.toggle("over", threshold !== null && centre >= threshold);
    });
    const mark = find("mark");
    const inside = threshold !== null && threshold >= low && threshold <= high;
    mark.setAttribute("visibility", inside ? "visible" : "hidden");
    if (inside) {
      const place = ((threshold - low) / (high - low)) * bars.length;
      mark.setAttribute("x1", place);
      mark.setAttribute("x2", place);
    }
    slider.classList.toggle("unset", threshold === null);
    find("clear").disabled = threshold === null;
    for (const option of document.querySelectorAll("input[name=show]")) {
      option.disabled = threshold === null && option.value !== "all";
      if (threshold === null) option.checked = option.value === "all";
    }
    const text = find("flagged");
    text.textContent = threshold === null ? "move the slider to decide" : `${flagged} of ${cards.length} anomalous`;
    filter();
  }

  function filter() {
    const words = find("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const show = chosen("show");
    visible = cards.filter((card) => {
      const path = card.path.toLowerCase();
      const wanted = words.every((word) => path.includes(word)) && (show === "all" || card.over === (show === "over"));
      card.element.hidden = !wanted;
      return wanted;
    });
    find("shown").textContent = visible.length === cards.length ? plural(cards.length) : `${visible.length} of ${plural(cards.length)}`;
    find("nothing").hidden = visible.length > 0 || cards.length === 0;
  }

  function sort() {
    const order = find("order").value;
    const byName = (a, b) => a.path.localeCompare(b.path, undefined, { numeric: true });
    const compare = { high: (a, b) => b.score - a.score, low: (a, b) => a.score - b.score, name: byName }[order];
    cards.sort((a, b) => compare(a, b) || byName(a, b));
    grid.append(...cards.map((card) => card.element));
    filter();
  }

  // Viewer ------------------------------------------------------------------------------------------------
  const viewer = find("viewer");
  const picture = find("viewer-image");
  let current = null;
  let original = false;

  function show(card) {
    current = card;
    const place = visible.indexOf(card);
    const withOriginal = original && card.original !== "";
    picture.src = withOriginal ? card.original : card.link.href;
    picture.alt = withOriginal ? `Original of ${card.path}` : `Heat map over ${card.path}`;
    find("viewer-name").textContent = card.path;
    const decision = threshold === null ? "" : card.over ? ", anomalous" : ", normal";
    find("viewer-text").textContent =
      `score ${card.score.toFixed(4)}${decision} · ${card.size} · ${place + 1} of ${visible.length}`;
    find("original").disabled = card.original === "";
    find("original").setAttribute("aria-pressed", String(withOriginal));
    find("previous").disabled = place <= 0;
    find("next").disabled = place >= visible.length - 1;
    if (!viewer.open) viewer.showModal();
  }

  function step(by) {
    const next = visible[visible.indexOf(current) + by];
    if (next) show(next);
  }

  function toggleOriginal() {
    if (current && current.original) {
      original = !original;
      show(current);
    }
  }

  grid.addEventListener("click", (event) => {
    const link = event.target.closest("a");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const card = cards.find((candidate) => candidate.link === link);
    event.preventDefault();
    original = false;
    show(card);
  });
  viewer.addEventListener("close", () => {
    picture.removeAttribute("src");
    if (current) current.link.focus();
    current = null;
  });
  picture.addEventListener("load", () => {
    // Small pictures are enlarged, but not until they are only blur.
    picture.style.maxWidth = `${4 * picture.naturalWidth}px`;
    picture.style.maxHeight = `${4 * picture.naturalHeight}px`;
  });
  picture.addEventListener("error", () => {
    if (current && original) {
      current.original = "";
      original = false;
      show(current);
    }
  });
  find("previous").addEventListener("click", () => step(-1));
  find("next").addEventListener("click", () => step(1));
  find("close").addEventListener("click", () => viewer.close());
  find("original").addEventListener("click", toggleOriginal);

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (viewer.open) {
      if (by) {
        event.preventDefault();
        step(by);
      } else if (event.key.toLowerCase() === "o") toggleOriginal();
    } else if (event.target.matches("input, select")) {
      return;
    } else if (event.key === "/") {
      event.preventDefault();
      find("search").focus();
    } else if (by) {
      const place = visible.findIndex((card) => card.link === document.activeElement);
      const next = visible[place + by];
      if (next) {
        event.preventDefault();
        next.link.focus();
      }
    }
  });

  // Controls ----------------------------------------------------------------------------------------------
  slider.addEventListener("input", () => {
    const value = Number(Number(slider.value).toPrecision(4));
    field.value = value;
    decide(value);
  });
  field.addEventListener("input", () => {
    const value = field.value === "" || Number.isNaN(field.valueAsNumber) ? null : field.valueAsNumber;
    slider.value = value === null ? high : value;
    decide(value);
  });
  find("clear").addEventListener("click", () => {
    field.value = "";
    slider.value = high;
    decide(null);
  });
  for (const option of document.querySelectorAll("input[name=show]")) option.addEventListener("change", filter);
  find("search").addEventListener("input", filter);
  find("order").addEventListener("change", sort);

  // Firefox keeps what was typed before a reload; the page starts from the file's own threshold.
  field.value = field.defaultValue;
  find("search").value = "";
  find("order").value = "high";
  if (field.value !== "") slider.value = field.value;
  decide(field.value === "" ? null : Number(field.value));
  if (field.value !== "") field.value = Number(Number(field.value).toPrecision(6)); // the page decides by all digits
})();
