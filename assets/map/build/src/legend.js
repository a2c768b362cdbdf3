// The legend: a click on a category hides its cells or brings them back, a double click leaves it alone; of values, two sliders do.
import { make } from "./frame.js";

export function legend(map) {
  const { header } = map, box = map.parts.legend, mark = JSON.stringify([header.colouring, header.names, header.counts, header.low, header.high, header.colours]);
  if (map.marked !== mark) {
    map.marked = mark;
    box.replaceChildren();
    map.entries = header.kind === "values" ? values(map, box) : categories(map, box);
  }
  for (const [code, entry] of map.entries) entry.setAttribute("aria-pressed", String(!map.hidden.has(code)));
}

function toggle(map, code) {
  if (!map.hidden.delete(code)) map.hidden.add(code);
  map.filtered();
}

function alone(map, code) {
  const all = [...map.entries.keys()], others = all.filter((one) => one !== code), is = !map.hidden.has(code) && others.every((one) => map.hidden.has(one));
  map.hidden = new Set(is ? [] : others);
  map.filtered();
}

function entry(map, box, code, name, count, colour) {
  const one = make("button", box, "entry");
  one.type = "button";
  one.title = "Click to hide or show, double click to see only these";
  make("span", one, "dot").style.background = colour;
  make("span", one, "name", `${name} (${count.toLocaleString("en")})`);
  one.onclick = (event) => (event.detail > 1 ? undefined : toggle(map, code));
  one.ondblclick = () => {
    map.hidden.delete(code);
    alone(map, code);
  };
  return one;
}

function categories(map, box) {
  const { names, counts, colours } = map.header, entries = new Map();
  names.forEach((name, i) => counts[i] && entries.set(i + 1, entry(map, box, i + 1, name, counts[i], colours[i])));
  return entries;
}

function values(map, box) {
  const { header } = map, entries = new Map(), scale = make("div", box, "scale"), at = (share) => header.low + share * (header.high - header.low);
  make("div", scale, "name", `${header.title}, ${header.unit}`);
  const bar = make("div", scale, "bar"), low = make("span", scale, "low"), high = make("span", scale, "high");
  bar.style.background = `linear-gradient(to right, ${header.colours.slice(1).filter((_, i, all) => i % 16 === 0 || i === all.length - 1).join(", ")})`;
  const sliders = ["at least", "at most"].map((words, k) => {
    const one = make("input", bar, k ? "to" : "from");
    Object.assign(one, { type: "range", min: 0, max: 1, step: 1 / 253, value: map.range[k] });
    one.setAttribute("aria-label", `Show cells with ${header.title} ${words}`);
    return one;
  });
  const write = () => {
    low.textContent = at(map.range[0]).toFixed(2);
    high.textContent = `${map.range[1] >= 1 ? "≥ " : ""}${at(map.range[1]).toFixed(2)}`;
  };
  sliders.forEach((one, k) => (one.oninput = () => {
    map.range[k] = k ? Math.max(+one.value, map.range[0]) : Math.min(+one.value, map.range[1]);
    one.value = map.range[k];
    write();
    map.filtered();
  }));
  write();
  if (header.counts[0]) entries.set(1, entry(map, box, 1, "no value", header.counts[0], header.colours[0]));
  return entries;
}
