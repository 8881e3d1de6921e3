/** The errors of a picture. Their names are those of contract/errors.py: the same tests check both sides. */

export class ImageError extends Error {
  override name = 'ImageError';
}

/** More pixels than the limit. */
export class ImageTooLarge extends ImageError {
  override name = 'ImageTooLarge';
}

/** Bytes that are not a picture, or not in a supported format. */
export class UnsupportedImage extends ImageError {
  override name = 'UnsupportedImage';
}

/** The supported formats: the same as in contract/image.py. */
export const FORMATS = ['PNG', 'JPEG', 'WEBP', 'GIF', 'BMP'];

/** Brands in the `ftyp` box of a phone's photo, as in contract/image.py. */
const PHONE_BRANDS = { avif: 'AVIF', avis: 'AVIF', heic: 'HEIC', heix: 'HEIC', mif1: 'HEIC' };

export function unsupported(bytes: Uint8Array): UnsupportedImage {
  const brands = brandsOf(bytes);
  for (const [brand, format] of Object.entries(PHONE_BRANDS)) {
    if (brands.includes(brand)) return new UnsupportedImage(`${format} pictures are not read. Save it as JPEG or PNG, and send that.`);
  }
  const start = Array.from(bytes.subarray(0, 8), (byte) => byte.toString(16).padStart(2, '0')).join(' ');
  return new UnsupportedImage(
    `Not a picture in a supported format: got ${bytes.length} bytes that start with ${start}. ` +
      `Send one of ${FORMATS.join(', ')}.`,
  );
}

function brandsOf(bytes: Uint8Array): string[] {
  const start = String.fromCharCode(...bytes.subarray(0, 256));
  if (start.slice(4, 8) !== 'ftyp') return [];
  const length = new DataView(bytes.buffer, bytes.byteOffset).getUint32(0);
  return start.slice(8, length).match(/.{4}/gs) ?? [];
}

export function animated(format: string, frames: number): ImageError {
  return new ImageError(
    `The ${format} picture is animated: got ${frames} frames, expected 1. Send one frame.`,
  );
}

/** The message of anything thrown. A promise may be rejected with a value that is not an Error. */
export function messageOf(error: unknown): string {
  if (error instanceof Event) return 'a script could not be downloaded'; // how a failed script element rejects
  return error instanceof Error && error.message ? error.message : String(error);
}
