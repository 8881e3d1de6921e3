/** What a worker downloads: how much has come, and how much a runtime's code was. */

import { json } from '../server';

/** Path -> the bytes of a file on the wire, and unpacked. */
type Sizes = Record<string, [wire: number, unpacked: number]>;

/** Takes the bytes of a fetch as they come, and, when it begins, how many are expected; 0 if unknown. */
export type OnBytes = (bytes: number, expected: number) => void;

/**
 * Count the bytes of every fetch that begins while `reporter` gives somebody to tell. Others are left as they are: to
 * count takes time. `sizeOf` knows files besides those of the runtimes.
 */
export function countBytes(reporter: () => OnBytes | null, sizeOf: (path: string) => number = () => 0): void {
  const original = globalThis.fetch;
  let known: Sizes = {};
  globalThis.fetch = async (...request) => {
    const onBytes = reporter();
    const response = await original(...request);
    if (!response.body) return response;
    const path = response.url ? new URL(response.url).pathname : '';
    if (path === SIZES) {
      known = await response.clone().json().catch(() => ({})) as Sizes;
      return response;
    }
    if (!onBytes) return response;
    onBytes(0, known[path]?.[1] ?? sizeOf(path));
    const counter = new TransformStream<Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>>({
      transform(chunk, out) {
        onBytes(chunk.length, 0);
        out.enqueue(chunk);
      },
    });
    return new Response(response.body.pipeThrough(counter), response);
  };
}

const SIZES = '/runtimes/sizes.json';
let sizes: Promise<Sizes> | undefined;

/** The sizes of the runtimes' files; none if they cannot be had: a figure that is missing stops no model. */
export function readSizes(): Promise<Sizes> {
  return (sizes ??= json<Sizes>(SIZES).catch(() => ({})));
}

/** The bytes on the wire of the runtime's code that this worker fetched so far. */
export async function runtimeBytes(): Promise<number> {
  const fetched = performance.getEntriesByType('resource').map(({ name }) => new URL(name).pathname);
  const known = await readSizes();
  return [...new Set(fetched)].reduce((sum, path) => sum + (known[path]?.[0] ?? 0), 0);
}
