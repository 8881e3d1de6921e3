/** A table of the page as text or as a picture, to paste and to keep. */

import type { Comparison, Row } from './comparison';
import { probabilitiesOf } from './comparison';
import { argmax, bytes, difference, milliseconds, percent } from './figures';
import { labelOf } from './server';
import { firstValues, largestDistance } from './tensors';
import { text } from './text';
import { downloadOf } from './verdict';

/** What people read, and the number behind it. */
export interface Cell {
  shown: string;
  value: string | number;
}

export interface Table {
  head: string[];
  rows: Cell[][];
}

const cell = (shown: string, value: string | number = shown): Cell => ({ shown, value });
const NOTHING = cell('');

/** The rows as the page shows them: the name, the answer, the time, the size, and the difference from the source. */
export function tableOf(rows: readonly Row[], comparison: Comparison): Table {
  const { answer, time, size, diff } = text().columns;
  return {
    head: [text().race.columns.row, text().statusTitle, answer, `${time} (ms)`, `${size} (B)`, diff],
    rows: rows.map((row) => [
      cell(row.id), cell((text().status as Record<string, string>)[row.artifact.status] ?? row.artifact.status), answerOf(row),
      row.time ? cell(milliseconds(row.time.runtime), row.time.runtime) : NOTHING,
      downloadOf(row) ? cell(bytes(downloadOf(row)), downloadOf(row)) : NOTHING,
      differenceOf(row, comparison),
    ]),
  };
}

function answerOf({ answer, artifact, error }: Row): Cell {
  if (!answer) return cell(error);
  if (!artifact.classifies) return cell(answer.outputs.map((tensor) => `${tensor.name}: ${firstValues(tensor, 4)}`).join('; '));
  const probabilities = probabilitiesOf(answer);
  const best = argmax(probabilities);
  return cell(`${labelOf(artifact, best)} ${percent(probabilities[best]!)}`, `${labelOf(artifact, best)} ${probabilities[best]!}`);
}

function differenceOf(row: Row, comparison: Comparison): Cell {
  const source = comparison.sourceOf(row);
  if (row === source) return cell(text().isSource);
  if (!row.answer || !source?.answer) return NOTHING;
  const value = largestDistance(row.answer.outputs, source.answer.outputs);
  return Number.isFinite(value) ? cell(difference(value), value) : cell(text().differs);
}

export function toMarkdown({ head, rows }: Table): string {
  const line = (cells: string[]) => `| ${cells.map((each) => each.replace(/\s+/g, ' ').replaceAll('|', '\\|')).join(' | ')} |`;
  return [line(head), line(head.map(() => '---')), ...rows.map((row) => line(row.map(({ shown }) => shown)))].join('\n') + '\n';
}

/** RFC 4180, with the numbers themselves. A text that a spreadsheet would take for a formula is kept one. */
export function toCsv({ head, rows }: Table): string {
  const field = (value: string | number) => {
    const plain = typeof value === 'string' && /^[=+\-@\t\r]/.test(value) ? `'${value}` : String(value);
    return /[",\r\n]/.test(plain) ? `"${plain.replaceAll('"', '""')}"` : plain;
  };
  return [head, ...rows.map((row) => row.map(({ value }) => value))].map((line) => line.map(field).join(',')).join('\r\n') + '\r\n';
}

const [LINE, PADDING, MOST_WIDTH, SCALE] = [30, 14, 420, 2];
const FONT = '14px system-ui, sans-serif';

/** The table as a PNG, in the page's own colours. */
export async function toPng(title: string, { head, rows }: Table): Promise<Blob> {
  const colours = getComputedStyle(document.documentElement);
  const ink = colours.color;
  const canvas = document.createElement('canvas');
  const context = canvas.getContext('2d')!;
  context.font = FONT;
  const lines = [head, ...rows.map((row) => row.map(({ shown }) => shown))];
  const widths = head.map((_, column) =>
    Math.min(MOST_WIDTH, Math.max(...lines.map((line) => context.measureText(line[column]!).width)) + 2 * PADDING));
  const width = Math.max(widths.reduce((sum, each) => sum + each, 0), context.measureText(title).width + 2 * PADDING);
  [canvas.width, canvas.height] = [width * SCALE, (lines.length + 1.5) * LINE * SCALE];
  context.scale(SCALE, SCALE);
  context.fillStyle = colours.backgroundColor;
  context.fillRect(0, 0, width, canvas.height);
  Object.assign(context, { fillStyle: ink, strokeStyle: ink, font: `600 ${FONT}`, textBaseline: 'middle' });
  context.fillText(title, PADDING, LINE / 2 + 4);
  lines.forEach((line, row) => {
    const y = (row + 1.5) * LINE;
    context.globalAlpha = 0.2;
    context.fillRect(0, y - LINE / 2, width, 1);
    context.globalAlpha = 1;
    context.font = row ? FONT : `600 ${FONT}`;
    line.forEach((shown, column) => {
      const x = widths.slice(0, column).reduce((sum, each) => sum + each, PADDING);
      context.fillText(shown, x, y, MOST_WIDTH - 2 * PADDING);
    });
  });
  return new Promise((done, fail) => canvas.toBlob((blob) => (blob ? done(blob) : fail(new Error(text().noPicture))), 'image/png'));
}
