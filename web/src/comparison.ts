/**
 * One picture through every row: what each row is, what it answered, and the order in which rows run.
 *
 * Rows run one at a time, the server's before the browser's: two at once would share a processor and spoil each other's
 * times.
 */

import { messageOf } from './errors';
import { imageToTensor, type ImageSpec } from './image';
import { runtimesFor, type Runtime } from './runtimes';
import { RuntimeWorker } from './runtimes/host';
import { sha256 } from './runtimes/files';
import { predictPicture, type Artifact } from './server';
import { text } from './text';
import type { Progress, Timing } from './timing';

export type State = 'idle' | 'loading' | 'running' | 'done' | 'failed';

export interface Answer {
  /** In the order of the artifact's labels. */
  probabilities: number[];
  /** Milliseconds. The server's rows also have queue and network. */
  ms: { preprocess: number; compute: number; queue?: number; network?: number };
  /** The sha256 of what the server's model saw. */
  tensor?: string;
}

export interface Row {
  id: string;
  artifact: Artifact;
  runtime: Runtime;
  state: State;
  answer: Answer | null;
  error: string;
  /** How long the first use took: download, compile, one warm-up call. Milliseconds. */
  readyMs: number | null;
}

export interface ModelTensor {
  spec: ImageSpec;
  pixels: Float32Array<ArrayBuffer>;
  ms: number;
  /** Null where browsers have no cryptography: over plain HTTP from another machine. */
  sha256: string | null;
}

const LOAD_SECONDS = 90;
const CALL_SECONDS = 30;

export class Comparison {
  readonly rows: Row[] = [];
  /** What each distinct kind of model sees of the picture. */
  tensors: ModelTensor[] = [];
  imageError = '';
  inBrowser = true;
  picture: Uint8Array | null = null;
  private current = new AbortController();
  private queue: Promise<unknown> = Promise.resolve();
  private readonly workers = new Map<string, RuntimeWorker>();
  private readonly loaded = new Map<Row, Promise<RuntimeWorker>>();
  private readonly listeners = new Set<() => void>();

  async addRows(artifacts: Artifact[]): Promise<void> {
    for (const artifact of artifacts) {
      for (const runtime of await runtimesFor(artifact.format)) {
        if (artifact.problem && runtime.where === 'browser') continue; // said once, by the server's row
        const id = `${artifact.name}@${runtime.id}`;
        this.rows.push({ id, artifact, runtime, state: 'idle', answer: null, error: '', readyMs: null });
      }
    }
    this.changed();
    if (this.picture) void this.show(this.picture); // it was chosen before there were rows
  }

  /** When no row is loading or running any more. */
  async finished(): Promise<void> {
    while (this.rows.some(({ state }) => state !== 'done' && state !== 'failed')) {
      await new Promise<void>((done) => { const stop = this.subscribe(() => { stop(); done(); }); });
    }
  }

