import { expect, test } from 'vitest';

import {
  decoded, defaultTensors, distance, emptyEntry, encoded, firstValues, largestDistance, onlyTensor, tensorsOf, typeIn,
  type Entry, type Tensor, type TensorSpec,
} from './tensors';

const spec = (datatype: string, shape: number[], name = 'x'): TensorSpec => ({ name, datatype, shape, layout: '' });
const written = (of: TensorSpec, fill: Entry['fill'], text: string) => ({ ...emptyEntry(of), fill, text });
const read = (of: TensorSpec, text: string, fill: Entry['fill'] = 'json') => tensorsOf([of], [written(of, fill, text)], 1)[0]!;
const DATATYPES = [
  'BOOL', 'UINT8', 'UINT16', 'UINT32', 'UINT64', 'INT8', 'INT16', 'INT32', 'INT64', 'FP16', 'BF16', 'FP32', 'FP64', 'BYTES',
];

test('a nested list tells its own shape, a flat one fills the sizes', () => {
  const of = spec('FP32', [-1, 2]);
  expect(read(of, '[[1, 2.5], [3, 4]]')).toEqual({ name: 'x', datatype: 'FP32', shape: [2, 2], data: Float32Array.of(1, 2.5, 3, 4) });
  expect(read(of, '[1, 2, 3, 4, 5, 6]').shape).toEqual([3, 2]);
  expect(read(spec('FP32', [1, 3]), '[1, 2, 3]').shape).toEqual([1, 3]);
  expect(read(spec('INT64', [-1]), '[7, 8]')).toMatchObject({ shape: [2], data: BigInt64Array.of(7n, 8n) });
});

test.each([
  ['{"a": 1}', 'FP32', /is not a list/],
  ['[1,', 'FP32', /not JSON/],
  ['[1, 2, 3]', 'FP32', /3 values, expected 2 for \[1, 2\]/],
  ['[]', 'FP32', /0 values/],
  ['[[1, 2], [3], [4, 5, 6]]', 'FP32', /differ in length/],
  ['[[[1, 2]]]', 'FP32', /nested as \[1, 1, 2\], expected \[-1, 2\]/],
  ['[1, "2"]', 'FP32', /"2" is not of datatype FP32/],
  ['[1, null]', 'FP32', /null is not of datatype FP32/],
  ['[1, 2.5]', 'INT32', /2.5 is not of datatype INT32/],
  ['[1, 256]', 'UINT8', /256 is not of datatype UINT8/],
  ['[1, -1]', 'UINT64', /-1 is not of datatype UINT64/],
  ['[1, 9007199254740993]', 'INT64', /is not of datatype INT64/],
  ['[0, 2]', 'BOOL', /2 is not of datatype BOOL/],
  ['["a", 1]', 'BYTES', /1 is not of datatype BYTES/],
])('%s is refused as %s', (text, datatype, why) => {
  expect(() => read(spec(datatype, [-1, 2]), text)).toThrow(why);
});

test('each line of text is a value', () => {
  expect(read(spec('BYTES', [-1, 1]), 'one\ntwo words', 'lines')).toMatchObject({ shape: [2, 1], data: ['one', 'two words'] });
});

test('what is written out tells the batch of all', () => {
  const [a, b] = [spec('FP32', [-1, 2], 'a'), spec('INT32', [-1, -1], 'b')];
  const entries = [written(a, 'json', '[[1, 2], [3, 4], [5, 6]]'), { ...emptyEntry(b), sizes: [1, 4] }];
  expect(tensorsOf([a, b], entries, 1).map(({ shape }) => shape)).toEqual([[3, 2], [3, 4]]);
});

test('the batch is where the layout has it, and other free sizes begin with the least one', () => {
  const audio = { ...spec('FP32', [-1, -1], 'audio'), layout: 'ND', least: [1, 40] };
  const state = { ...spec('FP32', [2, -1, 8], 'state'), layout: 'DND' };
  const all = [audio, state, spec('INT64', [], 'rate'), { ...spec('FP32', [-1], 'wave'), layout: 'D', least: [25] }];
  expect(tensorsOf(all, all.map(emptyEntry), 3).map(({ shape }) => shape)).toEqual([[3, 40], [2, 3, 8], [], [25]]);
  expect(tensorsOf([all[3]!], [written(all[3]!, 'json', JSON.stringify(Array(30).fill(0.5)))], 1)[0]!.shape).toEqual([30]);
});

