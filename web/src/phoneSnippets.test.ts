import { expect, test } from 'vitest';

import { phoneSnippets } from './phoneSnippets';
import type { Artifact } from './server';
import type { Snippet } from './snippet';

const FILES: Record<string, string> = { tflite: 'model.tflite', onnx: 'net.v2.onnx', executorch: 'model.pte' };
const spec = (name: string, datatype: string, shape: number[]) => ({ name, datatype, shape, layout: '' });
const image = { height: 4, width: 5, channels: 3, invert: 'never', fit: 'stretch' };

function artifact(family: string, changes: object = {}): Artifact {
  const inputs = [spec('pixels', 'FP32', [-1, 4, 5, 3])];
  const outputs = [spec('probabilities', 'FP32', [-1, 7])];
  return { name: `m-${family}`, files: { [FILES[family]!]: {} }, image, inputs, outputs, ...changes } as unknown as Artifact;
}

const AIMODEL = { files: { 'model.aimodel/main.mlirb': {}, 'model.aimodel/metadata.json': {} } };
const made = (family: string, changes: object = {}): Snippet[] => phoneSnippets(artifact(family, changes), family).map(([, make]) => make());
const FAMILIES = Object.keys(FILES);

test.each(FAMILIES)('%s has Kotlin and Swift that take one row of its inputs, and name its file', (family) => {
  const [kotlin, swift] = made(family);
  expect([kotlin!.language, swift!.language]).toEqual(['kotlin', 'swift']);
  const [stem, ending] = FILES[family]!.split(/\.(?=[^.]*$)/);
  expect(kotlin!.code).toContain(`${stem}.${ending}`);
  expect(swift!.code).toContain(`forResource: "${stem}", ofType: "${ending}"`);
  for (const { code, title } of [kotlin!, swift!]) {
    expect(code).toMatch(/60|1, 4, 5, 3/);
    expect(code).toContain("a picture's 4 x 5 x 3 values");
    expect(code).toContain('do not run it');
    expect(code).not.toMatch(/undefined|NaN|\[object/);
    for (const pair of ['()', '[]', '{}']) expect([title, code.split(pair[0]!).length]).toEqual([title, code.split(pair[1]!).length]);
  }
});

test.each(FAMILIES)('%s has every tensor by its name or in its place, and in its own datatype', (family) => {
  const inputs = [spec('tokens', 'INT32', [-1, 6]), spec('a"$b', 'FP32', [2, -1])];
  const outputs = [spec('first', 'FP32', [-1, 7]), spec('second', 'INT32', [-1])];
  const [[, make]] = phoneSnippets(artifact(family, { image: null, inputs, outputs }), family) as [[string, () => Snippet]];
  const kotlin = make();
  expect(kotlin.code).toMatch(/Int(Array|Buffer\.allocate)\(6\)/);
  expect(kotlin.code).toMatch(/Float(Array|Buffer\.allocate)\(2\)/);
  expect(kotlin.code.match(/println/g)).toHaveLength(2);
  if (family !== 'executorch') expect(kotlin.code).toContain('"a\\"\\$b"'); // its inputs have places, no names
  expect(kotlin.code).not.toContain('picture');
});

test('what a library cannot take is named', () => {
  const changes = { inputs: [spec('text', 'BYTES', [-1])] };
  for (const family of FAMILIES) {
    for (const [title, make] of phoneSnippets(artifact(family, changes), family)) expect(make).toThrow(`${title} does not support BYTES`);
  }
  const two = { outputs: [spec('a', 'FP32', [-1]), spec('b', 'FP32', [-1])] };
  expect(() => made('executorch', two)).toThrow('it has 2 outputs');
});

test('Core AI has Swift alone, which names the folder, and every tensor in the datatype that its converter makes', () => {
  const [swift, ...others] = made('coreai', AIMODEL);
  expect([swift!.title, others]).toEqual(['Swift, Core AI', []]);
  expect(swift!.code).toContain('forResource: "model", ofType: "aimodel"');
  expect(swift!.code).toContain('"pixels": NDArray(scalars: [Float](repeating: 0, count: 60), shape: [1, 4, 5, 3])');
  expect(swift!.code).toContain('print(values(outputs.remove("probabilities")!.ndArray!, Float.self))');
  for (const words of ['in beta', 'do not run it']) expect(swift!.code).toContain(words);
  const ids = made('coreai', { ...AIMODEL, image: null, inputs: [spec('ids', 'INT64', [-1, 6])] });
  expect(ids[0]!.code).toContain('"ids": NDArray(scalars: [Int32](repeating: 0, count: 6), shape: [1, 6])');
  expect(() => made('coreai', { ...AIMODEL, inputs: [spec('text', 'BYTES', [-1])] })).toThrow('Swift, Core AI does not support BYTES');
});

test('Core ML has Swift alone, which names what Xcode compiles, and every tensor in the datatype that its converter makes', () => {
  const package_ = { files: { 'model.mlpackage/Manifest.json': {}, 'model.mlpackage/Data/com.apple.CoreML/model.mlmodel': {} } };
  const [swift, ...others] = made('coreml', package_);
  expect([swift!.title, others]).toEqual(['Swift, Core ML', []]);
  expect(swift!.code).toContain('forResource: "model", withExtension: "mlmodelc"');
  expect(swift!.code).toContain('"pixels": MLMultiArray(MLShapedArray<Float>(repeating: 0, shape: [1, 4, 5, 3]))');
  expect(swift!.code).toContain('print(outputs.featureValue(for: "probabilities")!.shapedArrayValue(of: Float.self)!.scalars)');
  const ids = made('coreml', { ...package_, image: null, inputs: [spec('ids', 'INT64', [-1, 6])] });
  expect(ids[0]!.code).toContain('"ids": MLMultiArray(MLShapedArray<Int32>(repeating: 0, shape: [1, 6]))');
});

test('formats that no phone runs have none', () => {
  expect(phoneSnippets(artifact('onnx'), 'keras')).toEqual([]);
});
