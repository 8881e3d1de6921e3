/**
 * Is every format right on this device? The same questions through each row of this browser, compared with the answers
 * of the source on the server: class by class, and number by number.
 */

import type { Comparison, Row } from './comparison';
import { sha256 } from './digest';
import { messageOf } from './errors';
import { argmax, quantile } from './figures';
import { within } from './patience';
import { tensorsFrom } from './pictures';
import { familyOf } from './runtimes';
import { inOwnWorker, type RuntimeWorker } from './runtimes/host';
import { bytesAt, infer, json, listSamples, post, type Artifact, type Sample, type Samples } from './server';
import { emptyEntry, largestDistance, onlyTensor, tensorsOf, type Tensor } from './tensors';
import { text } from './text';

/** How many questions there are where there are no test images. */
export const QUESTIONS = 200;
/** A row is not asked longer than this, however many questions are left. */
const ROW_SECONDS = 20;
const CALL_SECONDS = 30;
const LOAD_SECONDS = 90;
const TIMED_SECONDS = 0.1;
/** What all questions of one kind may hold, in numbers: 80 MB. */
const MOST_VALUES = 20_000_000;
/** A number that differs by more than this share of the largest one is wrong, where there are no classes. */
const TOLERANCE = 1e-2;
const MOST_LETTERS = 300;

interface Question {
  /** The index of the test image, or the seed of random inputs. */
  number: number;
  inputs: Tensor[];
}

/** An answer that is another one than the source's; for a classifier, both classes. */
export interface WrongAnswer {
  number: number;
  sample: Sample | null;
  source: number;
  here: number;
}

export interface RowCheck {
  row: Row;
  state: 'waiting' | 'loading' | 'running' | 'done' | 'failed';
  backend: string;
  questions: number;
  wrong: WrongAnswer[];
  /** Answers of a reduced precision that are other ones than the source's, here as on the server. */
  lost: number[];
  /** The largest absolute difference; infinite for shapes, texts or NaN that differ. */
  difference: number;
  /** The median of one call, in milliseconds. */
  ms: number | null;
  error: string;
}

export class DeviceCheck {
  checks: RowCheck[] = [];
  samples: Samples | null = null;
  state: 'new' | 'running' | 'done' | 'cancelled' = 'new';
  private made = '';
  private stop = new AbortController();
  private readonly listeners = new Set<() => void>();
  private readonly questionsOf = new Map<string, Promise<Question[]>>();
  private readonly answersOf = new Map<string, Promise<Tensor[][]>>();

  constructor(private readonly comparison: Comparison) {}

