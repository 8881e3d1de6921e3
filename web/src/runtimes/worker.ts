/**
 * The code of a worker: one runtime, whose id is the worker's name, and the artifacts that it has loaded.
 *
 * A runtime's code is downloaded when the first of its artifacts is loaded, so the page itself stays small. In its own
 * worker it cannot disturb another runtime or block the page. A runtime that hangs is ended with its worker.
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

const loadArtifact = LOADERS[self.name as RuntimeId];
const models = new Map<string, LoadedModel>();

const calls = (onProgress: (progress: Progress) => void): Calls => ({
  async load(artifact) {
    const model = await loadArtifact(artifact);
    models.set(artifact.name, model);
    return { backend: model.backend };
  },
  async predict(name, inputs) {
    const start = performance.now();
    const outputs = await models.get(name)!.predict(inputs);
    return { outputs, ms: performance.now() - start };
  },
  time: (artifact, questions, seconds) => timed(() => loadArtifact(artifact), questions, seconds, onProgress),
});

addEventListener('message', ({ data: { id, name, given } }: MessageEvent<Call>) => {
  const reply = (content: { result: unknown } | { error: string } | { progress: Progress }) =>
    postMessage({ id, ...content } satisfies Reply);
  const run = calls((progress) => reply({ progress }))[name] as (...given: unknown[]) => Promise<unknown>;
  run(...given).then((result) => reply({ result }), (error: unknown) => reply({ error: messageOf(error) }));
});
