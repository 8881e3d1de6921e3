/** Waiting, but not forever. */

import { text } from './text';

export class Late extends Error {}

/** Raises Late after so many seconds without a call of `isAlive`. */
export async function within<T>(seconds: number, begin: (isAlive: () => void) => Promise<T>): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  let fail: (error: Late) => void = () => {};
  const tooLate = new Promise<never>((_, reject) => { fail = reject; });
  const isAlive = () => {
    clearTimeout(timer);
    timer = setTimeout(() => fail(new Late(text().late(seconds))), seconds * 1000);
  };
  isAlive();
  return Promise.race([begin(isAlive), tooLate]).finally(() => clearTimeout(timer));
}

export function sleep(seconds: number): Promise<void> {
  return new Promise((done) => setTimeout(done, seconds * 1000));
}
