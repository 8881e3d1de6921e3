/** What every runtime gives. */

import type { Tensor, TensorSpec } from '../tensors';

/** What a model takes and gives, as its own file says. */
export interface Signature {
  inputs: TensorSpec[];
  outputs: TensorSpec[];
}

/** One artifact, loaded and warmed up: its inputs -> its outputs. A runtime may take the inputs' memory away. */
export interface LoadedModel {
  /** What it really runs on: backend, threads, adapter. */
  readonly backend: string;
  predict(inputs: Tensor[]): Promise<Tensor[]>;
  dispose(): void;
}
