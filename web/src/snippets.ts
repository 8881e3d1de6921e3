/** Code to paste: each snippet is complete, and prints the label and the probabilities of `picture.png`; on phones, of zeros. */

import type { Row } from './comparison';
import { cppSnippets } from './cppSnippets';
import { messageOf } from './errors';
import type { Fit, ImageSpec } from './image';
import { phoneSnippets } from './phoneSnippets';
import { rPicture, rTensors, rWeights } from './rSnippets';
import { familyOf, WHOLE_NUMBERS } from './runtimes';
import { fileEndingIn, folderEndingIn } from './runtimes/files';
import type { Artifact } from './server';
import type { Classifier, Framework, Library, Snippet } from './snippet';
import { tensorCall, tensorCurl, tensorJavascript, tensorPython } from './tensorSnippets';
import { text } from './text';

/** The snippets, and the reason for each that is missing. */
export interface Snippets {
  snippets: Snippet[];
  leftOut: string[];
}

/** How many snippets come first that call the service. */
const CALLS = 3;

/** Code that calls the service, and code that runs the row's artifact without it. `origin` is the service's address. */
export function snippetsFor({ artifact, runtime: { backend } }: Row, origin: string): Snippets {
  const family = familyOf(artifact.format);
  const [framework, library] = [PYTHON[family], JAVASCRIPT[family]];
  const { name, image, inputs, outputs } = artifact;
  const [picture, tensors] = [`${origin}/predict/${name}`, `${origin}/v2/models/${name}/infer`];
  const classifier = image && artifact.classifies ? { ...artifact, image, input: inputs[0]!.name, output: outputs[0]!.name } : null;
  const makers: [title: string, make: () => Snippet][] = artifact.needs ? [] : [
    ['curl', () => (classifier ? curl(picture) : tensorCurl(artifact, tensors))],
    ['Python', () => (classifier ? callService(picture) : tensorCall(artifact, tensors))],
    ['R', () => (classifier ? rPicture(picture) : rTensors(artifact, tensors))],
  ];
  if (framework) makers.push([framework.title, () => (classifier ? python(classifier, framework) : tensorPython(artifact, family, framework))]);
  if (library) {
    makers.push([library.title, () => (classifier ? javascript(classifier, library, backend) : tensorJavascript(artifact, family, library, backend))]);
  }
  if (Object.keys(artifact.files).some((file) => file.endsWith('.h5'))) makers.push(['R, hdf5r', () => rWeights(artifact)]);
  makers.push(...cppSnippets(artifact, family), ...phoneSnippets(artifact, family));
  const result: Snippets = { snippets: [], leftOut: [] };
  for (const [place, [title, make]] of makers.entries()) {
    try {
      if (place >= CALLS && WHOLE_NUMBERS.includes(artifact.format)) throw new Error(text().shipping.wholeNumbers);
      result.snippets.push(make());
    } catch (error) {
      result.leftOut.push(`${title}: ${messageOf(error)}`);
    }
  }
  return result;
}

/** Formats of optional runtimes: no image serves the first ones, and that of the second ones is built on request. */
const WITHOUT_IMAGE = ['executorch', 'coreai', 'coreml'];
const ON_REQUEST = ['openvino'];

/** TensorFlow's image runs both of its formats. Null where no image runs a format. */
export function dockerLine({ format }: Artifact): string | null {
  const family = familyOf(format);
  if (WITHOUT_IMAGE.includes(family)) return null;
  const image = `rosetta-serve/serve-${family === 'savedmodel' ? 'keras' : family}`;
  const build = ON_REQUEST.includes(family) ? `make image-${family}\n` : '';
  return `${build}docker run --rm --read-only --cap-drop ALL -p 127.0.0.1:8000:8000 ${image}`;
}

function curl(url: string): Snippet {
  return { title: 'curl', language: 'sh', code: `curl -s --data-binary @picture.png ${url}` };
}

function callService(url: string): Snippet {
  const code = `import json
import urllib.request

with open("picture.png", "rb") as picture:
    request = urllib.request.Request("${url}", picture.read(), {"Content-Type": "application/octet-stream"})
with urllib.request.urlopen(request) as response:
    answer = json.load(response)
print(answer["label"], answer["probabilities"])`;
  return { title: 'Python', language: 'python', code };
}

// --- Python

