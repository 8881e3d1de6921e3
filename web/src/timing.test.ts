import { expect, test, vi } from 'vitest';

import type { LoadedModel } from './runtimes/model';
import type { Tensor } from './tensors';
import { timed, turned } from './timing';

const numbers = (...values: number[]): Tensor[] =>
  [{ name: 'x', datatype: 'FP32', shape: [values.length], data: Float32Array.from(values) }];
const QUESTIONS = [numbers(1, 2), numbers(3, 4)];

/** Answers with the first number, after so many milliseconds of work; takes its input away, as some runtimes do. */
function model(ms: number, answer = (values: Float32Array) => values[0]!): LoadedModel & { disposed: number; calls: number } {
  return {
    backend: async () => 'fake', disposed: 0, calls: 0,
    async predict([input]) {
      const values = input!.data as Float32Array;
      const end = performance.now() + ms;
      while (performance.now() < end);
      this.calls += 1;
      const given = answer(values);
      values.fill(NaN);
      return numbers(given);
    },
    dispose() {
      this.disposed += 1;
    },
  };
}

test('a call takes what it takes, and each question keeps its answer', async () => {
  const fake = model(2);
  const timing = await timed(async () => fake, QUESTIONS, 0.05);
  expect(timing.samples.length).toBeGreaterThanOrEqual(3);
  expect(Math.min(...timing.samples)).toBeGreaterThanOrEqual(2);
  expect(timing.callsPerSample).toBe(1);
  expect(timing.answers).toEqual([[1], [3]]);
  expect(timing.unsteady).toBe(0);
  expect(timing.backend).toBe('fake');
  expect(fake.disposed).toBe(1);
});

test('further questions are asked once each, while there is time', async () => {
  const fake = model(5);
  const further = { questions: Array.from({ length: 100 }, (_, i) => numbers(i)), seconds: 0.1 };
  const timing = await timed(async () => fake, QUESTIONS, 0.02, undefined, further);
  expect(timing.answers).toEqual([[1], [3]]);
  expect(timing.further.length).toBeGreaterThanOrEqual(2);
  expect(timing.further.length).toBeLessThan(25);
  expect(timing.further).toEqual(timing.further.map((_, i) => [i]));
});

test('the load is part of the first answer, not of the samples', async () => {
  const slow = () => new Promise<LoadedModel>((done) => setTimeout(() => done(model(0)), 60));
  const timing = await timed(slow, QUESTIONS, 0.02);
  expect(timing.firstAnswer).toBeGreaterThanOrEqual(55);
  expect(timing.samples.toSorted((a, b) => a - b)[0]).toBeLessThan(5);
});

test('calls that are short beside a step of the clock are timed together', async () => {
  const fake = model(0);
  const timing = await timed(async () => fake, QUESTIONS, 0.05);
  const warm = timing.samples.toSorted((a, b) => a - b)[Math.floor(timing.samples.length / 2)]!;
  expect(timing.callsPerSample * warm).toBeGreaterThan(5 * timing.resolution);
  expect(fake.calls).toBeGreaterThan(timing.samples.length * timing.callsPerSample - 1);
});

test('what gets faster for a while is timed when it no longer does', async () => {
  const start = performance.now();
  const compiled = () => performance.now() - start > 200;
  const fake: LoadedModel = { ...model(0), async predict() { await model(compiled() ? 0.1 : 2).predict(numbers(0)); return numbers(1); } };
  const { samples, warmUp } = await timed(async () => fake, QUESTIONS, 0.02);
  expect(samples.toSorted((a, b) => a - b)[Math.floor(samples.length / 2)]!).toBeLessThan(1);
  expect(Math.max(...warmUp)).toBeGreaterThanOrEqual(2);
});

test('a model of long calls is not warmed up for long', async () => {
  const fake = model(400);
  const { warmUp } = await timed(async () => fake, [QUESTIONS[0]!], 0.02);
  expect(warmUp.length).toBeLessThanOrEqual(3);
});

test('a clock of long steps times many calls together', async () => {
  const now = performance.now.bind(performance);
  const coarse = vi.spyOn(performance, 'now').mockImplementation(() => Math.floor(now() / 20) * 20);
  const timing = await timed(async () => ({ ...model(0), async predict() { return numbers(1); } }), [QUESTIONS[0]!], 0.02).finally(() => coarse.mockRestore());
  expect(timing.callsPerSample).toBeLessThan(Infinity);
  expect(timing.samples.length).toBeGreaterThanOrEqual(3);
}, 60_000);

test('answers that differ from call to call are noticed, and numbers that are none', async () => {
  let turn = 0;
  expect((await timed(async () => model(1, () => (turn++ % 2 ? 5 : 5.25)), [QUESTIONS[0]!], 0.05)).unsteady).toBe(0.25);
  const broken = model(1, () => (turn++ % 3 ? 1 : NaN));
  expect((await timed(async () => broken, [QUESTIONS[0]!], 0.05)).unsteady).toBe(Infinity);
});

test('a picture is turned about its middle, and other inputs stay as they are', () => {
  const image = { height: 3, width: 3, channels: 2, resample: 'area', fit: 'stretch', invert: 'never' } as const;
  const picture = numbers(...Array.from({ length: 18 }, (_, i) => i));
  const pictures = turned(picture, image).map(([tensor]) => Array.from(tensor!.data as Float32Array));
  expect(pictures[0]).toEqual(Array.from({ length: 18 }, (_, i) => i));
  expect(pictures[8]).toEqual([16, 17, 14, 15, 12, 13, 10, 11, 8, 9, 6, 7, 4, 5, 2, 3, 0, 1]); // half way round
  expect(new Set(pictures.map(String)).size).toBeGreaterThan(4);
  expect(turned(QUESTIONS[0]!, null)).toEqual([QUESTIONS[0]]);
  expect(turned(picture, { ...image, height: 2048, width: 2048 })).toHaveLength(1);
});

test('a model that fails is disposed of', async () => {
  const fake = model(0, () => { throw new Error('no'); });
  await expect(timed(async () => fake, QUESTIONS, 0.02)).rejects.toThrow('no');
  expect(fake.disposed).toBe(1);
});
