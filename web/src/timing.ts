/** Timed calls of one runtime, in a page that does nothing else. */

import type { LoadedModel } from './runtimes';

export interface Timing {
  /** What the runtime really runs on. */
  backend: string;
  /** From the first byte of the runtime's code to the first answer. Milliseconds, as all times here. */
  firstAnswer: number;
  /** The smallest step of this page's clock. */
  resolution: number;
  /** Calls that were timed together, so that a sample is far longer than a step of the clock. */
  callsPerSample: number;
  /** One call, on average, of each sample. */
  samples: number[];
  /** The answers to the pictures, as the last timed calls gave them. */
  answers: number[][];
  /** The largest difference between two answers of timed calls to the same picture. */
  unsteady: number;
}

const WARM_UP = 0.2;
const STEPS_PER_SAMPLE = 50;

/** The answer is read back within the time; answers are compared after it. */
export async function timed(
  load: () => Promise<LoadedModel>, pictures: Float32Array[], seconds: number,
): Promise<Timing> {
  const start = performance.now();
  const model = await load(); // ends with the answer to a picture of zeros
  const firstAnswer = performance.now() - start;
  try {
    const given: Float32Array[][] = pictures.map(() => []);
    let turn = 0;
    const call = async () => {
      const picture = turn++ % pictures.length;
      given[picture]!.push(await model.predict(pictures[picture]!.slice())); // a runtime may take its input away
    };
    const warm = await sample(call, 1, WARM_UP * seconds);
    const resolution = clockStep();
    const callsPerSample = Math.max(1, Math.ceil((STEPS_PER_SAMPLE * resolution) / median(warm)));
    for (const answers of given) answers.length = 0;
    const samples = await sample(call, callsPerSample, seconds);
    while (given.some((answers) => !answers.length)) await call(); // few and slow calls: every picture is answered
    const answers = given.map((each) => Array.from(each.at(-1)!));
    const unsteady = Math.max(...given.flatMap((each, i) => each.map((answer) => distance(answer, answers[i]!))));
    return { backend: model.backend, firstAnswer, resolution, callsPerSample, samples, answers, unsteady };
  } finally {
    model.dispose();
  }
}

async function sample(call: () => Promise<void>, calls: number, seconds: number): Promise<number[]> {
  const samples: number[] = [];
  const end = performance.now() + seconds * 1000;
  while (samples.length < 3 || performance.now() < end) {
    const start = performance.now();
    for (let i = 0; i < calls; i++) await call();
    samples.push((performance.now() - start) / calls);
  }
  return samples;
}

/** Browsers make their clock coarse: 5 µs in an isolated page, 100 µs in others. */
function clockStep(): number {
  let smallest = Infinity;
  for (let i = 0; i < 20; i++) {
    const start = performance.now();
    let now = start;
    while (now === start) now = performance.now();
    smallest = Math.min(smallest, now - start);
  }
  return smallest;
}

function median(values: number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]!;
}

/** Infinite where one of them is no number. */
function distance(a: Float32Array, b: number[]): number {
  const distances = b.map((value, i) => Math.abs(value - a[i]!));
  return distances.some(Number.isNaN) ? Infinity : Math.max(...distances);
}