const PYTHON: Record<string, Framework> = {
  onnx: {
    title: 'Python, ONNX Runtime', install: 'onnxruntime',
    run: (artifact) => `import onnxruntime

session = onnxruntime.InferenceSession("${fileEndingIn(artifact, '.onnx')}")
probabilities = session.run(["${artifact.output}"], {"${artifact.input}": to_tensor("picture.png")})[0][0]`,
  },
  tflite: {
    title: 'Python, LiteRT', install: 'ai-edge-litert',
    run: (artifact) => `from ai_edge_litert.interpreter import Interpreter

interpreter = Interpreter("${fileEndingIn(artifact, '.tflite')}")
run = interpreter.get_signature_runner("serving_default")
probabilities = run(${artifact.input}=to_tensor("picture.png"))["${artifact.output}"][0]`,
  },
  openvino: {
    title: 'Python, OpenVINO', install: 'openvino',
    run: (artifact) => `import openvino

# By itself OpenVINO may compute in bfloat16, which gives other answers. The file model.bin lies beside model.xml.
model = openvino.Core().compile_model("${fileEndingIn(artifact, '.xml')}", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
probabilities = model({"${artifact.input}": to_tensor("picture.png")})["${artifact.output}"][0]`,
  },
  executorch: {
    title: 'Python, ExecuTorch', install: 'executorch torch',
    run: (artifact) => `import torch
from executorch.runtime import Runtime

program = Runtime.get().load_program("${fileEndingIn(artifact, '.pte')}")
(answer,) = program.load_method("forward").execute([torch.from_numpy(to_tensor("picture.png"))])
probabilities = answer.numpy()[0]`,
  },
  coreai: {
    title: 'Python, Core AI', install: 'coreai-core',
    run: (artifact) => `import asyncio
from coreai.authoring import AIModelAsset
from coreai.runtime import NDArray


async def answer(tensor):
    # Apple's own runtime for Linux is for proof: its time says nothing of an iPhone's.
    async with AIModelAsset.load("${folderEndingIn(artifact, '.aimodel')}").executable() as model:
        answers = await model.load_function("main")(inputs={"${artifact.input}": NDArray(tensor)})
        await asyncio.sleep(0.1)  # Core AI lets go of its answers meanwhile: at the end of Python it would end the process
    return answers["${artifact.output}"].numpy()[0]


probabilities = asyncio.run(answer(to_tensor("picture.png")))`,
  },
  keras: {
    title: 'Python, Keras', install: 'keras tensorflow',
    run: (artifact) => `import keras

model = keras.saving.load_model("${fileEndingIn(artifact, '.h5', '.keras')}")
probabilities = model(to_tensor("picture.png"), training=False).numpy()[0]`,
  },
  savedmodel: {
    title: 'Python, TensorFlow', install: 'tensorflow',
    run: ({ input, output }) => `import tensorflow as tf

model = tf.saved_model.load(".")  # the folder with all of the files
run = model.signatures["serving_default"]
probabilities = run(${input}=tf.constant(to_tensor("picture.png")))["${output}"].numpy()[0]`,
  },
  torch: {
    title: 'Python, PyTorch', install: 'torch',
    run: (artifact) => `import torch

model = torch.export.load("${fileEndingIn(artifact, '.pt2')}").module()
with torch.inference_mode():
    probabilities = model(torch.from_numpy(to_tensor("picture.png")))[0].numpy()`,
  },
};

function python(artifact: Classifier, { title, install, run }: Framework): Snippet {
  const spec = artifact.image;
  const code = `# pip install ${install} numpy pillow
import numpy as np
from PIL import Image, ImageOps

LABELS = ${artifact.labels.length ? JSON.stringify(artifact.labels) : `[f"class {i}" for i in range(${artifact.outputs[0]!.shape[1]})]`}


def to_tensor(file):
    """A picture as the model takes it: (1, ${spec.height}, ${spec.width}, ${spec.channels}), float32, 0 to 255."""
    picture = ImageOps.exif_transpose(Image.open(file)).convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    picture = Image.alpha_composite(white, picture).convert("${spec.channels === 1 ? 'L' : 'RGB'}")
${spec.invert === 'auto' ? PYTHON_INVERT : ''}    pixels = np.asarray(picture, np.float64).reshape(picture.height, picture.width, ${spec.channels})
    tensor = np.zeros((1, ${spec.height}, ${spec.width}, ${spec.channels}), np.float32)
${PYTHON_FIT[spec.fit](spec)}
    return tensor


def area(pixels, height, width):
    """Each target pixel is the mean of the source pixels that it covers."""
    rows = np.tensordot(cover(len(pixels), height), pixels, 1)
    return np.floor(np.einsum("yuc,xu->yxc", rows, cover(pixels.shape[1], width)) + 0.5)


def cover(size, count):
    """How much of each of \`count\` target pixels each of \`size\` source pixels makes up: (count, size)."""
    edges = np.arange(count + 1)[:, None] * size / count
    covered = np.minimum(edges[1:], np.arange(1, size + 1)) - np.maximum(edges[:-1], np.arange(size))
    return covered.clip(0) * count / size


${run(artifact)}
print(LABELS[probabilities.argmax()], dict(zip(LABELS, probabilities.tolist())))`;
  return { title, language: 'python', code };
}

