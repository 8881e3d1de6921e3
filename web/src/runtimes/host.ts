/** The page's side of a runtime's worker. */

import { messageOf } from '../errors';
import { isAlive } from '../server';
import { text } from '../text';
import type { Progress } from '../timing';
import { ONE_THREAD, type Call, type Calls, type Reply } from './calls';
import type { RuntimeId } from './index';

interface Waiting {
  resolve(result: unknown): void;
  reject(error: Error): void;
  onProgress: ((progress: Progress) => void) | undefined;
}

/** Why a part of the page's code did not come. */
export async function whyNoCode(): Promise<string> {
  return (await isAlive()) ? text().noCode : text().noServer;
}

/** Runtimes whose threads did not start in this browser. */
const withoutThreads = new Set<RuntimeId>();

/** Whether a worker with one thread may do what this one failed to: WebKit fails to start threads now and then. */
export function goesOnWithOneThread(worker: RuntimeWorker, error: unknown): boolean {
  if (!worker.hasThreads || !/pthread_create|thread constructor failed/.test(messageOf(error))) return false;
  withoutThreads.add(worker.runtime);
  return true;
}

export class RuntimeWorker {
  private readonly worker: Worker;
  private readonly waiting = new Map<number, Waiting>();
  private calls = 0;
  readonly hasThreads: boolean;
  /** Why it takes no more calls. */
  failure: Error | null = null;

  constructor(readonly runtime: RuntimeId) {
    this.hasThreads = !withoutThreads.has(runtime);
    const name = this.hasThreads ? runtime : `${runtime} ${ONE_THREAD}`;
    this.worker = new Worker(new URL('./worker.ts', import.meta.url), { type: 'module', name });
    this.worker.onmessage = ({ data }: MessageEvent<Reply>) => this.receive(data);
    this.worker.onerror = (event) => {
      event.preventDefault(); // the row shows it
      if (event.message) this.end(new Error(event.message));
      else void whyNoCode().then((why) => this.end(new Error(why)));
    };
  }

  call<Name extends keyof Calls>(
    name: Name, given: Parameters<Calls[Name]>, onProgress?: (progress: Progress) => void,
  ): ReturnType<Calls[Name]> {
    const id = this.calls++;
    return new Promise((resolve, reject) => {
      if (this.failure) return reject(this.failure);
      this.waiting.set(id, { resolve: resolve as Waiting['resolve'], reject, onProgress });
      this.worker.postMessage({ id, name, given } satisfies Call);
    }) as ReturnType<Calls[Name]>;
  }

  /** End the worker, whatever it does. Calls that wait, and all later ones, fail with this reason. */
  end(reason: Error): void {
    this.failure ??= reason;
    this.worker.terminate();
    for (const { reject } of this.waiting.values()) reject(this.failure);
    this.waiting.clear();
  }

  private receive(reply: Reply): void {
    const call = this.waiting.get(reply.id);
    if (!call) return; // answered before
    if ('progress' in reply) return call.onProgress?.(reply.progress);
    this.waiting.delete(reply.id);
    if ('error' in reply) call.reject(new Error(reply.error));
    else call.resolve(reply.result);
  }
}

/** Use a worker that nothing else uses, and end it; one with one thread where threads do not start. A signal ends it early. */
export async function inOwnWorker<T>(runtime: RuntimeId, use: (worker: RuntimeWorker) => Promise<T>, signal?: AbortSignal): Promise<T> {
  signal?.throwIfAborted();
  const worker = new RuntimeWorker(runtime);
  const end = () => worker.end(new Error(text().cancelled));
  signal?.addEventListener('abort', end);
  try {
    return await use(worker);
  } catch (error) {
    if (!goesOnWithOneThread(worker, error)) throw error;
  } finally {
    end();
    signal?.removeEventListener('abort', end);
  }
  return inOwnWorker(runtime, use, signal);
}
