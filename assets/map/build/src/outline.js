// The line around a selection: as few corners as keep its shape.
export function simplified(line, off, most) {
  let kept = thinned(line, off);
  for (let more = off * 2; kept.length > most; more *= 2) kept = thinned(line, more);
  return kept;
}

// Ramer, Douglas and Peucker: what lies less than `off` beside the straight line goes
function thinned(line, off) {
  if (line.length < 3) return line;
  const keep = new Uint8Array(line.length), open = [[0, line.length - 1]];
  keep[0] = keep[line.length - 1] = 1;
  while (open.length) {
    const [from, to] = open.pop();
    const [ax, ay] = line[from], dx = line[to][0] - ax, dy = line[to][1] - ay, long = Math.hypot(dx, dy);
    let far = off, at = -1;
    for (let i = from + 1; i < to; i++) {
      const px = line[i][0] - ax, py = line[i][1] - ay;
      const away = long ? Math.abs(px * dy - py * dx) / long : Math.hypot(px, py);
      if (away > far) [far, at] = [away, i];
    }
    if (at >= 0) {
      keep[at] = 1;
      open.push([from, at], [at, to]);
    }
  }
  return line.filter((_, i) => keep[i]);
}
