// Other ways to reach a TF.js model in Node: over HTTP, or by the streams of its event loop. ways.py starts it.
//   node tfjs_ways.mjs http|streams FOLDER INPUT
// One float32 tensor of pictures in, one out, without a header: its shape follows from the number of bytes.

import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";

const require = createRequire(new URL("../../web/package.json", import.meta.url));
const tf = require("@tensorflow/tfjs-core");
const { loadGraphModel } = require("@tensorflow/tfjs-converter");
const { setWasmPaths } = require("@tensorflow/tfjs-backend-wasm");
console.log = console.info = console.warn = console.debug = console.error;

const [, , way, folder, input] = process.argv;
setWasmPaths(join(dirname(require.resolve("@tensorflow/tfjs-backend-wasm")), "/"));
await tf.setBackend("wasm");
const { modelTopology, weightsManifest, ...rest } = JSON.parse(readFileSync(join(folder, "model.json"), "utf8"));
const weights = Buffer.concat(weightsManifest.flatMap(({ paths }) => paths).map((path) => readFileSync(join(folder, path))));
const model = await loadGraphModel({
  load: async () => ({
    ...rest,
    modelTopology,
    weightSpecs: weightsManifest.flatMap((group) => group.weights),
    weightData: weights.buffer.slice(weights.byteOffset, weights.byteOffset + weights.byteLength),
  }),
});
const shape = model.inputs.find(({ name }) => name.startsWith(input)).shape.slice(1);
const [output] = Object.values(model.signature.outputs).map(({ name }) => name);

function predict(bytes) {
  const pixels = new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
  const rows = pixels.length / shape.reduce((product, size) => product * size, 1);
  return tf.tidy(() => {
    const answer = [model.execute({ [input]: tf.tensor(pixels, [rows, ...shape]) }, [output])].flat()[0].dataSync();
    return Buffer.from(answer.buffer.slice(answer.byteOffset, answer.byteOffset + answer.byteLength));
  });
}

const WAYS = {
  http() {
    const server = createServer((request, response) => {
      const chunks = [];
      request.on("data", (chunk) => chunks.push(chunk));
      request.on("end", () => {
        const answer = predict(Buffer.concat(chunks));
        response.writeHead(200, { "content-length": answer.length }).end(answer);
      });
    });
    server.listen(0, "127.0.0.1", () => process.stdout.write(`${server.address().port}\n`));
    process.stdin.on("end", () => process.exit(0)).resume();
  },
  streams() {
    let read = Buffer.alloc(0);
    process.stdin.on("data", (chunk) => {
      read = Buffer.concat([read, chunk]);
      while (read.length >= 4 && read.length >= 4 + read.readUInt32LE(0)) {
        const end = 4 + read.readUInt32LE(0);
        const answer = predict(read.subarray(4, end));
        read = read.subarray(end);
        const length = Buffer.alloc(4);
        length.writeUInt32LE(answer.length);
        process.stdout.write(Buffer.concat([length, answer]));
      }
    });
    process.stdin.on("end", () => process.exit(0));
    process.stdout.write("ready\n");
  },
};
WAYS[way]();
