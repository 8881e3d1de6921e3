/** The code of the worker that decodes pictures: a photo of 12 megapixels would block the page for seconds. */

import { messageOf } from './errors';
import { decode, fit, type ImageSpec } from './image';

export interface PictureCall {
  id: number;
  picture: Uint8Array;
  specs: ImageSpec[];
}

export type PictureReply = { id: number } & ({ tensors: Float32Array<ArrayBuffer>[]; ms: number } | { error: string });

addEventListener('message', ({ data: { id, picture, specs } }: MessageEvent<PictureCall>) => {
  const start = performance.now();
  decode(picture)
    .then((pixels) => specs.map((spec) => Float32Array.from(fit(pixels, spec).data)))
    .then(
      (tensors) => postMessage({ id, tensors, ms: performance.now() - start } satisfies PictureReply),
      (error: unknown) => postMessage({ id, error: messageOf(error) } satisfies PictureReply),
    );
});
