/** The server as one more runtime: a tensor by the Open Inference Protocol. */

import { json, post, type Artifact } from '../server';
import { inputShape } from './files';
import type { LoadedModel } from './index';

interface Inference {
  outputs: { name: string; data: number[] }[];
}

export async function load(artifact: Artifact): Promise<LoadedModel> {
  const input = { name: artifact.input, shape: inputShape(artifact), datatype: 'FP32' };
  return {
    backend: 'server',
    async predict(pixels) {
      const body = JSON.stringify({ inputs: [{ ...input, data: Array.from(pixels) }] });
      const { outputs } = await json<Inference>(`/v2/models/${artifact.name}/infer`, post(body, 'application/json'));
      return Float32Array.from(outputs[0]!.data);
    },
    dispose() {},
  };
}