test('random values are the same each time, differ by seed, and suit their datatype', () => {
  const of = spec('FP32', [1, 1000]);
  const [one, same, other] = [1, 1, 2].map((seed) => tensorsOf([of], [{ ...emptyEntry(of), seed }], 1)[0]!);
  expect(one).toEqual(same);
  expect(distance(one, other)).toBeGreaterThan(0.5);
  const values = Array.from(one!.data as Float32Array);
  expect(Math.min(...values)).toBeGreaterThanOrEqual(0);
  expect(Math.max(...values)).toBeLessThan(1);
  expect(values.reduce((sum, value) => sum + value) / 1000).toBeCloseTo(0.5, 1);
  const whole = defaultTensors([spec('INT64', [1, 500])])[0]!;
  expect(new Set(whole.data as BigInt64Array).size).toBe(10);
});

test('a size beyond all measure is refused before memory is taken', () => {
  const of = spec('FP32', [-1, -1]);
  expect(() => tensorsOf([of], [{ ...emptyEntry(of), sizes: [1, 1e9] }], 9)).toThrow(/is more than/);
});

test.each(DATATYPES)('%s comes back from a message as it was', (datatype) => {
  const inputs = [spec(datatype, [2, 3], 'a'), spec('FP32', [1], 'b')];
  const given = defaultTensors(inputs);
  const { body, header } = encoded(given, inputs);
  const request = JSON.parse(new TextDecoder().decode(body.subarray(0, header))) as { inputs: object[]; outputs: object[] };
  const { inputs: outputs } = request; // an answer has the same form
  const answer = new TextEncoder().encode(JSON.stringify({ outputs }));
  const whole = new Uint8Array([...answer, ...body.subarray(header)]);
  expect(decoded({ body: whole, header: answer.length })).toEqual(given);
});

test('differences: numbers, shapes, texts, and values that are not numbers', () => {
  const of = (...data: number[]): Tensor => ({ name: 'x', datatype: 'FP64', shape: [data.length], data: Float64Array.from(data) });
  expect(distance(of(1, NaN, Infinity), of(1.25, NaN, Infinity))).toBe(0.25);
  expect(distance(of(1), of(NaN))).toBe(Infinity);
  expect(distance(of(1), of(1, 2))).toBe(Infinity);
  expect(distance(read(spec('BYTES', [1]), '["a"]'), read(spec('BYTES', [1]), '["b"]'))).toBe(Infinity);
  expect(distance(read(spec('INT64', [1]), '[5]'), { ...of(3), shape: [1] })).toBe(2);
  expect(largestDistance([of(1), { ...of(4), name: 'y' }], [{ ...of(7), name: 'y' }, of(1)])).toBe(3);
});

test('first values are short', () => {
  expect(firstValues(read(spec('FP32', [-1]), '[0.123456789, 3, 4e-9]'), 2)).toBe('0.12346, 3, …');
  expect(firstValues(read(spec('BOOL', [-1]), '[true, false]'), 8)).toBe('true, false');
  expect(firstValues(read(spec('BYTES', [1]), '["a\\nb"]'), 8)).toBe('"a\\nb"');
});

test('a list of numbers is for a model with one input', () => {
  expect(onlyTensor([spec('FP32', [-1, 2, 2])], [1, 2, 3, 4, 5, 6, 7, 8])[0]!.shape).toEqual([2, 2, 2]);
  expect(() => onlyTensor([spec('FP32', [1]), spec('FP32', [1])], [1])).toThrow('2 inputs');
});

test('a runtime without a datatype says so', () => {
  expect(typeIn({ FP32: 'float32' }, spec('FP32', [1]), 'It')).toBe('float32');
  expect(() => typeIn({ FP32: 'float32' }, spec('FP16', [1]), 'It')).toThrow('It does not support FP16, the datatype of x.');
});
