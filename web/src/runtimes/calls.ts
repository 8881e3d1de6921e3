/** The messages between the page (host.ts) and a runtime's worker (worker.ts). */

import type { Artifact, CallTimes } from '../server';
import type { Tensor } from '../tensors';
import type { Further, Progress, Samples, Timing } from '../timing';
import type { Signature } from './model';

/** After the runtime in a worker's name: its runtime starts no threads. */
export const ONE_THREAD = 'one-thread';

/** The calls that a worker takes, by their names. */
export interface Calls {
  load(artifact: Artifact): Promise<Loaded>;
  /** What a visitor's own file takes and gives. */
  inspect(artifact: Artifact): Promise<Signature>;
  predict(name: string, inputs: Tensor[]): Promise<Tensor[]>;
  /** Call the server again and again for so many seconds, with a picture that is turned about. */
  callTimes(artifact: Artifact, inputs: Tensor[], seconds: number): Promise<CallTimes[]>;
  /** Call a loaded model again and again for so many seconds, with a picture that is turned about. */
  measure(artifact: Artifact, inputs: Tensor[], seconds: number): Promise<Samples>;
  time(artifact: Artifact, questions: Tensor[][], seconds: number, further?: Further): Promise<Timing>;
}

export interface Loaded {
  /** What the runtime really runs on. */
  backend: string;
  /** How many bytes the runtime's own code is on the wire. */
  runtimeBytes: number;
}

export interface Call {
  id: number;
  name: keyof Calls;
  given: unknown[];
}

/** Any number of progress reports may come before the result or the error, which is the last reply to a call. */
export type Reply = { id: number } & ({ result: unknown } | { error: string } | { progress: Progress });
