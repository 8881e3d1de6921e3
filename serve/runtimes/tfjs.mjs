// The child process of tfjs.py: loads the graph model in the folder given, answers frames until its input closes.
// A frame is the header's length (4 bytes, little-endian), the header as JSON, and as many bytes as it says, the tensors
// in its order. An answer repeats the number of its call. What is no frame ends this process: nothing after it is one.
// A call may give its layout a number. A later one of the same layout is a short frame: SHORT in place of the length,
// the layout (4 bytes), the call (8), and the bytes. It is answered so if its outputs are as those of the call before.
//
// It waits for a frame in the kernel, not in the event loop: streams cost a small model as much time as it computes.

import { readFileSync, readSync, writevSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";

const require = createRequire(new URL("../../web/package.json", import.meta.url));
const tf = require("@tensorflow/tfjs-core");
const { loadGraphModel } = require("@tensorflow/tfjs-converter");
const { setWasmPaths } = require("@tensorflow/tfjs-backend-wasm");

// Standard output is the channel: whatever a library prints goes to standard error.
console.log = console.info = console.warn = console.debug = console.error;

const ARRAYS = { float32: Float32Array, int32: Int32Array, bool: Uint8Array };

const [INPUT, OUTPUT] = [0, 1];

const SHORT = 0xffffffff;
const SHORT_BYTES = 16;
const layouts = new Map(); // number -> { inputs, bytes, outputs: those of the last answer, as JSON }

function send(header, payloads = []) {
  const bytes = payloads.reduce((sum, payload) => sum + payload.byteLength, 0);
  const text = JSON.stringify({ ...header, bytes });
  const head = Buffer.allocUnsafe(4 + Buffer.byteLength(text));
  head.writeUInt32LE(head.length - 4);
  head.write(text, 4);
  write([head, ...payloads]);
}

function sendShort(layout, call, payloads) {
  const head = Buffer.allocUnsafe(SHORT_BYTES);
  head.writeUInt32LE(SHORT);
  head.writeUInt32LE(layout, 4);
  head.writeBigUInt64LE(call, 8);
  write([head, ...payloads]);
}

function write(parts) {
  while (parts.length > 0) {
    let written = writevSync(OUTPUT, parts);
    parts = parts.flatMap((part) => {
      const done = Math.min(written, part.byteLength);
      written -= done;
      return done < part.byteLength ? [part.subarray(done)] : [];
    });
  }
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
    return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  });
  const outputs = Object.entries(named).map(([name, { shape, dtype }]) => ({ name, shape, dtype }));
  const layout = layouts.get(header.layout);
  const text = layout && JSON.stringify(outputs);
  if (layout && layout.outputs === text) sendShort(header.layout, BigInt(header.call), payloads);
  else send({ call: header.call, outputs }, payloads);
  if (layout) layout.outputs = text;
  const weights = new Set(Object.values(model.weights).flat()); // an output may be one, and the next call needs it
  tf.dispose([inputs, Object.values(named).filter((tensor) => !weights.has(tensor))]);
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

// What was read so far lies in buffer[start, end): the frames to come, from their first byte.
let buffer = Buffer.allocUnsafeSlow(1 << 16);
let [start, end] = [0, 0];

// The next so many bytes, which later reads overwrite; undefined where the input ends.
function take(count) {
  if (start + count > buffer.length) {
    const larger = count > buffer.length ? Buffer.allocUnsafeSlow(2 * count) : buffer;
    buffer.copy(larger, 0, start, end);
    [buffer, start, end] = [larger, 0, end - start];
  }
  while (end - start < count) {
    const got = readSync(INPUT, buffer, end, buffer.length - end);
    if (got === 0) return undefined;
    end += got;
  }
  const taken = buffer.subarray(start, start + count);
  start = start + count === end ? 0 : start + count;
  if (start === 0) end = 0;
  return taken;
}

function takeLong(length) {
  const text = take(length);
  if (!text) return undefined;
  const header = JSON.parse(text.toString("utf8"));
  const elements = ({ shape }) => shape.reduce((product, size) => product * size, 1);
  const bytes = header.inputs.reduce((sum, input) => sum + elements(input) * ARRAYS[input.dtype].BYTES_PER_ELEMENT, 0);
  if (bytes !== header.bytes) throw new Error(`the frame says ${header.bytes} bytes, and its tensors are ${bytes}`);
  if (header.layout) layouts.set(header.layout, { inputs: header.inputs, bytes });
  return header;
}

function takeShort() {
  const rest = take(SHORT_BYTES - 4);
  if (!rest) return undefined;
  const [layout, call] = [rest.readUInt32LE(0), Number(rest.readBigUInt64LE(4))];
  if (!layouts.has(layout)) throw new Error(`no layout has the number ${layout}`);
  return { layout, call, nodes: null, ...layouts.get(layout) };
}

async function serve(model) {
  for (let length = take(4); length; length = take(4)) {
    const header = length.readUInt32LE(0) === SHORT ? takeShort() : takeLong(length.readUInt32LE(0));
    const payload = header && take(header.bytes);
    if (!payload) return;
    try {
      await answer(model, header, payload);
    } catch (error) {
      send({ call: header.call, error: String(error?.message ?? error) });
    }
  }
}

let model;
try {
  setWasmPaths(join(dirname(require.resolve("@tensorflow/tfjs-backend-wasm")), "/"));
  await tf.setBackend("wasm");
  await tf.ready();
  model = await loadGraphModel({ load: async () => readModel(process.argv[2]) });
  send({ version: tf.version_core, backend: tf.getBackend() });
} catch (error) {
  send({ error: String(error?.message ?? error) });
}
if (model) await serve(model);
process.exit(0);
