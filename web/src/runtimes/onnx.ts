/** ONNX Runtime Web, on WebAssembly or WebGPU. It has a build for each; the first is a much smaller download. */

import type { InferenceSession, Tensor as OnnxTensor } from 'onnxruntime-web';

import { messageOf } from '../errors';
import { code, type Artifact } from '../server';
import { defaultTensors, typeIn, type Tensor, type Values } from '../tensors';
import { adapterName } from './adapter';
import { fetchFile, fileEndingIn } from './files';
import type { LoadedModel, Signature } from './model';
import { Places } from './places';
import { threadCount } from './threads';

type Backend = 'wasm' | 'webgpu';

const NAME = 'ONNX Runtime Web';
/** Levels of a session's log. */
const [ALL, WARNINGS] = [0, 2] as const;
const TYPES: Record<string, OnnxTensor.Type> = {
  FP32: 'float32', FP64: 'float64', INT8: 'int8', INT16: 'int16', INT32: 'int32', INT64: 'int64',
  UINT8: 'uint8', UINT16: 'uint16', UINT32: 'uint32', UINT64: 'uint64', BOOL: 'bool', BYTES: 'string',
};

export async function load(artifact: Artifact, backend: Backend): Promise<LoadedModel> {
  for (const spec of [...artifact.inputs, ...artifact.outputs]) typeIn(TYPES, spec, NAME);
  const { ort, session, wherePlaced } = await open(artifact, backend);
  const predict = (inputs: Tensor[]) => run(session, artifact, Object.fromEntries(inputs.map((tensor) =>
    [tensor.name, new ort.Tensor(typeIn(TYPES, tensor, NAME), tensor.data as string[], tensor.shape)])));
  await predict(defaultTensors(artifact.inputs, 'zeros'));
  const describe = async () =>
    (backend === 'webgpu' ? `webgpu: ${await adapterName()}, ${await wherePlaced()}` : `wasm, threads: ${ort.env.wasm.numThreads ?? 1}`);
  return { predict, backend: describe, dispose: () => void session.release() };
}

/** The inputs and outputs that the file itself names. */
export async function inspect(artifact: Artifact): Promise<Signature> {
  const { session } = await open(artifact, 'wasm');
  const datatypes = Object.fromEntries(Object.entries(TYPES).map(([datatype, type]) => [type, datatype]));
  const specs = (all: readonly InferenceSession.ValueMetadata[]) => all.map((each) => {
    if (!each.isTensor) throw new Error(`${each.name} is not a tensor. ${NAME} runs models of tensors here.`);
    const shape = each.shape.map((size) => (typeof size === 'number' && size > 0 ? size : -1));
    return { name: each.name, datatype: datatypes[each.type] ?? each.type, shape, layout: '' };
  });
  try {
    return { inputs: specs(session.inputMetadata), outputs: specs(session.outputMetadata) };
  } finally {
    await session.release();
  }
}

async function open(artifact: Artifact, backend: Backend) {
  const ort = await code(backend === 'webgpu' ? import('onnxruntime-web/webgpu') : import('onnxruntime-web/wasm'));
  ort.env.wasm.wasmPaths = '/runtimes/onnx/';
  ort.env.wasm.numThreads = threadCount();
  let bytes: Uint8Array | null = await fetchFile(artifact, fileEndingIn(artifact, '.onnx'));
  // One provider, and no other where it does not start, so that the row's name is true.
  const create = (logSeverityLevel: 0 | 2) =>
    ort.InferenceSession.create(bytes!, { executionProviders: [backend], logSeverityLevel });
  const places = new Places();
  const session = await places.during(() => create(WARNINGS)).catch((error: unknown) => {
    if (artifact.own) throw new Error(messageOf(error)); // it is the file's
    throw new Error(`${NAME} did not start (${messageOf(error)}). Check the server, then load the page again.`);
  });
  if (!places.areSeveral) bytes = null;
  return { ort, session, wherePlaced };

  /** Only the whole log says how many operators are where. That session is not used: it would log its calls, too. */
  async function wherePlaced(): Promise<string> {
    if (bytes) await (await places.during(() => create(ALL))).release();
    bytes = null;
    return String(places);
  }
}

async function run(session: InferenceSession, artifact: Artifact, feeds: Record<string, OnnxTensor>): Promise<Tensor[]> {
  const outputs = (await session.run(feeds)) as Record<string, OnnxTensor>;
  try {
    return await Promise.all(artifact.outputs.map(async ({ name, datatype }) => {
      const tensor = outputs[name];
      if (!tensor) throw new Error(`The model has the outputs ${Object.keys(outputs).join(', ')}, expected ${name}.`);
      return { name, datatype, shape: [...tensor.dims], data: ((await tensor.getData()) as Values).slice() };
    }));
  } finally {
    for (const tensor of [...Object.values(feeds), ...Object.values(outputs)]) tensor.dispose();
  }
}
