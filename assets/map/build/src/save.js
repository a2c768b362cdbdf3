// Figures to save: what is seen of the map with its legend, as PNG at three times the size or as SVG. Up to MOST cells an SVG holds each
// as a circle, more as one picture; lines and words are always vector graphics.
import { strokes } from "./overlay.js";

const MOST = 20000, LINE = 20, PAD = 12;

export function save(map, form) {
  const text = svg(map), name = `${map.header.file}.${form}`;
  if (form === "svg") return hand(new Blob([text], { type: "image/svg+xml" }), name);
  const picture = new Image(), [width, height] = size(map);
  picture.onload = () => {
    const canvas = document.createElement("canvas"), context = canvas.getContext("2d");
    canvas.width = 3 * width;
    canvas.height = 3 * height;
    context.drawImage(picture, 0, 0, canvas.width, canvas.height);
    canvas.toBlob((blob) => hand(blob, name), "image/png");
  };
  picture.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
}

function hand(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function entries({ header, hidden }) {
  if (header.kind === "values") return [];
  return header.names.map((name, i) => ({ text: `${name} (${header.counts[i].toLocaleString("en")})`, colour: header.colours[i], code: i + 1, n: header.counts[i] }))
    .filter((one) => one.n && !hidden.has(one.code));
}

// entries of the legend in lines that are no wider than the map; 6.5 pixels a letter are enough
function lines(map) {
  const rows = [[]];
  let left = PAD;
  for (const one of entries(map)) {
    const wide = 24 + 6.5 * one.text.length;
    if (left + wide > map.width && rows.at(-1).length) {
      rows.push([]);
      left = PAD;
    }
    rows.at(-1).push({ ...one, left });
    left += wide;
  }
  return rows;
}

function size(map) {
  const rows = map.header.kind === "values" ? 2 : lines(map).length;
  return [Math.round(map.width), Math.round(map.height + PAD + LINE * rows + LINE)];
}

const safe = (text) => String(text).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`).replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f]/g, "");

export function svg(map) {
  const [width, height] = size(map), { header } = map, ink = map.ink, parts = [];
  const paper = getComputedStyle(map.parts.root).getPropertyValue("--st-background-color").trim() || "#ffffff";
  parts.push(`<rect width="${width}" height="${height}" fill="${safe(paper)}"/>`, `<svg width="${width}" height="${Math.round(map.height)}">`, cells(map));
  for (const one of strokes(map)) {
    const path = `M${one.line.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join("L")}${one.closed ? "Z" : ""}`;
    const look = one.filled ? `fill="${one.colour}"` : `fill="none" stroke="${one.colour}" stroke-width="${one.width}" stroke-dasharray="${one.dash.join(",")}"`;
    parts.push(`<path d="${path}" ${look} opacity="${one.opacity}"/>`);
  }
  parts.push("</svg>");
  const text = (x, y, words, anchor = "start") => `<text x="${x}" y="${y}" fill="${ink}" font-family="sans-serif" font-size="12" text-anchor="${anchor}">${safe(words)}</text>`;
  parts.push(text(width / 2, map.height + PAD, header.axes, "middle"));
  const top = map.height + PAD + LINE;
  if (header.kind === "values") {
    const stops = header.colours.slice(1), n = stops.length;
    parts.push(`<linearGradient id="scale">${stops.map((c, i) => `<stop offset="${i / (n - 1)}" stop-color="${c}"/>`).join("")}</linearGradient>`);
    parts.push(text(PAD, top, `${header.title}, ${header.unit}`), `<rect x="${PAD}" y="${top + 6}" width="200" height="9" fill="url(#scale)"/>`);
    parts.push(text(PAD + 208, top + 15, `${header.low.toFixed(2)} to ${header.high.toFixed(2)}`));
  } else
    lines(map).forEach((row, k) => row.forEach((one) =>
      parts.push(`<circle cx="${one.left + 5}" cy="${top + LINE * k - 4}" r="4.500" fill="${one.colour}"/>`, text(one.left + 14, top + LINE * k, one.text))));
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}">${parts.join("\n")}</svg>`;
}

function cells(map) {
  const { codes } = map.arrays, { places } = map.points, found = [];
  for (let i = 0; i < codes.length && found.length <= MOST; i++) if (map.visible[codes[i]]) found.push(i);
  if (found.length > MOST) {
    map.paint();
    return `<image width="${map.width}" height="${map.height}" href="${map.parts.canvas.toDataURL("image/png")}"/>`;
  }
  if (map.header.kind === "values") found.sort((a, b) => codes[a] - codes[b]);
  const chosen = map.arrays.chosen, r = (map.dot() / 2).toFixed(2), byColour = map.header.colours;
  const circles = found.map((i) => {
    const [x, y] = map.pixel(places[2 * i] / 65535, places[2 * i + 1] / 65535), off = chosen && !((chosen[i >> 3] >> (7 - (i & 7))) & 1);
    return `<circle cx="${x.toFixed(1)}" cy="${y.toFixed(1)}" r="${r}" fill="${byColour[codes[i] - 1]}"${off ? ` opacity="${map.header.fade}"` : ""}/>`;
  });
  return `<g fill-opacity="${map.header.opacity}">${circles.join("")}</g>`;
}
