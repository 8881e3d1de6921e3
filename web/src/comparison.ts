/**
 * Runs one picture, or the tensors of a form, through every row of the chosen models, and keeps what each row answered.
 *
 * Rows run one at a time, the server's before the browser's, small downloads first. One that takes long does not hold
 * the others. When all have answered, each is timed, again one at a time: two at once would share a processor.
 */

import type { Shared } from './address';
import { sha256 } from './digest';
import { messageOf } from './errors';
import { quantile } from './figures';
import type { ImageSpec } from './image';
import { watched } from './offline';
import { ownArtifact, readOwn } from './ownModel';
import { Late, sleep, within } from './patience';
import { tensorsFrom, testPictures } from './pictures';
import { runtimesFor, type Runtime } from './runtimes';
import type { Loaded } from './runtimes/calls';
import { goesOnWithOneThread, inOwnWorker, RuntimeWorker } from './runtimes/host';
import { infer, tensorHash, type Artifact, type CallTimes, type FailedEdge, type Served } from './server';
import { defaultTensors, fittedTo, onlyTensor, type Tensor } from './tensors';
import { text } from './text';
import type { Further, Progress, Timing } from './timing';

export type State = 'idle' | 'loading' | 'running' | 'done' | 'failed';

export interface Answer {
  /** If the model classifies: one tensor with the probabilities, in the order of its labels. */
  outputs: Tensor[];
}

/** Medians of several warm calls, in milliseconds. */
export interface RowTime {
  /** The runtime's own time for one call. */
  runtime: number;
  calls: number;
  /** What the server's rows take besides. */
  queue?: number;
  network?: number;
}

export interface Row {
  id: string;
  artifact: Artifact;
  runtime: Runtime;
  state: State;
  answer: Answer | null;
  error: string;
  /** Null until it is measured. */
  time: RowTime | null;
  /** While it loads: how many bytes have come, of how many, since when. */
  download: Download | null;
  /** In the browser, once it is loaded: what it really runs on, and the bytes of its runtime on the wire. */
  loaded: Loaded | null;
}

/** Hears of each change; a row's own, which are many, come with the row. */
type Listener = (row?: Row) => void;

export interface Download {
  bytes: number;
  /** 0 if unknown. */
  total: number;
  /** On the page's clock, in milliseconds. */
  since: number;
}

export interface ModelTensor {
  spec: ImageSpec;
  pixels: Float32Array<ArrayBuffer>;
  ms: number;
  sha256: string;
}

function rowOf(artifact: Artifact, runtime: Runtime): Row {
  return { id: `${artifact.name}@${runtime.id}`, artifact, runtime, state: 'idle', answer: null, error: '', time: null, download: null, loaded: null };
}

/** How long a runtime may load without a byte that comes. */
const LOAD_SECONDS = 90;
const CALL_SECONDS = 30;
/** A row that takes longer no longer holds the others. */
const TURN_SECONDS = 5;
/** How long a row is timed. */
const TIMED_SECONDS = 0.2;
/** How many models are compared before the user chooses. */
const CHOSEN_AT_FIRST = 3;

export function probabilitiesOf({ outputs }: Answer): number[] {
  return Array.from(outputs[0]!.data as Float32Array);
}

export class Comparison {
  readonly rows: Row[] = [];
  failedEdges: FailedEdge[] = [];
  /** What is converted here, and runs elsewhere: never among the rows that answer. */
  notRun: Row[] = [];
  /** The models whose rows are compared. */
  readonly chosen = new Set<string>();
  /** The picture as the input of each distinct kind of model. */
  tensors: ModelTensor[] = [];
  imageError = '';
  inBrowser = true;
  /** How often the server has come back. */
  returns = 0;
  picture: Uint8Array | null = null;
  /** The picture that `tensors` and `imageError` are of. */
  decoded: Uint8Array | null = null;
  /** A model that takes no pictures -> the last tensors of its form. */
  private readonly given = new Map<string, Tensor[]>();
  /** What rows are raced with: an image spec as JSON -> the pixels of test pictures. */
  private readonly testPictures = new Map<string, Promise<Float32Array[]>>();
  /** What cancels the run that a row is in. */
  private readonly current = new Map<Row, AbortController>();
  private queue: Promise<unknown> = Promise.resolve();
  private readonly workers = new Map<string, RuntimeWorker>();
  private readonly workersOf = new Map<Row, Promise<RuntimeWorker>>();
  private readonly listeners = new Set<Listener>();
  /** Runtimes with a row that has had its turn and is not done. */
  private readonly stuck = new Set<string>();
  /** What the server makes of the picture: an image spec as JSON -> the sha256 of the tensor. */
  private readonly seen = new Map<string, string>();
  private preparing: Promise<void> = Promise.resolve();
  /** How many runs have rows to answer or to time. */
  private runs = 0;

