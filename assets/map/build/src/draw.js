// Draw cells as points with WebGL. A point is a place (two numbers of 16 bits), a code that a palette turns into a colour, and whether it
// is selected: five or six bytes, so that a million need no more than that, and new colours are a new list of codes.
import createRegl from "regl";

const VERTEX = `
precision highp float;
attribute vec2 place;
attribute float code, chosen;
uniform sampler2D palette;
uniform vec4 view;  // factor and shift in x and y, from 0..1 to what WebGL shows, -1..1
uniform float size, fade, rows;
varying vec4 colour;
void main() {
  float row = floor(code / 256.0);
  colour = texture2D(palette, vec2((code - 256.0 * row + 0.5) / 256.0, (row + 0.5) / rows));
  colour.a *= chosen > 0.5 ? 1.0 : fade;
  // a colour that cannot be seen: out of sight
  gl_Position = vec4(place * view.xy + view.zw, colour.a > 0.0 ? 0.0 : 2.0, 1.0);
  gl_PointSize = size;
}`;
const SQUARE = `
precision highp float;
varying vec4 colour;
void main() { gl_FragColor = vec4(colour.rgb * colour.a, colour.a); }`;
const ROUND = `
precision highp float;
varying vec4 colour;
uniform float size;
void main() {
  float from = length(gl_PointCoord - 0.5) * size;
  float alpha = colour.a * clamp(size / 2.0 - from + 0.5, 0.0, 1.0);
  gl_FragColor = vec4(colour.rgb * alpha, alpha);
}`;
export const MOST_SQUARE = 3.5; // pixels up to which a square cannot be told from a circle

const SOFTWARE = /swiftshader|llvmpipe|softpipe|software|basic render/i;
let graphics; // whether this browser has WebGL that a graphics processor draws; asked once, since browsers bound the number of contexts

function hasGraphics() {
  const gl = document.createElement("canvas").getContext("webgl", { failIfMajorPerformanceCaveat: true });
  if (!gl) return false;
  const named = gl.getExtension("WEBGL_debug_renderer_info")?.UNMASKED_RENDERER_WEBGL ?? gl.RENDERER;
  const found = !SOFTWARE.test(gl.getParameter(named));
  gl.getExtension("WEBGL_lose_context")?.loseContext();
  return found;
}

// what draws on a canvas with WebGL; null where there is none, or where the processor would do its work
export function painter(canvas) {
  if (!(graphics ??= hasGraphics())) return null;
  const gl = canvas.getContext("webgl", { antialias: false, alpha: true, premultipliedAlpha: true, preserveDrawingBuffer: true });
  if (!gl) return null;
  const regl = createRegl({ gl, optionalExtensions: ["OES_element_index_uint"] });
  const wide = regl.hasExtension("OES_element_index_uint");
  const places = regl.buffer({ usage: "static", type: "uint16", length: 4 });
  const codes = regl.buffer({ usage: "dynamic", type: "uint8", length: 4 });
  const chosen = regl.buffer({ usage: "dynamic", type: "uint8", length: 4 });
  const palette = regl.texture({ width: 256, height: 1, min: "nearest", mag: "nearest" });
  let order = null, state = { n: 0, kind: "uint8", selected: false, rows: 1 };

  const command = (frag, withOrder) =>
    regl({
      vert: VERTEX,
      frag,
      attributes: {
        place: { buffer: places, type: "uint16", size: 2, normalized: true },
        code: (_, p) => ({ buffer: codes, type: p.kind, size: 1 }),
        chosen: (_, p) => (p.selected ? { buffer: chosen, type: "uint8", size: 1 } : { constant: 1 }),
      },
      uniforms: { palette, view: regl.prop("view"), size: regl.prop("size"), fade: regl.prop("fade"), rows: regl.prop("rows") },
      ...(withOrder ? { elements: (_, p) => p.order } : {}),
      count: regl.prop("n"),
      primitive: "points",
      depth: { enable: false },
      blend: { enable: true, func: { src: "one", dst: "one minus src alpha" } },
    });
  const commands = { square: command(SQUARE, false), round: command(ROUND, false) };
  const ordered = { square: command(SQUARE, true), round: command(ROUND, true) };

  return {
    name: "webgl",
    places(xy) {
      places({ data: xy, usage: "static", type: "uint16" });
    },
    codes(list, inOrder) {
      codes({ data: list, usage: "dynamic", type: list instanceof Uint16Array ? "uint16" : "uint8" });
      state = { ...state, n: list.length, kind: list instanceof Uint16Array ? "uint16" : "uint8" };
      order?.destroy();
      order = inOrder && wide && list.length ? regl.elements({ data: byCode(list), type: "uint32", primitive: "points" }) : null;
    },
    chosen(list) {
      state = { ...state, selected: !!list };
      if (list) chosen({ data: list, usage: "dynamic", type: "uint8" });
    },
    palette(colours) {
      const rows = Math.max(1, Math.ceil(colours.length / 1024)), data = new Uint8Array(rows * 1024);
      data.set(colours);
      palette({ data, width: 256, height: rows, format: "rgba", min: "nearest", mag: "nearest" });
      state = { ...state, rows };
    },
    draw(view, size, fade) {
      regl.poll();
      regl.clear({ color: [0, 0, 0, 0] });
      if (!state.n) return;
      const how = size <= MOST_SQUARE ? "square" : "round";
      (order ? ordered : commands)[how]({ ...state, view, size, fade, order });
    },
    close() {
      regl.destroy();
      gl.getExtension("WEBGL_lose_context")?.loseContext();
    },
  };
}

// the cells from the lowest code to the highest, those of one code as they come: a counting sort
export function byCode(codes) {
  const starts = new Uint32Array(65537), order = new Uint32Array(codes.length);
  for (let i = 0; i < codes.length; i++) starts[codes[i] + 1]++;
  for (let c = 0; c < 65536; c++) starts[c + 1] += starts[c];
  for (let i = 0; i < codes.length; i++) order[starts[codes[i]]++] = i;
  return order;
}
