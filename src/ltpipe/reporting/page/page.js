"use strict";
(() => {
  const root = document.documentElement;
  const { looks, views } = JSON.parse(document.getElementById("data").textContent);

  // Theme: the system's until the user chooses one; the choice is kept if the browser allows it.
  const systemDark = matchMedia("(prefers-color-scheme: dark)");
  const toggle = document.getElementById("theme");
  const KEY = "ltpipe-theme";
  const remembered = () => { try { return localStorage.getItem(KEY); } catch { return null; } };
  const remember = (theme) => { try { localStorage.setItem(KEY, theme); } catch { /* browsers may forbid storage to local files */ } };
  const theme = () => root.dataset.theme || (systemDark.matches ? "dark" : "light");
  function show() {
    toggle.textContent = theme() === "dark" ? "Light theme" : "Dark theme";
    charts.forEach(redraw);
  }
  toggle.addEventListener("click", () => {
    root.dataset.theme = theme() === "dark" ? "light" : "dark";
    remember(root.dataset.theme);
    show();
  });
  systemDark.addEventListener("change", show);

  // Charts: drawn when they come near the viewport, and again when the theme or their container's width changes.
  const charts = window.vegaEmbed ? [...document.querySelectorAll(".chart")] : [];
  const drawn = new Map();  // by place: the theme and width it was drawn for, and a function that discards it
  const NARROW = 640, LEAST = 120, WIDEST = 1.7, GUESS = 80;
  function fitted(spec, width, excess) {
    const columns = width < NARROW ? 1 : Math.min(spec.columns || 1, spec.concat.length);
    const room = width / columns - GUESS - excess / columns;
    const panels = spec.concat.map((panel) => ({ ...panel, width: Math.max(LEAST, Math.min(room, WIDEST * panel.width)) }));
    return { ...spec, columns, concat: panels };
  }
  async function embed(place, width, excess = 0) {
    const config = looks[theme()];
    const legend = { ...config.legend, columns: Math.max(1, Math.floor(width / 190)) };
    const names = { ...config.axisYDiscrete, labelLimit: Math.min(config.axisYDiscrete.labelLimit, 0.36 * width) };
    // ast: expressions are interpreted, which needs no eval; nothing is ever loaded.
    return vegaEmbed(place, fitted(views[place.dataset.view], width, excess), {
      renderer: "svg", actions: false, ast: true, defaultStyle: false, config: { ...config, legend, axisYDiscrete: names },
      tooltip: { disableDefaultStyle: true },
    });
  }
  async function draw(place) {
    const width = place.clientWidth, look = `${theme()} ${width}`;
    if (!width || drawn.get(place)?.look === look) return;
    drawn.get(place)?.forget?.();
    drawn.set(place, { look });
    let made = await embed(place, width);
    // Only now is the width of the axes known.
    const excess = place.querySelector("svg").getBoundingClientRect().width - width;
    const panels = views[place.dataset.view].concat, most = WIDEST * Math.max(...panels.map((panel) => panel.width));
    if (excess > 0 || (excess < -8 && width < most)) {
      made.finalize();
      made = await embed(place, width, excess + 2);
    }
    if (drawn.get(place)?.look === look) drawn.set(place, { look, forget: () => made.finalize() });
    place.querySelectorAll(".role-legend-symbol > *").forEach(typed);
    place.dataset.drawn = theme();
  }
  // Clickable legends also work from the keyboard; Escape shows all, like a click beside the legend.
  function typed(symbol) {
    const item = symbol.__data__;
    if (!item?.mark?.interactive) return;
    symbol.closest(".role-legend").setAttribute("role", "group");  // Vega makes it an image, which may not contain buttons
    symbol.setAttribute("tabindex", "0");
    symbol.setAttribute("role", "button");
    symbol.setAttribute("aria-label", `Show ${item.datum.label} alone`);
    symbol.addEventListener("keydown", (event) => {
      const target = { Enter: symbol, " ": symbol, Escape: symbol.ownerSVGElement }[event.key];
      if (!target) return;
      event.preventDefault();
      target.dispatchEvent(new MouseEvent("click", { bubbles: true, shiftKey: event.shiftKey }));
    });
  }
  const near = new Set();
  const redraw = (place) => near.has(place) && draw(place);
  const watcher = new IntersectionObserver((entries) => entries.forEach(({ isIntersecting, target }) => {
    if (isIntersecting) { near.add(target); draw(target); } else near.delete(target);
  }), { rootMargin: "600px" });
  let waiting;
  addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(() => charts.forEach(redraw), 150); });

  // Tables: sorted by their headings, filtered by words, shown a page at a time; the document contains all rows.
  const PAGE = 25;
  const text = (cell) => cell.dataset.value ?? cell.textContent.trim();
  const number = (words) => words === "inf" ? Infinity : parseFloat(words.replace(/,/g, "").replace(/−/g, "-").replace(/^[≥\s]+/, ""));
  const element = (name, attributes = {}, words = "") => Object.assign(document.createElement(name), attributes, words && { textContent: words });
  function order(index, sign, numeric) {
    return (a, b) => {
      const [x, y] = [a, b].map((row) => text(row.cells[index]));
      const [none, missing] = [x, y].map((words) => words === "" || words === "–");
      if (none || missing) return none - missing;  // missing values come last in either direction
      return sign * (numeric ? number(x) - number(y) || 0 : x.localeCompare(y, undefined, { numeric: true }));
    };
  }
  function enhance(table) {
    const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
    let rows = [...body.rows], found = rows, first = 0;
    const words = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
    const tools = element("div", { className: "tools" });
    const label = element("label", {}, "Filter"), filter = element("input", { type: "search", placeholder: "rows with all these words" });
    const count = element("output"), save = element("button", { type: "button" }, "Download CSV");
    const back = element("button", { type: "button" }, "Previous"), next = element("button", { type: "button" }, "Next");
    label.append(filter);
    const page = () => {
      body.replaceChildren(...found.slice(first, first + PAGE));
      const last = Math.min(first + PAGE, found.length);
      const part = found.length > PAGE ? `${first + 1} to ${last} of ` : "";
      count.textContent = `${part}${found.length} row${found.length === 1 ? "" : "s"}${found.length < rows.length ? ` (of ${rows.length})` : ""}`;
      back.disabled = first === 0;
      next.disabled = last === found.length;
      back.hidden = next.hidden = found.length <= PAGE;
    };
    const search = () => {
      const asked = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
      found = rows.filter((row) => asked.every((word) => words.get(row).includes(word)));
      first = 0;
      page();
    };
    filter.addEventListener("input", search);
    back.addEventListener("click", () => { first -= PAGE; page(); });
    next.addEventListener("click", () => { first += PAGE; page(); });
    save.addEventListener("click", () => {
      const quoted = (words) => /[",\n]/.test(words) ? `"${words.replace(/"/g, '""')}"` : words;
      const lines = [heads.map((head) => head.dataset.title), ...found.map((row) => [...row.cells].map(text))];
      const file = new Blob([lines.map((line) => line.map(quoted).join(",")).join("\n") + "\n"], { type: "text/csv" });
      const link = element("a", { href: URL.createObjectURL(file), download: `${table.dataset.file}-page.csv` });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    });
    heads.forEach((head, index) => {
      head.dataset.title = head.textContent.trim().replace(/\s+/g, " ");
      const values = rows.map((row) => text(row.cells[index])).filter((words) => words !== "" && words !== "–");
      const numeric = head.classList.contains("number") || (values.length > 0 && values.every((words) => /^[≥\s]*[+−-]?\d[\d,.]*(e[+-]\d+)?%?( \[.*\]| \(best\))?$/.test(words)));
      if (numeric) [head, ...rows.map((row) => row.cells[index])].forEach((cell) => cell.classList.add("number"));
      const button = element("button", { type: "button" });
      button.append(...head.childNodes);
      head.append(button);
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => {
        const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
        heads.forEach((other) => other.setAttribute("aria-sort", "none"));
        head.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
        rows = [...rows].sort(order(index, sign, numeric));
        search();
      });
    });
    if (rows.length > 5) {
      tools.append(label, count, back, next, save);
      count.setAttribute("aria-live", "polite");
      table.parentElement.before(tools);
    }
    page();
  }

  if (remembered()) root.dataset.theme = remembered();
  toggle.hidden = false;
  if (charts.length) root.classList.add("js");
  document.querySelectorAll("table[data-file]").forEach(enhance);
  charts.forEach((place) => watcher.observe(place));
  show();
})();
