/** How numbers are written on the page. */

/** Two digits at the least: of 0.06 ms, the next step would be a sixth more. */
export function milliseconds(ms: number): string {
  if (ms >= 1000) return `${(ms / 1000).toFixed(1)} s`;
  const digits = ms >= 100 ? 0 : ms >= 10 ? 1 : ms >= 0.1 ? 2 : 3;
  return `${ms.toFixed(digits)} ms`;
}

export function bytes(count: number): string {
  if (count >= 1e6) return `${(count / 1e6).toFixed(1)} MB`;
  return count >= 1e3 ? `${(count / 1e3).toFixed(1)} kB` : `${count} B`;
}

export function percent(probability: number): string {
  return `${(probability * 100).toFixed(1)} %`;
}

/** Differences span ten powers of ten, so small ones are written with their exponent: 2.38e-7. */
export function difference(value: number): string {
  if (value === 0) return '0';
  return value >= 0.1 ? value.toPrecision(3) : value.toExponential(2);
}

export function argmax(values: readonly number[]): number {
  return values.reduce((best, value, i) => (value > values[best]! ? i : best), 0);
}

const DIGITS = 9; // as many as float32 distinguishes

/** A number's digits, split where they start to differ from the other number's. */
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

const SCALES: Record<string, [size: number, name: string][]> = {
  s: [[1, 's'], [1e-3, 'ms'], [1e-6, 'µs']],
  B: [[1e9, 'GB'], [1e6, 'MB'], [1e3, 'kB'], [1, 'B']],
};

/** A report's figure as text, to three digits unless it is a count: `30.1 µs`, `3.72 MB`, `90.32 %`. */
export function shown(value: number, unit: string): string {
  if (unit === 'share') return `${(100 * value).toFixed(2)} %`;
  if (unit === '1/s') return `${Number(value.toPrecision(3)).toLocaleString('en')} /s`;
  const scales = SCALES[unit];
  if (!scales) return Number.isInteger(value) ? value.toLocaleString('en') : Math.abs(value) < 1e-3 ? value.toExponential(1) : value.toPrecision(2);
  const rounded = Number(value.toPrecision(3)); // first: 999.9 µs are 1.00 ms
  const [size, name] = scales.find(([least]) => rounded >= least) ?? scales.at(-1)!;
  return `${name === 'B' ? rounded : (rounded / size).toPrecision(3)} ${name}`;
}
