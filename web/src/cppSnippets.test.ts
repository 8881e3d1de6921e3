import { expect, test } from 'vitest';

import { cppSnippets } from './cppSnippets';
import type { Artifact } from './server';

const FILES: Record<string, string> = { onnx: 'net.v2.onnx', tflite: 'model.tflite', openvino: 'model.xml' };
const spec = (name: string, datatype: string, shape: number[]) => ({ name, datatype, shape, layout: '' });

function made(family: string, changes: object = {}): string {
  const inputs = [spec('ids', 'INT64', [-1, 6]), spec('a"b', 'FP32', [-1, 2, 3])];
  const outputs = [spec('first', 'FP32', [-1, 7]), spec('second', 'UINT8', [-1])];
  const artifact = { name: `m-${family}`, files: { [FILES[family]!]: {} }, image: null, inputs, outputs, ...changes } as unknown as Artifact;
  return cppSnippets(artifact, family)[0]![1]().code;
}

test.each(Object.keys(FILES))('%s: C++ names the file and every tensor, each in its own datatype and with zeros for one row', (family) => {
  const code = made(family);
  expect(code).toContain(`"${FILES[family]}"`);
  expect(code).toContain('std::vector<std::int64_t> values0(6);');
  expect(code).toContain('std::vector<float> values1(6);');
  for (const name of ['"ids"', '"a\\"b"', '"first"', '"second"']) expect(code).toContain(name);
  expect(code).toMatch(/print\("second", .*(std::uint8_t|answer1)/);
  expect(code).not.toMatch(/undefined|NaN|\[object|values from 0 to 255/);
  for (const pair of ['()', '[]', '{}']) expect(code.split(pair[0]!).length, pair).toBe(code.split(pair[1]!).length);
  expect(code.includes('do not run this')).toBe(family !== 'openvino'); // of which the tests have the library
});

test('pictures are described, and what C++ has no vector of is named', () => {
  const image = { height: 4, width: 5, channels: 3 };
  expect(made('onnx', { image, inputs: [spec('pixels', 'FP32', [-1, 4, 5, 3])] })).toContain("a picture's 4 x 5 x 3 values");
  expect(() => made('tflite', { inputs: [spec('text', 'BYTES', [-1])] })).toThrow('C++, LiteRT does not support BYTES');
  expect(cppSnippets({} as Artifact, 'keras')).toEqual([]);
});
