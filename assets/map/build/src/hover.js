// What lies under the pointer: the nearest cell within a few pixels, or the head of an arrow. A search through all cells takes a
// millisecond or two for a million, so there is no index to build.
import { make } from "./frame.js";

const REACH = 7; // pixels

export function hover(map, here) {
  map.pointer = here;
  if (map.looking) return;
  map.looking = requestAnimationFrame(() => {
    map.looking = null;
    tell(map, map.pointer);
  });
}

function tell(map, here) {
  const { tip } = map.parts, lines = here && map.points && map.view ? words(map, here) : null;
  tip.hidden = !lines;
  if (!lines) return;
  tip.replaceChildren();
  lines.forEach((line, i) => make("div", tip, i ? "" : "first", line));
  const right = here[0] > map.width / 2, low = here[1] > map.height / 2;
  tip.style.left = right ? "" : `${here[0] + 12}px`;
  tip.style.right = right ? `${map.width - here[0] + 12}px` : "";
  tip.style.top = low ? "" : `${here[1] + 12}px`;
  tip.style.bottom = low ? `${map.height - here[1] + 12}px` : "";
}

function words(map, here) {
  const arrow = arrowAt(map, here);
  if (arrow) return [arrow];
  const i = cellAt(map, here);
  if (i < 0) return null;
  return [named(map, map.arrays.codes[i]), ...map.points.details.map((one, k) => one.names[map.points[`detail${k}`][i]])];
}

export function named({ header }, code) {
  if (header.kind !== "values") return header.names[code - 1];
  if (code === 1) return `${header.title}: no value`;
  const last = header.colours.length, value = header.low + ((code - 2) / (last - 2)) * (header.high - header.low);
  return `${header.title} ${code === last ? "≥ " : ""}${value.toFixed(2)} ${header.unit}`;
}

function cellAt(map, [left, top]) {
  const { places } = map.points, { codes } = map.arrays, { visible } = map;
  const side = Math.min(map.width, map.height) * map.view.zoom, [sx, sy] = map.spot(left, top);
  const x = sx * 65535, y = sy * 65535, reach = ((REACH + map.dot() / 2) / side) * 65535;
  let best = reach * reach, found = -1;
  for (let i = 0; i < codes.length; i++) {
    const dx = places[2 * i] - x;
    if (dx > reach || dx < -reach) continue;
    const dy = places[2 * i + 1] - y, far = dx * dx + dy * dy;
    if (far < best && visible[codes[i]]) {
      best = far;
      found = i;
    }
  }
  return found;
}

function arrowAt(map, [left, top]) {
  let best = REACH, found = null;
  map.header.arrows.forEach((group, k) => {
    if (!group.words.length) return;
    const ends = map.arrays[`arrows${k}`];
    for (let i = 0; i < ends.length / 4; i++) {
      const [x, y] = map.pixel(ends[4 * i + 2] / 65535, ends[4 * i + 3] / 65535), far = Math.hypot(x - left, y - top);
      if (far < best) [best, found] = [far, group.words[i]];
    }
  });
  return found;
}
