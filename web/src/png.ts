/**
 * PNG -> exact 8-bit samples.
 *
 * A canvas cannot do this: it applies colour profiles and gamma, and it multiplies by alpha, so the bytes that come
 * back differ from browser to browser. The server reads PNGs with Pillow; this decoder gives the same bytes.
 */

import { ImageError, unsupported } from './errors';
import type { Pixels } from './pixels';

export const PNG_SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];

export interface PngFile {
  width: number;
  height: number;
  depth: number;
  colour: number;
  interlaced: boolean;
  frames: number;
  palette: Uint8Array;
  transparency: Uint8Array | null;
  orientation: number;
  idat: Uint8Array[];
}

const IHDR = 0x49484452;
/** How a block of EXIF data begins: II*\0 or MM\0*. */
const LITTLE_ENDIAN = 0x49492a00;
const BIG_ENDIAN = 0x4d4d002a;

const GREY = 0;
const RGB = 2;
const PALETTE = 3;
const GREY_ALPHA = 4;
const RGBA = 6;

const SAMPLES_PER_PIXEL: Record<number, number> = { [GREY]: 1, [RGB]: 3, [PALETTE]: 1, [GREY_ALPHA]: 2, [RGBA]: 4 };
const DEPTHS: Record<number, number[]> = {
  [GREY]: [1, 2, 4, 8, 16],
  [RGB]: [8, 16],
  [PALETTE]: [1, 2, 4, 8],
  [GREY_ALPHA]: [8, 16],
  [RGBA]: [8, 16],
};

/** x and y of the first pixel of each pass, and the steps between its pixels. */
const ADAM7 = [
  [0, 0, 8, 8],
  [4, 0, 8, 8],
  [0, 4, 4, 8],
  [2, 0, 4, 4],
  [0, 2, 2, 4],
  [1, 0, 2, 2],
  [0, 1, 1, 2],
] as const;
const ONE_PASS = [[0, 0, 1, 1]] as const;

/** Read the chunks; nothing is decompressed, so that limits can be checked first. */
export function readPng(bytes: Uint8Array): PngFile {
  const png = readHeader(bytes);
  let framesBeforeData = 0;
  for (const { type, body } of chunks(bytes)) {
    if (type === 'PLTE') png.palette = body;
    else if (type === 'tRNS') png.transparency = body;
    else if (type === 'eXIf') png.orientation = exifOrientation(body);
    else if (type === 'acTL') png.frames = view(body).getUint32(0);
    else if (type === 'fcTL' && png.idat.length === 0) framesBeforeData += 1;
    else if (type === 'IDAT') png.idat.push(body);
  }
  if (png.idat.length === 0) throw unsupported(bytes);
  // Without a frame header before it, the first image is a still image beside the animation.
  if (png.frames > 0 && framesBeforeData === 0) png.frames += 1;
  return png;
}

function readHeader(bytes: Uint8Array): PngFile {
  const head = view(bytes);
  if (bytes.length < 33 || head.getUint32(12) !== IHDR) throw unsupported(bytes);
  const [depth, colour, compression, filter, interlace] = bytes.subarray(24, 29) as unknown as number[];
  const png: PngFile = {
    width: head.getUint32(16),
    height: head.getUint32(20),
    depth: depth!,
    colour: colour!,
    interlaced: interlace === 1,
    frames: 0,
    palette: new Uint8Array(0),
    transparency: null,
    orientation: 1,
    idat: [],
  };
  const known = DEPTHS[png.colour]?.includes(png.depth) && compression === 0 && filter === 0 && interlace! <= 1;
  if (!known || png.width === 0 || png.height === 0) throw unsupported(bytes);
  return png;
}

