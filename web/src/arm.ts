/** Whether an artifact gives its answers on an ARM processor, too: contract/arm_proof.py has the same in Python. */

import { text } from './text';

export interface ArmProof {
  passed: boolean;
  /** Why it did not pass; empty when it did. */
  reasons: string[];
  /** How many questions it was asked there. */
  rows: number;
  /** Its answers at edges that are others there, a phrase for each. */
  differs: string[];
  /** The processor that was emulated: "cortex-a76". */
  processor: string;
}

/** "Answers proven on 64-bit ARM (emulated cortex-a76, 1,000 questions); no time was measured" */
export function proven({ passed, reasons, rows, differs, processor }: ArmProof): string {
  const words = text().arm;
  return passed ? words.proven(processor, rows, differs.join('; ')) : words.differ(processor, reasons.join('; '));
}
