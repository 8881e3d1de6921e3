import { fileURLToPath } from 'node:url';
import { build, type Rolldown } from 'vite';
import { expect, test } from 'vitest';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const BUILD_MS = 120_000;

/** The chunks of the workers' code, as `npm run build` makes them. */
async function workerChunks(): Promise<Rolldown.OutputChunk[]> {
  const chunks: Rolldown.OutputChunk[] = [];
  const collect = {
    name: 'collect-chunks',
    generateBundle(_: unknown, bundle: Rolldown.OutputBundle) {
      chunks.push(...Object.values(bundle).filter((output) => output.type === 'chunk'));
    },
  };
  await build({ root: ROOT, mode: 'production', logLevel: 'silent', build: { write: false }, worker: { plugins: () => [collect] } });
  return chunks;
}

test('no chunk imports the entry of a worker, which WebKit would evaluate a second time', async () => {
  const chunks = await workerChunks();
  const entries = chunks.filter(({ isEntry }) => isEntry);
  expect(entries.map(({ name }) => name).sort()).toEqual(['pictureWorker', 'worker']);
  expect(entries.find(({ name }) => name === 'worker')!.dynamicImports.length, 'runtimes are fetched when they are used').toBeGreaterThanOrEqual(4);
  const isEntry = (file: string) => entries.some(({ fileName }) => fileName === file);
  const faults = chunks.filter(({ imports, dynamicImports }) => [...imports, ...dynamicImports].some(isEntry));
  expect(faults.map(({ fileName }) => fileName)).toEqual([]);
}, BUILD_MS);
