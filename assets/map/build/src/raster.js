// Draw cells as points with the processor, for browsers without WebGL and for those whose WebGL is the processor's work too, which takes
// ten times as long. The same picture as that of draw.js, with the same methods: a square or circle for each cell, one over the other.
import { byCode, MOST_SQUARE } from "./draw.js";

const RED_BLUE = 0x00ff00ff, GREEN_ALPHA = 0xff00ff00;

export function rasterer(canvas) {
  const context = canvas.getContext("2d", { willReadFrequently: true });
  let places = new Uint16Array(0), codes = new Uint8Array(0), order = null, chosen = null, palette = new Uint8Array(1024);
  let pixels = new Uint32Array(0), image = null;

  return {
    name: "processor",
    places(xy) {
      places = xy;
    },
    codes(list, inOrder) {
      codes = list;
      order = inOrder ? byCode(list) : null;
    },
    chosen(list) {
      chosen = list;
    },
    palette(colours) {
      palette = colours;
    },
    draw([fx, fy, sx, sy], size, fade) {
      const { width, height } = canvas, n = codes.length;
      if (!width || !height) return;
      if (image?.width !== width || image.height !== height) {
        image = context.createImageData(width, height);
        pixels = new Uint32Array(width * height);
      }
      pixels.fill(0);
      // from whole numbers to pixels, the first row on top
      const ax = (fx * width) / 131070, bx = ((sx + 1) * width) / 2, ay = (-fy * height) / 131070, by = ((1 - sy) * height) / 2;
      const paint = (size <= MOST_SQUARE ? squares : circles)(pixels, width, height, size, palette, fade);
      const reach = size / 2 + 1, right = width + reach, bottom = height + reach;
      for (let k = 0; k < n; k++) {
        const i = order ? order[k] : k, x = places[2 * i] * ax + bx, y = places[2 * i + 1] * ay + by;
        if (x > -reach && x < right && y > -reach && y < bottom) paint(x, y, codes[i], chosen !== null && !chosen[i]);
      }
      straight(pixels, new Uint32Array(image.data.buffer));
      context.putImageData(image, 0, 0);
    },
    close() {},
  };
}

// A pixel is four bytes, alpha, blue, green, red from high to low, colours multiplied by alpha. Two of the four are blended by one
// multiplication: what lies there is kept by (256 - alpha) / 256, rounded where that cannot exceed a byte.
function over(there, own, alpha) {
  const rest = 256 - alpha, round = alpha < 128 ? 0x00800080 : 0;
  const redBlue = ((Math.imul(there & RED_BLUE, rest) + round) >>> 8) & RED_BLUE;
  return own + redBlue + ((Math.imul((there >>> 8) & RED_BLUE, rest) + round) & GREEN_ALPHA);
}

function squares(pixels, width, height, size, palette, fade) {
  const half = size / 2, { colour, alpha, many } = ready(palette, fade);
  return (x, y, code, faded) => {
    const t = faded ? code + many : code, own = colour[t], share = alpha[t];
    if (!share) return;
    const left = Math.max(0, Math.ceil(x - half - 0.5)), right = Math.min(width, Math.ceil(x + half - 0.5));
    const bottom = Math.min(height, Math.ceil(y + half - 0.5));
    for (let row = Math.max(0, Math.ceil(y - half - 0.5)); row < bottom; row++)
      for (let at = row * width + left, end = row * width + right; at < end; at++) pixels[at] = over(pixels[at], own, share);
  };
}

function circles(pixels, width, height, size, palette, fade) {
  const half = size / 2, { colour, alpha, many } = ready(palette, fade);
  return (x, y, code, faded) => {
    const t = faded ? code + many : code, full = alpha[t];
    if (!full) return;
    const left = Math.max(0, Math.ceil(x - half - 0.5)), right = Math.min(width, Math.ceil(x + half - 0.5));
    const bottom = Math.min(height, Math.ceil(y + half - 0.5));
    for (let row = Math.max(0, Math.ceil(y - half - 0.5)); row < bottom; row++)
      for (let column = left; column < right; column++) {
        const dx = column + 0.5 - x, dy = row + 0.5 - y, covered = half + 0.5 - Math.sqrt(dx * dx + dy * dy), at = row * width + column;
        if (covered >= 1) pixels[at] = over(pixels[at], colour[t], full);
        else if (covered > 0) {
          const share = Math.round(full * covered);
          pixels[at] = over(pixels[at], premultiplied(palette[4 * code], palette[4 * code + 1], palette[4 * code + 2], share), share);
        }
      }
  };
}

// what a code looks like, and from `many` on what it looks like when it is not selected
function ready(palette, fade) {
  const many = palette.length / 4, colour = new Uint32Array(2 * many), alpha = new Uint8Array(2 * many);
  for (let t = 0; t < 2 * many; t++) {
    const at = 4 * (t % many);
    alpha[t] = Math.round(palette[at + 3] * (t < many ? 1 : fade));
    colour[t] = premultiplied(palette[at], palette[at + 1], palette[at + 2], alpha[t]);
  }
  return { colour, alpha, many };
}

function premultiplied(red, green, blue, alpha) {
  const part = (value) => Math.round((value * alpha) / 255);
  return ((alpha << 24) | (part(blue) << 16) | (part(green) << 8) | part(red)) >>> 0;
}

// colours as a 2D canvas has them, not multiplied by alpha
function straight(pixels, out) {
  for (let at = 0; at < pixels.length; at++) {
    const value = pixels[at], alpha = value >>> 24;
    if (alpha === 0 || alpha === 255) {
      out[at] = value;
      continue;
    }
    const more = 255 / alpha, part = (byte) => Math.min(255, Math.round(byte * more));
    out[at] = (alpha << 24) | (part((value >>> 16) & 255) << 16) | (part((value >>> 8) & 255) << 8) | part(value & 255);
  }
}
