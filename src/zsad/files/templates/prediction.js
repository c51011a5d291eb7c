"use strict";
// The page of a prediction run: threshold, filter and order of the images, and a viewer for one of them.
(() => {
  const find = (id) => document.getElementById(id);
  const grid = find("grid");
  const cards = Array.from(grid.children).map((element) => ({
    element,
    score: Number(element.dataset.score),
    path: element.dataset.path,
    size: element.dataset.size,
    explanation: element.dataset.explanation,
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
  const distance = Number(grid.dataset.distance); // score difference between relative scores 0.1 and 0.5
  const decimals = Number(grid.dataset.decimals);
  const counted = (count) => (count === 1 ? "1 image" : `${count} images`);
  let threshold = null;
  let visible = cards;

  // Compares all scores with a new threshold; null stands for no threshold.
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
        // The formula of zsad.types.ScoreScale: 0.5 at the threshold, 0.1 one distance below it.
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
    find("flagged").textContent =
      threshold === null ? "or move the slider" : `${flagged} of ${cards.length} anomalous`;
    filter();
  }

  function filter() {
    const words = find("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const choice = document.querySelector("input[name=show]:checked").value;
    visible = cards.filter((card) => {
      const path = card.path.toLowerCase();
      const wanted = words.every((word) => path.includes(word)) && (choice === "all" || card.over === (choice === "over"));
      card.element.hidden = !wanted;
      return wanted;
    });
    find("shown").textContent = visible.length === cards.length ? counted(cards.length) : `${visible.length} of ${counted(cards.length)}`;
    find("nothing").hidden = visible.length > 0 || cards.length === 0;
  }

  function sort() {
    const byName = (first, second) => first.path.localeCompare(second.path, undefined, { numeric: true });
    const comparisons = {
      high: (first, second) => second.score - first.score,
      low: (first, second) => first.score - second.score,
      name: byName,
    };
    const compare = comparisons[find("order").value];
    cards.sort((first, second) => compare(first, second) || byName(first, second));
    grid.append(...cards.map((card) => card.element));
    filter();
  }

  // Viewer
  const viewer = find("viewer");
  const image = find("viewer-image");
  let current = null;
  let wantsOriginal = false;

  function show(card) {
    current = card;
    const place = visible.indexOf(card);
    const showsOriginal = wantsOriginal && card.original !== "";
    image.src = showsOriginal ? card.original : card.link.href;
    image.alt = showsOriginal ? `Original of ${card.path}` : `Heat map over ${card.path}`;
    find("viewer-name").textContent = card.path;
    const decision = threshold === null ? "" : card.over ? ", anomalous" : ", normal";
    const explanation = card.explanation && ` · ${card.explanation}`;
    find("viewer-text").textContent =
      `score ${card.score.toFixed(decimals)}${decision}${explanation} · ${card.size} · ${place + 1} of ${visible.length}`;
    find("original").disabled = card.original === "";
    find("original").setAttribute("aria-pressed", String(showsOriginal));
    find("previous").disabled = place <= 0;
    find("next").disabled = place >= visible.length - 1;
    if (!viewer.open) viewer.showModal();
  }

  function move(steps) {
    const next = visible[visible.indexOf(current) + steps];
    if (next) show(next);
  }

  function toggleOriginal() {
    if (current && current.original) {
      wantsOriginal = !wantsOriginal;
      show(current);
    }
  }

  grid.addEventListener("click", (event) => {
    const link = event.target.closest("a");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const card = cards.find((candidate) => candidate.link === link);
    event.preventDefault();
    wantsOriginal = false;
    show(card);
  });
  viewer.addEventListener("close", () => {
    image.removeAttribute("src");
    if (current) current.link.focus();
    current = null;
  });
  image.addEventListener("load", () => {
    // Small images are enlarged, at most four times, because more shows only blur.
    image.style.maxWidth = `${4 * image.naturalWidth}px`;
    image.style.maxHeight = `${4 * image.naturalHeight}px`;
  });
  image.addEventListener("error", () => {
    if (current && wantsOriginal) {
      current.original = ""; // the file has been moved away
      wantsOriginal = false;
      show(current);
    }
  });
  find("previous").addEventListener("click", () => move(-1));
  find("next").addEventListener("click", () => move(1));
  find("close").addEventListener("click", () => viewer.close());
  find("original").addEventListener("click", toggleOriginal);

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const steps = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (viewer.open) {
      if (steps) {
        event.preventDefault();
        move(steps);
      } else if (event.key.toLowerCase() === "o") toggleOriginal();
    } else if (event.target.matches("input, select")) {
      return;
    } else if (event.key === "/") {
      event.preventDefault();
      find("search").focus();
    } else if (steps) {
      const place = visible.findIndex((card) => card.link === document.activeElement);
      const next = visible[place + steps];
      if (next) {
        event.preventDefault();
        next.link.focus();
      }
    }
  });

  // Controls
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

  // Firefox keeps typed values over a reload; the page starts from the threshold in the file.
  field.value = field.defaultValue;
  find("search").value = "";
  find("order").value = "high";
  if (field.value !== "") slider.value = field.value;
  decide(field.value === "" ? null : Number(field.value));
  if (field.value !== "") field.value = Number(Number(field.value).toPrecision(6)); // shorter; the decision used all digits
})();
