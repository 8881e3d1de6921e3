/** TensorFlow.js: graph models on WebAssembly, WebGL or WebGPU. It has one backend at a time: a worker has one for good. */

import { loadGraphModel, type GraphModel } from '@tensorflow/tfjs-converter';
import * as tf from '@tensorflow/tfjs-core';

import { code, type Artifact } from '../server';
import { adapterName, rendererName } from './adapter';
import { fetchFile, inputShape } from './files';
import type { LoadedModel } from './worker';

type Backend = 'wasm' | 'webgl' | 'webgpu';

interface ModelJson {
  modelTopology: object;
  signature: object;
  format: string;
  weightsManifest: { paths: string[]; weights: tf.io.WeightsManifestEntry[] }[];
}

export async function load(artifact: Artifact, backend: Backend): Promise<LoadedModel> {
  tf.enableProdMode();
  await register(backend);
  await use(backend);
  const model = await loadGraphModel({ load: () => readModel(artifact) });
  const shape = inputShape(artifact);
  const predict = (pixels: Float32Array) => run(model, artifact, tf.tensor4d(pixels, shape));
  await predict(new Float32Array(shape[1] * shape[2] * shape[3])); // compiles shaders, fills caches
  return { predict, backend: await describe(backend), dispose: () => model.dispose() };
}

async function register(backend: Backend): Promise<void> {
  if (backend === 'webgl') await code(import('@tensorflow/tfjs-backend-webgl'));
  if (backend === 'webgpu') await code(import('@tensorflow/tfjs-backend-webgpu'));
  if (backend !== 'wasm') return;
  const { setWasmPaths } = await code(import('@tensorflow/tfjs-backend-wasm'));
  // After the first use the paths are fixed, and setting them again is an error.
  if (!tf.findBackend('wasm')) setWasmPaths('/runtimes/tfjs/');
}

/** A backend that cannot start is replaced by another without a word: that would be another row's time. */
async function use(backend: Backend): Promise<void> {
  if ((await tf.setBackend(backend)) && tf.getBackend() === backend) return;
  throw new Error(
    `TensorFlow.js did not start on ${backend}: its files did not come, or this browser cannot run it. ` +
      'Check the server, then load the page again, or look at the other rows.',
  );
}

async function describe(backend: Backend): Promise<string> {
  if (backend === 'webgl') return `webgl: ${rendererName()}`;
  if (backend === 'webgpu') return `webgpu: ${await adapterName()}`;
  const { getThreadsCount } = await code(import('@tensorflow/tfjs-backend-wasm'));
  const has = async (what: string) => Boolean(await tf.env().getAsync(what));
  const threads = (await has('WASM_HAS_MULTITHREAD_SUPPORT')) ? getThreadsCount() : 1;
  return `wasm${(await has('WASM_HAS_SIMD_SUPPORT')) ? ', SIMD' : ''}, threads: ${threads}`;
}

async function run(model: GraphModel, artifact: Artifact, pixels: tf.Tensor): Promise<Float32Array> {
  const outputs = model.execute({ [artifact.input]: pixels }) as tf.Tensor;
  try {
    return (await outputs.data<'float32'>()).slice();
  } finally {
    tf.dispose([pixels, outputs]);
  }
}

async function readModel(artifact: Artifact): Promise<tf.io.ModelArtifacts> {
  const text = new TextDecoder().decode(await fetchFile(artifact, 'model.json'));
  const { modelTopology, signature, format, weightsManifest } = JSON.parse(text) as ModelJson;
  const paths = weightsManifest.flatMap((group) => group.paths);
  const weights = new Blob(await Promise.all(paths.map((path) => fetchFile(artifact, path))));
  return {
    modelTopology, signature, format,
    weightSpecs: weightsManifest.flatMap((group) => group.weights),
    weightData: await weights.arrayBuffer(),
  };
}
