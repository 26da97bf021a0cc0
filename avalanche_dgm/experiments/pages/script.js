"use strict";
// The page can be read without this: it adds tooltips, sliders, and switching methods off and on.
(function () {
  const root = document.documentElement;
  root.classList.add("js");

  function element(name, text) {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    return made;
  }

  // Tooltips: a place tells what its title says, in the colours that it names.
  const tip = element("div");
  let lit = null;
  let byKey = false;

  function keepTitles() {
    for (const hit of document.querySelectorAll(".hit")) {
      const title = hit.querySelector("title");
      if (!title) continue;
      hit.dataset.tip = title.textContent;
      title.remove();
    }
    for (const chart of document.querySelectorAll("svg.chart")) {
      // A title would be shown beside the tooltip.
      const title = chart.querySelector(":scope > title");
      chart.setAttribute("aria-label", title.textContent);
      title.remove();
      if (chart.querySelector(".hit")) chart.setAttribute("tabindex", "0");
    }
  }

  function show(hit, x, y) {
    const [head, ...entries] = hit.dataset.tip.split("\n");
    const keys = (hit.dataset.keys || "").split(" ").filter(Boolean);
    const group = hit.closest(".group");
    const lines = [];
    entries.forEach((entry, i) => {
      if (keys[i] && group.querySelector(`[data-toggle="${keys[i]}"][aria-pressed="false"]`)) return;
      const line = element("div");
      if (keys[i]) {
        const mark = element("i");
        mark.style.background = getComputedStyle(group).getPropertyValue(`--${keys[i]}`);
        line.append(mark);
      }
      for (const part of entry.split("\t")) line.append(element("span", part));
      lines.push(line);
    });
    tip.replaceChildren(element("b", head), ...lines);
    const box = tip.getBoundingClientRect();
    const left = Math.max(8, Math.min(x + 14, innerWidth - box.width - 8));
    const above = y - box.height - 14;
    tip.style.left = `${left}px`;
    tip.style.top = `${above < 8 ? Math.min(y + 18, innerHeight - box.height - 8) : above}px`;
    if (lit !== hit) {
      if (lit) lit.classList.remove("lit");
      hit.classList.add("lit");
      lit = hit;
    }
  }

  function hide() {
    tip.replaceChildren();
    if (lit) lit.classList.remove("lit");
    lit = null;
  }

  function pointed(event) {
    const hit = event.target.closest ? event.target.closest(".hit") : null;
    byKey = false;
    if (hit && hit.dataset.tip) show(hit, event.clientX, event.clientY);
    else hide();
  }

  // Above the middle of a place that the keyboard chose.
  function showAbove(hit) {
    const box = hit.getBoundingClientRect();
    byKey = true;
    show(hit, box.left + box.width / 2, Math.max(box.top, 40));
  }

  function scrolled() {
    // What the pointer showed is no longer under it; what the keyboard chose stays chosen.
    if (byKey && lit) showAbove(lit);
    else hide();
  }

  // With the keyboard: arrows go from place to place within a chart.
  function pressed(event) {
    if (event.key === "Escape") hide();
    const chart = event.target.closest ? event.target.closest("svg.chart") : null;
    if (!chart) return;
    const columns = Number(chart.dataset.columns || 1);
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns };
    if (!(event.key in steps)) return;
    const hits = [...chart.querySelectorAll(".hit")];
    const now = hits.indexOf(lit);
    const next = now < 0 ? 0 : Math.max(0, Math.min(hits.length - 1, now + steps[event.key]));
    showAbove(hits[next]);
    event.preventDefault();
  }

  // Switching a method off hides it in all charts of its stream.
  function toggled(event) {
    const button = event.currentTarget;
    const on = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(on));
    const group = button.closest(".group");
    for (const part of group.querySelectorAll(`[data-row="${button.dataset.toggle}"]`)) {
      part.classList.toggle("off", !on);
    }
    hide();
  }

  // A slider chooses a row of each matrix, and the last picture up to a number of experiences.
  function slid(slider) {
    const after = Number(slider.value);
    slider.nextElementSibling.textContent = slider.value;
    const place = document.getElementById(slider.dataset.controls);
    for (const chart of place.querySelectorAll("svg.heat")) {
      let note = "";
      for (const row of chart.querySelectorAll(".matrix-row")) {
        const at = Number(row.dataset.after);
        row.classList.toggle("later", at > after);
        row.classList.toggle("current", at === after);
        if (at <= after) note = row.dataset.note;
      }
      chart.parentElement.querySelector(".readout").textContent = note;
    }
    for (const strip of place.querySelectorAll(".frames")) {
      const frames = [...strip.children];
      const past = frames.filter((frame) => Number(frame.dataset.at) <= after);
      const now = past.length ? past[past.length - 1] : frames[0];
      for (const frame of frames) frame.classList.toggle("now", frame === now);
    }
  }

  // A picture that is clicked, or chosen with Enter, takes all the room, and gives it back.
  function enlarged(event) {
    if (event.type === "keydown" && event.key !== "Enter") return;
    event.currentTarget.closest(".card").classList.toggle("full");
  }

  document.addEventListener("DOMContentLoaded", () => {
    keepTitles();
    tip.className = "tip";
    tip.setAttribute("role", "status");
    document.body.append(tip);
    document.addEventListener("pointermove", pointed);
    document.addEventListener("pointerdown", pointed);
    document.addEventListener("keydown", pressed);
    document.addEventListener("focusout", hide);
    document.addEventListener("scroll", scrolled, { passive: true });
    for (const button of document.querySelectorAll("[data-toggle]")) {
      button.addEventListener("click", toggled);
    }
    for (const strip of document.querySelectorAll(".frames")) {
      strip.addEventListener("click", enlarged);
      strip.addEventListener("keydown", enlarged);
    }
    for (const slider of document.querySelectorAll("input[type=range]")) {
      slider.addEventListener("input", () => slid(slider));
      slid(slider);
    }
  });
})();
