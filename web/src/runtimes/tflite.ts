/** LiteRT.js on WebAssembly. It refuses a free batch size, so it runs the artifact's `batch1` signature. */

import { loadAndCompile, loadLiteRt, supportsFeature, Tensor as LiteTensor, type CompiledModel } from '@litertjs/core';

import { messageOf } from '../errors';
import type { Artifact } from '../server';
import { defaultTensors, typeIn, type Tensor, type TensorSpec } from '../tensors';
import { fetchFile, fileEndingIn } from './files';
import type { LoadedModel, Signature } from './model';
import { threadCount } from './threads';

const SIGNATURE = 'batch1';
const FOLDER = '/runtimes/litert/';
const TYPES: Record<string, true> = { FP32: true, INT32: true, UINT8: true };
const check = (tensor: TensorSpec) => typeIn(TYPES, tensor, 'LiteRT.js');

let started: Promise<unknown> | null = null;

export async function load(artifact: Artifact): Promise<LoadedModel> {
  [...artifact.inputs, ...artifact.outputs].forEach(check);
  const { model, signature } = await open(artifact);
  const predict = (inputs: Tensor[]) => run(model, signature, artifact, inputs);
  await predict(defaultTensors(artifact.inputs, 'zeros'));
  return { predict, backend: async () => `wasm, threads: ${await threads()}`, dispose: () => model.delete() };
}

/** The inputs and outputs that the file itself names. */
export async function inspect(artifact: Artifact): Promise<Signature> {
  const { model, signature } = await open(artifact);
  const datatypes: Record<string, string> = { float32: 'FP32', int32: 'INT32', uint8: 'UINT8', int8: 'INT8' };
  const runner = model.signatures[signature] ?? model;
  const specs = (all: ReturnType<typeof runner.getInputDetails>) => all.map(({ name, dtype, shape }) =>
    ({ name, datatype: datatypes[dtype] ?? dtype.toUpperCase(), shape: Array.from(shape), layout: '' }));
  try {
    return { inputs: specs(runner.getInputDetails()), outputs: specs(runner.getOutputDetails()) };
  } finally {
    model.delete();
  }
}

async function open(artifact: Artifact): Promise<{ model: CompiledModel; signature: string }> {
  await start();
  const bytes = await fetchFile(artifact, fileEndingIn(artifact, '.tflite'));
  const model = await loadAndCompile(bytes, { accelerator: 'wasm', cpuOptions: { numThreads: await threads() } });
  const known = Object.keys(model.signatures);
  const signature = known.includes(SIGNATURE) ? SIGNATURE : artifact.own ? (known[0] ?? '') : null;
  if (signature !== null) return { model, signature };
  throw new Error(`The model has the signatures ${known.join(', ')}, expected ${SIGNATURE}. Export it again.`);
}

function start(): Promise<unknown> {
  started ??= startOnce().catch((error: unknown) => {
    started = null; // a download that failed is tried again with the next picture
    throw new Error(`LiteRT.js did not start (${messageOf(error)}). Check the server, then load the page again.`);
  });
  return started;
}

/**
 * LiteRT.js fetches its loader with importScripts, which a module worker does not have. So the loader is imported
 * first, through its AMD export, and gets the address of its other files.
 */
async function startOnce(): Promise<unknown> {
  const threads = await mayUseThreads();
  const loader = `${FOLDER}${await loaderName(threads)}`;
  const define = Object.assign((_: unknown, factory: () => unknown) => { scope.ModuleFactory = factory(); }, { amd: {} });
  const scope = Object.assign(globalThis as { ModuleFactory?: unknown }, {
    define,
    importScripts: () => {},
    Module: { locateFile: (file: string) => `${FOLDER}${file}`, mainScriptUrlOrBlob: loader },
  });
  await import(/* @vite-ignore */ loader);
  return loadLiteRt(FOLDER, { threads });
}

/** Threads need shared memory, which a page has only when it is isolated from other origins. */
async function mayUseThreads(): Promise<boolean> {
  return crossOriginIsolated && (await supportsFeature('relaxedSimd'));
}

async function threads(): Promise<number> {
  return (await mayUseThreads()) ? threadCount() : 1;
}

async function loaderName(threads: boolean): Promise<string> {
  if (threads) return 'litert_wasm_threaded_internal.js';
  return (await supportsFeature('relaxedSimd')) ? 'litert_wasm_internal.js' : 'litert_wasm_compat_internal.js';
}

async function run(model: CompiledModel, signature: string, artifact: Artifact, inputs: Tensor[]): Promise<Tensor[]> {
  const rows = inputs[0]!.shape[0];
  if (rows !== 1) throw new Error(`LiteRT.js takes a batch of 1, got ${rows}. Set the batch size to 1, or use the other rows.`);
  const given = Object.fromEntries(inputs.map(({ name, data, shape }) => [name, new LiteTensor(data as Float32Array, shape)]));
  let outputs: Record<string, LiteTensor> = {};
  try {
    outputs = signature ? await model.run(signature, given) : await model.run(given);
    return await Promise.all(artifact.outputs.map(async ({ name, datatype }) => {
      const tensor = outputs[name];
      if (!tensor) throw new Error(`The model has the outputs ${Object.keys(outputs).join(', ')}, expected ${name}.`);
      return { name, datatype, shape: [...tensor.type.layout.dimensions], data: (await tensor.data()).slice() as Float32Array };
    }));
  } finally {
    for (const tensor of [...Object.values(given), ...Object.values(outputs)]) tensor.delete();
  }
}
