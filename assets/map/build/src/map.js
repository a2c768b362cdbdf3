// A map of cells: what is drawn, how one moves on it, and what is told to the server. All text of data goes through textContent.
// Places are numbers from 0 to 65535 in a square that the server chose; `view` is what is seen of it.
import { painter } from "./draw.js";
import { hover } from "./hover.js";
import { build } from "./frame.js";
import { legend } from "./legend.js";
import { overlay } from "./overlay.js";
import { rasterer } from "./raster.js";
import { save } from "./save.js";
import { simplified } from "./outline.js";

const FULL = 65535, MOST_CORNERS = 200, MOST_ZOOM = 400;

export class CellMap {
  constructor(place, shared) {
    this.shared = shared;
    this.parts = build(place, this);
    this.mode = "lasso";
    this.drawn = 0;
    this.hidden = new Set();
    this.range = [0, 1];
    this.painter = painter(this.parts.canvas) ?? rasterer(this.parts.canvas);
    this.parts.root.dataset.painter = this.painter.name;
    this.parts.canvas.addEventListener("webglcontextrestored", () => this.again());
    this.watch = new ResizeObserver(() => this.resize());
    this.watch.observe(this.parts.stage);
    gestures(this);
    shared.maps.add(this);
  }

  close() {
    this.shared.maps.delete(this);
    this.watch.disconnect();
    this.painter.close();
  }

  show(points, header, arrays) {
    const other = this.points?.id !== points.id;
    if (this.header?.colouring !== header.colouring) {
      this.hidden = new Set();
      this.range = [0, 1];
    }
    Object.assign(this, { points, header, arrays });
    this.parts.stage.style.height = `${header.height}px`;
    this.parts.canvas.setAttribute("aria-label", header.alt);
    this.resize(false);
    if (other) {
      this.painter.places(points.places);
      if (!this.follow()) this.fit();
    }
    this.line = null;
    this.painter.codes(arrays.codes, header.kind === "values");
    this.painter.chosen(arrays.chosen ? bits(arrays.chosen, arrays.codes.length) : null);
    this.recolour();
    legend(this);
    this.redraw();
    this.parts.root.dataset.drawn = ++this.drawn;
    this.parts.root.dataset.cells = arrays.codes.length;
  }

  // after the browser took the graphics memory away and gave it back
  again() {
    this.points && this.painter.places(this.points.places);
    this.points && this.show(this.points, this.header, this.arrays);
  }

  recolour() {
    const { header } = this, colours = new Uint8Array(4 * Math.ceil((header.colours.length + 1) / 256) * 256);
    this.visible = new Uint8Array(colours.length / 4);
    header.colours.forEach((hex, i) => {
      const code = i + 1;
      if (!this.passes(code)) return;
      this.visible[code] = 1;
      for (let c = 0; c < 3; c++) colours[4 * code + c] = parseInt(hex.slice(1 + 2 * c, 3 + 2 * c), 16);
      colours[4 * code + 3] = Math.round(255 * header.opacity);
    });
    this.painter.palette(colours);
  }

  // whether the legend lets cells of a code be seen; of values, code 1 is "no value"
  passes(code) {
    if (this.hidden.has(code)) return false;
    if (this.header.kind !== "values" || code === 1) return true;
    const share = (code - 2) / (this.header.colours.length - 2);
    return share >= this.range[0] - 1e-9 && share <= this.range[1] + 1e-9;
  }

  filtered() {
    this.recolour();
    legend(this);
    this.redraw();
  }

  fit() {
    const { extent } = this.points, { width, height } = this, side = Math.min(width, height) || 1;
    const zoom = 0.94 * Math.min(width / (side * Math.max(extent[0], 1e-6)), height / (side * Math.max(extent[1], 1e-6)));
    this.view = { x: extent[0] / 2, y: extent[1] / 2, zoom };
  }

  // the view of a map that is linked with this one, when there is one
  follow() {
    const other = [...this.shared.maps].find((one) => one !== this && one.view && linked(one, this));
    if (other) this.view = { ...other.view };
    return !!other;
  }

  resize(draw = true) {
    const box = this.parts.stage.getBoundingClientRect(), ratio = Math.min(globalThis.devicePixelRatio || 1, 2);
    if (!box.width || (box.width === this.width && box.height === this.height && ratio === this.ratio)) return;
    const first = !this.width;
    Object.assign(this, { width: box.width, height: box.height, ratio });
    for (const canvas of [this.parts.canvas, this.parts.over]) {
      canvas.width = Math.round(box.width * ratio);
      canvas.height = Math.round(box.height * ratio);
    }
    if (first && this.points && !this.view) this.fit();
    if (draw) this.redraw();
  }

  // from places (0 to 1) to pixels of the page, and back
  pixel(x, y) {
    const side = Math.min(this.width, this.height) * this.view.zoom;
    return [this.width / 2 + (x - this.view.x) * side, this.height / 2 - (y - this.view.y) * side];
  }

  spot(left, top) {
    const side = Math.min(this.width, this.height) * this.view.zoom;
    return [this.view.x + (left - this.width / 2) / side, this.view.y - (top - this.height / 2) / side];
  }

