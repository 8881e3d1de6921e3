/** Code for models that take tensors instead of a picture. Each snippet is complete, and prints every output for zeros. */

import { fileEndingIn, folderEndingIn } from './runtimes/files';
import type { Artifact } from './server';
import type { Framework, Library, Snippet } from './snippet';
import { count, defaultTensors, typeIn, type Tensor } from './tensors';

const CURL_VALUES = 64;
const TEXT = 'Hello';

/** One row of zeros; every other free size is 1. */
function examples({ inputs }: Artifact): Tensor[] {
  return defaultTensors(inputs, 'zeros');
}

/** Raises Error if there are too many values for a command line. */
export function tensorCurl(artifact: Artifact, url: string): Snippet {
  const inputs = examples(artifact);
  const values = inputs.reduce((sum, { shape }) => sum + count(shape), 0);
  if (values > CURL_VALUES) throw new Error(`${values} values are too many for a command line.`);
  const json = JSON.stringify({ inputs: inputs.map((tensor) => ({ ...tensor, data: Array(count(tensor.shape)).fill(plain(tensor)) })) });
  return { title: 'curl', language: 'sh', code: `curl -s ${url} -d '${json.replaceAll("'", "'\\''")}'` };
}

export function tensorCall(artifact: Artifact, url: string): Snippet {
  const inputs = examples(artifact).map((tensor) => {
    const { name, datatype, shape } = tensor;
    return `    {"name": ${JSON.stringify(name)}, "datatype": "${datatype}", "shape": ${list(shape)}, ` +
      `"data": [${pythonValue(tensor)}] * ${count(shape)}},`;
  });
  const code = `import json
import urllib.request

INPUTS = [
${inputs.join('\n')}
]
body = json.dumps({"inputs": INPUTS}).encode()
request = urllib.request.Request("${url}", body, {"Content-Type": "application/json"})
with urllib.request.urlopen(request) as response:
    answer = json.load(response)
for output in answer["outputs"]:
    print(output["name"], output["datatype"], output["shape"], output["data"])`;
  return { title: 'Python', language: 'python', code };
}

function plain({ datatype }: Tensor): number | boolean | string {
  return datatype === 'BYTES' ? TEXT : datatype === 'BOOL' ? false : 0;
}

function pythonValue(tensor: Tensor): string {
  const value = plain(tensor);
  return value === false ? 'False' : /^B?F/.test(tensor.datatype) ? '0.0' : JSON.stringify(value);
}

const list = (values: readonly (number | string)[]) => `[${values.map((value) => JSON.stringify(value)).join(', ')}]`;

// --- Python

const NUMPY: Record<string, string> = {
  BOOL: 'np.bool_', UINT8: 'np.uint8', UINT16: 'np.uint16', UINT32: 'np.uint32', UINT64: 'np.uint64', INT8: 'np.int8',
  INT16: 'np.int16', INT32: 'np.int32', INT64: 'np.int64', FP16: 'np.float16', FP32: 'np.float32', FP64: 'np.float64',
};

/** Lines that set `outputs`, a dict of arrays, from `inputs`, a dict of arrays. */
const PYTHON: Record<string, (artifact: Artifact, names: string) => string> = {
  onnx: (artifact, names) => `import onnxruntime

session = onnxruntime.InferenceSession("${fileEndingIn(artifact, '.onnx')}")
outputs = dict(zip(${names}, session.run(${names}, inputs)))`,
  tflite: (artifact) => `from ai_edge_litert.interpreter import Interpreter

interpreter = Interpreter("${fileEndingIn(artifact, '.tflite')}")
outputs = interpreter.get_signature_runner("serving_default")(**inputs)`,
  openvino: (artifact, names) => `import openvino

# By itself OpenVINO may compute in bfloat16, which gives other answers. The file model.bin lies beside model.xml.
model = openvino.Core().compile_model("${fileEndingIn(artifact, '.xml')}", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
answers = model(inputs)
outputs = {name: answers[name] for name in ${names}}`,
  executorch: (artifact, names) => `import torch
from executorch.runtime import Runtime

program = Runtime.get().load_program("${fileEndingIn(artifact, '.pte')}")
answers = program.load_method("forward").execute(list(map(torch.from_numpy, inputs.values())))
outputs = dict(zip(${names}, (each.numpy() for each in answers)))`,
  coreai: (artifact, names) => `import asyncio
from coreai.authoring import AIModelAsset
from coreai.runtime import NDArray


async def answer():
    # Apple's own runtime for Linux is for proof: its time says nothing of an iPhone's.
    async with AIModelAsset.load("${folderEndingIn(artifact, '.aimodel')}").executable() as model:
        function = model.load_function("main")
        values = {name: NDArray(value.astype(function.desc.input_descriptor(name).dtype)) for name, value in inputs.items()}
        answers = await function(inputs=values)
        await asyncio.sleep(0.1)  # Core AI lets go of its answers meanwhile: at the end of Python it would end the process
    return answers


answers = asyncio.run(answer())
outputs = {name: answers[name].numpy() for name in ${names}}`,
  keras: (artifact, names) => `import keras

model = keras.saving.load_model("${fileEndingIn(artifact, '.h5', '.keras')}")
answer = model(list(inputs.values()) if len(inputs) > 1 else next(iter(inputs.values())), training=False)
outputs = dict(zip(${names}, map(np.asarray, keras.tree.flatten(answer))))`,
  savedmodel: () => `import tensorflow as tf

model = tf.saved_model.load(".")  # the folder with all of the files
run = model.signatures["serving_default"]
outputs = {name: value.numpy() for name, value in run(**{name: tf.constant(value) for name, value in inputs.items()}).items()}`,
  torch: (artifact, names) => `import torch

model = torch.export.load("${fileEndingIn(artifact, '.pt2')}").module()
with torch.inference_mode():
    answer = model(*map(torch.from_numpy, inputs.values()))
outputs = dict(zip(${names}, (each.numpy() for each in (answer if isinstance(answer, (tuple, list)) else [answer]))))`,
};
const TAKES_TEXT = ['onnx', 'savedmodel'];

