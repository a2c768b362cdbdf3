// The elements of a map, and its buttons.
export function make(tag, within, kind = "", text = "") {
  const element = document.createElement(tag);
  if (kind) element.className = kind;
  if (text) element.textContent = text;
  within.append(element);
  return element;
}

const ICONS = {
  lasso: "M4 9c0-3 4-5 8-5s8 2 8 5-4 5-8 5c-2 0-4-.5-5.500-1.300M6.500 12.700C5 14 5 16 6.500 17s1.500 2.500 0 3.500",
  pan: "M12 3v18M3 12h18M12 3l-2.500 2.500M12 3l2.500 2.500M12 21l-2.500-2.500M12 21l2.500-2.500M3 12l2.500-2.500M3 12l2.500 2.500M21 12l-2.500-2.500M21 12l-2.500 2.500",
  closer: "M12 5v14M5 12h14",
  farther: "M5 12h14",
  home: "M4 9V4h5M15 4h5v5M20 15v5h-5M9 20H4v-5",
};

function button(within, name, words, act) {
  const one = make("button", within, name);
  one.type = "button";
  one.title = words;
  one.setAttribute("aria-label", words);
  if (ICONS[name]) {
    one.innerHTML = '<svg viewBox="0 0 24 24" aria-hidden="true"><path fill="none" stroke="currentColor" stroke-width="1.800" stroke-linecap="round" stroke-linejoin="round"/></svg>';
    one.querySelector("path").setAttribute("d", ICONS[name]);
  } else one.textContent = name.toUpperCase();
  one.onclick = act;
  return one;
}

export function build(place, map) {
  place.replaceChildren();
  const root = make("div", place, "cell-map");
  const tools = make("div", root, "tools"), modes = {};
  modes.lasso = button(tools, "lasso", "Draw around cells (hold Shift to move the map)", () => map.turn("lasso"));
  modes.pan = button(tools, "pan", "Move the map by dragging (hold Shift to draw)", () => map.turn("pan"));
  modes.lasso.setAttribute("aria-pressed", "true");
  modes.pan.setAttribute("aria-pressed", "false");
  root.dataset.mode = "lasso";
  button(tools, "closer", "Zoom in", () => map.zoom(1.5));
  button(tools, "farther", "Zoom out", () => map.zoom(1 / 1.5));
  button(tools, "home", "Show all cells (also a double click)", () => map.home());
  button(tools, "png", "Save the map as PNG", () => map.save("png"));
  button(tools, "svg", "Save the map as SVG", () => map.save("svg"));
  const stage = make("div", root, "stage");
  const canvas = make("canvas", stage, "cells"), over = make("canvas", stage, "over"), tip = make("div", stage, "tip");
  canvas.tabIndex = 0;
  canvas.setAttribute("role", "application");
  over.setAttribute("aria-hidden", "true");
  tip.hidden = true;
  return { root, modes, stage, canvas, over, tip, legend: make("div", root, "legend") };
}
