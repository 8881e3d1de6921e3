/** The race: each row answers the same test images again and again, one row at a time. */

import type { Comparison, Row } from './comparison';
import { messageOf } from './errors';
import { quantile } from './figures';
import type { ImageSpec } from './image';
import { tensorsFrom } from './pictures';
import { bytesAt, listSamples } from './server';
import type { Tensor } from './tensors';
import { text } from './text';
import type { Progress, Timing } from './timing';
import { sizeOf } from './verdict';

export interface Lane {
  row: Row;
  phase: 'waiting' | Progress['phase'] | 'done' | 'failed';
  /** Milliseconds per call, as they arrive. */
  warmUp: number[];
  samples: number[];
  timing: Timing | null;
  error: string;
  /** Whether the tab was in the background while the row ran. */
  wasHidden: boolean;
}

const PICTURES = 16;

/** The median of a row's calls, in milliseconds; null until it is timed. */
export function medianOf({ phase, samples }: Lane): number | null {
  return phase === 'done' && samples.length ? quantile(samples, 0.5) : null;
}

/** What has to be downloaded to run a row. */
function bytesOf({ row, timing }: Lane): number {
  return sizeOf(row) + (timing?.runtimeBytes ?? 0);
}

/** The row with the smallest median. */
export function winnerOf(lanes: readonly Lane[]): Lane | null {
  const timed = lanes.filter((lane) => medianOf(lane) !== null);
  return timed.length > 1 ? timed.reduce((best, lane) => (medianOf(lane)! < medianOf(best)! ? lane : best)) : null;
}

/** The rows of a place that no other one there beats in both time and bytes: the Pareto front. */
export function frontOf(lanes: readonly Lane[]): Lane[] {
  const timed = lanes.filter((lane) => medianOf(lane) !== null);
  const beats = (a: Lane, b: Lane) =>
    a.row.runtime.where === b.row.runtime.where && medianOf(a)! <= medianOf(b)! && bytesOf(a) <= bytesOf(b) &&
    (medianOf(a)! < medianOf(b)! || bytesOf(a) < bytesOf(b));
  return timed.filter((lane) => !timed.some((other) => beats(other, lane)));
}

export class Race {
  lanes: Lane[] = [];
  state: 'new' | 'running' | 'done' | 'cancelled' = 'new';
  problem = '';
  private stop = new AbortController();
  private readonly listeners = new Set<() => void>();

  constructor(private readonly comparison: Comparison) {}

  subscribe(listener: () => void): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  async start(rows: Row[], seconds: number): Promise<void> {
    this.stop = new AbortController();
    const { signal } = this.stop;
    this.lanes = rows.map((row) => ({
      row, phase: 'waiting', warmUp: [], samples: [], timing: null, error: '', wasHidden: false,
    }));
    Object.assign(this, { state: 'running', problem: '' });
    this.changed();
    const pictures = await this.readPictures(rows.filter(({ artifact }) => artifact.image)).catch((error: unknown) => {
      this.problem = `${text().race.needsSamples} (${messageOf(error)})`;
      this.stop.abort();
      return new Map<string, Float32Array[]>();
    });
    for (const lane of this.lanes) {
      if (signal.aborted) break;
      const { id, artifact } = lane.row;
      const questions = pictures.get(JSON.stringify(artifact.image))?.map((pixels) => this.comparison.pictureTensors(id, pixels));
      await this.run(lane, questions ?? [this.comparison.tensorsFor(artifact)], seconds, signal);
    }
    this.state = signal.aborted ? 'cancelled' : 'done';
    this.changed();
  }

  cancel(): void {
    this.stop.abort();
  }

  private async run(lane: Lane, questions: Tensor[][], seconds: number, signal: AbortSignal): Promise<void> {
    const noteHidden = () => { lane.wasHidden ||= document.hidden; };
    noteHidden();
    document.addEventListener('visibilitychange', noteHidden);
    const onProgress = ({ phase, samples }: Progress) => {
      lane.phase = phase;
      (phase === 'warm-up' ? lane.warmUp : lane.samples).push(...samples);
      this.changed();
    };
    try {
      lane.timing = await this.comparison.time(lane.row.id, questions, seconds, onProgress, signal);
      lane.phase = 'done';
    } catch (error) {
      Object.assign(lane, { phase: 'failed', error: signal.aborted ? text().cancelled : messageOf(error) });
    } finally {
      document.removeEventListener('visibilitychange', noteHidden);
      this.changed();
    }
  }

  /** The same pictures for every row that takes pictures: the spec of a picture -> the inputs made from them. */
  private async readPictures(rows: Row[]): Promise<Map<string, Float32Array[]>> {
    if (!rows.length) return new Map();
    const files = (await listSamples()).samples.slice(0, PICTURES);
    const pictures = await Promise.all(files.map(({ file }) => bytesAt(`/samples/${file}`)));
    const tensors = new Map<string, Float32Array[]>();
    const kinds = [...new Set(rows.map(({ artifact }) => JSON.stringify(artifact.image)))];
    const made = await Promise.all(pictures.map((picture) => tensorsFrom(picture, kinds.map((kind) => JSON.parse(kind) as ImageSpec))));
    kinds.forEach((kind, i) => tensors.set(kind, made.map((each) => each.tensors[i]!)));
    return tensors;
  }

  /** All measurements, and the browser that made them. Times are in milliseconds. */
  toJson(): string {
    const rows = this.lanes.map(({ row, phase, warmUp, samples, timing, error, wasHidden }) => ({
      row: row.id, where: row.runtime.where, backend: timing?.backend ?? null, phase, error, wasHidden,
      firstAnswer: timing?.firstAnswer ?? null, callsPerSample: timing?.callsPerSample ?? null,
      clockResolution: timing?.resolution ?? null,
      median: samples.length ? quantile(samples, 0.5) : null, p95: samples.length ? quantile(samples, 0.95) : null,
      warmUp, samples,
    }));
    const { userAgent, hardwareConcurrency } = navigator;
    const machine = { userAgent, hardwareConcurrency, crossOriginIsolated, pictures: PICTURES };
    return JSON.stringify({ made: new Date().toISOString(), unit: 'ms', ...machine, state: this.state, rows }, null, 1);
  }

  private changed(): void {
    for (const listener of this.listeners) listener();
  }
}
