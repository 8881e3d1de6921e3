import { expect, test } from 'vitest';

import { frontOf, medianOf, summaryOf, winnerOf, type Lane } from './race';

function lane(id: string, ms: number | null, bytes: number, runtimeBytes = 0): Lane {
  const where = id.endsWith('@server') ? 'server' : 'browser';
  return {
    row: { id, runtime: { where }, artifact: { files: { model: { bytes } } } },
    phase: ms === null ? 'failed' : 'done', summary: ms === null ? null : summaryOf([ms, ms, 9 * ms], [9 * ms]), timing: { runtimeBytes },
  } as unknown as Lane;
}

const quick = lane('a@litert-wasm', 1, 40, 3000);
const small = lane('b@tfjs-wasm', 2, 50, 300);
const beaten = lane('c@tfjs-webgl', 3, 50, 300);
const server = lane('d@server', 5, 90);
const failed = lane('e@onnx-wasm', null, 1);
const lanes = [beaten, quick, small, server, failed];

test('the winner has the smallest median of all', () => {
  expect(lanes.map(medianOf)).toEqual([3, 1, 2, 5, null]);
  expect(winnerOf(lanes)).toBe(quick);
  expect(winnerOf([quick, failed])).toBe(null); // a race of one
  const cancelled: Lane = { ...lane('f@litert-wasm', 0.5, 1), phase: 'failed' };
  expect(medianOf(cancelled)).toBe(null); // its samples are drawn, and count for nothing
  expect(winnerOf([quick, small, cancelled])).toBe(quick);
});

test('the front has what nothing in the same place beats in both time and download', () => {
  expect(frontOf(lanes)).toEqual([quick, small, server]);
  expect(frontOf([quick, lane('twin@litert-wasm', 1, 40, 3000)])).toHaveLength(2); // neither beats its equal
});
