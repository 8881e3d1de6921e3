/** The page's side of a runtime's worker. */

import { text } from '../text';
import type { Progress } from '../timing';
import type { Call, Calls, Reply } from './calls';
import type { RuntimeId } from './index';

interface Waiting {
  resolve(result: unknown): void;
  reject(error: Error): void;
  onProgress: ((progress: Progress) => void) | undefined;
}

export class RuntimeWorker {
  private readonly worker: Worker;
  private readonly waiting = new Map<number, Waiting>();
  private calls = 0;
  /** Why it takes no more calls. */
  failure: Error | null = null;

  constructor(runtime: RuntimeId) {
    this.worker = new Worker(new URL('./worker.ts', import.meta.url), { type: 'module', name: runtime });
    this.worker.onmessage = ({ data }: MessageEvent<Reply>) => this.receive(data);
    this.worker.onerror = (event) => {
      event.preventDefault(); // the row shows it
      this.end(new Error(event.message || text().noCode));
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
