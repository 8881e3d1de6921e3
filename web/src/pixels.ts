/** A decoded picture: what the decoders give, and what the steps of image.ts take. */

/** Values 0..255, row by row: grey (1), grey and alpha (2), RGB (3) or RGBA (4). */
export interface Pixels {
  width: number;
  height: number;
  channels: number;
  data: Uint8Array;
}
