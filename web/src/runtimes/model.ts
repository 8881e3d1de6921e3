/** What every runtime gives. */

import type { Tensor, TensorSpec } from '../tensors';

/** What a model takes and gives, as its own file says. */
export interface Signature {
  inputs: TensorSpec[];
  outputs: TensorSpec[];
}

/** One artifact, loaded and warmed up: its inputs -> its outputs. A runtime may take the inputs' memory away. */
export interface LoadedModel {
  /** What it really runs on: backend, threads, adapter. To find that out may take as long as to load. */
  backend(): Promise<string>;
  predict(inputs: Tensor[]): Promise<Tensor[]>;
  dispose(): void;
}
