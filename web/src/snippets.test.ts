import { expect, test } from 'vitest';

import type { Artifact } from './server';
import { dockerLine } from './snippets';

function lineOf(format: string): string | null {
  return dockerLine({ format } as Artifact);
}

test('an image of the stack is run', () => {
  expect(lineOf('onnx-int8')).toMatch(/^docker run \S.* rosetta-serve\/serve-onnx$/);
  expect(lineOf('savedmodel')).toMatch(/^docker run \S.* rosetta-serve\/serve-keras$/);
});

test('the image of an optional runtime is built first', () => {
  expect(lineOf('openvino')).toMatch(/^make image-openvino\ndocker run \S.* rosetta-serve\/serve-openvino$/);
});

test('a format without an image has no line', () => {
  expect(lineOf('executorch')).toBeNull();
});