  /** Add what the server has, and choose the wanted models, or the first ones. */
  async addRows({ artifacts, notRun = [], failedEdges }: Served, wanted: Pick<Shared, 'models' | 'inBrowser'> = { models: null, inBrowser: true }): Promise<void> {
    const rows = await Promise.all(artifacts.map(async (artifact) => (await runtimesFor(artifact.format))
      .filter(({ where }) => where === 'server' || !artifact.problem) // the server's row shows the problem
      .map((runtime) => rowOf(artifact, runtime))));
    this.rows.push(...rows.flat()); // with the choice of models: half of it would be drawn as a page of none
    this.failedEdges = failedEdges;
    this.notRun = await Promise.all(notRun.map(async (artifact) => rowOf(artifact, (await runtimesFor(artifact.format))[0]!)));
    const takingPictures = this.models.filter((model) => this.takesPictures(model));
    const atFirst = (takingPictures.length ? takingPictures : this.models.slice(0, 1)).slice(0, CHOSEN_AT_FIRST);
    const known = this.models.filter((model) => wanted.models?.includes(model));
    for (const model of known.length ? known : atFirst) this.chosen.add(model);
    this.inBrowser = wanted.inBrowser;
    this.changed();
    // A picture may have been chosen before there were rows. A row that cannot run shows its problem at once.
    void this.runAgain(({ artifact }) => this.picture !== null || artifact.problem !== null);
  }

