import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import { expect, test } from 'vitest';

import { DIAGNOSIS_SCHEMA, isOf, layoutOf, type Diagnosis, type Node } from './diagnosis';
import type { Artifact } from './server';

const node = (name: string, ...inputs: string[]): Node => ({ name, label: name, op: 'op', inputs, shape: '4' });
const layer = (source: string, artifact: string, relative: number | null) =>
  ({ source: { name: source }, artifact: { name: artifact }, arrangement: '', difference: relative, relative });

/** A convolution, its bias and its activation are one node of the artifact; the last layer is wrong there. */
const diagnosis: Diagnosis = {
  schema: DIAGNOSIS_SCHEMA, artifact: 'm-tflite', source: 'm-keras', healthy: false, reasons: ['wrong'], tolerance: 1e-5,
  files: { 'm-tflite': { 'model.tflite': 'a' }, 'm-keras': { 'model.h5': 'b' } },
  cause: 'a weight', evidence: '', advice: '',
  graphs: {
    source: [node('x'), node('conv', 'x'), node('bias', 'conv'), node('relu', 'bias'), node('dense', 'relu')],
    artifact: [node('X'), node('CONV', 'X'), node('FC', 'CONV')],
  },
  layers: [layer('x', 'X', 0), layer('relu', 'CONV', 2e-6), layer('dense', 'FC', null)],
  place: layer('dense', 'FC', null),
};

test('matched layers stand side by side, and fused ones are a group before their match', () => {
  const { nodes, matches, groups, rows } = layoutOf(diagnosis);
  const at = Object.fromEntries(nodes.map((placed) => [placed.node.name, placed.at]));
  expect(at).toEqual({ x: 0, X: 0, conv: 1, bias: 2, relu: 3, CONV: 3, dense: 4, FC: 4 });
  expect(groups).toEqual([{ side: 'source', from: 1, to: 3 }]);
  expect(matches.map(({ shade, isPlace }) => [shade, isPlace])).toEqual([['equal', false], ['near', false], ['apart', true]]);
  expect(nodes.filter(({ isPlace }) => isPlace).map((placed) => placed.node.name)).toEqual(['dense', 'FC']);
  expect(matches[2]!.relative).toBe(Infinity);
  expect(rows).toBe(5);
});

test('every node is drawn once, whatever was matched', () => {
  for (const layers of [[], diagnosis.layers.slice(0, 1), [...diagnosis.layers, layer('conv', 'X', 0)], [layer('none', 'FC', 0)]]) {
    const { nodes } = layoutOf({ ...diagnosis, layers, place: null });
    expect(nodes.map((placed) => placed.node.name).sort()).toEqual(['CONV', 'FC', 'X', 'bias', 'conv', 'dense', 'relu', 'x']);
  }
});

test('a diagnosis of other files is none of this artifact', () => {
  const artifact = (name: string, file: string, sha256: string) => ({ name, files: { [file]: { sha256, bytes: 1 } } }) as unknown as Artifact;
  const source = artifact('m-keras', 'model.h5', 'b');
  expect(isOf(diagnosis, artifact('m-tflite', 'model.tflite', 'a'), source)).toBe(true);
  expect(isOf(diagnosis, artifact('m-tflite', 'model.tflite', 'c'), source)).toBe(false);
  expect(isOf(diagnosis, artifact('m-tflite', 'other.tflite', 'a'), source)).toBe(false);
});

test('the page reads the version that is written', () => {
  const written = /^SCHEMA = (\d+)$/m.exec(readFileSync(join(import.meta.dirname, '../../verify/diagnose/show.py'), 'utf8'));
  expect(Number(written?.[1])).toBe(DIAGNOSIS_SCHEMA);
});