  redraw() {
    if (!this.points || !this.width || !this.view) return;
    if (!this.again_) this.again_ = requestAnimationFrame(() => this.paint());
  }

  paint() {
    cancelAnimationFrame(this.again_);
    this.again_ = null;
    const { view, width, height, ratio, header } = this, side = Math.min(width, height) * view.zoom;
    const fx = (2 * side) / width, fy = (2 * side) / height;
    this.painter.draw([fx, fy, -view.x * fx, -view.y * fy], this.dot() * ratio, header.fade);
    overlay(this);
    this.parts.root.dataset.painted = this.drawn;
    this.parts.root.dataset.view = [view.x, view.y, view.zoom].map((v) => v.toFixed(4)).join(" ");
  }

  // the size of a cell: larger where one looks closer
  dot() {
    return Math.min(this.header.size * Math.max(1, Math.sqrt(this.view.zoom)), 14);
  }

  move(view) {
    this.view = { ...view, zoom: Math.min(Math.max(view.zoom, 0.2), MOST_ZOOM) };
    this.redraw();
    for (const one of this.shared.maps)
      if (one !== this && linked(one, this)) {
        one.view = { ...this.view };
        one.redraw();
      }
  }

  zoom(factor, left = this.width / 2, top = this.height / 2) {
    const [x, y] = this.spot(left, top), zoom = Math.min(Math.max(this.view.zoom * factor, 0.2), MOST_ZOOM), same = this.view.zoom / zoom;
    this.move({ x: x + (this.view.x - x) * same, y: y + (this.view.y - y) * same, zoom });
  }

  home() {
    this.fit();
    this.move(this.view);
  }

  turn(mode) {
    this.mode = mode;
    this.parts.root.dataset.mode = mode;
    for (const [name, button] of Object.entries(this.parts.modes)) button.setAttribute("aria-pressed", String(name === mode));
  }

  save(form) {
    save(this, form);
  }

  // the corners go up, as whole numbers; which cells lie within is the server's to say
  select(line) {
    const corners = simplified(line, 0.75, MOST_CORNERS);
    if (corners.length < 3) return;
    const flat = corners.flatMap(([left, top]) => this.spot(left, top).map((v) => Math.round(v * FULL)));
    const hidden = [...this.hidden], span = this.header.kind === "values" ? this.range : [0, 1];
    this.tell("lasso", { corners: flat, hidden, span });
  }
}

function linked(one, other) {
  return !!one.header?.link && one.header.link === other.header?.link;
}

function bits(packed, n) {
  const out = new Uint8Array(n);
  for (let i = 0; i < n; i++) out[i] = (packed[i >> 3] >> (7 - (i & 7))) & 1;
  return out;
}

function gestures(map) {
  const { stage, canvas } = map.parts;
  const at = (event) => {
    const box = stage.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  let drag = null;
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button || !map.view) return;
    canvas.setPointerCapture(event.pointerId);
    const pan = (map.mode === "pan") !== event.shiftKey;
    drag = { pan, last: at(event) };
    if (!pan) map.line = [at(event)];
    hover(map, null);
  });
  canvas.addEventListener("pointermove", (event) => {
    const here = at(event);
    if (!drag) return hover(map, here);
    if (drag.pan) {
      const side = Math.min(map.width, map.height) * map.view.zoom;
      map.move({ ...map.view, x: map.view.x - (here[0] - drag.last[0]) / side, y: map.view.y + (here[1] - drag.last[1]) / side });
      drag.last = here;
    } else if (map.line) {
      const [x, y] = map.line[map.line.length - 1];
      if (Math.hypot(here[0] - x, here[1] - y) >= 2) map.line.push(here);
      overlay(map);
    }
  });
  const end = (done) => {
    const line = drag && !drag.pan ? map.line : null;
    drag = null;
    if (!line) return;
    if (done && line.length > 2) map.select(line);
    else map.line = null;
    overlay(map);
  };
  canvas.addEventListener("pointerup", () => end(true));
  canvas.addEventListener("pointercancel", () => end(false));
  canvas.addEventListener("pointerleave", () => drag || hover(map, null));
  canvas.addEventListener("dblclick", () => map.home());
  // the wheel moves the page until one has clicked into the map, or holds Ctrl
  canvas.addEventListener("wheel", (event) => {
    if (canvas.getRootNode().activeElement !== canvas && !event.ctrlKey) return;
    event.preventDefault();
    map.zoom(Math.exp(-event.deltaY * 0.0015), ...at(event));
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const step = 0.1 / map.view.zoom, { x, y, zoom } = map.view;
    const moves = {
      ArrowLeft: () => map.move({ x: x - step, y, zoom }), ArrowRight: () => map.move({ x: x + step, y, zoom }),
      ArrowUp: () => map.move({ x, y: y + step, zoom }), ArrowDown: () => map.move({ x, y: y - step, zoom }),
      "+": () => map.zoom(1.4), "=": () => map.zoom(1.4), "-": () => map.zoom(1 / 1.4), 0: () => map.home(), Escape: () => end(false),
    };
    if (!moves[event.key] || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    moves[event.key]();
  });
}
