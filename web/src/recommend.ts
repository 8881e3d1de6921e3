/**
 * Which row to ship: the twin of compare/recommend.py, which explains the rule. The targets come from the report, and
 * tests/recommend_cases.json holds both to the same cases. Only compare/advice.py puts a decision into sentences.
 */

import { familyOf } from './runtimes';
import { figureOf, keepsAnswers, type Figure, type Report, type ReportedArtifact, type Target } from './report';

/** The precision of a format without a suffix. */
const FLOAT32 = 'float32';
/** Among ties, rows that are larger by less than this factor count as equally large. */
const SAME_SIZE = 1.05;

/**
 * Megabytes, milliseconds, the share of pictures that keep their class; null means no limit. And the precisions that may
 * be chosen: all where none is named.
 */
export interface Constraints {
  max_mb: number | null;
  max_ms: number | null;
  min_agreement: number | null;
  allow_precision?: string[];
}
type Limit = Exclude<keyof Constraints, 'allow_precision'>;

export interface Candidate {
  name: string;
  accuracy: Figure;
  time: Figure;
  size: Figure;
  agreement: Figure;
  /** A byte for each eight questions, a bit 1 where the answer is right; empty where that is unknown. */
  right: string;
  /** The product of time and size, between the products of their ends. */
  cost: { value: number; low: number; high: number };
  /** What has to be excused, the fewer the better: how far it is from its source's answers, and how many marks it has. */
  caveats: [answers: number, marks: number];
  /** How far it is from what was trained: 0 for a source, 1 for a conversion, 2 for a reduced precision. */
  steps: number;
  precision: string;
}

export interface Relaxation {
  constraint: Limit;
  needed: number;
  row: string;
}

export interface Decision {
  candidates: Candidate[];
  /** Rows that keep their source's answers and meet the constraints. */
  fitting: string[];
  choice: string | null;
  /** Rows that cannot be told apart from the choice within the noise, the smallest product first. */
  ties: string[];
  /** The Pareto front of the rows that fit, or of all candidates if none fits; the fastest first. */
  front: string[];
  /** If nothing fits only because of the constraints: what would have to give way. */
  relax: Relaxation[];
  /** Rows that keep their answers, as far as a runtime that is for proof alone shows, and meet the constraints; without a time. */
  unranked: string[];
}

/** Constraint -> the value that it limits, in the constraint's unit. */
const VALUES: Record<Limit, (candidate: Candidate) => number> = {
  max_mb: ({ size }) => size.value / 1e6,
  max_ms: ({ time }) => time.value / 1e-3,
  min_agreement: ({ agreement }) => agreement.value,
};

type Spread = Pick<Figure, 'value' | 'low' | 'high'>;

export function recommend(report: Report, target: Target, constraints: Constraints): Decision {
  const candidates = candidatesFor(report, target);
  const isAccepted = ({ name }: Candidate) => {
    const artifact = report.artifacts[report.rows[name]!.artifact]!;
    const failsThere = target.on_arm && artifact.arm && !artifact.arm.passed;
    return !failsThere && (keepsAnswers(artifact) || constraints.min_agreement !== null);
  };
  const allowed = constraints.allow_precision?.length ? constraints.allow_precision : null;
  const accepted = candidates.filter((candidate) => (!allowed || allowed.includes(candidate.precision)) && isAccepted(candidate));
  const fitting = accepted.filter((candidate) => missed(candidate, constraints).length === 0);
  const [choice, ties] = fitting.length ? choose(fitting) : [null, []];
  const names = (of: Candidate[]) => of.map(({ name }) => name);
  return {
    candidates,
    fitting: names(fitting),
    choice: choice?.name ?? null,
    ties: names(ties),
    front: names(frontOf(fitting.length ? fitting : candidates)),
    relax: fitting.length ? [] : relaxations(accepted, constraints),
    unranked: unranked(report, target, constraints),
  };
}

/** Where all families run, what is proven on a stand-in alone, or runs on another system alone, does not. */
function runsThere({ format, proven_on, needs }: ReportedArtifact, { families }: Target): boolean {
  return families ? families.includes(familyOf(format)) : !proven_on && !needs;
}

