/** The errors of a picture: the names are those of contract/errors.py, so that both sides can be held to one list. */

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

const FORMATS = ['PNG', 'JPEG', 'WEBP', 'GIF', 'BMP'];

export function unsupported(bytes: Uint8Array): UnsupportedImage {
  const start = Array.from(bytes.subarray(0, 8), (byte) => byte.toString(16).padStart(2, '0')).join(' ');
  return new UnsupportedImage(
    `Not a picture in a supported format: got ${bytes.length} bytes that start with ${start}. ` +
      `Send one of ${FORMATS.join(', ')}.`,
  );
}

export function animated(format: string, frames: number): ImageError {
  return new ImageError(
    `The ${format} picture is animated: got ${frames} frames, expected 1. Send one frame.`,
  );
}

/** What anything thrown has to say: a promise may be rejected with what is no Error. */
export function messageOf(error: unknown): string {
  if (error instanceof Event) return 'a script could not be fetched'; // how a failed script element rejects
  return error instanceof Error && error.message ? error.message : String(error);
}
