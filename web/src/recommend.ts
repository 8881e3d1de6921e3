/**
 * Which row to ship: the twin of compare/recommend.py, which explains the rule. The targets come from the report, and
 * tests/recommend_cases.json holds both to the same cases. Only compare/advice.py puts a decision into sentences.
 */

import { familyOf } from './runtimes';
import { figureOf, type Figure, type Report, type Target } from './report';

/** Megabytes, milliseconds, the share of pictures that keep their class; null means no limit. */
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

export interface Decision {
  candidates: Candidate[];
  /** Rows that keep their source's answers and meet the constraints. */
  fitting: string[];
  choice: string | null;
  /** Rows that cannot be told apart from the choice within the noise. */
  ties: string[];
  /** The Pareto front of the rows that fit, or of all candidates if none fits; the fastest first. */
  front: string[];
  /** If nothing fits only because of the constraints: what would have to give way. */
  relax: Relaxation[];
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
  const keepsAnswers = ({ name }: Candidate) => {
    const { verdict } = report.artifacts[report.rows[name]!.artifact]!;
    return verdict === 'source' || verdict === 'passed' || constraints.min_agreement !== null;
  };
  const accepted = candidates.filter(keepsAnswers);
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

/** Whether two figures can be told apart: their spreads do not overlap. */
function differ(a: Spread, b: Spread): boolean {
  return a.low > b.high || b.low > a.high;
}

/** Whether `a` is worse in no figure, and better in at least one beyond the noise. */
function dominates(a: Candidate, b: Candidate): boolean {
  const worseInNone = a.accuracy.value >= b.accuracy.value && a.time.value <= b.time.value && a.size.value <= b.size.value;
  return worseInNone && (differ(a.accuracy, b.accuracy) || differ(a.time, b.time) || differ(a.size, b.size));
}

function frontOf(candidates: Candidate[]): Candidate[] {
  const front = candidates.filter((candidate) => !candidates.some((other) => dominates(other, candidate)));
  return front.sort((a, b) => a.time.value - b.time.value || byName(a, b));
}

/** The choice and its ties. There must be at least one candidate. */
function choose(candidates: Candidate[]): [Candidate, Candidate[]] {
  const best = candidates.reduce((a, b) => (b.accuracy.value > a.accuracy.value ? b : a));
  const accurate = candidates.filter(({ accuracy }) => !differ(accuracy, best.accuracy));
  const choice = smallest(accurate, ({ cost }) => cost.value);
  return [choice, accurate.filter((candidate) => candidate !== choice && !differ(candidate.cost, choice.cost))];
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
