"use strict";
// Draws the charts, and makes them zoom, follow what is switched off, and be saved.
(() => {
  const root = document.documentElement;
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const views = new Map();
  const font = getComputedStyle(document.body).fontFamily;
  const text = { labelColor: "var(--soft)", titleColor: "var(--soft)", labelFontSize: 12, titleFontSize: 12.5 };
  const config = {
    background: "transparent",
    font,
    axis: {
      ...text, titleFontWeight: "normal", gridColor: "var(--grid)", domainColor: "var(--rule)", tickColor: "var(--rule)",
      labelLimit: 130, labelAngle: 0, labelOverlap: true, titlePadding: 6,
    },
    axisX: { grid: false, tickCount: 8 },
    axisY: { tickCount: 6 },
    title: { color: "var(--ink)", fontSize: 13, fontWeight: "normal", anchor: "middle" },
    legend: { ...text, disable: true, symbolOpacity: 1, orient: "bottom", columns: 4, labelLimit: 220 },
    view: { stroke: null },
  };
  root.classList.add("js");

  // Colours of the style sheet, where it does not reach: in files and bitmaps.
  function coloured(spec, dark) {
    const text = JSON.stringify(spec).replace(/var\((--[\w-]+)\)/g, (whole, name) => {
      const found = [root, ...document.querySelectorAll(".group")].map((e) => getComputedStyle(e).getPropertyValue(name)).find(Boolean);
      const both = /light-dark\(([^,]+),([^)]+)\)/.exec(found || "");
      return both ? both[dark ? 2 : 1].trim() : found || whole;
    });
    return JSON.parse(text);
  }

  function specOf(chart, changes) {
    const values = chart.rows.map((row) => Object.fromEntries(row.map((value, i) => [chart.columns[i], value])));
    return { description: chart.title, width: "container", autosize: { type: "fit", contains: "padding" }, data: { values }, ...chart.spec, ...changes };
  }

  // Of the library's messages errors alone: its warnings are no readers'.
  const options = { ast: true, actions: false, config, renderer: "svg", tooltip: { theme: "custom" }, logLevel: 1 };

  async function draw(place) {
    const chart = charts[place.dataset.chart];
    let spec = specOf(chart);
    let settings = options;
    if (chart.bitmap) {
      const dark = matchMedia("(prefers-color-scheme: dark)").matches;
      spec = coloured(spec, dark);
      settings = { ...options, renderer: "canvas", config: coloured(config, dark) };
    }
    const { view } = await vegaEmbed(place, spec, settings);
    views.set(place, view);
    await adapt(place);
  }

  // Sets what is switched off and what a slider says.
  async function adapt(place) {
    const view = views.get(place);
    if (!view) return;
    const known = view.getState().signals;
    const block = place.closest(".block");
    const slider = block && block.querySelector("input[type=range]");
    if ("off" in known) {
      const off = place.closest(".group").querySelectorAll('.chips [aria-pressed="false"]');
      view.signal("off", [...off].map((button) => button.textContent.trim()));
    }
    if ("after" in known && slider) view.signal("after", Number(slider.value));
    await view.runAsync();
  }

  // What is in sight comes first; the rest follows, so that all is there when it is printed.
  async function drawAll() {
    const left = new Set(document.querySelectorAll("[data-chart]"));
    while (left.size) {
      const near = (place) => {
        const box = place.getBoundingClientRect();
        return box.bottom > -200 && box.top < innerHeight + 400;
      };
      const next = [...left].find(near) || [...left][0];
      left.delete(next);
      await draw(next);
      await new Promise((done) => setTimeout(done));
    }
    root.dataset.drawn = "all";
  }

  // Zooms a chart by a factor about its middle; 0 shows all of it.
  function zoom(place, factor) {
    const view = views.get(place);
    if (!view) return;
    for (const [axis, column] of Object.entries(charts[place.dataset.chart].zoom)) {
      const [low, high] = view.scale(axis).domain();
      const [middle, half] = [(low + high) / 2, ((high - low) / 2) * factor];
      view.signal(`zoom_${column}`, factor ? [middle - half, middle + half] : null);
    }
    view.runAsync();
  }

  function move(place, key) {
    const view = views.get(place);
    const axis = key === "ArrowLeft" || key === "ArrowRight" ? "x" : "y";
    const column = charts[place.dataset.chart].zoom[axis];
    if (!view || !column) return;
    const [low, high] = view.scale(axis).domain();
    const by = ((high - low) / 8) * (key === "ArrowLeft" || key === "ArrowDown" ? -1 : 1);
    view.signal(`zoom_${column}`, [low + by, high + by]).runAsync();
  }

  function save(name, type, content) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([content], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }

  function csv(chart) {
    const cell = (value) => {
      const written = value === null ? "" : String(value);
      return /[",\n]/.test(written) ? `"${written.replaceAll('"', '""')}"` : written;
    };
    return [chart.columns, ...chart.rows].map((row) => row.map(cell).join(",")).join("\n") + "\n";
  }

  // The figure as it is shown, on light ground, with its title and its legend.
  async function figure(place) {
    const chart = charts[place.dataset.chart];
    const height = Math.max(chart.spec.height + 70, chart.zoom.y ? 360 : 0);
    const spec = specOf(chart, { width: 640, height, background: "white", ...(chart.spec.title ? {} : { title: chart.title }) });
    const settings = { ...options, config: coloured({ ...config, legend: { ...config.legend, disable: false } }, false) };
    const { view } = await vegaEmbed(document.createElement("div"), coloured(spec, false), settings);
    const state = views.get(place).getState().signals;
    for (const name of ["off", "after", ...Object.values(chart.zoom).map((column) => `zoom_${column}`)]) if (name in state) view.signal(name, state[name]);
    return view.runAsync();
  }

  async function tool(button) {
    const place = button.closest(".card").querySelector("[data-chart]");
    const chart = charts[place.dataset.chart];
    const name = chart.title.replace(/[^\w-]+/g, "-").toLowerCase();
    const does = button.dataset.do;
    if (does === "in") zoom(place, 1 / 1.5);
    else if (does === "out") zoom(place, 1.5);
    else if (does === "home") zoom(place, 0);
    else if (does === "csv") save(`${name}.csv`, "text/csv", csv(chart));
    else if (views.has(place)) {
      const view = await figure(place);
      if (does === "svg") save(`${name}.svg`, "image/svg+xml", await view.toSVG());
      else (await view.toCanvas(2)).toBlob((picture) => save(`${name}.png`, "image/png", picture));
      view.finalize();
    }
  }

  function pressed(event) {
    if (event.currentTarget !== event.target) return;
    const factor = { "+": 1 / 1.5, "=": 1 / 1.5, "-": 1.5, 0: 0 }[event.key];
    if (factor !== undefined) zoom(event.target, factor);
    else if (event.key.startsWith("Arrow")) move(event.target, event.key);
    else return;
    event.preventDefault();
  }

  // Switching a method off hides it in all charts of its stream; their axes follow.
  function toggled(button) {
    const on = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(on));
    const group = button.closest(".group");
    for (const box of group.querySelectorAll(`[data-row="${button.dataset.toggle}"]`)) box.classList.toggle("off", !on);
    for (const place of group.querySelectorAll("[data-chart]")) adapt(place);
    // What was drawn while it was hidden had no width.
    dispatchEvent(new Event("resize"));
  }

  // A slider chooses a row of each matrix, and the last picture up to a number of experiences.
  function slid(slider) {
    slider.nextElementSibling.textContent = slider.value;
    const block = slider.closest(".block");
    for (const place of block.querySelectorAll("[data-chart]")) adapt(place);
    for (const strip of block.querySelectorAll(".frames")) {
      const frames = [...strip.children];
      const past = frames.filter((frame) => Number(frame.dataset.at) <= Number(slider.value));
      const now = past.length ? past[past.length - 1] : frames[0];
      for (const frame of frames) frame.classList.toggle("now", frame === now);
    }
  }

  function numbers(details) {
    const box = details.querySelector(".scroll");
    if (box.firstChild) return;
    const chart = charts[details.closest(".card").querySelector("[data-chart]").dataset.chart];
    const table = document.createElement("table");
    const row = (cells, part, kind) => {
      const line = part.insertRow();
      for (const cell of cells) line.appendChild(document.createElement(kind)).textContent = cell === null ? "\u2013" : cell;
    };
    row(chart.columns, table.createTHead(), "th");
    const body = table.createTBody();
    for (const cells of chart.rows) row(cells, body, "td");
    box.append(table);
  }

  // A picture that is clicked, or chosen with Enter, takes all the room, and gives it back.
  function enlarged(event) {
    if (event.type === "keydown" && event.key !== "Enter") return;
    event.currentTarget.closest(".card").classList.toggle("full");
  }

  const each = (selector, event, act) => {
    for (const found of document.querySelectorAll(selector)) found.addEventListener(event, act);
  };
  each("[data-toggle]", "click", (event) => toggled(event.currentTarget));
  each("[data-do]", "click", (event) => tool(event.currentTarget));
  each("[data-chart]", "keydown", pressed);
  each(".numbers", "toggle", (event) => numbers(event.currentTarget));
  each("input[type=range]", "input", (event) => slid(event.currentTarget));
  each(".frames", "click", enlarged);
  each(".frames", "keydown", enlarged);
  // Bitmaps do not follow the style sheet.
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    for (const place of views.keys()) if (charts[place.dataset.chart].bitmap) draw(place);
  });
  drawAll();
})();