function unranked(report: Report, target: Target, { max_mb, max_ms, min_agreement, allow_precision }: Constraints): string[] {
  if (max_ms !== null) return [];
  return Object.values(report.rows).filter(({ name, artifact, where }) => {
    const of = report.artifacts[artifact]!;
    const [size, agreement] = [figureOf(report, name, target.size), figureOf(report, name, 'agreement')];
    const isProven = of.proven_on && agreement && (keepsAnswers(of) || min_agreement !== null) && agreement.value >= (min_agreement ?? 0);
    return where === target.where && runsThere(of, target) && (isProven || (of.needs && min_agreement === null))
      && size && size.value <= 1e6 * (max_mb ?? Infinity)
      && (!allow_precision?.length || allow_precision.includes(precisionOf(of.format)));
  }).map(({ name }) => name);
}

function candidatesFor(report: Report, target: Target): Candidate[] {
  return Object.values(report.rows).flatMap(({ name, artifact, where, marks = [] }) => {
    const of = report.artifacts[artifact]!;
    if (where !== target.where || !runsThere(of, target)) return [];
    const [accuracy, time, size, agreement] = [target.accuracy ?? 'accuracy', target.time, target.size, 'agreement'].map((figure) => figureOf(report, name, figure));
    if (!accuracy || !time || !size || !agreement) return [];
    const cost = { value: time.value * size.value, low: time.low * size.low, high: time.high * size.high };
    const right = (target.accuracy ?? 'accuracy') === 'accuracy' ? atob(of.right ?? '') : '';
    const caveats: Candidate['caveats'] = [answersOf(of), marks.length];
    return [{ name, accuracy, time, size, agreement, right, cost, caveats, steps: stepsOf(of), precision: precisionOf(of.format) }];
  });
}

/** 0 where an artifact gives its source's answers, 1 where it keeps a class of its accuracy, 2 where it does neither. */
function answersOf(artifact: ReportedArtifact): number {
  return ['source', 'passed'].includes(artifact.verdict) ? 0 : keepsAnswers(artifact) ? 1 : 2;
}

function stepsOf({ format, verdict }: ReportedArtifact): number {
  return precisionOf(format) !== FLOAT32 ? 2 : Number(verdict !== 'source');
}

/** `onnx-int8` -> `int8` */
export function precisionOf(format: string): string {
  return format.slice(familyOf(format).length + 1) || FLOAT32;
}

/** Whether two figures can be told apart: their spreads do not overlap. */
function differ(a: Spread, b: Spread): boolean {
  return a.low > b.high || b.low > a.high;
}

/** Whether two accuracies can be told apart: on the same questions, if these are known, by McNemar's test at 95 %. */
function differInAccuracy(a: Candidate, b: Candidate): boolean {
  if (!a.right || a.right.length !== b.right.length) return differ(a.accuracy, b.accuracy);
  let [won, lost] = [0, 0];
  for (let i = 0; i < a.right.length; i++) {
    const [mine, theirs] = [a.right.charCodeAt(i), b.right.charCodeAt(i)];
    won += bits(mine & ~theirs);
    lost += bits(theirs & ~mine);
  }
  return Math.abs(won - lost) - 1 > 1.96 * Math.sqrt(won + lost);
}

function bits(byte: number): number {
  let count = 0;
  for (let left = byte; left; left &= left - 1) count++;
  return count;
}

/** Whether `a` is worse in no figure and no caveat, and better in at least one beyond the noise. */
function dominates(a: Candidate, b: Candidate): boolean {
  const worseInNone = byCaveats(a, b) <= 0 && a.accuracy.value >= b.accuracy.value && a.time.value <= b.time.value && a.size.value <= b.size.value;
  return worseInNone && (differInAccuracy(a, b) || differ(a.time, b.time) || differ(a.size, b.size));
}

function frontOf(candidates: Candidate[]): Candidate[] {
  return onFront(candidates).sort((a, b) => a.time.value - b.time.value || byName(a, b));
}

function onFront(candidates: Candidate[]): Candidate[] {
  return candidates.filter((candidate) => !candidates.some((other) => dominates(other, candidate)));
}

