/**
 * A user's picture -> the tensor that a model takes: the twin of contract/image.py, which explains the steps.
 *
 * Tests compare both with tests/golden, bit for bit. All sums are integers below 2 ** 53, where a double is exact.
 */

import { decodeBitmap } from './bitmap';
import { animated, ImageTooLarge, UnsupportedImage } from './errors';
import type { Pixels } from './pixels';
import { decodePng, PNG_SIGNATURE, readPng } from './png';

export type Fit = 'stretch' | 'contain' | 'cover';

export interface ImageSpec {
  height: number;
  width: number;
  channels: number;
  resample: string;
  fit: Fit;
  invert: string;
}

const MAX_PIXELS = 50_000_000;
const WHITE = 255;

/** Steps 1 to 7: one picture's bytes -> (height, width, channels), float32, 0..255. */
export async function imageToTensor(bytes: Uint8Array, spec: ImageSpec): Promise<Float32Array<ArrayBuffer>> {
  return Float32Array.from(fit(await decode(bytes), spec).data);
}

/** Steps 1 to 3: bytes -> upright grey or RGB pixels without alpha. */
export async function decode(bytes: Uint8Array, maxPixels = MAX_PIXELS): Promise<Pixels> {
  if (bytes.length === 0) {
    throw new UnsupportedImage('The picture is empty: got 0 bytes. Send the bytes of a PNG or JPEG file.');
  }
  if (!PNG_SIGNATURE.every((byte, i) => bytes[i] === byte)) {
    return decodeBitmap(bytes, (width, height) => checkSize(width, height, maxPixels));
  }
  const png = readPng(bytes);
  checkSize(png.width, png.height, maxPixels);
  if (png.frames > 1) throw animated('PNG', png.frames);
  return flatten(orient(await decodePng(png), png.orientation));
}

function checkSize(width: number, height: number, maxPixels: number): void {
  if (width * height <= maxPixels) return;
  throw new ImageTooLarge(
    `The picture has ${width} x ${height} = ${width * height} pixels, the limit is ${maxPixels}. Make it smaller.`,
  );
}

/** Step 2. Orientations 5 to 8 exchange rows and columns. */
function orient(pixels: Pixels, orientation: number): Pixels {
  if (orientation < 2 || orientation > 8) return pixels;
  const { width, height, channels, data } = pixels;
  const turned = orientation > 4;
  const [newWidth, newHeight] = turned ? [height, width] : [width, height];
  const mirrorX = [2, 3, 7, 8].includes(orientation);
  const mirrorY = [3, 4, 6, 7].includes(orientation);
  const result = new Uint8Array(data.length);
  for (let y = 0; y < newHeight; y++) {
    for (let x = 0; x < newWidth; x++) {
      const [column, row] = turned ? [y, x] : [x, y];
      const from = (mirrorY ? height - 1 - row : row) * width + (mirrorX ? width - 1 - column : column);
      const to = y * newWidth + x;
      for (let c = 0; c < channels; c++) result[to * channels + c] = data[from * channels + c]!;
    }
  }
  return { width: newWidth, height: newHeight, channels, data: result };
}

/** Step 3: alpha goes over white, so that grey (1) or RGB (3) is left. */
function flatten(pixels: Pixels): Pixels {
  const { width, height, channels, data } = pixels;
  if (channels === 1 || channels === 3) return pixels;
  const colours = channels - 1;
  const result = new Uint8Array(width * height * colours);
  for (let pixel = 0; pixel < width * height; pixel++) {
    const alpha = data[pixel * channels + colours]!;
    for (let c = 0; c < colours; c++) {
      const colour = data[pixel * channels + c]!;
      result[pixel * colours + c] = Math.floor((colour * alpha + WHITE * (255 - alpha) + 127) / 255);
    }
  }
  return { width, height, channels: colours, data: result };
}

/** Steps 4 to 7. */
export function fit(source: Pixels, spec: ImageSpec): Pixels {
  let pixels = toChannels(source, spec.channels);
  if (spec.invert === 'auto' && hasBrightRing(pixels)) {
    pixels = { ...pixels, data: inverted(pixels.data) };
  }
  if (spec.fit === 'stretch') return area(pixels, spec.height, spec.width);
  return spec.fit === 'contain' ? contain(pixels, spec) : cover(pixels, spec);
}

function inverted(data: Uint8Array): Uint8Array {
  const result = new Uint8Array(data.length);
  for (let i = 0; i < data.length; i++) result[i] = 255 - data[i]!;
  return result;
}

