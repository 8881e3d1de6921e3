import { expect, test } from 'vitest';

import type { Row } from './comparison';
import type { Artifact } from './server';
import { answersIn, verdictOf } from './verdict';

interface Given {
  probabilities?: number[];
  ms?: number;
  runtimeBytes?: number;
}

function row(id: string, { probabilities, ms, runtimeBytes }: Given): Row {
  const outputs = [{ name: 'y', datatype: 'FP32', shape: [1, 2], data: Float32Array.from(probabilities ?? []) }];
  const [name = '', runtime = ''] = id.split('@');
  return {
    id, state: probabilities ? 'done' : 'failed', error: '', download: null,
    artifact: { name, model: name.split('-')[0], labels: ['Bag', 'Boot'], classifies: true, files: { model: { sha256: '', bytes: 1000 } } } as unknown as Artifact,
    runtime: { id: runtime, where: runtime === 'server' ? 'server' : 'browser' } as Row['runtime'],
    answer: probabilities ? { outputs } : null,
    time: ms === undefined ? null : { runtime: ms, calls: 5 },
    loaded: runtimeBytes === undefined ? null : { backend: '', runtimeBytes },
  };
}

const source = row('m-keras@server', { probabilities: [0.25, 0.75], ms: 3 });
const sourceOf = () => source;

test('rows are compared with their source, and the source with nobody', () => {
  const near = row('m-onnx@server', { probabilities: [0.3125, 0.6875], ms: 1 });
  const other = row('m-tfjs@tfjs-wasm', { probabilities: [0.75, 0.25], ms: 0.5, runtimeBytes: 500 });
  const large = row('m-onnx@onnx-wasm', { probabilities: [0.25, 0.75], ms: 2, runtimeBytes: 9000 });
  const failed = row('m-tflite@server', {});
  const verdict = verdictOf([source, near, other, large, failed], sourceOf);
  expect(verdict.compared).toBe(3);
  expect(verdict.disagreeing).toEqual([other]);
  expect(verdict.farthest).toMatchObject({ row: other, difference: 0.5 });
  expect(verdict.fastest).toBe(other);
  expect(verdict.smallest).toBe(other);
});

test('where nothing has answered there is nothing to say', () => {
  const nothing = { compared: 0, disagreeing: [], farthest: null, fastest: null, smallest: null };
  expect(verdictOf([row('m-onnx@server', {})], sourceOf)).toEqual(nothing);
  expect(verdictOf([row('m-onnx@server', { probabilities: [1, 0] })], () => undefined)).toEqual(nothing);
});

test('each model says what its source says, once the source has answered', () => {
  const early = row('m-onnx@server', { probabilities: [0.75, 0.25] });
  expect(answersIn([row('m-keras@server', {}), early], () => undefined)).toEqual([{ model: 'm', label: 'Bag' }]);
  const other = row('n-onnx@server', { probabilities: [0.75, 0.25] });
  const answers = [{ model: 'm', label: 'Boot' }, { model: 'n', label: 'Bag' }];
  expect(answersIn([early, other], (answered) => (answered === early ? source : undefined))).toEqual(answers);
  expect(answersIn([], sourceOf)).toEqual([]);
});
