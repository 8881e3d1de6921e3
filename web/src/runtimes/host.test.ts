import { afterEach, beforeEach, expect, test, vi } from 'vitest';

import type { Reply } from './calls';
import { goesOnWithOneThread, inOwnWorker, RuntimeWorker } from './host';

/** Stands for the browser's Worker: it keeps its calls, and a test sends the replies. */
class FakeWorker {
  static latest: FakeWorker;
  onmessage!: (event: { data: Reply }) => void;
  onerror!: (event: object) => void;
  isTerminated = false;
  readonly name: string;

  constructor(_: URL, { name }: { name: string }) {
    FakeWorker.latest = this;
    this.name = name;
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

const NO_THREADS = 'ONNX Runtime Web did not start (... pthread_create failed, error code: 0 ...)';

test('a runtime whose threads do not start gets none from then on, whatever number of calls waited for them', () => {
  const worker = new RuntimeWorker('onnx-wasm');
  expect(FakeWorker.latest.name).toBe('onnx-wasm');
  expect(goesOnWithOneThread(worker, new Error('no such model'))).toBe(false);
  expect(goesOnWithOneThread(worker, new Error(NO_THREADS))).toBe(true);
  expect(goesOnWithOneThread(worker, new Error(NO_THREADS))).toBe(true); // another row that was loading there
  const next = new RuntimeWorker('onnx-wasm');
  expect(FakeWorker.latest.name).toBe('onnx-wasm one-thread');
  expect(goesOnWithOneThread(next, new Error(NO_THREADS))).toBe(false); // it is another fault
  new RuntimeWorker('tfjs-wasm');
  expect(FakeWorker.latest.name).toBe('tfjs-wasm');
});

test('what has a worker of its own starts again with one thread, once, and each worker is ended', async () => {
  const workers: FakeWorker[] = [];
  const use = (worker: RuntimeWorker) => {
    workers.push(FakeWorker.latest);
    return worker.call('predict', ['a', []]);
  };
  const answer = inOwnWorker('litert-wasm', use);
  workers[0]!.reply({ id: 0, error: NO_THREADS });
  await vi.waitFor(() => expect(workers).toHaveLength(2));
  workers[1]!.reply({ id: 0, result: 'a' });
  expect(await answer).toBe('a');
  expect(workers.map(({ name, isTerminated }) => [name, isTerminated])).toEqual([['litert-wasm', true], ['litert-wasm one-thread', true]]);
  await expect(inOwnWorker('litert-wasm', use, AbortSignal.abort())).rejects.toThrow();
});
