import type { Comparison } from '../comparison';
import { bytes, difference, milliseconds } from '../figures';
import { text } from '../text';
import { downloadOf, verdictOf } from '../verdict';

/** One line above the tables: do all rows agree, how far apart are they, which is the fastest, which the smallest. */
export function VerdictLine({ comparison }: { comparison: Comparison }) {
  const words = text().summary;
  const rows = comparison.shownRows;
  const { compared, disagreeing, farthest, fastest, smallest } = verdictOf(rows, (row) => comparison.sourceOf(row));
  const isOver = rows.length > 0 && rows.every(({ state, time }) => state === 'failed' || (state === 'done' && time));
  const failed = rows.filter(({ state }) => state === 'failed').length;
  const answered = rows.filter(({ state }) => state === 'done').length;
  const sentences = [
    compared > 0 && !disagreeing.length && words.agree(compared),
    compared > 0 && disagreeing.length > 0 && words.disagree(disagreeing.length, compared, disagreeing[0]!.id),
    failed > 0 && words.failed(failed),
    farthest && words.farthest(difference(farthest.difference), farthest.row.id),
    fastest && words.fastest(fastest.id, milliseconds(fastest.time!.runtime)),
    smallest && words.smallest(smallest.id, bytes(downloadOf(smallest))),
  ];
  return (
    <section class="summary" aria-label={words.title} data-summary={isOver ? 'done' : 'running'}>
      {comparison.imageError
        ? <p class="notice" role="alert" data-cell="picture-error">{comparison.imageError}</p>
        : <p role="status">{isOver && sentences.filter(Boolean).join(' ')}</p>}
      {rows.length > 0 && !isOver && !comparison.imageError && <p>{text().answered(answered, rows.length)}</p>}
    </section>
  );
}
