"use strict";
// The page of a prediction run: threshold, filter and order of the images, and a viewer for one of them.
(() => {
  const find = (id) => document.getElementById(id);
  const grid = find("grid");
  const shape = find("card").content.firstElementChild;
  const cards = cardsOf(JSON.parse(find("cards").textContent)); // the highest score first
  const drawnAtOnce = 120;
  const mostPrinted = 1000;
  const slider = find("slider");
  const field = find("threshold");
  const low = Number(slider.min);
  const high = Number(slider.max);
  const bars = Array.from(document.querySelectorAll(".histogram rect"));
  const distance = Number(grid.dataset.distance); // score difference between relative scores 0.1 and 0.5
  const decimals = Number(grid.dataset.decimals);
  const counted = (count) => (count === 1 ? "1 image" : `${count} images`);
  let threshold = null;
  let visible = []; // cards that pass the filter, in order; the first `drawn` of them are in the grid
  let drawn = 0;

  // One object for each image from the columns of zsad.prediction.cards.
  function cardsOf(columns) {
    return columns.path.map((path, place) => {
      const value = (name) => (name in columns ? columns[name][place] : "");
      const stem = value("stem");
      const thumbnail = "thumbnail" in columns ? value("thumbnail") : `./thumbnails/${stem}.jpg`;
      return {
        place,
        path,
        name: value("name"),
        folder: value("folder"),
        score: value("score"),
        rank: value("rank"),
        byName: value("by_name"),
        size: `${value("width")} by ${value("height")} pixels`,
        thumbnail,
        target: value("overlay") ? `./overlays/${stem}_overlay${value("overlay")}` : `./thumbnails/${stem}.jpg`,
        original: value("original"),
        explanation: value("explanation"),
        relative: "relative" in columns ? value("relative") : null,
        share: value("p_value"), // of normal images that score as high
        calibrates: value("in_calibration") === true,
        element: null, // made when it is first drawn
      };
    });
  }

  function elementOf(card) {
    const element = shape.cloneNode(true);
    const part = (name) => element.querySelector(name);
    const image = part("img");
    if (card.thumbnail) {
      image.src = card.thumbnail;
      image.alt = `Heat map over ${card.name}`;
    } else image.remove();
    part("a").href = card.target;
    part(".name").textContent = card.name;
    part(".name").title = card.path;
    part(".folder").textContent = card.folder;
    part(".score").textContent = card.score.toFixed(decimals);
    part(".rank").textContent = `#${card.rank}`;
    if (card.explanation) part(".explanation").textContent = card.explanation;
    else part(".explanation").remove();
    if (card.relative === null) part(".relative").remove();
    else {
      const share = card.share && `; ${card.share} of normal images score as high`;
      const calibrates = card.calibrates ? "; this image was used for the calibration" : "";
      part(".relative").title = `relative score ${card.relative.toFixed(3)}, 0.5 at the threshold${share}${calibrates}`;
    }
    return element;
  }

  // Draws the next visible cards, or as many as are needed to reach a place.
  function drawMore(place = drawn) {
    const end = Math.min(visible.length, Math.max(drawn + drawnAtOnce, place + 1));
    const added = visible.slice(drawn, end);
    for (const card of added) {
      card.element ??= elementOf(card);
      showDecision(card);
    }
    grid.append(...added.map((card) => card.element));
    drawn = end;
  }

  function linkOf(card) {
    if (!card.element?.isConnected) drawMore(visible.indexOf(card));
    return card.element.querySelector("a");
  }

  function showDecision(card) {
    const element = card.element;
    const badge = element.querySelector(".badge");
    const bar = element.querySelector(".relative");
    element.classList.toggle("over", card.over);
    badge.hidden = threshold === null;
    badge.classList.toggle("over", card.over);
    badge.textContent = card.over ? "anomalous" : "normal";
    if (bar) {
      // The formula of zsad.types.ScoreScale: 0.5 at the threshold, 0.1 one distance below it.
      const steps = threshold === null ? 0 : (card.score - threshold) / distance;
      bar.hidden = threshold === null;
      bar.firstElementChild.style.width = `${50 * (1 + Math.tanh(0.5 * Math.log(9) * steps))}%`;
    }
  }

  // Compares all scores with a new threshold; null stands for no threshold.
  function decide(value) {
    threshold = value;
    let flagged = 0;
    for (const card of cards) {
      card.over = threshold !== null && card.score >= threshold;
      flagged += card.over ? 1 : 0;
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
    const wanted = cards.filter((card) => {
      const path = words.length ? card.path.toLowerCase() : "";
      return words.every((word) => path.includes(word)) && (choice === "all" || card.over === (choice === "over"));
    });
    const isSame = wanted.length === visible.length && wanted.every((card, place) => card === visible[place]);
    visible = wanted;
    if (isSame) for (const card of visible.slice(0, drawn)) showDecision(card); // keeps the place on the page
    else {
      grid.replaceChildren();
      drawn = 0;
      drawMore();
    }
    find("shown").textContent = visible.length === cards.length ? counted(cards.length) : `${visible.length} of ${counted(cards.length)}`;
    find("nothing").hidden = visible.length > 0 || cards.length === 0;
  }

  function sort() {
    const comparisons = {
      high: (first, second) => first.place - second.place,
      low: (first, second) => first.score - second.score || first.place - second.place,
      name: (first, second) => first.byName - second.byName,
    };
    cards.sort(comparisons[find("order").value]);
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
    image.src = showsOriginal ? card.original : card.target;
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
    const card = visible.find((candidate) => candidate.element?.contains(link));
    event.preventDefault();
    wantsOriginal = false;
    show(card);
  });
  viewer.addEventListener("close", () => {
    image.removeAttribute("src");
    if (current) linkOf(current).focus();
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
      const place = visible.findIndex((card) => card.element?.contains(document.activeElement));
      const next = visible[place + steps];
      if (next) {
        event.preventDefault();
        linkOf(next).focus();
      }
    }
  });

  // The end of the drawn cards comes near: draws more. An observer reports changes only, hence the fresh start.
  const end = find("end");
  const observer = new IntersectionObserver(
    (entries) => {
      if (!entries.some((entry) => entry.isIntersecting) || drawn >= visible.length) return;
      drawMore();
      observer.unobserve(end);
      observer.observe(end);
    },
    { rootMargin: "1200px" },
  );
  observer.observe(end);
  addEventListener("beforeprint", () => drawMore(Math.min(visible.length, mostPrinted) - 1));

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
