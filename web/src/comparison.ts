/**
 * Runs one picture, or the tensors of a form, through every row of the chosen models, and keeps what each row answered.
 *
 * Rows run one at a time, the server's before the browser's: two at once would share a processor and spoil each other's
 * times.
 */

import { messageOf } from './errors';
import { imageToTensor, type ImageSpec } from './image';
import { runtimesFor, type Runtime } from './runtimes';
import { RuntimeWorker } from './runtimes/host';
import { sha256 } from './runtimes/files';
import { infer, predictPicture, type Artifact, type FailedEdge, type Served } from './server';
import { defaultTensors, onlyTensor, type Tensor } from './tensors';
import { text } from './text';
import type { Progress, Timing } from './timing';

export type State = 'idle' | 'loading' | 'running' | 'done' | 'failed';

export interface Answer {
  /** If the model classifies: one tensor with the probabilities, in the order of its labels. */
  outputs: Tensor[];
  /** Milliseconds. The server reports the parts for a picture; for tensors only the round trip is known. */
  ms: { preprocess?: number; queue?: number; compute?: number; network?: number; whole?: number };
  /** The sha256 of the input that the server's model got. */
  tensor?: string;
}

export interface Row {
  id: string;
  artifact: Artifact;
  runtime: Runtime;
  state: State;
  answer: Answer | null;
  error: string;
  /** How long the first use took: download, compilation and one warm-up call. Milliseconds. */
  readyMs: number | null;
}

export interface ModelTensor {
  spec: ImageSpec;
  pixels: Float32Array<ArrayBuffer>;
  ms: number;
  /** Null if the browser has no cryptography: over plain HTTP from another machine. */
  sha256: string | null;
}

/** A row's inputs, and how many milliseconds it took to make them from a picture. */
interface RowInputs {
  inputs: Tensor[];
  ms: number;
}

const LOAD_SECONDS = 90;
const CALL_SECONDS = 30;
/** How many models are compared before the user chooses. */
const CHOSEN_AT_FIRST = 3;

export function probabilitiesOf({ outputs }: Answer): number[] {
  return Array.from(outputs[0]!.data as Float32Array);
}

export class Comparison {
  readonly rows: Row[] = [];
  failedEdges: FailedEdge[] = [];
  /** The models whose rows are compared. */
  readonly chosen = new Set<string>();
  /** The picture as the input of each distinct kind of model. */
  tensors: ModelTensor[] = [];
  imageError = '';
  inBrowser = true;
  picture: Uint8Array | null = null;
  /** A model that takes no pictures -> the last tensors of its form. */
  private readonly given = new Map<string, Tensor[]>();
  private readonly current = new Map<string, AbortController>();
  private queue: Promise<unknown> = Promise.resolve();
  private readonly workers = new Map<string, RuntimeWorker>();
  private readonly loaded = new Map<Row, Promise<RuntimeWorker>>();
  private readonly listeners = new Set<() => void>();

  async addRows({ artifacts, failedEdges }: Served): Promise<void> {
    for (const artifact of artifacts) {
      for (const runtime of await runtimesFor(artifact.format)) {
        if (artifact.problem && runtime.where === 'browser') continue; // the server's row shows the problem
        const id = `${artifact.name}@${runtime.id}`;
        this.rows.push({ id, artifact, runtime, state: 'idle', answer: null, error: '', readyMs: null });
      }
    }
    this.failedEdges = failedEdges;
    const takingPictures = this.models.filter((model) => this.takesPictures(model));
    for (const model of (takingPictures.length ? takingPictures : this.models.slice(0, 1)).slice(0, CHOSEN_AT_FIRST)) this.chosen.add(model);
    this.changed();
    // A picture may have been chosen before there were rows. A row that cannot run shows its problem at once.
    void this.runAgain(({ artifact }) => this.picture !== null || artifact.problem !== null);
  }

  get models(): string[] {
    return [...new Set([...this.artifacts, ...this.failedEdges].map(({ model }) => model))];
  }

