/** What can execute an artifact, on the server and in this browser. Each runs in a worker of its own: see worker.ts. */

type TfjsBackend = 'wasm' | 'webgl' | 'webgpu';
type OnnxBackend = 'wasm' | 'webgpu';

/** The part of a row's name after the `@`, and the name of the runtime's worker. */
export type RuntimeId = 'server' | 'litert-wasm' | `tfjs-${TfjsBackend}` | `onnx-${OnnxBackend}`;

export interface Runtime {
  id: RuntimeId;
  where: 'server' | 'browser';
  title: string;
  backend: string;
  /** Its place among the runtimes by the size of their downloads: the smallest comes first. */
  rank: number;
  isPresent(): Promise<boolean>;
}

const always = async () => true;
const tfjs = (backend: TfjsBackend, isPresent: () => Promise<boolean>): Runtime => ({
  id: `tfjs-${backend}`, where: 'browser', title: 'TensorFlow.js', backend, rank: 0, isPresent,
});
const onnx = (backend: OnnxBackend, isPresent: () => Promise<boolean>): Runtime => ({
  id: `onnx-${backend}`, where: 'browser', title: 'ONNX Runtime Web', backend, rank: 2, isPresent,
});
const litert: Runtime = {
  id: 'litert-wasm', where: 'browser', title: 'LiteRT.js', backend: 'wasm', rank: 1, isPresent: always,
};

/** The server names the runtime of each artifact itself. */
const server: Runtime = { id: 'server', where: 'server', title: '', backend: '', rank: 0, isPresent: always };

export const BROWSER_RUNTIMES: Record<string, Runtime[]> = {
  tfjs: [tfjs('wasm', always), tfjs('webgl', hasWebGl), tfjs('webgpu', hasWebGpu)],
  onnx: [onnx('wasm', always), onnx('webgpu', hasWebGpu)],
  tflite: [litert],
};

/** The format without its precision: `onnx-int8` is run by the runtimes for `onnx`. */
export function familyOf(format: string): string {
  return format.split('-')[0]!;
}

/** Formats whose files take and give whole numbers, while their manifests say float32: only the service converts. */
export const WHOLE_NUMBERS = ['tflite-int8full'];

export async function runtimesFor(format: string): Promise<Runtime[]> {
  const candidates = WHOLE_NUMBERS.includes(format) ? [] : (BROWSER_RUNTIMES[familyOf(format)] ?? []);
  const present = await Promise.all(candidates.map((runtime) => runtime.isPresent()));
  return [server, ...candidates.filter((_, i) => present[i])];
}

let webGl: boolean | undefined;

export async function hasWebGl(): Promise<boolean> {
  return (webGl ??= new OffscreenCanvas(1, 1).getContext('webgl2') !== null);
}

let webGpuAdapter: Promise<GPUAdapter | null> | undefined;

export async function hasWebGpu(): Promise<boolean> {
  webGpuAdapter ??= navigator.gpu?.requestAdapter().catch(() => null);
  return Boolean(await webGpuAdapter);
}
