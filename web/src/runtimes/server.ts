/** The server as a runtime like the others: it takes tensors by the Open Inference Protocol. */

import { infer, type Artifact } from '../server';
import type { LoadedModel } from './model';

export async function load(artifact: Artifact): Promise<LoadedModel> {
  return {
    backend: artifact.runtime,
    predict: (inputs) => infer(artifact, inputs),
    dispose() {},
  };
}
