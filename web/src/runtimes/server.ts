/** The server as a runtime like the others: it takes tensors by the Open Inference Protocol. */

import { infer, timedInfer, type Artifact, type CallTimes } from '../server';
import type { Tensor } from '../tensors';
import type { LoadedModel } from './model';

const FEWEST_CALLS = 5;

/** Where the time of each call goes, for so many seconds. The page itself draws, and would add to the network's time. */
export async function callTimes(artifact: Artifact, questions: Tensor[][], seconds: number): Promise<CallTimes[]> {
  const times: CallTimes[] = [];
  const end = performance.now() + 1000 * seconds;
  while (times.length < FEWEST_CALLS || performance.now() < end) {
    times.push(await timedInfer(artifact, questions[times.length % questions.length]!));
  }
  return times;
}

export async function load(artifact: Artifact): Promise<LoadedModel> {
  return {
    backend: async () => artifact.runtime,
    predict: (inputs) => infer(artifact, inputs),
    dispose() {},
  };
}
