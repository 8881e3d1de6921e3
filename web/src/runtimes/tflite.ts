/** LiteRT.js on WebAssembly. It refuses inputs of any batch size, so it runs the artifact's `batch1` signature. */

import { loadAndCompile, loadLiteRt, Tensor, type CompiledModel } from '@litertjs/core';

import { messageOf } from '../errors';
import type { Artifact } from '../server';
import { fetchFile, fileEndingIn, inputShape } from './files';
import type { LoadedModel } from './index';

const SIGNATURE = 'batch1';

let started: Promise<unknown> | null = null;

export async function load(artifact: Artifact): Promise<LoadedModel> {
  await start();
  const bytes = await fetchFile(artifact, fileEndingIn(artifact, '.tflite'));
  const model = await loadAndCompile(bytes, { accelerator: 'wasm' });
  const known = Object.keys(model.signatures);
  if (!known.includes(SIGNATURE)) {
    throw new Error(`The model has the signatures ${known.join(', ')}, expected ${SIGNATURE}. Export it again.`);
  }
  const shape = inputShape(artifact);
  const predict = (pixels: Float32Array) => run(model, artifact, new Tensor(pixels, shape));
  await predict(new Float32Array(shape[1] * shape[2] * shape[3]));
  const threads = crossOriginIsolated ? navigator.hardwareConcurrency : 1;
  return { predict, backend: `wasm, threads: ${threads}`, dispose: () => model.delete() };
}

function start(): Promise<unknown> {
  // Threads need shared memory, which a page has only when it is isolated from other origins.
  started ??= loadLiteRt('/runtimes/litert/', { threads: crossOriginIsolated }).catch((error: unknown) => {
    started = null; // a download that failed is tried again with the next picture
    throw new Error(`LiteRT.js did not start (${messageOf(error)}). Check the server, then load the page again.`);
  });
  return started;
}

async function run(model: CompiledModel, { input, output }: Artifact, pixels: Tensor): Promise<Float32Array> {
  const outputs = await model.run(SIGNATURE, { [input]: pixels }).finally(() => pixels.delete());
  try {
    const probabilities = outputs[output];
    if (!probabilities) throw new Error(`The model gives ${Object.keys(outputs).join(', ')}, expected ${output}.`);
    return ((await probabilities.data()) as Float32Array).slice();
  } finally {
    for (const tensor of Object.values(outputs)) tensor.delete();
  }
}
