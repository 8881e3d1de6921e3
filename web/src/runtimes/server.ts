/** The server as one more runtime: a tensor by the Open Inference Protocol. */

import { inferBatch, type Artifact } from '../server';
import type { LoadedModel } from './worker';

export async function load(artifact: Artifact): Promise<LoadedModel> {
  return {
    backend: artifact.runtime,
    predict: async (pixels) => Float32Array.from((await inferBatch(artifact, [pixels]))[0]!),
    dispose() {},
  };
}
