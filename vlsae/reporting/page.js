"use strict";
// Searching and sorting of concepts. Everything shown is set as text, never as markup.
(() => {
  const source = document.getElementById("concept-data");
  if (!source) return;
  const { columns, rows, shown, size: pageSize } = JSON.parse(source.textContent);
  const place = Object.fromEntries(columns.map((name, number) => [name, number]));
  const headings = {
    concept: "Concept", name: "Name", score: "Score of the name", vision: "Vision fires on",
    language: "Language fires on", mean: "Mean activation", vision_share: "Share of vision", text: "Top text",
  };
  const percent = new Set(["vision", "language", "vision_share"]);
  const words = new Set(["name", "text"]);
  const rising = new Set(["name", "text", "concept"]);
  const size = 50;
  const byId = (id) => document.getElementById(id);
  const gallery = byId("gallery");
  const cards = new Map([...gallery.children].map((card) => [Number(card.dataset.concept), card]));
  const inGallery = new Set(shown);
  const rank = new Map(shown.map((number, index) => [number, index]));
  const haystack = rows.map((row) => `${row[place.name] ?? ""} ${row[place.text] ?? ""}`.toLowerCase());
  const state = { words: "", order: "", reversed: false, page: 0, found: [] };

  const write = (name, value) => {
    if (value === null || value === undefined) return "–";
    if (words.has(name) || name === "concept") return String(value);
    if (percent.has(name)) return `${Number((100 * value).toPrecision(3))} %`;
    return String(Number(value.toPrecision(4)));
  };

  const compare = (first, second) => {
    const a = rows[first], b = rows[second];
    if (!state.order) {
      const none = shown.length;
      return (rank.get(a[0]) ?? none) - (rank.get(b[0]) ?? none) || first - second;
    }
    const x = a[place[state.order]], y = b[place[state.order]];
    const missing = (value) => value === null || value === "";
    if (missing(x) || missing(y)) return missing(x) - missing(y) || first - second;
    const difference = words.has(state.order) ? x.localeCompare(y) : rising.has(state.order) ? x - y : y - x;
    return (state.reversed ? -difference : difference) || first - second;
  };

  const matches = (number) => {
    if (!state.words) return true;
    if (/^\d+$/.test(state.words)) return String(rows[number][0]) === state.words || haystack[number].includes(state.words);
    return state.words.split(/\s+/).every((word) => haystack[number].includes(word));
  };

  const drawTable = () => {
    const body = document.querySelector(".all tbody");
    const first = state.page * size;
    const lines = state.found.slice(first, first + size).map((number) => {
      const line = document.createElement("tr");
      columns.forEach((name, column) => {
        const cell = document.createElement(column === 0 ? "th" : "td");
        const text = write(name, rows[number][column]);
        if (column === 0) {
          cell.scope = "row";
          if (pageSize || inGallery.has(rows[number][0])) {
            const link = document.createElement("a");
            const file = pageSize ? `concepts/${String(Math.floor(number / pageSize) + 1).padStart(4, "0")}.html` : "";
            link.href = `${file}#concept-${rows[number][0]}`;
            link.textContent = text;
            cell.append(link);
          } else cell.textContent = text;
        } else {
          cell.textContent = text;
          if (!words.has(name)) cell.className = "number";
        }
        line.append(cell);
      });
      return line;
    });
    body.replaceChildren(...lines);
    const last = Math.min(first + size, state.found.length);
    byId("page").textContent = state.found.length ? `${first + 1}–${last} of ${state.found.length.toLocaleString("en")}` : "none";
    byId("previous").disabled = state.page === 0;
    byId("next").disabled = last >= state.found.length;
    for (const heading of document.querySelectorAll(".all th[data-column]")) {
      const chosen = heading.dataset.column === state.order;
      const up = rising.has(state.order) !== state.reversed;
      heading.ariaSort = chosen ? (up ? "ascending" : "descending") : "none";
      heading.querySelector("button").textContent = headings[heading.dataset.column] + (chosen ? (up ? " ▲" : " ▼") : "");
    }
  };

  const update = () => {
    state.found = rows.map((_, number) => number).filter(matches).sort(compare);
    state.page = 0;
    const visible = [];
    for (const number of state.found) if (cards.has(rows[number][0])) visible.push(rows[number][0]);
    const kept = new Set(visible);
    for (const [number, card] of cards) card.hidden = !kept.has(number);
    gallery.append(...visible.map((number) => cards.get(number)));
    byId("found-count").textContent =
      `${state.found.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")} concepts, ${visible.length} of them in the gallery`;
    drawTable();
  };

  const head = document.querySelector(".all thead tr");
  for (const name of columns) {
    const heading = document.createElement("th");
    heading.scope = "col";
    heading.dataset.column = name;
    if (!words.has(name) && name !== "concept") heading.className = "number";
    const button = document.createElement("button");
    button.type = "button";
    button.addEventListener("click", () => {
      state.reversed = state.order === name && !state.reversed;
      state.order = name;
      byId("order").value = [...byId("order").options].some((option) => option.value === name) ? name : "";
      byId("reversed").checked = state.reversed;
      update();
    });
    heading.append(button);
    head.append(heading);
  }
  let waiting = 0;
  byId("words").addEventListener("input", (event) => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { state.words = event.target.value.trim().toLowerCase(); update(); }, 120);
  });
  byId("order").addEventListener("change", (event) => { state.order = event.target.value; update(); });
  byId("reversed").addEventListener("change", (event) => { state.reversed = event.target.checked; update(); });
  byId("find").addEventListener("submit", (event) => event.preventDefault());
  byId("previous").addEventListener("click", () => { state.page -= 1; drawTable(); });
  byId("next").addEventListener("click", () => { state.page += 1; drawTable(); });
  byId("find").hidden = byId("all").hidden = false;
  update();
})();
