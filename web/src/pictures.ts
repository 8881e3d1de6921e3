/** The page's side of the worker that decodes pictures (pictureWorker.ts). */

import { ImageError } from './errors';
import type { ImageSpec } from './image';
import type { PictureCall, PictureReply } from './pictureWorker';
import { bytesAt, listSamples } from './server';
import { text } from './text';

/** One picture as the inputs of models: a tensor for each spec, and the milliseconds that all of them took. */
export interface Made {
  tensors: Float32Array<ArrayBuffer>[];
  ms: number;
}

interface Waiting {
  resolve(made: Made): void;
  reject(error: Error): void;
}

let worker: Worker | null = null;
let calls = 0;
const waiting = new Map<number, Waiting>();

/** Decode a picture once, and fit it into each spec. Raises ImageError for one that cannot be used. */
export function tensorsFrom(picture: Uint8Array, specs: ImageSpec[]): Promise<Made> {
  worker ??= start();
  const id = calls++;
  return new Promise((resolve, reject) => {
    waiting.set(id, { resolve, reject });
    worker!.postMessage({ id, picture, specs } satisfies PictureCall);
  });
}

/** With how many a row is raced. */
export const TEST_PICTURES = 16;

/** The same few test pictures of the server for each spec. Raises Error if it has none. */
export async function testPictures(spec: ImageSpec): Promise<Float32Array[]> {
  const files = (await listSamples()).samples.slice(0, TEST_PICTURES);
  const pictures = await Promise.all(files.map(({ file }) => bytesAt(`/samples/${file}`)));
  return Promise.all(pictures.map(async (picture) => (await tensorsFrom(picture, [spec])).tensors[0]!));
}

function start(): Worker {
  const started = new Worker(new URL('./pictureWorker.ts', import.meta.url), { type: 'module', name: 'pictures' });
  started.onmessage = ({ data }: MessageEvent<PictureReply>) => {
    const call = waiting.get(data.id);
    waiting.delete(data.id);
    if ('error' in data) call?.reject(new ImageError(data.error));
    else call?.resolve(data);
  };
  started.onerror = (event) => {
    event.preventDefault(); // the callers show it
    worker = null; // the next picture tries again
    for (const { reject } of waiting.values()) reject(new Error(event.message || text().noCode));
    waiting.clear();
  };
  return started;
}