  subscribe(listener: () => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  /** The rows of the chosen models that this browser can run. */
  get rows(): Row[] {
    return this.comparison.rows.filter(({ runtime, artifact }) =>
      runtime.where === 'browser' && !artifact.problem && !artifact.own && this.comparison.chosen.has(artifact.model));
  }

  async start(): Promise<void> {
    this.stop = new AbortController();
    const { signal } = this.stop;
    this.checks = this.rows.map((row) => (
      { row, state: 'waiting', backend: '', questions: 0, wrong: [], lost: [], difference: 0, ms: null, error: '' }));
    this.state = 'running';
    this.changed();
    this.samples ??= await listSamples().catch(() => null);
    for (const check of this.checks) {
      if (signal.aborted) break;
      await this.comparison.alone(() => this.run(check, signal)).catch((error: unknown) => {
        Object.assign(check, { state: 'failed', error: signal.aborted ? text().cancelled : messageOf(error) });
      });
      this.changed();
    }
    this.made = new Date().toISOString();
    this.state = signal.aborted ? 'cancelled' : 'done';
    this.questionsOf.clear(); // they may be large
    this.answersOf.clear();
    this.changed();
  }

  cancel(): void {
    this.stop.abort();
  }

  private async run(check: RowCheck, signal: AbortSignal): Promise<void> {
    const { artifact, runtime } = check.row;
    const source = this.comparison.sourceOf(check.row);
    if (!source || source.artifact.problem) throw new Error(text().device.noSource(artifact.model));
    const questions = await this.once(this.questionsOf, JSON.stringify([artifact.image, artifact.inputs]), () => this.questions(artifact));
    const expected = await this.once(this.answersOf, source.id, () => this.answers(source.artifact, questions, signal));
    await inOwnWorker(runtime.id, async (worker) => {
      this.set(check, { state: 'loading' });
      const { backend } = await within(LOAD_SECONDS, (isAlive) => worker.call('load', [artifact], isAlive));
      this.set(check, { state: 'running', backend });
      await this.ask(check, worker, questions, expected, signal);
      const { samples } = await within(CALL_SECONDS, () => worker.call('measure', [artifact, copied(questions[0]!.inputs), TIMED_SECONDS]));
      this.set(check, { state: 'done', ms: quantile(samples, 0.5) });
    }, signal);
  }

  private async ask(check: RowCheck, worker: RuntimeWorker, questions: Question[], expected: Tensor[][], signal: AbortSignal): Promise<void> {
    const { artifact } = check.row;
    const start = performance.now();
    for (const [i, { number, inputs }] of questions.entries()) {
      if (i && performance.now() - start > 1000 * ROW_SECONDS) break;
      const outputs = await within(CALL_SECONDS, () => worker.call('predict', [artifact.name, copied(inputs)]));
      const theirs = expected[i]!;
      const difference = largestDistance(outputs, theirs);
      if (isWrong(artifact, outputs, theirs)) {
        if (await isLost(artifact, inputs, outputs, signal)) check.lost.push(number);
        else check.wrong.push(this.wrongAnswer(artifact, number, outputs, theirs));
      }
      this.set(check, { questions: i + 1, difference: Math.max(check.difference, difference) });
    }
  }

  private wrongAnswer({ image }: Artifact, number: number, outputs: Tensor[], theirs: Tensor[]): WrongAnswer {
    const sample = image ? this.samples?.samples.find(({ index }) => index === number) ?? null : null;
    return { number, sample, source: bestOf(theirs), here: bestOf(outputs) };
  }

  /** The test images as the artifact's input; random inputs for a model that takes no pictures. */
  private async questions({ image, inputs }: Artifact): Promise<Question[]> {
    if (!image) {
      return Array.from({ length: QUESTIONS }, (_, seed) =>
        ({ number: seed, inputs: tensorsOf(inputs, inputs.map((spec) => ({ ...emptyEntry(spec), seed: seed * inputs.length })), 1) }));
    }
    if (!this.samples?.samples.length) throw new Error(text().device.noSamples);
    const most = Math.max(1, Math.floor(MOST_VALUES / (image.height * image.width * image.channels)));
    return Promise.all(this.samples.samples.slice(0, most).map(async ({ file, index }) => {
      const { tensors } = await tensorsFrom(await bytesAt(`/samples/${file}`), [image]);
      return { number: index, inputs: onlyTensor(inputs, Array.from(tensors[0]!)) };
    }));
  }

  private async answers(source: Artifact, questions: Question[], signal: AbortSignal): Promise<Tensor[][]> {
    const answers: Tensor[][] = [];
    for (const { inputs } of questions) answers.push(await infer(source, inputs, signal));
    return answers;
  }

  private once<T>(known: Map<string, Promise<T>>, key: string, make: () => Promise<T>): Promise<T> {
    const made = known.get(key) ?? make();
    known.set(key, made);
    made.catch(() => known.delete(key)); // the next row tries again
    return made;
  }

  /** The check as a file that the service and `make compare` read: contract/device_check.py. */
  async toJson(device: string): Promise<string> {
    const short = (value: string) => value.slice(0, MOST_LETTERS);
    const rows = this.checks.map(({ row, backend, questions, wrong, lost, difference, ms, error }) => [row.id, {
      artifact: row.artifact.name, backend: short(backend), questions, wrong: wrong.map(({ number }) => number), lost,
      difference: questions && Number.isFinite(difference) ? difference : null, ms, error: short(error),
    }]);
    const checked = this.checks.flatMap(({ row }) => [row.artifact, this.comparison.sourceOf(row)?.artifact].filter((each) => each !== undefined));
    const artifacts = checked.map(({ name, files }) =>
      [name, Object.fromEntries(Object.entries(files).map(([file, about]) => [file, about.sha256]))]);
    const check = JSON.stringify({
      made: this.made, device: short(device), browser: short(navigator.userAgent), cores: navigator.hardwareConcurrency,
      artifacts: Object.fromEntries(artifacts), rows: Object.fromEntries(rows),
    });
    return `{"check":${check},"sha256":"${await sha256(new TextEncoder().encode(check))}"}`;
  }

  private set(check: RowCheck, change: Partial<RowCheck>): void {
    Object.assign(check, change);
    this.changed();
  }

  private changed(): void {
    for (const listener of this.listeners) listener();
  }
}

/** Give a check to the service, which keeps it for `make compare`. Raises Error if it refuses it. */
export async function handIn(check: string): Promise<void> {
  await json('/devices', post(check));
}

/** What the browser says of the device: "Linux; Android 14; Pixel 8". */
export function deviceName(): string {
  return /\(([^)]+)\)/.exec(navigator.userAgent)?.[1] ?? navigator.userAgent;
}

/** A runtime may take the inputs' memory away. */
function copied(inputs: Tensor[]): Tensor[] {
  return inputs.map((tensor) => ({ ...tensor, data: tensor.data.slice() }));
}

function bestOf(outputs: Tensor[]): number {
  return argmax(Array.from(outputs[0]!.data as Float32Array, Number));
}

/** A reduced precision loses some answers anywhere: those that the same artifact loses on the server say nothing of this device. */
async function isLost(artifact: Artifact, inputs: Tensor[], outputs: Tensor[], signal: AbortSignal): Promise<boolean> {
  return familyOf(artifact.format) !== artifact.format && !isWrong(artifact, outputs, await infer(artifact, inputs, signal));
}

function isWrong({ classifies }: Artifact, outputs: Tensor[], theirs: Tensor[]): boolean {
  const difference = largestDistance(outputs, theirs);
  if (!Number.isFinite(difference)) return true;
  if (classifies) return bestOf(outputs) !== bestOf(theirs);
  const largest = Math.max(1, ...theirs.flatMap(({ data }) => Array.from(data as Float32Array, (value) => Math.abs(Number(value)) || 0)));
  return difference > TOLERANCE * largest;
}
