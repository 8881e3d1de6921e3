// The child process of tfjs.py: loads the graph model in the folder given, answers frames until its input closes.
// A frame is the header's length (4 bytes, little-endian), the header as JSON, and the tensors' bytes in its order.

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";

const require = createRequire(new URL("../../web/package.json", import.meta.url));
const tf = require("@tensorflow/tfjs-core");
const { loadGraphModel } = require("@tensorflow/tfjs-converter");
const { setWasmPaths } = require("@tensorflow/tfjs-backend-wasm");

// Standard output is the channel: whatever a library prints goes to standard error.
console.log = console.info = console.warn = console.debug = console.error;

const ARRAYS = { float32: Float32Array, int32: Int32Array, bool: Uint8Array };

function send(header, payloads = []) {
  const bytes = payloads.reduce((sum, payload) => sum + payload.byteLength, 0);
  const text = Buffer.from(JSON.stringify({ ...header, bytes }));
  const length = Buffer.alloc(4);
  length.writeUInt32LE(text.length);
  process.stdout.write(Buffer.concat([length, text, ...payloads]));
}

function readModel(folder) {
  const { modelTopology, weightsManifest, ...rest } = JSON.parse(readFileSync(join(folder, "model.json"), "utf8"));
  const files = weightsManifest.flatMap((group) => group.paths).map((path) => readFileSync(join(folder, path)));
  const joined = Buffer.concat(files);
  return {
    ...rest,
    modelTopology,
    weightSpecs: weightsManifest.flatMap((group) => group.weights),
    weightData: joined.buffer.slice(joined.byteOffset, joined.byteOffset + joined.byteLength),
  };
}

function readInputs(specs, payload) {
  const inputs = {};
  let start = 0;
  for (const { name, dtype, shape } of specs) {
    const count = shape.reduce((product, size) => product * size, 1);
    const bytes = count * ARRAYS[dtype].BYTES_PER_ELEMENT;
    // slice() copies, which also aligns the bytes for the typed array
    const values = new ARRAYS[dtype](payload.buffer.slice(payload.byteOffset + start, payload.byteOffset + start + bytes));
    inputs[name] = tf.tensor(values, shape, dtype);
    start += bytes;
  }
  return inputs;
}

async function answer(model, header, payload) {
  const inputs = readInputs(header.inputs, payload);
  const named = await (header.nodes ? fetch(model, inputs, header.nodes) : predict(model, inputs));
  const payloads = Object.values(named).map((tensor) => {
    const values = tensor.dataSync();
    return Buffer.from(values.buffer, values.byteOffset, values.byteLength);
  });
  const specs = Object.entries(named).map(([name, { shape, dtype }]) => ({ name, shape, dtype }));
  send({ outputs: specs }, payloads);
  tf.dispose([inputs, named]);
}

// The signature names the outputs: model.predict() returns the names in another order than the tensors.
async function predict(model, inputs) {
  const names = Object.keys(model.signature.outputs);
  const values = await execute(model, inputs, names.map((name) => model.signature.outputs[name].name));
  return Object.fromEntries(names.map((name, index) => [name, values[index]]));
}

async function fetch(model, inputs, nodes) {
  const values = await execute(model, inputs, nodes);
  return Object.fromEntries(nodes.map((node, index) => [node, values[index]]));
}

let hasControlFlow = false; // such graphs, of recurrent layers for one, are executed asynchronously alone

async function execute(model, inputs, nodes) {
  if (!hasControlFlow) {
    try {
      return [tf.tidy(() => model.execute(inputs, nodes))].flat(); // a single one comes without its array
    } catch (error) {
      if (!/dynamic op|executeAsync/.test(error?.message)) throw error;
      hasControlFlow = true;
    }
  }
  return [await model.executeAsync(inputs, nodes)].flat();
}

function serve(model) {
  let chunks = [];
  let size = 0;
  let last = Promise.resolve(); // frames are answered in their order
  process.stdin.on("data", (chunk) => {
    chunks.push(chunk);
    size += chunk.length;
    for (let frame = takeFrame(); frame; frame = takeFrame()) {
      const { header, payload } = frame;
      last = last
        .then(() => answer(model, header, payload))
        .catch((error) => send({ error: String(error?.message ?? error) }));
    }
  });
  process.stdin.on("end", () => process.exit(0));

  // Chunks are joined only when a whole frame is there, so that a large batch is copied once.
  let wanted = 4;
  function takeFrame() {
    if (size < wanted) return undefined;
    const data = Buffer.concat(chunks);
    chunks = [data];
    const headerEnd = 4 + data.readUInt32LE(0);
    wanted = headerEnd;
    if (size < wanted) return undefined;
    const header = JSON.parse(data.toString("utf8", 4, headerEnd));
    const elements = ({ shape }) => shape.reduce((product, length) => product * length, 1);
    wanted += header.inputs.reduce((sum, input) => sum + elements(input) * ARRAYS[input.dtype].BYTES_PER_ELEMENT, 0);
    if (size < wanted) return undefined;
    const payload = data.subarray(headerEnd, wanted);
    chunks = [data.subarray(wanted)];
    size -= wanted;
    wanted = 4;
    return { header, payload };
  }
}

try {
  setWasmPaths(join(dirname(require.resolve("@tensorflow/tfjs-backend-wasm")), "/"));
  await tf.setBackend("wasm");
  await tf.ready();
  const model = await loadGraphModel({ load: async () => readModel(process.argv[2]) });
  send({ version: tf.version_core, backend: tf.getBackend() });
  serve(model);
} catch (error) {
  send({ error: String(error?.message ?? error) });
}
