/**
 * The code of a worker: one runtime, whose id is the first word of the worker's name, and the artifacts that it has loaded.
 *
 * A runtime's code is downloaded when the first of its artifacts is loaded, so the page itself stays small. In its own
 * worker it cannot disturb another runtime or block the page. A runtime that hangs is ended with its worker.
 */

import { messageOf } from '../errors';
import { code, type Artifact } from '../server';
import { sampled, timed, turned, type Progress } from '../timing';
import type { Call, Calls, Reply } from './calls';
import { countBytes, readSizes, runtimeBytes, type OnBytes } from './downloads';
import type { RuntimeId } from './index';
import type { LoadedModel, Signature } from './model';

const LOADERS: Record<RuntimeId, (artifact: Artifact) => Promise<LoadedModel>> = {
  server: async (artifact) => (await code(import('./server'))).load(artifact),
  'tfjs-wasm': async (artifact) => (await code(import('./tfjs'))).load(artifact, 'wasm'),
  'tfjs-webgl': async (artifact) => (await code(import('./tfjs'))).load(artifact, 'webgl'),
  'tfjs-webgpu': async (artifact) => (await code(import('./tfjs'))).load(artifact, 'webgpu'),
  'onnx-wasm': async (artifact) => (await code(import('./onnx'))).load(artifact, 'wasm'),
  'onnx-webgpu': async (artifact) => (await code(import('./onnx'))).load(artifact, 'webgpu'),
  'litert-wasm': async (artifact) => (await code(import('./tflite'))).load(artifact),
};

/** Of the runtimes that a visitor's own file is read with. */
const INSPECTORS: Partial<Record<RuntimeId, (artifact: Artifact) => Promise<Signature>>> = {
  'tfjs-wasm': async (artifact) => (await code(import('./tfjs'))).inspect(artifact),
  'onnx-wasm': async (artifact) => (await code(import('./onnx'))).inspect(artifact),
  'litert-wasm': async (artifact) => (await code(import('./tflite'))).inspect(artifact),
};

const runtime = self.name.split(' ')[0] as RuntimeId;
const loadArtifact = LOADERS[runtime];
const models = new Map<string, LoadedModel>();

let onBytes: OnBytes | null = null;
let ofArtifact: Record<string, number> = {};
countBytes(() => onBytes, (path) => ofArtifact[path] ?? 0);

const calls = (onProgress: (progress: Progress) => void): Calls => ({
  async load(artifact) {
    const { model: folder, format, files } = artifact;
    ofArtifact = Object.fromEntries(Object.entries(files).map(([file, { bytes }]) => [`/artifacts/${folder}/${format}/${file}`, bytes]));
    void readSizes(); // for how much is to come
    const model = await reporting(onProgress, () => loadArtifact(artifact));
    models.set(artifact.name, model);
    return { backend: await model.backend(), runtimeBytes: await runtimeBytes() };
  },
  inspect: (artifact) => reporting(onProgress, () => INSPECTORS[runtime]!(artifact)),
  predict: (name, inputs) => models.get(name)!.predict(inputs),
  callTimes: async (artifact, inputs, seconds) => (await code(import('./server'))).callTimes(artifact, turned(inputs, artifact.image), seconds),
  measure: ({ name, image }, inputs, seconds) => sampled(models.get(name)!, turned(inputs, image), seconds),
  async time(artifact, questions, seconds, further) {
    const timing = await timed(() => reporting(onProgress, () => loadArtifact(artifact)), questions, seconds, onProgress, further);
    return { ...timing, runtimeBytes: await runtimeBytes() };
  },
});

/** Report the bytes that come while something is loaded. The bytes of answers are not a download. */
async function reporting<T>(onProgress: (progress: Progress) => void, load: () => Promise<T>): Promise<T> {
  let [bytes, total] = [0, 0];
  const report: OnBytes = (more, expected) => {
    bytes += more;
    total += expected;
    onProgress({ phase: 'load', samples: [], bytes, total });
  };
  onBytes = report;
  try {
    return await load();
  } finally {
    if (onBytes === report) onBytes = null;
  }
}

addEventListener('message', ({ data: { id, name, given } }: MessageEvent<Call>) => {
  const reply = (content: { result: unknown } | { error: string } | { progress: Progress }) =>
    postMessage({ id, ...content } satisfies Reply);
  const run = calls((progress) => reply({ progress }))[name] as (...given: unknown[]) => Promise<unknown>;
  run(...given).then((result) => reply({ result }), (error: unknown) => reply({ error: messageOf(error) }));
});