const PYTHON_INVERT = `    grey = np.asarray(picture.convert("L"))
    ring = np.concatenate([grey[0], grey[-1], grey[1:-1, 0], grey[1:-1, -1]])
    if (ring > 127).mean() > 2 / 3:  # it is dark on light, and the model expects light on dark
        picture = ImageOps.invert(picture)
`;

const PYTHON_FIT: Record<Fit, (spec: ImageSpec) => string> = {
  stretch: ({ height, width }) => `    tensor[0] = area(pixels, ${height}, ${width})`,
  contain: ({ height, width }) => `    scale = min(${width} / picture.width, ${height} / picture.height)
    width, height = max(1, int(picture.width * scale + 0.5)), max(1, int(picture.height * scale + 0.5))
    left, top = (${width} - width) // 2, (${height} - height) // 2
    tensor[0, top : top + height, left : left + width] = area(pixels, height, width)`,
  cover: ({ height, width }) => `    scale = max(${width} / picture.width, ${height} / picture.height)
    width, height = max(1, int(${width} / scale + 0.5)), max(1, int(${height} / scale + 0.5))
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    tensor[0] = area(pixels[top : top + height, left : left + width], ${height}, ${width})`,
};

// --- JavaScript, for the browser

const tfjsBackend = (backend: string) => backend || 'webgl';

const JAVASCRIPT: Record<string, Library> = {
  tfjs: {
    title: 'JavaScript, TensorFlow.js',
    before: (backend) => `npm install @tensorflow/tfjs-core @tensorflow/tfjs-converter @tensorflow/tfjs-backend-${tfjsBackend(backend)}` +
      (backend === 'wasm' ? '\n// mkdir -p public/tfjs && cp node_modules/@tensorflow/tfjs-backend-wasm/dist/*.wasm public/tfjs' : ''),
    imports: (backend) => `import * as tf from '@tensorflow/tfjs-core';
import { loadGraphModel } from '@tensorflow/tfjs-converter';
${backend === 'wasm' ? `import { setWasmPaths } from '@tensorflow/tfjs-backend-wasm';

setWasmPaths('/tfjs/');` : `import '@tensorflow/tfjs-backend-${tfjsBackend(backend)}';`}`,
    run: ({ input }, shape) => `await tf.ready();
const model = await loadGraphModel('model.json');
const probabilities = await model.execute({ ${input}: tf.tensor4d(pixels, ${shape}) }).data();`,
  },
  onnx: {
    title: 'JavaScript, ONNX Runtime Web',
    before: () => 'npm install onnxruntime-web',
    imports: (backend) => `import * as ort from 'onnxruntime-web/${backend || 'wasm'}';`,
    run: (artifact, shape) => `const session = await ort.InferenceSession.create('${fileEndingIn(artifact, '.onnx')}');
const outputs = await session.run({ ${artifact.input}: new ort.Tensor('float32', pixels, ${shape}) });
const probabilities = outputs.${artifact.output}.data;`,
  },
  tflite: {
    title: 'JavaScript, LiteRT.js',
    before: () => 'npm install @litertjs/core\n// mkdir -p public/litert && cp node_modules/@litertjs/core/wasm/* public/litert',
    imports: () => "import { loadAndCompile, loadLiteRt, Tensor } from '@litertjs/core';",
    run: (artifact, shape) => `await loadLiteRt('/litert/');
const model = await loadAndCompile('${fileEndingIn(artifact, '.tflite')}', { accelerator: 'wasm' });
const outputs = await model.run('batch1', { ${artifact.input}: new Tensor(pixels, ${shape}) });
const probabilities = await outputs.${artifact.output}.data();`,
  },
};

