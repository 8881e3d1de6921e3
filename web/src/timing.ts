/** Timed calls of one runtime in its worker, for the page's race and for `make compare`. */

import type { ImageSpec } from './image';
import type { LoadedModel } from './runtimes/model';
import { largestDistance, type Tensor } from './tensors';

export interface Timing {
  /** What the runtime really runs on. */
  backend: string;
  /** How many bytes the runtime's own code is on the wire. */
  runtimeBytes: number;
  /** From the first byte of the runtime's code to the first answer. All times are in milliseconds. */
  firstAnswer: number;
  /** Each call of the warm-up, which no other figure includes. */
  warmUp: number[];
  /** The smallest step of this page's clock. */
  resolution: number;
  /** How many calls one sample times together, so that it is far longer than a step of the clock. */
  callsPerSample: number;
  /** The average time of one call in each sample. */
  samples: number[];
  /** The last timed answer to each question: the numbers of all outputs, one after another. */
  answers: number[][];
  /** The largest difference between two timed answers to the same question. */
  unsteady: number;
  /** The answers to the further questions, of which there are fewer where the time was up. */
  further: number[][];
}

/** The measurements of a model that is loaded. */
export type Samples = Omit<Timing, 'backend' | 'runtimeBytes' | 'firstAnswer' | 'further'>;

/** What is asked after the timed calls, each once, for so many seconds at the most. */
export interface Further {
  questions: Tensor[][];
  seconds: number;
}

/** What is new since the last report. */
export interface Progress {
  phase: 'load' | 'warm-up' | 'timed';
  samples: number[];
  /** While it loads: how many bytes have come so far. */
  bytes?: number;
  /** How many are expected of what has begun to come; 0 if unknown. */
  total?: number;
}

type OnProgress = (progress: Progress) => void;

/** The least warm-up, as a share of the time that follows. */
const WARM_UP = 0.2;
/** What a browser compiles while it runs gets faster for some tenths of a second. So a warm-up is looked at in blocks, */
const BLOCK_SECONDS = 0.025;
/** and goes on until so many in a row were not clearly faster than the best one before, */
const STEADY_BLOCKS = 8;
const CLEARLY_FASTER = 0.97;
/** but no longer than this, unless the share is more. */
const LONGEST_WARM_UP_SECONDS = 1;
const STEPS_PER_SAMPLE = 50;
const PROGRESS_MS = 150;

/** How often a picture is turned, and the most numbers that this may make. */
const TURNS = 16;
const TURNED_NUMBERS = 2 ** 21;

/**
 * A picture, and what it is when it is turned about its middle: so many questions. For a picture that it gets again and
 * again, a processor learns which way the branches go, and no new one is as fast. Other inputs stay as they are.
 */
export function turned(inputs: Tensor[], image: ImageSpec | null): Tensor[][] {
  if (!image) return [inputs];
  const { height, width, channels } = image;
  const [middle, centre] = [(height - 1) / 2, (width - 1) / 2];
  const nearest = (place: number, size: number) => Math.min(size - 1, Math.max(0, Math.round(place)));
  const turns = Math.max(1, Math.min(TURNS, Math.floor(TURNED_NUMBERS / (height * width * channels))));
  return Array.from({ length: turns }, (_, turn) => {
    const [cos, sin] = [Math.cos((2 * Math.PI * turn) / turns), Math.sin((2 * Math.PI * turn) / turns)];
    return inputs.map((tensor) => {
      const [pixels, data] = [tensor.data as Float32Array, tensor.data.slice() as Float32Array];
      for (let i = 0; i < data.length; i += channels) {
        const [row, column] = [Math.floor(i / channels / width) - middle, ((i / channels) % width) - centre];
        const from = nearest(middle + cos * row - sin * column, height) * width + nearest(centre + sin * row + cos * column, width);
        for (let channel = 0; channel < channels; channel++) data[i + channel] = pixels[from * channels + channel]!;
      }
      return { ...tensor, data };
    });
  });
}

