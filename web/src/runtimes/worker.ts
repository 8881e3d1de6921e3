/**
 * What runs in a worker: one runtime, which the worker's name tells, and the artifacts that it has loaded.
 *
 * A runtime's code is fetched when the first of its artifacts is loaded, so the page itself stays small. Here it cannot
 * disturb another runtime, and whatever it does, the page still answers; one that hangs is ended with its worker.
 */

import { messageOf } from '../errors';
import { code, type Artifact } from '../server';
import { timed, type Progress } from '../timing';
import type { Call, Calls, Reply } from './calls';
import type { RuntimeId } from './index';
import type { LoadedModel } from './model';

const LOADERS: Record<RuntimeId, (artifact: Artifact) => Promise<LoadedModel>> = {
  server: async (artifact) => (await code(import('./server'))).load(artifact),
  'tfjs-wasm': async (artifact) => (await code(import('./tfjs'))).load(artifact, 'wasm'),
  'tfjs-webgl': async (artifact) => (await code(import('./tfjs'))).load(artifact, 'webgl'),
  'tfjs-webgpu': async (artifact) => (await code(import('./tfjs'))).load(artifact, 'webgpu'),
  'onnx-wasm': async (artifact) => (await code(import('./onnx'))).load(artifact, 'wasm'),
  'onnx-webgpu': async (artifact) => (await code(import('./onnx'))).load(artifact, 'webgpu'),
  'litert-wasm': async (artifact) => (await code(import('./tflite'))).load(artifact),
};

const loadHere = LOADERS[self.name as RuntimeId];
const models = new Map<string, LoadedModel>();

const calls = (progress: (of: Progress) => void): Calls => ({
  async load(artifact) {
    const model = await loadHere(artifact);
    models.set(artifact.name, model);
    return { backend: model.backend };
  },
  async predict(name, inputs) {
    const start = performance.now();
    const outputs = await models.get(name)!.predict(inputs);
    return { outputs, ms: performance.now() - start };
  },
  time: (artifact, questions, seconds) => timed(() => loadHere(artifact), questions, seconds, progress),
});

addEventListener('message', ({ data: { id, name, given } }: MessageEvent<Call>) => {
  const reply = (what: { result: unknown } | { error: string } | { progress: Progress }) =>
    postMessage({ id, ...what } satisfies Reply);
  const run = calls((progress) => reply({ progress }))[name] as (...given: unknown[]) => Promise<unknown>;
  run(...given).then((result) => reply({ result }), (error: unknown) => reply({ error: messageOf(error) }));
});