  subscribe(listener: () => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  /** Run a picture through every row. A picture that is still running is given up. */
  async show(picture: Uint8Array): Promise<void> {
    this.picture = picture;
    this.current.abort();
    const { signal } = (this.current = new AbortController());
    for (const row of this.rows) Object.assign(row, { state: 'idle', answer: null, error: '' });
    this.changed();
    await this.prepare(picture, signal);
    const rows = (where: string) => this.rows.filter(({ runtime }) => runtime.where === where);
    await this.run([...rows('server'), ...(this.inBrowser ? rows('browser') : [])], signal);
  }

  async setInBrowser(wanted: boolean): Promise<void> {
    this.inBrowser = wanted;
    if (this.picture) await this.show(this.picture);
  }

  /** One tensor through one row: the page's programmatic interface (see main.tsx). */
  async infer(id: string, pixels: Float32Array): Promise<Float32Array> {
    const row = this.rowNamed(id);
    return this.oneAtATime(async () => (await this.ask(row, pixels)).probabilities);
  }

  /** What a row's model would see of a picture: the page's programmatic interface too. */
  async tensor(id: string, picture: Uint8Array): Promise<Float32Array> {
    const { name, image } = this.rowNamed(id).artifact;
    if (!image) throw new Error(`${name} does not take pictures.`);
    return imageToTensor(picture, image);
  }

  /** How long a row takes to load and to answer, in a worker of its own, while no other row runs. */
  async time(
    id: string, pictures: Float32Array[], seconds: number, progress?: (of: Progress) => void, signal?: AbortSignal,
  ): Promise<Timing> {
    const { runtime, artifact } = this.rowNamed(id);
    return this.oneAtATime(async () => {
      signal?.throwIfAborted();
      const worker = new RuntimeWorker(runtime.id);
      const end = () => worker.end(new Error(text().cancelled));
      signal?.addEventListener('abort', end);
      try {
        const timing = worker.call('time', [artifact, pictures, seconds], progress);
        return await within(LOAD_SECONDS + 3 * seconds, text().late, timing);
      } finally {
        end();
        signal?.removeEventListener('abort', end);
      }
    });
  }

  /** The same picture's answer from the artifact that all others of this model are compared with. */
  sourceOf({ artifact }: Row): Row | undefined {
    return this.rows.find(
      (row) =>
        row.runtime.where === 'server' && row.artifact.status === 'source' && row.artifact.model === artifact.model,
    );
  }

  /** Whether the server's models saw this very tensor; null as long as none has answered. */
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

  private async prepare(picture: Uint8Array, signal: AbortSignal): Promise<void> {
    const specs = new Map(this.rows.flatMap(({ artifact: { image } }) => (image ? [[JSON.stringify(image), image]] : [])));
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
    if (signal.aborted) return;
    this.tensors = tensors;
    this.imageError = problem;
    this.changed();
  }

  private async run(rows: Row[], signal: AbortSignal): Promise<void> {
    for (const row of rows) {
      if (signal.aborted) return;
      try {
        if (row.artifact.problem) throw new Error(row.artifact.problem);
        const answer = await (row.runtime.where === 'server' ? this.askServer(row, signal) : this.runHere(row, signal));
        if (!signal.aborted) this.set(row, { state: 'done', answer });
      } catch (error) {
        if (!signal.aborted) this.set(row, { state: 'failed', error: messageOf(error) });
      }
    }
  }

  private askServer(row: Row, signal: AbortSignal): Promise<Answer> {
    return this.oneAtATime(async () => {
      signal.throwIfAborted();
      this.set(row, { state: 'running' });
      const start = performance.now();
      const asked = predictPicture(row.artifact.name, this.picture!, signal);
      const { probabilities, ms, tensor } = await within(CALL_SECONDS, text().late, asked);
      const network = performance.now() - start - ms.preprocess - ms.queue - ms.compute;
      return {
        probabilities: row.artifact.labels.map((label) => probabilities[label] ?? NaN),
        ms: { ...ms, network: Math.max(0, network) },
        tensor,
      };
    });
  }

  private runHere(row: Row, signal: AbortSignal): Promise<Answer> {
    const tensor = this.tensors.find(({ spec }) => JSON.stringify(spec) === JSON.stringify(row.artifact.image));
    if (!tensor) throw new Error(this.imageError || text().unreadable);
    return this.oneAtATime(async () => {
      signal.throwIfAborted();
      const { probabilities, ms } = await this.ask(row, tensor.pixels);
      return { probabilities: Array.from(probabilities), ms: { preprocess: tensor.ms, compute: ms } };
    });
  }

  /** One call of a row's runtime. A runtime that does not answer is ended, and started anew for the next call. */
  private async ask(row: Row, pixels: Float32Array): Promise<{ probabilities: Float32Array; ms: number }> {
    const worker = await this.load(row);
    this.set(row, { state: 'running' });
    return within(CALL_SECONDS, text().late, worker.call('predict', [row.artifact.name, pixels])).catch(this.giveUp(row));
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
    }).catch(this.giveUp(row));
    this.loaded.set(row, ready);
    ready.catch(() => this.loaded.delete(row)); // tried again with the next picture
    return ready;
  }

  private workerFor({ id }: Runtime): RuntimeWorker {
    const worker = this.workers.get(id) ?? new RuntimeWorker(id);
    this.workers.set(id, worker);
    return worker;
  }

  /** A worker whose script did not come, or that hangs, is of no use to any of its rows. */
  private giveUp({ runtime }: Row): (error: unknown) => never {
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