/** The chunks before the pixels must be whole, as for Pillow. Damage after them shows when the pixels are counted. */
function* chunks(bytes: Uint8Array): Generator<{ type: string; body: Uint8Array }> {
  const file = view(bytes);
  let beforeData = true;
  for (let at = 8; at + 8 <= bytes.length; ) {
    const length = file.getUint32(at);
    const type = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    beforeData &&= type !== 'IDAT';
    const end = at + 8 + length;
    if (beforeData && (end + 4 > bytes.length || crc32(bytes.subarray(at + 4, end)) !== file.getUint32(end))) {
      throw unsupported(bytes);
    }
    if (type === 'IEND') return;
    yield { type, body: bytes.subarray(at + 8, end) };
    at = end + 4;
  }
}

function crc32(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}

/** Decompress, unfilter and unpack. */
export async function decodePng(png: PngFile): Promise<Pixels> {
  const passes = (png.interlaced ? ADAM7 : ONE_PASS)
    .map(([x, y, dx, dy]) => ({ x, y, dx, dy, ...passSize(png, x, y, dx, dy) }))
    .filter((pass) => pass.columns > 0 && pass.rows > 0);
  const perPixel = SAMPLES_PER_PIXEL[png.colour]!;
  const size = passes.reduce((sum, pass) => sum + pass.rows * (1 + rowBytes(png, pass.columns)), 0);
  const raw = await inflate(png, size);
  const samples = new Uint8Array(png.width * png.height * perPixel);
  let offset = 0;
  for (const pass of passes) {
    const stride = rowBytes(png, pass.columns);
    unfilter(png, raw, offset, stride, pass.rows);
    for (let row = 0; row < pass.rows; row++) {
      const from = offset + row * (stride + 1) + 1;
      const to = ((pass.y + row * pass.dy) * png.width + pass.x) * perPixel;
      unpack(raw, from, png.depth, samples, to, pass.columns, perPixel, pass.dx * perPixel);
    }
    offset += pass.rows * (stride + 1);
  }
  return toColours(png, samples);
}

function passSize(png: PngFile, x: number, y: number, dx: number, dy: number) {
  return { columns: Math.ceil((png.width - x) / dx), rows: Math.ceil((png.height - y) / dy) };
}

function rowBytes(png: PngFile, columns: number): number {
  return Math.ceil((columns * SAMPLES_PER_PIXEL[png.colour]! * png.depth) / 8);
}

/** Stop at `size` bytes: a few bytes of zlib can unfold into gigabytes. */
async function inflate(png: PngFile, size: number): Promise<Uint8Array> {
  const result = new Uint8Array(size);
  const source = new Blob(png.idat as BlobPart[]).stream().pipeThrough(new DecompressionStream('deflate'));
  const reader = source.getReader();
  for (let filled = 0; filled < size; ) {
    const { done, value } = await reader.read().catch((error: unknown) => {
      throw broken(png, error instanceof Error ? error.message : 'its data cannot be decompressed');
    });
    if (done) throw broken(png, `got ${filled} bytes of pixels, expected ${size}`);
    result.set(value.subarray(0, size - filled), filled);
    filled += value.length;
  }
  reader.cancel().catch(() => {}); // what follows the last pixel does not matter, damaged or not
  return result;
}

/** Undo the row filters in place; each row begins with the number of its filter. */
function unfilter(png: PngFile, raw: Uint8Array, start: number, stride: number, rows: number): void {
  const step = Math.max(1, (SAMPLES_PER_PIXEL[png.colour]! * png.depth) >> 3);
  const predict = [none, left, up, average, paeth];
  for (let row = 0; row < rows; row++) {
    const from = start + row * (stride + 1) + 1;
    const filter = predict[raw[from - 1]!];
    if (!filter) throw broken(png, `row filter ${raw[from - 1]}`);
    if (filter === none) continue;
    const above = row === 0 ? -1 : from - stride - 1;
    for (let i = 0; i < stride; i++) {
      const a = i < step ? 0 : raw[from + i - step]!;
      const b = above < 0 ? 0 : raw[above + i]!;
      const c = above < 0 || i < step ? 0 : raw[above + i - step]!;
      raw[from + i]! += filter(a, b, c);
    }
  }
}

