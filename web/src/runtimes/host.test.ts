import { afterEach, beforeEach, expect, test, vi } from 'vitest';

import type { Reply } from './calls';
import { RuntimeWorker } from './host';

/** Stands for the browser's Worker: it keeps its calls, and a test sends the replies. */
class FakeWorker {
  static latest: FakeWorker;
  onmessage!: (event: { data: Reply }) => void;
  onerror!: (event: object) => void;
  isTerminated = false;

  constructor() {
    FakeWorker.latest = this;
  }

  postMessage(): void {}

  terminate(): void {
    this.isTerminated = true;
  }

  reply(data: Reply): void {
    this.onmessage({ data });
  }
}

beforeEach(() => void vi.stubGlobal('Worker', FakeWorker));
afterEach(() => void vi.unstubAllGlobals());

test('each call gets the reply with its number, in whatever order they come', async () => {
  const worker = new RuntimeWorker('onnx-wasm');
  const calls = [worker.call('predict', ['a', []]), worker.call('predict', ['b', []])];
  FakeWorker.latest.reply({ id: 1, error: 'b failed' });
  FakeWorker.latest.reply({ id: 0, result: 'a' });
  expect(await Promise.allSettled(calls)).toEqual([
    { status: 'fulfilled', value: 'a' }, { status: 'rejected', reason: new Error('b failed') },
  ]);
});

test('a second reply to a call changes nothing, and later calls still get theirs', async () => {
  const worker = new RuntimeWorker('onnx-wasm');
  const progress = vi.fn();
  const first = worker.call('predict', ['a', []], progress);
  FakeWorker.latest.reply({ id: 0, result: 'a' });
  FakeWorker.latest.reply({ id: 0, error: 'no such model' });
  FakeWorker.latest.reply({ id: 0, progress: { phase: 'load', samples: [] } });
  const second = worker.call('predict', ['b', []]);
  FakeWorker.latest.reply({ id: 1, result: 'b' });
  expect(await Promise.all([first, second])).toEqual(['a', 'b']);
  expect(progress).not.toHaveBeenCalled();
});

test('the end of a worker fails the calls that wait, and later ones', async () => {
  const worker = new RuntimeWorker('onnx-wasm');
  const waiting = worker.call('predict', ['a', []]);
  worker.end(new Error('too late'));
  await expect(waiting).rejects.toThrow('too late');
  await expect(worker.call('predict', ['a', []])).rejects.toThrow('too late');
  expect(FakeWorker.latest.isTerminated).toBe(true);
});
