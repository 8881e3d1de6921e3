import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';

import { recommend, type Constraints } from './recommend';
import { SCHEMA, type Figure, type Mark, type Report, type Target } from './report';

type Three = [value: number, low: number, high: number];

interface Case {
  why: string;
  target: string;
  constraints: Constraints;
  rows: {
    name: string; ms: Three | null; mb: number; accuracy: Three; right?: string; agreement?: number; verdict?: string; where?: 'server' | 'browser'; marks?: Mark[];
    /** Whether it gives its answers on ARM, if that is known. */
    arm?: boolean;
    /** On what alone its answers are proven, without a time. */
    proven_on?: string;
    needs?: string;
  }[];
  expected: object | null;
}

/** The cases that hold compare/recommend.py as well, with the targets as a report carries them. */
const { targets, cases } = JSON.parse(readFileSync(new URL('../../tests/recommend_cases.json', import.meta.url), 'utf8')) as {
  targets: Record<string, Target>;
  cases: Case[];
};

function figure([value, low, high]: Three, scale = 1): Figure {
  return { value: value * scale, unit: '', low: low * scale, high: high * scale, samples: 1, spread: 'exact' };
}

function reportFor({ rows }: Case): Report {
  const report: Report = {
    schema: SCHEMA, made: '', title: '', pictures: 1, machine: { processor: '', cores: 1, system: '' },
    artifacts: {}, rows: {}, training: {}, targets,
  };
  for (const { name, ms, mb, accuracy, right = '', agreement = 1, verdict = 'passed', where = 'server', marks = [], arm, proven_on = '', needs = '' } of rows) {
    const artifact = name.split('@')[0]!;
    const format = artifact.slice(artifact.indexOf('-') + 1);
    const time = ms ? figure(ms, 1e-3) : { missing: 'It was not measured.' };
    const size = figure([mb, mb, mb], 1e6);
    report.artifacts[artifact] = {
      name: artifact, format, source: null, verdict, right, flips: [], flip_count: 0, proven_on, needs,
      arm: arm === undefined ? null : { passed: arm, reasons: arm ? [] : ['other answers'], rows: 500, differs: [], processor: 'cortex-a76' },
      figures: { accuracy: figure(accuracy), agreement: needs ? { missing: 'Nothing is known.' } : figure([agreement, agreement, agreement]), disk: size },
    };
    const figures = { 'p50@1': time, 'http_p50@1': time, ship: size, download: size };
    report.rows[name] = { name, artifact, where, runtime: '', backend: '', figures, marks };
  }
  return report;
}

test.each(cases)('$why', (example) => {
  const { candidates, choice, ties, front, relax, unranked } = recommend(reportFor(example), targets[example.target]!, example.constraints);
  expect(candidates.length ? { choice, ties, front, relax, unranked } : null).toEqual(example.expected && { unranked: [], ...example.expected });
});