  /** Run a visitor's own file beside the others. The rows of an earlier one of the same name go. Raises Error. */
  async addOwn(files: File[]): Promise<Artifact> {
    const read = await readOwn(files);
    while (!this.rows.length) await this.nextChange(); // the server's list has not come yet
    const sources = this.artifacts.filter(({ status, problem }) => status === 'source' && !problem);
    const artifact = await ownArtifact(read, sources);
    const earlier = this.rows.filter((row) => row.artifact.name === artifact.name);
    for (const row of earlier) {
      this.current.get(row)?.abort();
      this.current.delete(row);
      this.workersOf.delete(row);
    }
    this.rows.splice(0, this.rows.length, ...this.rows.filter((row) => !earlier.includes(row)));
    const rows = (await runtimesFor(artifact.format)).filter(({ where }) => where === 'browser').map((runtime) => rowOf(artifact, runtime));
    this.rows.push(...rows);
    this.chosen.add(artifact.model);
    this.changed();
    void this.runAgain((row) => rows.includes(row));
    return artifact;
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

  /** Resolves when every shown row has answered and is timed, or has failed. */
  async finished(): Promise<void> {
    while (this.runs || this.shownRows.some(({ state }) => state !== 'done' && state !== 'failed')) {
      await this.nextChange();
    }
  }

  private nextChange(): Promise<void> {
    return new Promise((done) => { const stop = this.subscribe(() => { stop(); done(); }); });
  }

  subscribe(listener: Listener): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  /** Add a model to the comparison, or remove it. */
  async choose(model: string, wanted: boolean): Promise<void> {
    if (wanted) this.chosen.add(model);
    else {
      this.chosen.delete(model);
      for (const [row, run] of this.current) if (row.artifact.model === model) run.abort();
    }
    this.changed();
    if (wanted) await this.runAgain((row) => row.artifact.model === model);
  }

  /** Run a picture through every row that takes one. A picture that is still running is cancelled. */
  async show(picture: Uint8Array): Promise<void> {
    this.picture = picture;
    this.seen.clear();
    await this.runAgain(({ artifact }) => this.takesPictures(artifact.model));
  }

  /** Run tensors through every row of a model. */
  async give(model: string, tensors: Tensor[]): Promise<void> {
    this.given.set(model, tensors);
    await this.runAgain(({ artifact }) => artifact.model === model);
  }

  /** Run again what failed while the server was gone. */
  async serverReturned(): Promise<void> {
    this.returns += 1;
    this.changed();
    if (!this.runs) await this.runAgain(({ state, runtime }) => state === 'failed' && runtime.where === 'server');
  }

  async setInBrowser(wanted: boolean): Promise<void> {
    this.inBrowser = wanted;
    await this.runAgain(() => true);
  }

  /** The first output of a row for its only input: part of the page's programmatic interface (main.tsx). */
  async infer(id: string, values: number[]): Promise<number[]> {
    const row = this.rowNamed(id);
    const inputs = onlyTensor(row.artifact.inputs, values);
    return this.oneAtATime(async () => Array.from((await this.predict(row, inputs))[0]!.data as Float32Array, Number), CALL_SECONDS);
  }

  /** A picture as the input of a row's model: part of the page's programmatic interface (main.tsx). */
  async tensor(id: string, picture: Uint8Array): Promise<Float32Array> {
    const { name, image } = this.rowNamed(id).artifact;
    if (!image) throw new Error(`${name} does not take pictures.`);
    return (await tensorsFrom(picture, [image])).tensors[0]!;
  }

  /** Measure how long a row takes to load and to answer, in its own worker, while no other row runs. */
  async time(
    id: string, questions: Tensor[][], seconds: number, onProgress?: (progress: Progress) => void, signal?: AbortSignal,
    further?: Further,
  ): Promise<Timing> {
    const { runtime, artifact } = this.rowNamed(id);
    return this.alone(() => inOwnWorker(runtime.id, (worker) =>
      within(LOAD_SECONDS + seconds, (isAlive) => worker.call('time', [artifact, questions, seconds, further], (progress) => {
        isAlive();
        onProgress?.(progress);
      })), signal));
  }

  /** Run a task while no row runs, however long it takes. */
  alone<T>(task: () => Promise<T>): Promise<T> {
    return this.oneAtATime(task, Infinity);
  }

  /** What a row is raced with: test pictures of the server, or the last tensors of its form. Raises Error. */
  async questionsFor(artifact: Artifact): Promise<Tensor[][]> {
    const { model, image, inputs } = artifact;
    if (!image) return [this.given.has(model) ? this.inputsFor(artifact) : defaultTensors(inputs)];
    const kind = JSON.stringify(image);
    const pictures = this.testPictures.get(kind) ?? testPictures(image);
    this.testPictures.set(kind, pictures);
    pictures.catch(() => this.testPictures.delete(kind)); // the server may come back
    return (await pictures).map((pixels) => onlyTensor(inputs, pixels));
  }

  /** A picture's pixels as the input of a row's model. */
  pictureTensors(id: string, pixels: ArrayLike<number>): Tensor[] {
    return onlyTensor(this.rowNamed(id).artifact.inputs, pixels);
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
    const seen = this.seen.get(JSON.stringify(spec));
    return seen ? seen === sha256 : null;
  }

  get artifacts(): Artifact[] {
    return [...new Set(this.rows.map(({ artifact }) => artifact))];
  }

  private rowNamed(id: string): Row {
    const row = this.rows.find((candidate) => candidate.id === id);
    if (!row) throw new Error(`There is no row ${id}. Known: ${this.rows.map((known) => known.id).join(', ')}.`);
    return row;
  }

  /** Run the matching rows of the chosen models that have inputs. Their earlier runs are cancelled; other rows go on. */
  private async runAgain(matches: (row: Row) => boolean): Promise<void> {
    const hasInputs = ({ model, problem }: Artifact) =>
      problem !== null || (this.takesPictures(model) ? this.picture !== null : this.given.has(model));
    const rows = this.rows.filter((row) => this.chosen.has(row.artifact.model) && matches(row) && hasInputs(row.artifact));
    const signals = new Map<Row, AbortSignal>();
    for (const row of rows) {
      this.current.get(row)?.abort();
      const controller = new AbortController();
      this.current.set(row, controller);
      signals.set(row, controller.signal);
    }
    for (const row of rows) Object.assign(row, { state: 'idle', answer: null, error: '' }, row.artifact.image ? {} : { time: null });
    this.changed();
    const signalOf = (row: Row) => signals.get(row)!;
    this.runs += 1;
    try {
      await this.prepare();
      const current = rows.filter((row) => !signalOf(row).aborted);
      const isReadable = ({ artifact }: Row) => !this.imageError || !artifact.image;
      for (const row of current) if (!isReadable(row)) this.set(row, { state: 'failed' }); // the reason is above the rows
      const running = this.inTurn(current.filter(isReadable)).map((row) => this.run(row, signalOf(row)));
      await this.oneAtATime(async () => {}, 0); // each row has had its turn
      await this.checkTensors(rows, signalOf);
      await this.measure(rows, signalOf);
      await Promise.all(running);
      await this.measure(rows, signalOf);
    } finally {
      this.runs -= 1;
      this.changed();
    }
  }

  /** Decode the picture, in a worker, and fit it into each chosen model's input; nothing that is there is made again. */
  private prepare(): Promise<void> {
    return (this.preparing = this.preparing.then(() => this.prepareNow())); // two at once could undo each other's work
  }

  private async prepareNow(): Promise<void> {
    const { picture } = this;
    if (!picture) return;
    const chosen = this.artifacts.flatMap(({ image, model }) => (image && this.chosen.has(model) ? [image] : []));
    const specs = [...new Map(chosen.map((spec) => [JSON.stringify(spec), spec])).values()];
    if (picture === this.decoded && (this.imageError || specs.every((spec) => this.tensorFor(spec)))) return;
    const result = await this.decode(picture, specs);
    if (picture !== this.picture) return; // another picture was chosen meanwhile
    Object.assign(this, { ...result, decoded: picture });
    this.changed();
  }

  private async decode(picture: Uint8Array, specs: ImageSpec[]): Promise<Pick<Comparison, 'tensors' | 'imageError'>> {
    try {
      const { tensors, ms } = await tensorsFrom(picture, specs);
      return {
        imageError: '',
        tensors: await Promise.all(specs.map(async (spec, i) =>
          ({ spec, ms, pixels: tensors[i]!, sha256: await sha256(tensors[i]!) }))),
      };
    } catch (error) {
      return { tensors: [], imageError: messageOf(error) };
    }
  }

  private tensorFor(spec: ImageSpec): ModelTensor | undefined {
    return this.tensors.find((tensor) => JSON.stringify(tensor.spec) === JSON.stringify(spec));
  }

  private async run(row: Row, signal: AbortSignal): Promise<void> {
    if (signal.aborted) return;
    const { artifact, runtime } = row;
    const answer = async () => {
      signal.throwIfAborted();
      if (runtime.where === 'browser') return this.predict(row, this.inputsFor(artifact));
      this.set(row, { state: 'running' });
      return within(CALL_SECONDS, () => infer(artifact, this.inputsFor(artifact), signal));
    };
    try {
      if (artifact.problem) throw new Error(artifact.problem);
      const outputs = await (this.stuck.has(runtime.id) ? answer() : this.oneAtATime(answer, TURN_SECONDS, row));
      if (!signal.aborted) this.set(row, { state: 'done', answer: { outputs } });
    } catch (error) {
      if (!signal.aborted) this.set(row, { state: 'failed', error: messageOf(error) });
    }
  }

  /** Ask the server what it makes of the picture: once, whatever the number of rows. */
  private async checkTensors(rows: Row[], signalOf: (row: Row) => AbortSignal): Promise<void> {
    for (const { spec } of this.tensors) {
      const kind = JSON.stringify(spec);
      const row = rows.find(({ runtime, state, artifact }) =>
        runtime.where === 'server' && state === 'done' && artifact.classifies && JSON.stringify(artifact.image) === kind);
      if (!row || this.seen.has(kind)) continue;
      const signal = signalOf(row);
      // The server may not read what this browser reads: then there is nothing to compare with.
      const hash = await tensorHash(row.artifact.name, this.picture!, signal).catch(() => null);
      if (hash && !signal.aborted) this.seen.set(kind, hash);
      this.changed();
    }
  }

  /** Time the rows that have answered and have no time yet, one at a time. */
  private async measure(rows: Row[], signalOf: (row: Row) => AbortSignal): Promise<void> {
    for (const row of this.inTurn(rows)) { // the server's first: meanwhile the browser compiles what has just come
      const signal = signalOf(row);
      if (row.time || row.state !== 'done' || signal.aborted) continue;
      await isVisible();
      const time = await this.oneAtATime(async () => (signal.aborted ? null : this.timeOf(row)), CALL_SECONDS)
        .catch(() => null); // it answered before, and its answer stays
      if (time) this.set(row, { time });
    }
  }

  private async timeOf(row: Row): Promise<RowTime> {
    const { artifact, runtime } = row;
    const inputs = this.inputsFor(artifact);
    if (runtime.where === 'browser') {
      const worker = await this.load(row);
      const { samples, callsPerSample } = await within(CALL_SECONDS, () => worker.call('measure', [artifact, inputs, TIMED_SECONDS]));
      return { runtime: quantile(samples, 0.5), calls: samples.length * callsPerSample };
    }
    const worker = this.workerFor(runtime);
    const times = await within(CALL_SECONDS, () => worker.call('callTimes', [artifact, inputs, TIMED_SECONDS])).catch(this.dropIfDead(row));
    const median = (part: keyof CallTimes) => quantile(times.map((each) => each[part]), 0.5);
    return { runtime: median('compute'), queue: median('queue'), network: median('network'), calls: times.length };
  }

  private inputsFor({ image, model, inputs }: Artifact): Tensor[] {
    if (!image) return this.given.get(model)!.map((tensor, i) => ({ ...tensor, name: inputs[i]!.name, shape: fittedTo(inputs[i]!, tensor) }));
    const tensor = this.tensorFor(image);
    if (!tensor) throw new Error(text().unreadable);
    return onlyTensor(inputs, tensor.pixels);
  }

  /** One call of a row's runtime. A runtime that does not answer is ended, and started again for the next call. */
  private async predict(row: Row, inputs: Tensor[]): Promise<Tensor[]> {
    const worker = await this.load(row);
    this.set(row, { state: 'running' });
    const outputs = await within(CALL_SECONDS, () => worker.call('predict', [row.artifact.name, inputs])).catch(this.dropIfDead(row));
    const { own } = row.artifact;
    // An own file's tensors have names of their own, and stand for those of the model that it is compared with.
    return own?.outputs.length ? outputs.map((tensor, i) => ({ ...tensor, name: own.outputs[i]!.name, shape: fittedTo(own.outputs[i]!, tensor) })) : outputs;
  }

  private load(row: Row): Promise<RuntimeWorker> {
    const known = this.workersOf.get(row);
    if (known) return known;
    // The service worker keeps what a runtime fetches, once it is there.
    const ready = watched.then(() => this.loadSomewhere(row));
    this.workersOf.set(row, ready);
    ready.then(() => this.workersOf.set(row, ready), () => this.workersOf.delete(row)); // tried again with the next picture
    return ready;
  }

  /** Load a row into its runtime's worker, or into one with one thread where threads do not start. */
  private async loadSomewhere(row: Row): Promise<RuntimeWorker> {
    const worker = this.workerFor(row.runtime);
    try {
      return await this.loadInto(worker, row);
    } catch (error) {
      if (!goesOnWithOneThread(worker, error)) throw error;
      // Another row that was loading there may have dropped it.
      if (this.workers.get(row.runtime.id) === worker) this.drop(row.runtime, error as Error);
      return this.loadInto(this.workerFor(row.runtime), row);
    }
  }

  private async loadInto(worker: RuntimeWorker, row: Row): Promise<RuntimeWorker> {
    this.set(row, { state: 'loading', download: null });
    row.loaded = await within(LOAD_SECONDS, (isAlive) => worker.call('load', [row.artifact], ({ bytes = 0, total = 0 }) => {
      isAlive();
      this.set(row, { download: { bytes, total, since: row.download?.since ?? performance.now() } });
    })).catch(this.dropIfDead(row));
    return worker;
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
      if (worker.failure && this.workers.get(runtime.id) === worker) this.drop(runtime, worker.failure);
      throw error;
    };
  }

