import { ONE_THREAD } from './calls';

/** How many threads a runtime gets: each the same, so that a race is fair. */

const MOST = 4;

/** Half of the processors, for the page and the system need some; 1 where memory cannot be shared. */
export function threadCount(): number {
  return crossOriginIsolated && !self.name.endsWith(ONE_THREAD) ? Math.min(MOST, Math.max(1, Math.ceil(navigator.hardwareConcurrency / 2))) : 1;
}
