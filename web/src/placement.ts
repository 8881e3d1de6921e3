/** Where an artifact's operators run: contract/placement.py has the same in Python. */

import { text } from './text';

export interface Placement {
  /** "XNNPACK", "NNAPI", "fast kernels". */
  part: string;
  operators: number;
  total: number;
  /** In how many connected pieces of the graph; 0 where nothing is handed over. */
  pieces: number;
  /** Whether the loaded graph shows it; else the runtime's own check says it of hardware that is not here. */
  is_loaded: boolean;
  /** Whether it takes none of a file with free sizes, and so many once these are fixed. */
  if_sizes_are_fixed: boolean;
}

/** "8 of 9 operators run on XNNPACK, in 2 pieces" */
export function placed({ part, operators, total, pieces, is_loaded: isLoaded, if_sizes_are_fixed: ifFixed }: Placement): string {
  const words = text().placement;
  const where = (isLoaded ? words.run : words.couldRun)(operators, total, words.parts[part] ?? part);
  return [where, pieces ? words.pieces(pieces) : '', ifFixed && operators ? words.ifFixed : ''].filter(Boolean).join(', ');
}
