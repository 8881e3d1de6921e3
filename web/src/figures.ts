/** How numbers are written on the page. */

export function milliseconds(ms: number): string {
  if (ms >= 1000) return `${(ms / 1000).toFixed(1)} s`;
  return `${ms >= 100 ? ms.toFixed(0) : ms >= 10 ? ms.toFixed(1) : ms.toFixed(2)} ms`;
}

export function bytes(count: number): string {
  if (count >= 1e6) return `${(count / 1e6).toFixed(1)} MB`;
  return count >= 1e3 ? `${(count / 1e3).toFixed(1)} kB` : `${count} B`;
}

export function percent(probability: number): string {
  return `${(probability * 100).toFixed(1)} %`;
}

/** Differences span ten powers of ten, so they are written with their exponent: 2.38e-7. */
export function difference(value: number): string {
  return value === 0 ? '0' : value.toExponential(2);
}

export function argmax(values: readonly number[]): number {
  return values.reduce((best, value, i) => (value > values[best]! ? i : best), 0);
}

export function maxAbsDiff(a: readonly number[], b: readonly number[]): number {
  return a.reduce((largest, value, i) => Math.max(largest, Math.abs(value - b[i]!)), 0);
}

const DIGITS = 9; // what float32 can tell apart

/** A number's digits: those that it begins with like the other number, and the rest. */
export function agreeingDigits(value: number, other: number): [same: string, rest: string] {
  const [ours, theirs] = [value.toFixed(DIGITS), other.toFixed(DIGITS)];
  let length = 0;
  while (length < ours.length && ours[length] === theirs[length]) length += 1;
  return [ours.slice(0, length), ours.slice(length)];
}

/** The value below which this share of the values lies. */
export function quantile(values: readonly number[], share: number): number {
  const ordered = values.toSorted((a, b) => a - b);
  return ordered[Math.min(ordered.length - 1, Math.floor(share * ordered.length))]!;
}

const BINS_PER_DECADE = 40;

/** Bars of equal width on a logarithmic scale; the highest has height 1. */
export function histogram(values: readonly number[]): { from: number; to: number; height: number }[] {
  const counts = new Map<number, number>();
  for (const value of values) {
    const bin = Math.floor(BINS_PER_DECADE * Math.log10(Math.max(value, 1e-6)));
    counts.set(bin, (counts.get(bin) ?? 0) + 1);
  }
  const most = Math.max(...counts.values());
  const edge = (bin: number) => 10 ** (bin / BINS_PER_DECADE);
  return Array.from(counts, ([bin, count]) => ({ from: edge(bin), to: edge(bin + 1), height: count / most }));
}