  takesPictures(model: string): boolean {
    return this.artifacts.some((artifact) => artifact.model === model && artifact.image);
  }

  /** An artifact that describes the model's inputs, if the model takes no pictures. */
  tensorArtifactOf(model: string): Artifact | undefined {
    if (this.takesPictures(model)) return undefined;
    return this.artifacts.find((artifact) => artifact.model === model && artifact.inputs.length > 0);
  }

  /** The rows that are compared now. */
  get shownRows(): Row[] {
    return this.rows.filter(({ artifact, runtime }) =>
      this.chosen.has(artifact.model) && (this.inBrowser || runtime.where === 'server'));
  }

  /** Resolves when every shown row has answered or failed. */
  async finished(): Promise<void> {
    while (this.shownRows.some(({ state }) => state !== 'done' && state !== 'failed')) {
      await new Promise<void>((done) => { const stop = this.subscribe(() => { stop(); done(); }); });
    }
  }

  subscribe(listener: () => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  /** Add a model to the comparison, or remove it. */
  async choose(model: string, wanted: boolean): Promise<void> {
    if (wanted) this.chosen.add(model);
    else {
      this.chosen.delete(model);
      this.current.get(model)?.abort();
    }
    this.changed();
    if (wanted) await this.runAgain((row) => row.artifact.model === model);
  }

  /** Run a picture through every row that takes one. A picture that is still running is cancelled. */
  async show(picture: Uint8Array): Promise<void> {
    this.picture = picture;
    await this.runAgain(({ artifact }) => this.takesPictures(artifact.model));
  }

  /** Run tensors through every row of a model. */
  async give(model: string, tensors: Tensor[]): Promise<void> {
    this.given.set(model, tensors);
    await this.runAgain(({ artifact }) => artifact.model === model);
  }

  async setInBrowser(wanted: boolean): Promise<void> {
    this.inBrowser = wanted;
    await this.runAgain(() => true);
  }

  /** The first output of a row for its only input: part of the page's programmatic interface (main.tsx). */
  async infer(id: string, values: number[]): Promise<number[]> {
    const row = this.rowNamed(id);
    const inputs = onlyTensor(row.artifact.inputs, values);
    return this.oneAtATime(async () => Array.from((await this.predict(row, inputs)).outputs[0]!.data as Float32Array, Number));
  }

  /** A picture as the input of a row's model: part of the page's programmatic interface (main.tsx). */
  async tensor(id: string, picture: Uint8Array): Promise<Float32Array> {
    const { name, image } = this.rowNamed(id).artifact;
    if (!image) throw new Error(`${name} does not take pictures.`);
    return imageToTensor(picture, image);
  }

  /** Measure how long a row takes to load and to answer, in its own worker, while no other row runs. */
  async time(
    id: string, questions: Tensor[][], seconds: number, onProgress?: (progress: Progress) => void, signal?: AbortSignal,
  ): Promise<Timing> {
    const { runtime, artifact } = this.rowNamed(id);
    return this.oneAtATime(async () => {
      signal?.throwIfAborted();
      const worker = new RuntimeWorker(runtime.id);
      const end = () => worker.end(new Error(text().cancelled));
      signal?.addEventListener('abort', end);
      try {
        const timing = worker.call('time', [artifact, questions, seconds], onProgress);
        return await within(LOAD_SECONDS + 3 * seconds, text().late, timing);
      } finally {
        end();
        signal?.removeEventListener('abort', end);
      }
    });
  }

  /** The inputs with which a row is timed if its model takes no pictures: the last ones of its form. */
  tensorsFor({ model, inputs }: Artifact): Tensor[] {
    return this.given.get(model) ?? defaultTensors(inputs);
  }

  /** A picture's pixels as the input of a row's model. */
  pictureTensors(id: string, pixels: ArrayLike<number>): Tensor[] {
    return onlyTensor(this.rowNamed(id).artifact.inputs, Array.from(pixels));
  }

  /** The server's row of the source artifact: all others of the model are compared with it. */
  sourceOf({ artifact }: Row): Row | undefined {
    return this.rows.find(
      (row) =>
        row.runtime.where === 'server' && row.artifact.status === 'source' && row.artifact.model === artifact.model,
    );
  }

  /** Whether the server's models got exactly this tensor; null until one has answered. */
  isSeenByServer({ spec, sha256 }: ModelTensor): boolean | null {
    const seen = this.rows.filter(({ artifact }) => JSON.stringify(artifact.image) === JSON.stringify(spec))
      .flatMap(({ answer }) => (answer?.tensor ? [answer.tensor] : []));
    return sha256 && seen.length ? seen.every((tensor) => tensor === sha256) : null;
  }

  get artifacts(): Artifact[] {
    return [...new Set(this.rows.map(({ artifact }) => artifact))];
  }

  private rowNamed(id: string): Row {
    const row = this.rows.find((candidate) => candidate.id === id);
    if (!row) throw new Error(`There is no row ${id}. Known: ${this.rows.map((known) => known.id).join(', ')}.`);
    return row;
  }

  /** Run the matching rows of the chosen models that have inputs. Earlier runs of their models are cancelled. */
  private async runAgain(matches: (row: Row) => boolean): Promise<void> {
    const hasInputs = ({ model, problem }: Artifact) =>
      problem !== null || (this.takesPictures(model) ? this.picture !== null : this.given.has(model));
    const rows = this.rows.filter((row) => this.chosen.has(row.artifact.model) && matches(row) && hasInputs(row.artifact));
    const signals = new Map<string, AbortSignal>();
    for (const model of new Set(rows.map(({ artifact }) => artifact.model))) {
      this.current.get(model)?.abort();
      const controller = new AbortController();
      this.current.set(model, controller);
      signals.set(model, controller.signal);
    }
    for (const row of rows) Object.assign(row, { state: 'idle', answer: null, error: '' });
    this.changed();
    if (this.picture && rows.some(({ artifact }) => this.takesPictures(artifact.model))) await this.prepare(this.picture);
    const rowsOn = (where: Runtime['where']) => rows.filter(({ runtime }) => runtime.where === where);
    for (const row of [...rowsOn('server'), ...(this.inBrowser ? rowsOn('browser') : [])]) {
      await this.run(row, signals.get(row.artifact.model)!);
    }
  }

  private async prepare(picture: Uint8Array): Promise<void> {
    const specs = new Map(this.rows.flatMap(({ artifact: { image, model } }) =>
      (image && this.chosen.has(model) ? [[JSON.stringify(image), image]] : [])));
    const tensors: ModelTensor[] = [];
    let problem = '';
    for (const spec of specs.values()) {
      const start = performance.now();
      try {
        const pixels = await imageToTensor(picture, spec);
        tensors.push({ spec, pixels, ms: performance.now() - start, sha256: await sha256(pixels.buffer) });
      } catch (error) {
        problem = messageOf(error);
      }
    }
    if (picture !== this.picture) return; // another picture was chosen meanwhile
    this.tensors = tensors;
    this.imageError = problem;
    this.changed();
  }

  private async run(row: Row, signal: AbortSignal): Promise<void> {
    if (signal.aborted) return;
    try {
      if (row.artifact.problem) throw new Error(row.artifact.problem);
      const answer = await this.oneAtATime(async () => {
        signal.throwIfAborted();
        if (row.runtime.where === 'browser') return this.runInBrowser(row);
        return row.artifact.classifies ? this.classify(row, signal) : this.askServer(row, signal);
      });
      if (!signal.aborted) this.set(row, { state: 'done', answer });
    } catch (error) {
      if (!signal.aborted) this.set(row, { state: 'failed', error: messageOf(error) });
    }
  }

  private async classify(row: Row, signal: AbortSignal): Promise<Answer> {
    const { artifact } = row;
    this.set(row, { state: 'running' });
    const start = performance.now();
    const reply = predictPicture(artifact.name, this.picture!, signal);
    const { probabilities, ms, tensor } = await within(CALL_SECONDS, text().late, reply);
    const network = performance.now() - start - ms.preprocess - ms.queue - ms.compute;
    const data = artifact.labels.length ? artifact.labels.map((label) => probabilities[label] ?? NaN) : Object.values(probabilities);
    const output = { name: artifact.outputs[0]!.name, datatype: 'FP64', shape: [1, data.length], data: Float64Array.from(data) };
    return { outputs: [output], ms: { ...ms, network: Math.max(0, network) }, tensor };
  }

  private async askServer(row: Row, signal: AbortSignal): Promise<Answer> {
    const { inputs, ms } = this.inputsFor(row.artifact);
    this.set(row, { state: 'running' });
    const start = performance.now();
    const outputs = await within(CALL_SECONDS, text().late, infer(row.artifact, inputs, signal));
    return { outputs, ms: { ...(ms ? { preprocess: ms } : {}), whole: performance.now() - start } };
  }

  private async runInBrowser(row: Row): Promise<Answer> {
    const { inputs, ms: preprocess } = this.inputsFor(row.artifact);
    const { outputs, ms: compute } = await this.predict(row, inputs);
    return { outputs, ms: { ...(preprocess ? { preprocess } : {}), compute } };
  }

  private inputsFor({ image, model, inputs }: Artifact): RowInputs {
    if (!image) return { inputs: this.given.get(model)!, ms: 0 };
    const tensor = this.tensors.find(({ spec }) => JSON.stringify(spec) === JSON.stringify(image));
    if (!tensor) throw new Error(this.imageError || text().unreadable);
    return { inputs: onlyTensor(inputs, Array.from(tensor.pixels)), ms: tensor.ms };
  }

  /** One call of a row's runtime. A runtime that does not answer is ended, and started again for the next call. */
  private async predict(row: Row, inputs: Tensor[]): Promise<{ outputs: Tensor[]; ms: number }> {
    const worker = await this.load(row);
    this.set(row, { state: 'running' });
    return within(CALL_SECONDS, text().late, worker.call('predict', [row.artifact.name, inputs])).catch(this.dropIfDead(row));
  }

  private load(row: Row): Promise<RuntimeWorker> {
    const known = this.loaded.get(row);
    if (known) return known;
    this.set(row, { state: 'loading' });
    const start = performance.now();
    const worker = this.workerFor(row.runtime);
    const ready = within(LOAD_SECONDS, text().late, worker.call('load', [row.artifact])).then(() => {
      row.readyMs = performance.now() - start;
      return worker;
    }).catch(this.dropIfDead(row));
    this.loaded.set(row, ready);
    ready.catch(() => this.loaded.delete(row)); // tried again with the next picture
    return ready;
  }

  private workerFor({ id }: Runtime): RuntimeWorker {
    const worker = this.workers.get(id) ?? new RuntimeWorker(id);
    this.workers.set(id, worker);
    return worker;
  }

  /** Drop a worker whose script could not be downloaded, or that hangs: none of its rows can use it. */
  private dropIfDead({ runtime }: Row): (error: unknown) => never {
    const worker = this.workers.get(runtime.id)!;
    return (error) => {
      if (error instanceof Late) worker.end(error);
      if (worker.failure && this.workers.get(runtime.id) === worker) {
        this.workers.delete(runtime.id);
        for (const row of this.loaded.keys()) if (row.runtime.id === runtime.id) this.loaded.delete(row);
      }
      throw error;
    };
  }

  private oneAtATime<T>(task: () => Promise<T>): Promise<T> {
    const result = this.queue.then(task);
    this.queue = result.catch(() => {});
    return result;
  }

  private set(row: Row, change: Partial<Row>): void {
    Object.assign(row, change);
    this.changed();
  }

  private changed(): void {
    for (const listener of this.listeners) listener();
  }
}

class Late extends Error {}

async function within<T>(seconds: number, late: (seconds: number) => string, task: Promise<T>): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const tooLate = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Late(late(seconds))), seconds * 1000);
  });
  return Promise.race([task, tooLate]).finally(() => clearTimeout(timer));
}
