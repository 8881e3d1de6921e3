/**
 * What can execute an artifact, on the server and in this browser.
 *
 * A runtime's code is fetched when the first of its artifacts is loaded, so the page itself stays small.
 */

import { code, type Artifact } from '../server';

/** One artifact, loaded and warmed up: one picture's pixels (NHWC, 0..255) -> its probabilities. */
export interface LoadedModel {
  /** What it really runs on: backend, threads, adapter. */
  readonly backend: string;
  predict(pixels: Float32Array): Promise<Float32Array>;
  dispose(): void;
}

export interface Runtime {
  /** The part of a row's name after the `@`. */
  id: string;
  where: 'server' | 'browser';
  title: string;
  backend: string;
  isPresent(): Promise<boolean>;
  load(artifact: Artifact): Promise<LoadedModel>;
}

const always = async () => true;
const tfjs = (backend: 'wasm' | 'webgl' | 'webgpu', isPresent: () => Promise<boolean>): Runtime => ({
  id: `tfjs-${backend}`, where: 'browser', title: 'TensorFlow.js', backend, isPresent,
  load: async (artifact) => (await code(import('./tfjs'))).load(artifact, backend),
});
const onnx = (backend: 'wasm' | 'webgpu', isPresent: () => Promise<boolean>): Runtime => ({
  id: `onnx-${backend}`, where: 'browser', title: 'ONNX Runtime Web', backend, isPresent,
  load: async (artifact) => (await code(import('./onnx'))).load(artifact, backend),
});
const litert: Runtime = {
  id: 'litert-wasm', where: 'browser', title: 'LiteRT.js', backend: 'wasm', isPresent: always,
  load: async (artifact) => (await code(import('./tflite'))).load(artifact),
};

const server: Runtime = {
  id: 'server', where: 'server', title: '', backend: '', isPresent: always, // each artifact names its own runtime
  load: async (artifact) => (await code(import('./server'))).load(artifact),
};

const BROWSER_RUNTIMES: Record<string, Runtime[]> = {
  tfjs: [tfjs('wasm', always), tfjs('webgl', hasWebGl), tfjs('webgpu', hasWebGpu)],
  onnx: [onnx('wasm', always), onnx('webgpu', hasWebGpu)],
  tflite: [litert],
};

/** The runtimes for a format; a precision (`onnx-int8`) is run by the same ones. */
export async function runtimesFor(format: string): Promise<Runtime[]> {
  const candidates = BROWSER_RUNTIMES[format.split('-')[0]!] ?? [];
  const present = await Promise.all(candidates.map((runtime) => runtime.isPresent()));
  return [server, ...candidates.filter((_, i) => present[i])];
}

async function hasWebGl(): Promise<boolean> {
  return new OffscreenCanvas(1, 1).getContext('webgl2') !== null;
}

let webGpuAdapter: Promise<GPUAdapter | null> | undefined;

async function hasWebGpu(): Promise<boolean> {
  webGpuAdapter ??= navigator.gpu?.requestAdapter().catch(() => null);
  return Boolean(await webGpuAdapter);
}
