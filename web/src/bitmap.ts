/**
 * JPEG, WebP, GIF and BMP, and AVIF where the browser can, by its own decoder.
 *
 * No two JPEG decoders round alike, so these cannot equal the server's bit for bit, and the browser's are good enough.
 */

import { animated, ImageError, messageOf, unsupported } from './errors';
import type { Pixels } from './pixels';

/** The blocks of a GIF, and the frames of an animated WebP. */
const EXTENSION = 0x21;
const FRAME = 0x2c;
const ANMF = 0x414e4d46;
/** The box of an AVIF with its size, and how far it is looked for. */
const ISPE = 0x69737065;
const MOST_HEADER = 65_536;

type CheckSize = (width: number, height: number) => void;

/** Raises ImageError or a subclass. `checkSize` is called before the pixels are decoded if the header gives the size. */
export async function decodeBitmap(bytes: Uint8Array, checkSize: CheckSize): Promise<Pixels> {
  const format = formatOf(bytes);
  if (!format) throw unsupported(bytes);
  const size = headerSize(bytes, format);
  if (size) checkSize(...size);
  const type = `image/${format.toLowerCase()}`;
  const frames = countFrames(bytes, format);
  if (frames > 1) throw animated(format, frames);
  const bitmap = await createBitmap(bytes, type, format);
  try {
    checkSize(bitmap.width, bitmap.height);
    return readBitmap(bitmap);
  } finally {
    bitmap.close();
  }
}

function formatOf(bytes: Uint8Array): string | null {
  const start = String.fromCharCode(...bytes.subarray(0, 12));
  if (start.startsWith('\xff\xd8\xff')) return 'JPEG';
  if (start.startsWith('RIFF') && start.endsWith('WEBP')) return 'WEBP';
  if (/^GIF8[79]a/.test(start)) return 'GIF';
  if (start.endsWith('ftypavif')) return 'AVIF';
  return start.startsWith('BM') ? 'BMP' : null;
}

/** Width and height from the header; null if the header is cut short or of an unusual kind. */
export function headerSize(bytes: Uint8Array, format: string): [number, number] | null {
  const data = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  try {
    if (format === 'GIF') return [data.getUint16(6, true), data.getUint16(8, true)];
    if (format === 'BMP') return [data.getInt32(18, true), Math.abs(data.getInt32(22, true))];
    if (format === 'AVIF') return avifSize(data);
    return format === 'JPEG' ? jpegSize(data) : webpSize(data);
  } catch (error) {
    if (error instanceof RangeError) return null;
    throw error;
  }
}

/** Walk the segments to the frame header: 0xC0 to 0xCF, except the three that are tables. */
function jpegSize(data: DataView): [number, number] | null {
  for (let at = 2; data.getUint8(at) === 0xff; at += 2 + data.getUint16(at + 2)) {
    while (data.getUint8(at + 1) === 0xff) at += 1; // padding
    const marker = data.getUint8(at + 1);
    const isFrame = marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker);
    if (isFrame) return [data.getUint16(at + 7), data.getUint16(at + 5)];
  }
  return null;
}

/** The box `ispe` has it; the picture's properties are among the first boxes. */
function avifSize(data: DataView): [number, number] | null {
  for (let at = 0; at < Math.min(data.byteLength, MOST_HEADER) - 16; at++) {
    if (data.getUint32(at) === ISPE) return [data.getUint32(at + 8), data.getUint32(at + 12)];
  }
  return null;
}

function webpSize(data: DataView): [number, number] | null {
  const kind = data.getUint32(12);
  const uint24 = (at: number) => data.getUint16(at, true) + (data.getUint8(at + 2) << 16);
  if (kind === 0x56503858) return [uint24(24) + 1, uint24(27) + 1]; // VP8X
  if (kind === 0x56503820) return [data.getUint16(26, true) & 0x3fff, data.getUint16(28, true) & 0x3fff]; // VP8
  if (kind !== 0x5650384c) return null; // VP8L
  const bits = data.getUint32(21, true);
  return [(bits & 0x3fff) + 1, ((bits >> 14) & 0x3fff) + 1];
}

/** Counted from the bytes: not every browser has an ImageDecoder, and it needs a secure context. */
export function countFrames(bytes: Uint8Array, format: string): number {
  if (format === 'GIF') return countGifFrames(bytes);
  return format === 'WEBP' ? countWebpFrames(bytes) : 1;
}

function countGifFrames(bytes: Uint8Array): number {
  const tableBytes = (flags: number) => (flags & 0x80 ? 3 << ((flags & 7) + 1) : 0);
  const afterBlocks = (at: number) => {
    while (bytes[at]) at += bytes[at]! + 1;
    return at + 1;
  };
  let frames = 0;
  let at = 13 + tableBytes(bytes[10] ?? 0);
  while (bytes[at] === EXTENSION || bytes[at] === FRAME) {
    if (bytes[at] === FRAME) {
      frames += 1;
      at = afterBlocks(at + 11 + tableBytes(bytes[at + 9] ?? 0));
    } else {
      at = afterBlocks(at + 2);
    }
  }
  return frames;
}

function countWebpFrames(bytes: Uint8Array): number {
  const data = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let frames = 0;
  for (let at = 12; at + 8 <= bytes.length; ) {
    if (data.getUint32(at) === ANMF) frames += 1;
    const length = data.getUint32(at + 4, true);
    at += 8 + length + (length & 1); // chunks are padded to even sizes
  }
  return frames;
}

async function createBitmap(bytes: Uint8Array, type: string, format: string): Promise<ImageBitmap> {
  try {
    return await createImageBitmap(new Blob([bytes as BlobPart], { type }), {
      imageOrientation: 'from-image',
      colorSpaceConversion: 'none',
      premultiplyAlpha: 'none',
    });
  } catch (error) {
    if (format === 'AVIF') throw unsupported(bytes); // not every browser reads it
    throw new ImageError(
      `The ${format} picture is truncated or broken (${messageOf(error)}). Send the whole file, or save it again.`,
    );
  }
}

function readBitmap(bitmap: ImageBitmap): Pixels {
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext('2d', { willReadFrequently: true });
  if (!context) throw new ImageError(`The browser cannot make a canvas of ${width} x ${height} pixels. Make the picture smaller.`);
  context.fillStyle = '#fff'; // alpha goes over white here too
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  const rgba = context.getImageData(0, 0, width, height).data;
  const data = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; to < data.length; from += 4) { // a call for each of 12 million pixels would take seconds
    data[to++] = rgba[from]!;
    data[to++] = rgba[from + 1]!;
    data[to++] = rgba[from + 2]!;
  }
  return { width, height, channels: 3, data };
}
