/** Where a session of ONNX Runtime puts a graph's operators. It tells its log, and nobody else. */

/** "Some nodes were not assigned to the preferred execution providers": a warning, without their number. */
const SEVERAL = /nodes were not assigned to the preferred execution provider/;
/** "Node(s) placed on [WebGpuExecutionProvider]. Number of nodes: 39": the whole log's. */
const PLACED = /placed on \[(\w+)\]\. Number of nodes: (\d+)/;
/** "  MemcpyToHost (Memcpy_token_67)": a node that takes values from one place to another. */
const COPY = /\] +Memcpy\w+ \(/;
const PROCESSOR = 'CPUExecutionProvider';

/** Who hears what the runtime logs. It binds console.error when it starts, once for all its sessions. */
let hear: ((line: string) => void) | null = null;
let isBound = false;

function bind(): void {
  if (isBound) return;
  isBound = true;
  const shown = console.error.bind(console);
  console.error = (...words: unknown[]) => (hear ? hear(words.join(' ')) : shown(...words));
}

export class Places {
  /** Whether the processor computes some of what the accelerator was to compute. */
  areSeveral = false;
  private readonly nodes = new Map<string, number>();
  private copies = 0;

  /** Read the log of what `start` starts. */
  async during<T>(start: () => Promise<T>): Promise<T> {
    bind();
    hear = (line) => this.read(line);
    try {
      return await start();
    } finally {
      hear = null;
    }
  }

  read(line: string): void {
    const [, place, count] = PLACED.exec(line) ?? [];
    if (place) this.nodes.set(place, Number(count));
    else if (COPY.test(line)) this.copies++;
    else if (SEVERAL.test(line)) this.areSeveral = true;
  }

  /** "all operators", or "operators: 23 of 31, copies: 16". */
  toString(): string {
    if (!this.areSeveral) return 'all operators';
    const total = [...this.nodes.values()].reduce((sum, count) => sum + count, 0) - this.copies;
    return `operators: ${total - (this.nodes.get(PROCESSOR) ?? 0)} of ${total}, copies: ${this.copies}`;
  }
}
