// Arrows and outlines, above the cells. `strokes` gives them as lines in pixels, for the screen and for figures that are saved.
export function strokes(map) {
  const { header, arrays } = map, found = [];
  header.arrows.forEach((group, k) => {
    const ends = arrays[`arrows${k}`], colour = group.colour || map.ink;
    for (let i = 0; i < ends.length / 4; i++) {
      const from = map.pixel(ends[4 * i] / 65535, ends[4 * i + 1] / 65535), to = map.pixel(ends[4 * i + 2] / 65535, ends[4 * i + 3] / 65535);
      found.push({ line: [from, to], colour, width: group.width, opacity: group.opacity, dash: group.dashed ? [5, 4] : [], closed: false });
      if (group.heads) found.push({ line: head(from, to), colour, width: 0, opacity: group.opacity, dash: [], closed: true, filled: true });
    }
  });
  if (arrays.outline?.length) {
    const line = [];
    for (let i = 0; i < arrays.outline.length; i += 2) line.push(map.pixel(arrays.outline[i] / 65535, arrays.outline[i + 1] / 65535));
    found.push({ line, colour: map.ink, width: 1.3, opacity: 1, dash: [2, 3], closed: true });
  }
  return found.filter(({ line }) => line.length);
}

function head([x0, y0], [x1, y1]) {
  const long = Math.hypot(x1 - x0, y1 - y0);
  if (long < 6) return [];
  const ux = (x1 - x0) / long, uy = (y1 - y0) / long, at = 8, half = 3.2;
  return [[x1, y1], [x1 - at * ux - half * uy, y1 - at * uy + half * ux], [x1 - at * ux + half * uy, y1 - at * uy - half * ux]];
}

export function overlay(map) {
  if (!map.view || !map.header) return;
  const { over, root } = map.parts, context = over.getContext("2d");
  map.ink = getComputedStyle(root).color;
  context.setTransform(map.ratio, 0, 0, map.ratio, 0, 0);
  context.clearRect(0, 0, map.width, map.height);
  const drawn = strokes(map);
  if (map.line) drawn.push({ line: map.line, colour: map.ink, width: 1.3, opacity: 1, dash: [2, 3], closed: true });
  for (const one of drawn) {
    context.beginPath();
    one.line.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
    if (one.closed) context.closePath();
    context.globalAlpha = one.opacity;
    context.setLineDash(one.dash);
    context.lineWidth = one.width;
    context.strokeStyle = context.fillStyle = one.colour;
    if (one.filled) context.fill();
    else context.stroke();
  }
  context.globalAlpha = 1;
}
