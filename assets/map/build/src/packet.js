// What comes from the server: four bytes with the length of a header, the header as JSON, then its arrays one after another, each from a
// place that four divides. The header's "arrays" tells name, type and length of each.
const KINDS = { u1: Uint8Array, u2: Uint16Array, i4: Int32Array };

export function unpack(bytes) {
  const whole = new Uint8Array(bytes); // a copy: arrays of two and four bytes must begin at such places
  const long = new DataView(whole.buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(whole.subarray(4, 4 + long)));
  let at = 4 + long;
  const arrays = {};
  for (const { name, kind, length } of header.arrays) {
    at = Math.ceil(at / 4) * 4;
    arrays[name] = new KINDS[kind](whole.buffer, at, length);
    at += arrays[name].byteLength;
  }
  return { header, arrays };
}
