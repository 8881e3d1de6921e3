/** What the rows' answers come to: the line above the tables. */

import { probabilitiesOf, type Row } from './comparison';
import { argmax } from './figures';
import { labelOf } from './server';
import { largestDistance } from './tensors';

export interface Verdict {
  /** Rows that answered, other than sources, and whose source answered, too. */
  compared: number;
  /** Of these, the ones of another class than their source. */
  disagreeing: Row[];
  /** The row that is farthest from its source. */
  farthest: { row: Row; difference: number } | null;
  fastest: Row | null;
  /** Of the rows in this browser. */
  smallest: Row | null;
}

/** The bytes of an artifact's files. */
export function sizeOf({ artifact }: Pick<Row, 'artifact'>): number {
  return Object.values(artifact.files).reduce((sum, file) => sum + file.bytes, 0);
}

/** What has to be downloaded to run a row: its artifact, and in the browser its runtime. */
export function downloadOf(row: Row): number {
  return sizeOf(row) + (row.loaded?.runtimeBytes ?? 0);
}

/** A model, and the class that it gives the picture. */
export interface Answered {
  model: string;
  label: string;
}

/** Of each model that classifies: its source's class, or that of the row which answered before the source has. */
export function answersIn(rows: readonly Row[], sourceOf: (row: Row) => Row | undefined): Answered[] {
  const answers = new Map<string, string>();
  for (const row of rows) {
    const { model, classifies } = row.artifact;
    if (!classifies || !row.answer || answers.has(model)) continue;
    answers.set(model, labelOf(row.artifact, argmax(probabilitiesOf(sourceOf(row)?.answer ?? row.answer))));
  }
  return Array.from(answers, ([model, label]) => ({ model, label }));
}

export function verdictOf(rows: readonly Row[], sourceOf: (row: Row) => Row | undefined): Verdict {
  const compared = rows.flatMap((row) => {
    const source = sourceOf(row);
    if (!row.answer || !source?.answer || source === row) return [];
    const difference = largestDistance(row.answer.outputs, source.answer.outputs);
    const isOther = row.artifact.classifies && argmax(probabilitiesOf(row.answer)) !== argmax(probabilitiesOf(source.answer));
    return [{ row, difference, isOther }];
  });
  const least = (candidates: Row[], figure: (row: Row) => number) =>
    candidates.reduce<Row | null>((best, row) => (best && figure(best) <= figure(row) ? best : row), null);
  return {
    compared: compared.length,
    disagreeing: compared.filter(({ isOther }) => isOther).map(({ row }) => row),
    farthest: compared.reduce<Verdict['farthest']>((most, each) => (most && most.difference >= each.difference ? most : each), null),
    fastest: least(rows.filter(({ time }) => time), ({ time }) => time!.runtime),
    smallest: least(rows.filter(({ loaded, answer }) => loaded && answer), downloadOf),
  };
}
