/** The race: each row answers the same test images again and again, one row at a time. */

import type { Comparison, Row } from './comparison';
import { messageOf } from './errors';
import { histogram, quantile } from './figures';
import { TEST_PICTURES } from './pictures';
import { listSamples } from './server';
import { text } from './text';
import type { Progress, Timing } from './timing';
import { sizeOf } from './verdict';

export interface Lane {
  row: Row;
  phase: 'waiting' | Progress['phase'] | 'done' | 'failed';
  /** Milliseconds per call, as they arrive. */
  warmUp: number[];
  samples: number[];
  /** Null until the row has ended, and where it has no sample. */
  summary: Summary | null;
  timing: Timing | null;
  error: string;
  /** Whether the tab was in the background while the row ran. */
  wasHidden: boolean;
}

/** Of a row's calls, in milliseconds. Made once: sorting thousands of them again would take time from the next row. */
interface Summary {
  median: number;
  p95: number;
  warmUp: number;
  bars: ReturnType<typeof histogram>;
}

export function summaryOf(samples: number[], warmUp: number[]): Summary {
  return { median: quantile(samples, 0.5), p95: quantile(samples, 0.95), warmUp: quantile(warmUp, 0.5), bars: histogram(samples) };
}

/** The median of a row's calls, in milliseconds; null until it is timed. */
export function medianOf({ phase, summary }: Lane): number | null {
  return phase === 'done' && summary ? summary.median : null;
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
      row, phase: 'waiting', warmUp: [], samples: [], summary: null, timing: null, error: '', wasHidden: false,
    }));
    Object.assign(this, { state: 'running', problem: '' });
    this.changed();
    if (rows.some(({ artifact }) => artifact.image)) {
      await listSamples().catch((error: unknown) => {
        this.problem = `${text().race.needsSamples} (${messageOf(error)})`;
        this.stop.abort();
      });
    }
    for (const lane of this.lanes) {
      if (signal.aborted) break;
      await this.run(lane, seconds, signal);
    }
    this.state = signal.aborted ? 'cancelled' : 'done';
    this.changed();
  }

  cancel(): void {
    this.stop.abort();
  }

  private async run(lane: Lane, seconds: number, signal: AbortSignal): Promise<void> {
    const noteHidden = () => { lane.wasHidden ||= document.hidden; };
    noteHidden();
    document.addEventListener('visibilitychange', noteHidden);
    const onProgress = ({ phase, samples }: Progress) => {
      (phase === 'warm-up' ? lane.warmUp : lane.samples).push(...samples);
      if (phase === lane.phase) return; // drawing each sample would take the processor, or the GPU, from what is timed
      lane.phase = phase;
      this.changed();
    };
    try {
      const questions = await this.comparison.questionsFor(lane.row.artifact);
      lane.timing = await this.comparison.time(lane.row.id, questions, seconds, onProgress, signal);
      lane.phase = 'done';
    } catch (error) {
      Object.assign(lane, { phase: 'failed', error: signal.aborted ? text().cancelled : messageOf(error) });
    } finally {
      document.removeEventListener('visibilitychange', noteHidden);
      if (lane.samples.length) lane.summary = summaryOf(lane.samples, lane.warmUp); // of a row that was cancelled, too
      this.changed();
    }
  }

  /** All measurements, and the browser that made them. Times are in milliseconds. */
  toJson(): string {
    const rows = this.lanes.map(({ row, phase, warmUp, samples, summary, timing, error, wasHidden }) => ({
      row: row.id, where: row.runtime.where, backend: timing?.backend ?? null, phase, error, wasHidden,
      firstAnswer: timing?.firstAnswer ?? null, callsPerSample: timing?.callsPerSample ?? null,
      clockResolution: timing?.resolution ?? null,
      median: summary?.median ?? null, p95: summary?.p95 ?? null,
      warmUp, samples,
    }));
    const { userAgent, hardwareConcurrency } = navigator;
    const machine = { userAgent, hardwareConcurrency, crossOriginIsolated, pictures: TEST_PICTURES };
    return JSON.stringify({ made: new Date().toISOString(), unit: 'ms', ...machine, state: this.state, rows }, null, 1);
  }

  private changed(): void {
    for (const listener of this.listeners) listener();
  }
}
