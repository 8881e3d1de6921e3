/** The messages between the page (host.ts) and a runtime's worker (worker.ts). */

import type { Artifact } from '../server';
import type { Tensor } from '../tensors';
import type { Progress, Timing } from '../timing';

/** The calls that a worker takes, by their names. */
export interface Calls {
  load(artifact: Artifact): Promise<{ backend: string }>;
  predict(name: string, inputs: Tensor[]): Promise<{ outputs: Tensor[]; ms: number }>;
  time(artifact: Artifact, questions: Tensor[][], seconds: number): Promise<Timing>;
}

export interface Call {
  id: number;
  name: keyof Calls;
  given: unknown[];
}

/** Any number of progress reports may come before the result or the error, which is the last reply to a call. */
export type Reply = { id: number } & ({ result: unknown } | { error: string } | { progress: Progress });
