/**
 * One picture through every row: what each row is, what it answered, and the order in which rows run.
 *
 * Rows run one at a time, the server's before the browser's. Two at once would share a processor and spoil each
 * other's times; even an answer on its way from the server waits while this page compiles a runtime.
 */

import { messageOf } from './errors';
import { imageToTensor, type ImageSpec } from './image';
import { runtimesFor, type LoadedModel, type Runtime } from './runtimes';
import { predictPicture, type Artifact } from './server';
import { timed, type Timing } from './timing';

export type State = 'idle' | 'loading' | 'running' | 'done' | 'failed';

export interface Answer {
  /** In the order of the artifact's labels. */
  probabilities: number[];
  /** Milliseconds. The server's rows also have queue and network. */
  ms: { preprocess: number; compute: number; queue?: number; network?: number };
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
  pixels: Float32Array;
  ms: number;
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
  private readonly loaded = new Map<Row, Promise<LoadedModel>>();
  private readonly listeners = new Set<() => void>();

  async addRows(artifacts: Artifact[]): Promise<void> {
    const isSource = ({ status }: Artifact) => Number(status === 'source');
    for (const artifact of artifacts.toSorted((a, b) => isSource(b) - isSource(a))) {
      for (const runtime of await runtimesFor(artifact.format)) {
        if (artifact.problem && runtime.where === 'browser') continue; // said once, by the server's row
        const id = `${artifact.name}@${runtime.id}`;
        this.rows.push({ id, artifact, runtime, state: 'idle', answer: null, error: '', readyMs: null });
      }
    }
    this.changed();
    if (this.picture) void this.show(this.picture); // it was chosen before there were rows
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
    return this.oneAtATime(async () => (await this.load(row)).predict(pixels));
  }

  /** What a row's model would see of a picture: the page's programmatic interface too. */
  async tensor(id: string, picture: Uint8Array): Promise<Float32Array> {
    const { name, image } = this.rowNamed(id).artifact;
    if (!image) throw new Error(`${name} does not take pictures.`);
    return imageToTensor(picture, image);
  }

  /** How long a row takes to load and to answer, with nothing else running. */
  async time(id: string, pictures: Float32Array[], seconds: number): Promise<Timing> {
    const { runtime, artifact } = this.rowNamed(id);
    return this.oneAtATime(() => timed(() => runtime.load(artifact), pictures, seconds));
  }

  /** The same picture's answer from the artifact that all others of this model are compared with. */
  sourceOf({ artifact }: Row): Row | undefined {
    return this.rows.find(
      (row) =>
        row.runtime.where === 'server' && row.artifact.status === 'source' && row.artifact.model === artifact.model,
    );
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
        tensors.push({ spec, pixels: await imageToTensor(picture, spec), ms: performance.now() - start });
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

  private async askServer(row: Row, signal: AbortSignal): Promise<Answer> {
    this.set(row, { state: 'running' });
    const start = performance.now();
    const asked = predictPicture(row.artifact.name, this.picture!, signal);
    const { probabilities, ms } = await within(CALL_SECONDS, 'answer', asked);
    const network = performance.now() - start - ms.preprocess - ms.queue - ms.compute;
    return {
      probabilities: row.artifact.labels.map((label) => probabilities[label] ?? NaN),
      ms: { ...ms, network: Math.max(0, network) },
    };
  }

  private runHere(row: Row, signal: AbortSignal): Promise<Answer> {
    const tensor = this.tensors.find(({ spec }) => JSON.stringify(spec) === JSON.stringify(row.artifact.image));
    if (!tensor) throw new Error(this.imageError || 'The picture could not be read in this browser.');
    return this.oneAtATime(async () => {
      signal.throwIfAborted();
      const model = await this.load(row);
      this.set(row, { state: 'running' });
      const start = performance.now();
      const probabilities = Array.from(await within(CALL_SECONDS, 'answer', model.predict(tensor.pixels)));
      return { probabilities, ms: { preprocess: tensor.ms, compute: performance.now() - start } };
    });
  }

  private load(row: Row): Promise<LoadedModel> {
    const known = this.loaded.get(row);
    if (known) return known;
    this.set(row, { state: 'loading' });
    const start = performance.now();
    const model = within(LOAD_SECONDS, 'start', row.runtime.load(row.artifact)).then((ready) => {
      row.readyMs = performance.now() - start;
      return ready;
    });
    this.loaded.set(row, model);
    model.catch(() => this.loaded.delete(row)); // tried again with the next picture
    return model;
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

async function within<T>(seconds: number, what: string, task: Promise<T>): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`It did not ${what} within ${seconds} s. Load the page again.`)), seconds * 1000);
  });
  return Promise.race([task, late]).finally(() => clearTimeout(timer));
}
