/** Timed calls of one runtime: in its worker, for a race in the page and for `make compare` alike. */

import { quantile } from './figures';
import type { LoadedModel } from './runtimes/model';
import { largestDistance, type Tensor } from './tensors';

export interface Timing {
  /** What the runtime really runs on. */
  backend: string;
  /** From the first byte of the runtime's code to the first answer. Milliseconds, as all times here. */
  firstAnswer: number;
  /** Each call of the warm-up, which is in no other figure. */
  warmUp: number[];
  /** The smallest step of this page's clock. */
  resolution: number;
  /** Calls that were timed together, so that a sample is far longer than a step of the clock. */
  callsPerSample: number;
  /** One call, on average, of each sample. */
  samples: number[];
  /** The answers to the questions, as the last timed calls gave them: all outputs' numbers, one after another. */
  answers: number[][];
  /** The largest difference between two answers of timed calls to the same question. */
  unsteady: number;
}

/** What is new since the last time that this was told. */
export interface Progress {
  phase: 'load' | 'warm-up' | 'timed';
  samples: number[];
}

type Tell = (progress: Progress) => void;

const WARM_UP = 0.2;
const STEPS_PER_SAMPLE = 50;
const TELL_MS = 150;

/** The answer is read back within the time; answers are compared after it. */
export async function timed(
  load: () => Promise<LoadedModel>, questions: Tensor[][], seconds: number, tell: Tell = () => {},
): Promise<Timing> {
  tell({ phase: 'load', samples: [] });
  const start = performance.now();
  const model = await load(); // ends with the answer to zeros
  const firstAnswer = performance.now() - start;
  try {
    const given: Tensor[][][] = questions.map(() => []);
    let turn = 0;
    const call = async () => {
      const question = turn++ % questions.length;
      const inputs = questions[question]!.map((tensor) => ({ ...tensor, data: tensor.data.slice() }));
      given[question]!.push(await model.predict(inputs));
    };
    const warmUp = await sample(call, 1, WARM_UP * seconds, (samples) => tell({ phase: 'warm-up', samples }));
    const resolution = clockStep();
    const callsPerSample = Math.max(1, Math.ceil((STEPS_PER_SAMPLE * resolution) / quantile(warmUp, 0.5)));
    for (const answers of given) answers.length = 0;
    const samples = await sample(call, callsPerSample, seconds, (samples) => tell({ phase: 'timed', samples }));
    while (given.some((answers) => !answers.length)) await call(); // few and slow calls: every question is answered
    const unsteady = given.reduce((most, each) => each.reduce((more, answer) =>
      Math.max(more, largestDistance(answer, each.at(-1)!)), most), 0);
    const answers = given.map((each) => each.at(-1)!.flatMap(({ data }) => Array.from(data as Float32Array, Number)));
    return { backend: model.backend, firstAnswer, warmUp, resolution, callsPerSample, samples, answers, unsteady };
  } finally {
    model.dispose();
  }
}

async function sample(
  call: () => Promise<void>, calls: number, seconds: number, tell: (samples: number[]) => void,
): Promise<number[]> {
  const samples: number[] = [];
  const end = performance.now() + seconds * 1000;
  let [told, toldAt] = [0, performance.now()];
  for (let now = toldAt; samples.length < 3 || now < end; ) {
    const start = performance.now();
    for (let i = 0; i < calls; i++) await call();
    now = performance.now();
    samples.push((now - start) / calls);
    if (now - toldAt < TELL_MS) continue;
    tell(samples.slice(told));
    [told, toldAt] = [samples.length, performance.now()];
  }
  tell(samples.slice(told));
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