function toChannels(pixels: Pixels, channels: number): Pixels {
  if (pixels.channels === channels) return pixels;
  const { width, height } = pixels;
  const data = new Uint8Array(width * height * channels);
  for (let pixel = 0; pixel < width * height; pixel++) {
    const grey = greyAt(pixels, pixel);
    if (channels === 1) data[pixel] = grey;
    else data.fill(grey, pixel * channels, (pixel + 1) * channels); // slow, and a grey picture for a model of colours is rare
  }
  return { width, height, channels, data };
}

/** BT.601 in sixteenths of a bit: the sum stays below 2 ** 24. */
function greyAt(pixels: Pixels, pixel: number): number {
  const { data } = pixels;
  if (pixels.channels === 1) return data[pixel]!;
  const at = pixel * 3;
  return (19595 * data[at]! + 38470 * data[at + 1]! + 7471 * data[at + 2]! + 32768) >> 16;
}

/** Step 5: is more than two thirds of the outermost ring brighter than 127? */
function hasBrightRing(pixels: Pixels): boolean {
  const { width, height } = pixels;
  let [ring, bright] = [0, 0];
  for (let y = 0; y < height; y++) {
    const inside = y > 0 && y < height - 1;
    for (let x = 0; x < width; x += inside ? Math.max(1, width - 1) : 1) {
      ring += 1;
      if (greyAt(pixels, y * width + x) > 127) bright += 1;
    }
  }
  return 3 * bright > 2 * ring;
}

function contain(pixels: Pixels, { height, width }: ImageSpec): Pixels {
  const wide = pixels.width * height >= pixels.height * width;
  const innerHeight = wide ? Math.max(1, divide(pixels.height * width, pixels.width)) : height;
  const innerWidth = wide ? width : Math.max(1, divide(pixels.width * height, pixels.height));
  const inner = area(pixels, innerHeight, innerWidth);
  const [top, left] = [(height - innerHeight) >> 1, (width - innerWidth) >> 1];
  const { channels } = pixels;
  const data = new Uint8Array(height * width * channels);
  for (let y = 0; y < innerHeight; y++) {
    const row = inner.data.subarray(y * innerWidth * channels, (y + 1) * innerWidth * channels);
    data.set(row, ((top + y) * width + left) * channels);
  }
  return { width, height, channels, data };
}

function cover(pixels: Pixels, { height, width }: ImageSpec): Pixels {
  const wide = pixels.width * height >= pixels.height * width;
  const innerHeight = wide ? pixels.height : Math.max(1, divide(pixels.width * height, width));
  const innerWidth = wide ? Math.max(1, divide(pixels.height * width, height)) : pixels.width;
  const [top, left] = [(pixels.height - innerHeight) >> 1, (pixels.width - innerWidth) >> 1];
  return area(crop(pixels, top, left, innerHeight, innerWidth), height, width);
}

function crop(pixels: Pixels, top: number, left: number, height: number, width: number): Pixels {
  const { channels } = pixels;
  const data = new Uint8Array(height * width * channels);
  for (let y = 0; y < height; y++) {
    const from = ((top + y) * pixels.width + left) * channels;
    data.set(pixels.data.subarray(from, from + width * channels), y * width * channels);
  }
  return { width, height, channels, data };
}

/** Step 7: sum along one axis, then along the other, and divide once at the end. The order keeps little in between. */
function area(pixels: Pixels, height: number, width: number): Pixels {
  const { channels } = pixels;
  const down = (values: ArrayLike<number>, columns: number) => sumSpans(values, 1, pixels.height, columns * channels, height);
  const across = (values: ArrayLike<number>, rows: number) => sumSpans(values, rows, pixels.width, channels, width);
  const sums = height * pixels.width > pixels.height * width
    ? down(across(pixels.data, pixels.height), width)
    : across(down(pixels.data, pixels.width), height);
  const total = pixels.height * pixels.width;
  return { width, height, channels, data: Uint8Array.from(sums, (sum) => divide(sum, total)) };
}

/**
 * Of values (outer, size, inner) cut the middle axis into `count` equal spans and sum each, a whole source value
 * weighing `count`, so that every weight is an integer.
 */
function sumSpans(values: ArrayLike<number>, outer: number, size: number, inner: number, count: number): Float64Array {
  const sums = new Float64Array(outer * count * inner);
  for (let target = 0; target < count; target++) {
    const [start, stop] = [target * size, (target + 1) * size];
    for (let source = Math.floor(start / count); source * count < stop; source++) {
      const weight = Math.min((source + 1) * count, stop) - Math.max(source * count, start);
      for (let block = 0; block < outer; block++) {
        const [from, to] = [(block * size + source) * inner, (block * count + target) * inner];
        for (let i = 0; i < inner; i++) sums[to + i]! += weight * values[from + i]!;
      }
    }
  }
  return sums;
}

/** Divide, rounding half up, in integers. */
function divide(dividend: number, divisor: number): number {
  return Math.floor((2 * dividend + divisor) / (2 * divisor));
}