const none = () => 0;
const left = (a: number) => a;
const up = (_a: number, b: number) => b;
const average = (a: number, b: number) => (a + b) >> 1;
const paeth = (a: number, b: number, c: number) => {
  const [pa, pb, pc] = [Math.abs(b - c), Math.abs(a - c), Math.abs(a + b - 2 * c)];
  return pa <= pb && pa <= pc ? a : pb <= pc ? b : c;
};

/** Spread one row's samples, each as it is in the file; the high byte if it has 16 bits. */
function unpack(
  raw: Uint8Array, from: number, depth: number,
  samples: Uint8Array, to: number, columns: number, perPixel: number, step: number,
): void {
  const mask = (1 << Math.min(depth, 8)) - 1;
  for (let i = 0; i < columns * perPixel; i++) {
    const bit = i * depth;
    const value = (raw[from + (bit >> 3)]! >> Math.max(0, 8 - depth - (bit & 7))) & mask;
    samples[to + Math.floor(i / perPixel) * step + (i % perPixel)] = value;
  }
}

function toColours(png: PngFile, samples: Uint8Array): Pixels {
  const { width, height, colour } = png;
  if (colour === PALETTE) return { width, height, channels: 4, data: throughPalette(png, samples) };
  const channels = SAMPLES_PER_PIXEL[colour]!;
  const data = png.depth < 8 ? samples.map((value) => value * (255 / (2 ** png.depth - 1))) : samples;
  // Decoders disagree on what a colour key means in a 16-bit picture, so it is ignored.
  const keyed = png.transparency && png.depth <= 8 && (colour === GREY || colour === RGB);
  if (!keyed) return { width, height, channels, data };
  return { width, height, channels: channels + 1, data: withKey(png, samples, data, channels) };
}

function throughPalette(png: PngFile, samples: Uint8Array): Uint8Array {
  const data = new Uint8Array(samples.length * 4);
  samples.forEach((index, pixel) => {
    // An index past the palette's end is a fault of the file. It stands for black, as in Pillow.
    for (let c = 0; c < 3; c++) data[pixel * 4 + c] = png.palette[index * 3 + c] ?? 0;
    data[pixel * 4 + 3] = png.transparency?.[index] ?? 255;
  });
  return data;
}

/** Alpha 0 where a pixel has the key's samples, as they are in the file. Only the low bits of a key count. */
function withKey(png: PngFile, samples: Uint8Array, data: Uint8Array, channels: number): Uint8Array {
  const trns = png.transparency!;
  if (trns.length < 2 * channels) throw broken(png, 'its colour key is cut short');
  const key = Array.from({ length: channels }, (_, c) => view(trns).getUint16(2 * c) & (2 ** png.depth - 1));
  const result = new Uint8Array((data.length / channels) * (channels + 1));
  for (let pixel = 0; pixel * channels < data.length; pixel++) {
    const at = pixel * channels;
    for (let c = 0; c < channels; c++) result[at + pixel + c] = data[at + c]!;
    result[at + pixel + channels] = key.every((value, c) => samples[at + c] === value) ? 0 : 255;
  }
  return result;
}

/** The orientation (1..8) in a block of EXIF data; 1 if it has none or is broken. */
function exifOrientation(exif: Uint8Array): number {
  const data = view(exif);
  try {
    const order = data.getUint32(0);
    if (order !== LITTLE_ENDIAN && order !== BIG_ENDIAN) return 1;
    const little = order === LITTLE_ENDIAN;
    const directory = data.getUint32(4, little);
    for (let i = 0; i < data.getUint16(directory, little); i++) {
      const entry = directory + 2 + 12 * i;
      const [tag, kind] = [data.getUint16(entry, little), data.getUint16(entry + 2, little)];
      if (tag === 0x0112 && kind === 3) return data.getUint16(entry + 8, little);
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // the block ends too early
  }
  return 1;
}

function view(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function broken(png: { width: number; height: number }, problem: string): ImageError {
  return new ImageError(
    `The PNG picture of ${png.width} x ${png.height} pixels is truncated or broken (${problem}). ` +
      'Send the whole file, or save it again.',
  );
}
