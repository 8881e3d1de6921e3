import { afterEach, beforeEach, expect, test, vi } from 'vitest';

import { Late, within } from './patience';

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

const never = () => new Promise<never>(() => {});

test('what gives no sign for so long is late', async () => {
  const outcome = within(5, never).catch((error: unknown) => error);
  await vi.advanceTimersByTimeAsync(5000);
  expect(await outcome).toBeInstanceOf(Late);
});

test('a download is waited for as long as bytes come', async () => {
  let isAlive = () => {};
  let finish: (value: string) => void = () => {};
  const outcome = within(5, (sign) => {
    isAlive = sign;
    return new Promise<string>((done) => { finish = done; });
  });
  for (let second = 0; second < 300; second += 4) {
    await vi.advanceTimersByTimeAsync(4000);
    isAlive();
  }
  finish('loaded');
  expect(await outcome).toBe('loaded');
  expect(vi.getTimerCount()).toBe(0);
});

test('a failure is passed on at once', async () => {
  await expect(within(5, async () => { throw new Error('no'); })).rejects.toThrow('no');
  expect(vi.getTimerCount()).toBe(0);
});