/** The choice and its ties. There must be at least one candidate. */
function choose(candidates: Candidate[]): [Candidate, Candidate[]] {
  const best = candidates.reduce((a, b) => (b.accuracy.value > a.accuracy.value ? b : a));
  const accurate = candidates.filter((candidate) => !differInAccuracy(candidate, best))
    .sort((a, b) => a.cost.value - b.cost.value || byName(a, b));
  const close = accurate.filter((candidate) => areClose(candidate.cost, accurate[0]!.cost));
  const choice = PREFERENCES.reduce((left, prefer) => prefer(left), close)[0]!;
  return [choice, accurate.filter((candidate) => candidate !== choice && !differ(candidate.cost, choice.cost))];
}

/** Whether a further run may well put either of the two first: one's interval holds the other's value. */
function areClose(a: Spread, b: Spread): boolean {
  return (a.low <= b.value && b.value <= a.high) || (b.low <= a.value && a.value <= b.high);
}

/** What is preferred among close ties, one after the other. What is left then has the smallest product first. */
const PREFERENCES: ((candidates: Candidate[]) => Candidate[])[] = [
  (candidates) => least(candidates, ({ caveats }) => caveats[0]),
  (candidates) => least(candidates, ({ caveats }) => caveats[1]),
  (candidates) => least(candidates, ({ size }) => size.value, SAME_SIZE),
  onFront,
  (candidates) => least(candidates, ({ steps }) => steps),
];

/** Those whose value is the least one, or at most `factor` times as much. */
function least(candidates: Candidate[], of: (candidate: Candidate) => number, factor = 1): Candidate[] {
  const limit = factor * Math.min(...candidates.map(of));
  return candidates.filter((candidate) => of(candidate) <= limit);
}

function byCaveats(a: Candidate, b: Candidate): number {
  return a.caveats[0] - b.caveats[0] || a.caveats[1] - b.caveats[1];
}

function limits(constraints: Constraints): Limit[] {
  return (Object.keys(VALUES) as Limit[]).filter((name) => constraints[name] !== null);
}

/** The constraints that the candidate does not meet. */
function missed(candidate: Candidate, constraints: Constraints): Limit[] {
  return limits(constraints).filter((name) => {
    const [value, limit] = [VALUES[name](candidate), constraints[name]!];
    return name === 'min_agreement' ? value < limit : value > limit;
  });
}

/** Each constraint that is enough alone; if none is, all that the nearest row does not meet. */
function relaxations(accepted: Candidate[], constraints: Constraints): Relaxation[] {
  const excess = (name: Limit, candidate: Candidate) => {
    const [value, limit] = [VALUES[name](candidate), constraints[name]!];
    return name === 'min_agreement' ? Math.log(limit / Math.max(value, 1e-9)) : Math.log(value / limit);
  };
  const relaxation = (constraint: Limit, candidate: Candidate): Relaxation =>
    ({ constraint, needed: roundedToFit(constraint, VALUES[constraint](candidate)), row: candidate.name });
  const alone = limits(constraints).flatMap((name) => {
    const near = accepted.filter((candidate) => missed(candidate, constraints).join() === name);
    return near.length ? [relaxation(name, smallest(near, (candidate) => excess(name, candidate)))] : [];
  });
  if (alone.length || !accepted.length) return alone;
  const excessOfAll = (candidate: Candidate) =>
    missed(candidate, constraints).reduce((sum, name) => sum + excess(name, candidate), 0);
  const nearest = smallest(accepted, excessOfAll);
  return missed(nearest, constraints).map((name) => relaxation(name, nearest));
}

/** A limit of three digits, or four decimals for a share, rounded so that the value still meets it. */
function roundedToFit(name: Limit, value: number): number {
  if (name === 'min_agreement') return Math.floor(value * 1e4) / 1e4;
  const step = 10 ** (Math.floor(Math.log10(value)) - 2);
  return Number((Math.ceil(value / step - 1e-9) * step).toPrecision(12));
}

function smallest(candidates: Candidate[], of: (candidate: Candidate) => number): Candidate {
  return candidates.reduce((a, b) => ((of(b) - of(a) || byName(b, a)) < 0 ? b : a));
}

function byName(a: Candidate, b: Candidate): number {
  return a.name < b.name ? -1 : Number(a.name > b.name);
}