/** Reading the answer back is part of the time; comparing the answers is not. */
export async function timed(
  load: () => Promise<LoadedModel>, questions: Tensor[][], seconds: number, onProgress: OnProgress = () => {},
  further: Further = { questions: [], seconds: 0 },
): Promise<Omit<Timing, 'runtimeBytes'>> {
  onProgress({ phase: 'load', samples: [] });
  const start = performance.now();
  const model = await load(); // its last step is the answer to zeros
  const firstAnswer = performance.now() - start;
  try {
    const samples = await sampled(model, questions, seconds, questions.length, onProgress);
    return { backend: await model.backend(), firstAnswer, ...samples, further: await answersTo(model, further) };
  } finally {
    model.dispose();
  }
}

async function answersTo(model: LoadedModel, { questions, seconds }: Further): Promise<number[][]> {
  const answers: number[][] = [];
  const end = performance.now() + seconds * 1000;
  for (const question of questions) {
    if (performance.now() > end) break;
    answers.push(numbersOf(await model.predict(question)));
  }
  return answers;
}

/** The numbers of all outputs, one after another. */
function numbersOf(outputs: Tensor[]): number[] {
  return outputs.flatMap(({ data }) => Array.from(data as Float32Array, Number));
}

/** Calls of a loaded model, warm: the questions in turn, again and again, and the first `answered` of them at least once. */
export async function sampled(
  model: LoadedModel, questions: Tensor[][], seconds: number, answered = 0, onProgress: OnProgress = () => {},
): Promise<Samples> {
  const given: Tensor[][][] = questions.map(() => []);
  let turn = 0;
  const call = async () => {
    const question = turn++ % questions.length;
    const inputs = questions[question]!.map((tensor) => ({ ...tensor, data: tensor.data.slice() }));
    given[question]!.push(await model.predict(inputs));
  };
  const { warmUp, callMs } = await warmed(call, seconds, (samples) => onProgress({ phase: 'warm-up', samples }));
  const resolution = clockStep();
  const callsPerSample = Math.max(1, Math.ceil((STEPS_PER_SAMPLE * resolution) / callMs));
  for (const answers of given) answers.length = 0;
  const samples = await sample(call, callsPerSample, 3, seconds, (samples) => onProgress({ phase: 'timed', samples }));
  while (given.slice(0, answered).some((answers) => !answers.length)) await call(); // a slow runtime makes few calls
  const unsteady = given.reduce((most, each) => each.reduce((more, answer) =>
    Math.max(more, largestDistance(answer, each.at(-1)!)), most), 0);
  const answers = given.map((each) => numbersOf(each.at(-1) ?? []));
  return { warmUp, resolution, callsPerSample, samples, answers, unsteady };
}

/** Call until the time of a call stands; `callMs` is its average in the fastest block. */
async function warmed(
  call: () => Promise<void>, seconds: number, onSamples: (samples: number[]) => void,
): Promise<{ warmUp: number[]; callMs: number }> {
  const warmUp: number[] = [];
  const start = performance.now();
  let [callMs, steady] = [Infinity, 0];
  for (let passed = 0; passed < WARM_UP * seconds || (steady < STEADY_BLOCKS && passed < LONGEST_WARM_UP_SECONDS); ) {
    const blockStart = performance.now();
    const block = await sample(call, 1, 1, BLOCK_SECONDS, onSamples);
    // Not of the samples: where the clock's steps are long, most of them are 0.
    const average = (performance.now() - blockStart) / block.length;
    steady = average < CLEARLY_FASTER * callMs ? 0 : steady + 1;
    callMs = Math.min(callMs, average);
    warmUp.push(...block);
    passed = (performance.now() - start) / 1000;
  }
  return { warmUp, callMs };
}

async function sample(
  call: () => Promise<void>, calls: number, fewest: number, seconds: number, onSamples: (samples: number[]) => void,
): Promise<number[]> {
  const samples: number[] = [];
  const end = performance.now() + seconds * 1000;
  let [reported, reportedAt] = [0, performance.now()];
  for (let now = reportedAt; samples.length < fewest || now < end; ) {
    const start = performance.now();
    for (let i = 0; i < calls; i++) await call();
    now = performance.now();
    samples.push((now - start) / calls);
    if (now - reportedAt < PROGRESS_MS) continue;
    onSamples(samples.slice(reported));
    [reported, reportedAt] = [samples.length, performance.now()];
  }
  onSamples(samples.slice(reported));
  return samples;
}

/** Browsers coarsen their clock: to 5 µs in an isolated page, to 100 µs in others. */
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