/** Raises Error if NumPy or the framework does not support a datatype. */
export function tensorPython(artifact: Artifact, family: string, { title, install }: Framework): Snippet {
  const types = TAKES_TEXT.includes(family) ? { ...NUMPY, BYTES: 'object' } : NUMPY;
  const arrays = examples(artifact).map((tensor) => {
    const type = typeIn<string>(types, tensor, title);
    const shape = `(${tensor.shape.join(', ')}${tensor.shape.length === 1 ? ',' : ''})`;
    const array = tensor.datatype === 'BYTES' ? `np.full(${shape}, "${TEXT}", ${type})` : `np.zeros(${shape}, ${type})`;
    return `    ${JSON.stringify(tensor.name)}: ${array},`;
  });
  const code = `# pip install ${install} numpy
import numpy as np

inputs = {
${arrays.join('\n')}
}

${PYTHON[family]!(artifact, list(artifact.outputs.map(({ name }) => name)))}
for name, value in outputs.items():
    print(name, value.dtype, value.shape, value.ravel().tolist())`;
  return { title, language: 'python', code };
}

// --- JavaScript, for the browser

interface Browser {
  /** A datatype -> its typed array, and the library's name for it. */
  types: Record<string, [array: string, type: string]>;
  tensor(type: [array: string, type: string], tensor: Tensor): string;
  /** Lines that come before `inputs` are made. */
  start(artifact: Artifact): string;
  /** Lines that set `outputs`, a list of [name, values], from `inputs`. */
  run(names: string): string;
}

const values = (array: string, { shape }: Tensor) => (array ? `new ${array}(${count(shape)})` : `Array(${count(shape)}).fill('${TEXT}')`);

const JAVASCRIPT: Record<string, Browser> = {
  tfjs: {
    types: { FP32: ['', 'float32'], INT32: ['', 'int32'], BOOL: ['', 'bool'] },
    tensor: ([, type], { shape }) => `tf.zeros(${list(shape)}, '${type}')`,
    start: () => `await tf.ready();
const model = await loadGraphModel('model.json');`,
    run: (names) => `const answers = [await model.executeAsync(inputs, ${names})].flat();
const outputs = await Promise.all(${names}.map(async (name, i) => [name, await answers[i].data()]));`,
  },
  onnx: {
    types: {
      FP32: ['Float32Array', 'float32'], FP64: ['Float64Array', 'float64'], INT8: ['Int8Array', 'int8'],
      INT16: ['Int16Array', 'int16'], INT32: ['Int32Array', 'int32'], INT64: ['BigInt64Array', 'int64'],
      UINT8: ['Uint8Array', 'uint8'], UINT16: ['Uint16Array', 'uint16'], UINT32: ['Uint32Array', 'uint32'],
      UINT64: ['BigUint64Array', 'uint64'], BOOL: ['Uint8Array', 'bool'], BYTES: ['', 'string'],
    },
    tensor: ([array, type], tensor) => `new ort.Tensor('${type}', ${values(array, tensor)}, ${list(tensor.shape)})`,
    start: (artifact) => `const session = await ort.InferenceSession.create('${fileEndingIn(artifact, '.onnx')}');`,
    run: (names) => `const answers = await session.run(inputs);
const outputs = ${names}.map((name) => [name, answers[name].data]);`,
  },
  tflite: {
    types: { FP32: ['Float32Array', ''], INT32: ['Int32Array', ''], UINT8: ['Uint8Array', ''] },
    tensor: ([array], tensor) => `new Tensor(${values(array, tensor)}, ${list(tensor.shape)})`,
    start: (artifact) => `await loadLiteRt('/litert/');
const model = await loadAndCompile('${fileEndingIn(artifact, '.tflite')}', { accelerator: 'wasm' });`,
    run: (names) => `const answers = await model.run('batch1', inputs);
const outputs = await Promise.all(${names}.map(async (name) => [name, await answers[name].data()]));`,
  },
};

/** Raises Error if the library does not support a datatype. */
export function tensorJavascript(artifact: Artifact, family: string, { title, before, imports }: Library, backend: string): Snippet {
  const { types, tensor, start, run } = JAVASCRIPT[family]!;
  const inputs = examples(artifact).map((each) => `  ${JSON.stringify(each.name)}: ${tensor(typeIn(types, each, title), each)},`);
  const code = `// ${before(backend)}
// A module of a page that Vite builds; the model's files lie in public/.
${imports(backend)}

${start(artifact)}
const inputs = {
${inputs.join('\n')}
};
${run(list(artifact.outputs.map(({ name }) => name)))}
for (const [name, values] of outputs) console.log(name, Array.from(values));`;
  return { title, language: 'javascript', code };
}
