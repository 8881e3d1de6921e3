/** ONNX Runtime Web, on WebAssembly or WebGPU: two builds, of which the first is much the smaller download. */

import type { Env, InferenceSession } from 'onnxruntime-web';

import { messageOf } from '../errors';
import { code, type Artifact } from '../server';
import { adapterName } from './adapter';
import { fetchFile, fileEndingIn, inputShape } from './files';
import type { LoadedModel } from './worker';

type Backend = 'wasm' | 'webgpu';

export async function load(artifact: Artifact, backend: Backend): Promise<LoadedModel> {
  const ort = await code(backend === 'webgpu' ? import('onnxruntime-web/webgpu') : import('onnxruntime-web/wasm'));
  ort.env.wasm.wasmPaths = '/runtimes/onnx/';
  const bytes = await fetchFile(artifact, fileEndingIn(artifact, '.onnx'));
  // One provider and no second choice, so that the row's name is the truth.
  const session = await ort.InferenceSession.create(bytes, { executionProviders: [backend] }).catch((error: unknown) => {
    throw new Error(`ONNX Runtime Web did not start (${messageOf(error)}). Check the server, then load the page again.`);
  });
  const shape = inputShape(artifact);
  const predict = (pixels: Float32Array) =>
    run(session, artifact.output, { [artifact.input]: new ort.Tensor('float32', pixels, shape) });
  await predict(new Float32Array(shape[1] * shape[2] * shape[3]));
  return { predict, backend: await describe(ort.env, backend), dispose: () => void session.release() };
}

async function describe(env: Env, backend: Backend): Promise<string> {
  return backend === 'webgpu' ? `webgpu: ${await adapterName()}` : `wasm, threads: ${env.wasm.numThreads ?? 1}`;
}

async function run(session: InferenceSession, name: string, feeds: InferenceSession.FeedsType): Promise<Float32Array> {
  const outputs = await session.run(feeds);
  try {
    const probabilities = outputs[name];
    if (!probabilities) throw new Error(`The model gives ${Object.keys(outputs).join(', ')}, expected ${name}.`);
    return ((await probabilities.getData()) as Float32Array).slice();
  } finally {
    for (const tensor of [...Object.values(feeds), ...Object.values(outputs)]) (tensor as { dispose(): void }).dispose();
  }
}