function javascript(artifact: Classifier, library: Library, backend: string): Snippet {
  const spec = artifact.image;
  const { height, width, channels } = spec;
  const code = `// ${library.before(backend)}
// A module of a page that Vite builds; the model's files and picture.png lie in public/.
${library.imports(backend)}

const LABELS = ${artifact.labels.length ? JSON.stringify(artifact.labels) : `Array.from({ length: ${artifact.outputs[0]!.shape[1]} }, (_, i) => \`class \${i}\`)`};

/** A picture as the model takes it: ${height} x ${width} x ${channels}, 0 to 255. */
async function toTensor(file) {
  const bitmap = await createImageBitmap(file);
  const { width: w, height: h } = bitmap;
  const context = new OffscreenCanvas(w, h).getContext('2d');
  context.fillStyle = '#fff';
  context.fillRect(0, 0, w, h);
  context.drawImage(bitmap, 0, 0);
  const rgba = context.getImageData(0, 0, w, h).data;
  const grey = (i) => (19595 * rgba[4 * i] + 38470 * rgba[4 * i + 1] + 7471 * rgba[4 * i + 2] + 32768) >> 16;
${spec.invert === 'auto' ? JS_INVERT : ''}  const value = (i, c) => ${valueOf(spec)};
${JS_FIT[spec.fit](spec)}
  const mean = (x, y, c) => { // of the source pixels that a target pixel covers
    const [left, right, top, bottom] = [x * sw / iw, (x + 1) * sw / iw, y * sh / ih, (y + 1) * sh / ih];
    let sum = 0;
    for (let v = Math.floor(top); v < bottom; v++) {
      for (let u = Math.floor(left); u < right; u++) {
        const part = (Math.min(u + 1, right) - Math.max(u, left)) * (Math.min(v + 1, bottom) - Math.max(v, top));
        sum += part * value((sy + v) * w + sx + u, c);
      }
    }
    return Math.round(sum * iw * ih / (sw * sh));
  };
  const pixels = new Float32Array(${height * width * channels});
  for (let y = 0; y < ih; y++) {
    for (let x = 0; x < iw; x++) {
      for (let c = 0; c < ${channels}; c++) pixels[((y + ty) * ${width} + x + tx) * ${channels} + c] = mean(x, y, c);
    }
  }
  return pixels;
}

const pixels = await toTensor(await (await fetch('picture.png')).blob());
${library.run(artifact, `[1, ${height}, ${width}, ${channels}]`)}
console.log(LABELS[probabilities.indexOf(Math.max(...probabilities))], Array.from(probabilities));`;
  return { title: library.title, language: 'javascript', code };
}

function valueOf({ channels, invert }: ImageSpec): string {
  const plain = channels === 1 ? 'grey(i)' : 'rgba[4 * i + c]';
  return invert === 'auto' ? `(inverted ? 255 - ${plain} : ${plain})` : plain;
}

const JS_INVERT = `  let [ring, bright] = [0, 0];
  for (let i = 0; i < w * h; i++) {
    const [x, y] = [i % w, Math.floor(i / w)];
    if (x > 0 && x < w - 1 && y > 0 && y < h - 1) continue;
    ring += 1;
    if (grey(i) > 127) bright += 1;
  }
  const inverted = 3 * bright > 2 * ring; // it is dark on light, and the model expects light on dark
`;

/** The source area (sx, sy, sw, sh) becomes the area (tx, ty, iw, ih) of the tensor. */
const JS_FIT: Record<Fit, (spec: ImageSpec) => string> = {
  stretch: ({ height, width }) => `  const [sx, sy, sw, sh] = [0, 0, w, h];
  const [tx, ty, iw, ih] = [0, 0, ${width}, ${height}];`,
  contain: ({ height, width }) => `  const scale = Math.min(${width} / w, ${height} / h);
  const [iw, ih] = [Math.max(1, Math.round(w * scale)), Math.max(1, Math.round(h * scale))];
  const [tx, ty] = [(${width} - iw) >> 1, (${height} - ih) >> 1];
  const [sx, sy, sw, sh] = [0, 0, w, h];`,
  cover: ({ height, width }) => `  const scale = Math.max(${width} / w, ${height} / h);
  const [sw, sh] = [Math.max(1, Math.round(${width} / scale)), Math.max(1, Math.round(${height} / scale))];
  const [sx, sy] = [(w - sw) >> 1, (h - sh) >> 1];
  const [tx, ty, iw, ih] = [0, 0, ${width}, ${height}];`,
};