  /** End a runtime's worker; the next call starts another one. */
  private drop({ id }: Runtime, reason: Error): void {
    this.workers.get(id)?.end(reason);
    this.workers.delete(id);
    for (const row of this.workersOf.keys()) if (row.runtime.id === id) this.workersOf.delete(row);
  }

  /** The server first; in the browser, small downloads first. */
  private inTurn(rows: Row[]): Row[] {
    const rowsOn = (where: Runtime['where']) => rows.filter(({ runtime }) => runtime.where === where);
    return [...rowsOn('server'), ...(this.inBrowser ? rowsOn('browser').toSorted((a, b) => a.runtime.rank - b.runtime.rank) : [])];
  }

  /** Run a task when those before it are done, or have had their turn of so many seconds. */
  private oneAtATime<T>(task: () => Promise<T>, seconds: number, row?: Row): Promise<T> {
    const before = this.queue;
    const result = before.then(task);
    let isOver = false;
    const done = result.catch(() => {}).then(() => {
      isOver = true;
      if (row) this.stuck.delete(row.runtime.id);
    });
    this.queue = seconds === Infinity ? done : before.then(() => Promise.race([done, sleep(seconds).then(() => {
      if (!isOver && row?.runtime.where === 'browser') this.stuck.add(row.runtime.id);
    })]));
    return result;
  }

  private set(row: Row, change: Partial<Row>): void {
    Object.assign(row, change);
    this.changed(row);
  }

  private changed(row?: Row): void {
    for (const listener of this.listeners) listener(row);
  }
}

/** Browsers slow a tab in the background down. */
async function isVisible(): Promise<void> {
  while (document.hidden) await new Promise((done) => document.addEventListener('visibilitychange', done, { once: true }));
}
