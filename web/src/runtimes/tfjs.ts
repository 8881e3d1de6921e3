/** TensorFlow.js: graph models on WebAssembly, WebGL or WebGPU. It has one backend at a time: a worker uses only one. */

import { loadGraphModel } from '@tensorflow/tfjs-converter';
import * as tf from '@tensorflow/tfjs-core';

import { messageOf } from '../errors';
import { code, type Artifact } from '../server';
import { defaultTensors, typeIn, type Tensor, type TensorSpec } from '../tensors';
import { adapterName, rendererName } from './adapter';
import { fetchFile } from './files';
import type { LoadedModel, Signature } from './model';
import { threadCount } from './threads';

type Backend = 'wasm' | 'webgl' | 'webgpu';

const TYPES: Record<string, 'float32' | 'int32' | 'bool'> = { FP32: 'float32', INT32: 'int32', BOOL: 'bool' };
const typeOf = (tensor: Tensor | TensorSpec) => typeIn(TYPES, tensor, 'TensorFlow.js');

interface ModelJson {
  modelTopology: object;
  signature: object;
  format: string;
  weightsManifest: { paths: string[]; weights: tf.io.WeightsManifestEntry[] }[];
}

export async function load(artifact: Artifact, backend: Backend): Promise<LoadedModel> {
  for (const spec of [...artifact.inputs, ...artifact.outputs]) typeOf(spec);
  tf.enableProdMode();
  await register(backend);
  await use(backend);
  const model = await loadGraphModel({ load: () => readModel(artifact) });
  let execute: Execute = (given, names) => model.execute(given, names);
  const weights = new Set(Object.values(model.weights).flat());
  const predict = (inputs: Tensor[]) => run(execute, artifact, inputs, weights);
  const zeros = defaultTensors(artifact.inputs, 'zeros');
  await predict(zeros).catch((error: unknown) => { // compiles shaders, fills caches
    if (!/dynamic op/.test(messageOf(error))) throw error;
    execute = (given, names) => model.executeAsync(given, names); // slower, but loops need it
    return predict(zeros);
  });
  return { predict, backend: () => describe(backend), dispose: () => model.dispose() };
}

type Tensors = tf.Tensor | tf.Tensor[];
type Execute = (given: tf.NamedTensorMap, names: string[]) => Tensors | Promise<Tensors>;

const { port1, port2 } = new MessageChannel();
const polls: (() => void)[] = [];
port1.onmessage = () => polls.shift()!();

/** How long to wait between two polls: more of them would take the processor from what computes the answer. */
const POLL_MS = 1;

/**
 * WebGL's answers are polled for. A browser makes a timer that a timer has set wait for 4 ms, unless a message comes
 * between. TensorFlow.js does that in a window alone; this is for a worker.
 */
function pollAgain(task: Function, delay: number): void {
  polls.push(task as () => void);
  setTimeout(() => port2.postMessage(null), Math.max(POLL_MS, delay));
}

let isStarted = false;

async function register(backend: Backend): Promise<void> {
  if (backend === 'webgl') {
    tf.env().platform.setTimeoutCustom = pollAgain;
    await code(import('@tensorflow/tfjs-backend-webgl'));
  }
  if (backend === 'webgpu') await code(import('@tensorflow/tfjs-backend-webgpu'));
  if (backend !== 'wasm') return;
  const { setThreadsCount, setWasmPaths } = await code(import('@tensorflow/tfjs-backend-wasm'));
  // After the first use the paths are fixed, and setting them again is an error.
  if (isStarted) return;
  isStarted = true;
  setWasmPaths('/runtimes/tfjs/');
  setThreadsCount(threadCount());
}

/** TensorFlow.js silently replaces a backend that cannot start: the row would show another backend's time. */
async function use(backend: Backend): Promise<void> {
  if ((await tf.setBackend(backend)) && tf.getBackend() === backend) return;
  throw new Error(
    `TensorFlow.js did not start on ${backend}: its files could not be downloaded, or this browser cannot run it. ` +
      'Check the server, then load the page again, or use the other rows.',
  );
}

async function describe(backend: Backend): Promise<string> {
  if (backend === 'webgl') return `webgl: ${rendererName()}`;
  if (backend === 'webgpu') return `webgpu: ${await adapterName()}`;
  const { getThreadsCount } = await code(import('@tensorflow/tfjs-backend-wasm'));
  const has = async (flag: string) => Boolean(await tf.env().getAsync(flag));
  const threads = (await has('WASM_HAS_MULTITHREAD_SUPPORT')) ? getThreadsCount() : 1;
  return `wasm${(await has('WASM_HAS_SIMD_SUPPORT')) ? ', SIMD' : ''}, threads: ${threads}`;
}

/** An output may be one of the model's weights, which later calls need. */
async function run(execute: Execute, artifact: Artifact, inputs: Tensor[], weights: Set<tf.Tensor>): Promise<Tensor[]> {
  const given = Object.fromEntries(inputs.map((tensor) =>
    [tensor.name, tf.tensor(tensor.data as Float32Array, tensor.shape, typeOf(tensor))]));
  const outputs: tf.Tensor[] = [];
  try {
    outputs.push(...[await execute(given, artifact.outputs.map(({ name }) => name))].flat());
    return await Promise.all(artifact.outputs.map(async ({ name, datatype }, i) =>
      ({ name, datatype, shape: outputs[i]!.shape, data: (await outputs[i]!.data<'float32'>()).slice() })));
  } finally {
    tf.dispose([given, outputs.filter((tensor) => !weights.has(tensor))]);
  }
}

interface TensorInfo {
  name: string;
  dtype: string;
  tensorShape?: { dim?: { size: string }[] };
}

/** The inputs and outputs that the file itself names. */
export async function inspect(artifact: Artifact): Promise<Signature> {
  const { signature } = (await readModel(artifact)) as { signature?: { inputs?: Record<string, TensorInfo>; outputs?: Record<string, TensorInfo> } };
  const datatypes: Record<string, string> = { DT_FLOAT: 'FP32', DT_INT32: 'INT32', DT_BOOL: 'BOOL' };
  const specs = (all: Record<string, TensorInfo> = {}) => Object.entries(all).map(([name, { dtype, tensorShape }]) =>
    ({ name, datatype: datatypes[dtype] ?? dtype, shape: (tensorShape?.dim ?? []).map(({ size }) => Number(size)), layout: '' }));
  const [inputs, outputs] = [specs(signature?.inputs), specs(signature?.outputs)];
  if (!inputs.length || !outputs.length) throw new Error('The model has no signature, which names its inputs and outputs. Convert it again from a SavedModel.');
  return { inputs, outputs };
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
