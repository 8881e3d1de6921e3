/**
 * Which row to ship: the twin of compare/recommend.py, which explains the rule. Both are held to
 * tests/recommend_cases.json; the words of a recommendation are made there alone.
 */

import { familyOf } from './runtimes';
import { figureOf, type Figure, type Report } from './report';

/** Where a model is to run: which rows can, and which figures count as their time and size. */
export interface Target {
  where: 'server' | 'browser';
  families: string[] | null;
  time: string;
  size: string;
}

export const TARGETS = {
  server: { where: 'server', families: null, time: 'http_p50@1', size: 'ship' },
  browser: { where: 'browser', families: null, time: 'p50@1', size: 'download' },
  mobile: { where: 'server', families: ['tflite', 'onnx'], time: 'p50@1', size: 'disk' },
} satisfies Record<string, Target>;
export type TargetName = keyof typeof TARGETS;

/** Megabytes, milliseconds, the share of pictures that keep their class; null is no constraint. */
export interface Constraints {
  max_mb: number | null;
  max_ms: number | null;
  min_agreement: number | null;
}
type Limit = keyof Constraints;

export interface Candidate {
  name: string;
  accuracy: Figure;
  time: Figure;
  size: Figure;
  agreement: Figure;
  /** The product of time and size, between the products of their ends. */
  cost: { value: number; low: number; high: number };
}

export interface Relaxation {
  constraint: Limit;
  needed: number;
  row: string;
}

export interface Recommendation {
  candidates: Candidate[];
  fitting: string[];
  choice: string | null;
  ties: string[];
  /** Those that no other dominates, the fastest first. */
  front: string[];
  /** Where nothing fits: what would have to give. */
  relax: Relaxation[];
}

const VALUES: Record<Limit, (one: Candidate) => number> = {
  max_mb: ({ size }) => size.value / 1e6,
  max_ms: ({ time }) => time.value / 1e-3,
  min_agreement: ({ agreement }) => agreement.value,
};

type Spread = Pick<Figure, 'value' | 'low' | 'high'>;

export function recommend(report: Report, target: TargetName, constraints: Constraints): Recommendation {
  const candidates = candidatesFor(report, TARGETS[target]);
  const keepsAnswers = ({ name }: Candidate) => {
    const { verdict } = report.artifacts[report.rows[name]!.artifact]!;
    return verdict === 'source' || verdict === 'passed' || constraints.min_agreement !== null;
  };
  const kept = candidates.filter(keepsAnswers);
  const fitting = kept.filter((one) => missed(one, constraints).length === 0);
  const [choice, ties] = fitting.length ? choose(fitting) : [null, []];
  const names = (of: Candidate[]) => of.map(({ name }) => name);
  return {
    candidates,
    fitting: names(fitting),
    choice: choice?.name ?? null,
    ties: names(ties),
    front: names(frontOf(fitting.length ? fitting : candidates)),
    relax: fitting.length ? [] : relaxations(kept, constraints),
  };
}

function candidatesFor(report: Report, target: Target): Candidate[] {
  return Object.values(report.rows).flatMap(({ name, artifact, where }) => {
    const family = familyOf(report.artifacts[artifact]!.format);
    if (where !== target.where || (target.families && !target.families.includes(family))) return [];
    const [accuracy, time, size, agreement] = ['accuracy', target.time, target.size, 'agreement'].map((figure) => figureOf(report, name, figure));
    if (!accuracy || !time || !size || !agreement) return [];
    const cost = { value: time.value * size.value, low: time.low * size.low, high: time.high * size.high };
    return [{ name, accuracy, time, size, agreement, cost }];
  });
}

/** Whether two can be told apart: their spreads do not meet. */
function differ(a: Spread, b: Spread): boolean {
  return a.low > b.high || b.low > a.high;
}

/** Nowhere worse, and somewhere better beyond the noise. */
function dominates(a: Candidate, b: Candidate): boolean {
  const nowhereWorse = a.accuracy.value >= b.accuracy.value && a.time.value <= b.time.value && a.size.value <= b.size.value;
  return nowhereWorse && (differ(a.accuracy, b.accuracy) || differ(a.time, b.time) || differ(a.size, b.size));
}

function frontOf(candidates: Candidate[]): Candidate[] {
  const front = candidates.filter((one) => !candidates.some((other) => dominates(other, one)));
  return front.sort((a, b) => a.time.value - b.time.value || byName(a, b));
}

/** The choice, and those that cannot be told apart from it. */
function choose(candidates: Candidate[]): [Candidate, Candidate[]] {
  const best = candidates.reduce((a, b) => (b.accuracy.value > a.accuracy.value ? b : a));
  const accurate = candidates.filter(({ accuracy }) => !differ(accuracy, best.accuracy));
  const choice = smallest(accurate, ({ cost }) => cost.value);
  return [choice, accurate.filter((one) => one !== choice && !differ(one.cost, choice.cost))];
}

function limits(constraints: Constraints): Limit[] {
  return (Object.keys(VALUES) as Limit[]).filter((name) => constraints[name] !== null);
}

function missed(one: Candidate, constraints: Constraints): Limit[] {
  return limits(constraints).filter((name) => {
    const [value, limit] = [VALUES[name](one), constraints[name]!];
    return name === 'min_agreement' ? value < limit : value > limit;
  });
}

/** One constraint each where one is enough; else all that the row that misses least misses. */
function relaxations(kept: Candidate[], constraints: Constraints): Relaxation[] {
  const excess = (name: Limit, one: Candidate) => {
    const [value, limit] = [VALUES[name](one), constraints[name]!];
    return name === 'min_agreement' ? Math.log(limit / Math.max(value, 1e-9)) : Math.log(value / limit);
  };
  const relaxation = (constraint: Limit, one: Candidate): Relaxation =>
    ({ constraint, needed: roundedToFit(constraint, VALUES[constraint](one)), row: one.name });
  const found = limits(constraints).flatMap((name) => {
    const only = kept.filter((one) => missed(one, constraints).join() === name);
    return only.length ? [relaxation(name, smallest(only, (one) => excess(name, one)))] : [];
  });
  if (found.length || !kept.length) return found;
  const nearest = smallest(kept, (one) => missed(one, constraints).reduce((sum, name) => sum + excess(name, one), 0));
  return missed(nearest, constraints).map((name) => relaxation(name, nearest));
}

/** Three digits, or four of a share, rounded to the side on which the value still fits. */
function roundedToFit(name: Limit, value: number): number {
  if (name === 'min_agreement') return Math.floor(value * 1e4) / 1e4;
  const step = 10 ** (Math.floor(Math.log10(value)) - 2);
  return Number((Math.ceil(value / step - 1e-9) * step).toPrecision(12));
}

function smallest(candidates: Candidate[], of: (one: Candidate) => number): Candidate {
  return candidates.reduce((a, b) => ((of(b) - of(a) || byName(b, a)) < 0 ? b : a));
}

function byName(a: Candidate, b: Candidate): number {
  return a.name < b.name ? -1 : Number(a.name > b.name);
}
