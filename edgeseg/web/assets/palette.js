// Colours for a class map that arrives as a grey PNG. Such a file and one with a palette differ in their first chunks
// only, so the browser's own decoder paints it in whatever colours and transparency are put there.

const SIGNATURE_BYTES = 8;

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

function crc32(bytes) {
  let crc = ~0;
  for (const byte of bytes) crc = CRC_TABLE[(crc ^ byte) & 0xff] ^ (crc >>> 8);
  return ~crc >>> 0;
}

function chunk(name, data) {
  const bytes = new Uint8Array(12 + data.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, data.length);
  bytes.set(new TextEncoder().encode(name), 4);
  bytes.set(data, 8);
  view.setUint32(8 + data.length, crc32(bytes.subarray(4, 8 + data.length)));
  return bytes;
}

/** A PNG in colours from a grey one. `rgba` holds four bytes for each of the 256 grey values. */
export function paintedPng(greyPng, rgba) {
  const view = new DataView(greyPng.buffer, greyPng.byteOffset, greyPng.byteLength);
  const header = greyPng.slice(SIGNATURE_BYTES + 8, SIGNATURE_BYTES + 8 + 13);
  header[9] = 3; // colour type: indices into a palette
  const rgb = new Uint8Array(3 * 256), alpha = new Uint8Array(256);
  for (let id = 0; id < 256; id++) {
    rgb.set(rgba.subarray(4 * id, 4 * id + 3), 3 * id);
    alpha[id] = rgba[4 * id + 3];
  }
  const parts = [
    greyPng.subarray(0, SIGNATURE_BYTES), chunk("IHDR", header), chunk("PLTE", rgb), chunk("tRNS", alpha),
  ];
  for (let at = SIGNATURE_BYTES; at < greyPng.length;) {
    const end = at + 12 + view.getUint32(at);
    const name = String.fromCharCode(...greyPng.subarray(at + 4, at + 8));
    if (name === "IDAT" || name === "IEND") parts.push(greyPng.subarray(at, end));
    at = end;
  }
  return new Blob(parts, { type: "image/png" });
}
