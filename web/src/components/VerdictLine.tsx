import type { Comparison } from '../comparison';
import { bytes, difference, milliseconds } from '../figures';
import { text } from '../text';
import { answersIn, downloadOf, verdictOf, type Answered } from '../verdict';
import { Prose } from './Prose';

/** No line ends within 3.23e-3. */
const WORD_JOINER = '\u2060';

/** What is seen first, above the tables: the answer, do all rows agree, how far apart are they, the fastest, the smallest. */
export function VerdictLine({ comparison }: { comparison: Comparison }) {
  const words = text().summary;
  const rows = comparison.shownRows;
  const { compared, disagreeing, farthest, fastest, smallest } = verdictOf(rows, (row) => comparison.sourceOf(row));
  const isOver = rows.length > 0 && rows.every(({ state, time }) => state === 'failed' || (state === 'done' && time));
  const failed = rows.filter(({ state }) => state === 'failed').length;
  const answered = rows.filter(({ state }) => state === 'done').length;
  const answers = comparison.imageError ? [] : answersIn(rows, (row) => comparison.sourceOf(row));
  const sentences = [
    compared > 0 && !disagreeing.length && words.agree(compared),
    failed > 0 && words.failed(failed),
    farthest && words.farthest(difference(farthest.difference).replace('-', `-${WORD_JOINER}`), farthest.row.id),
    fastest && words.fastest(fastest.id, milliseconds(fastest.time!.runtime)),
    smallest && words.smallest(smallest.id, bytes(downloadOf(smallest))),
  ];
  return (
    <section class="summary" aria-label={words.title} data-summary={isOver ? 'done' : 'running'}>
      {comparison.imageError
        ? <p class="notice" role="alert" data-cell="picture-error"><Prose words={comparison.imageError} /></p>
        : <p>{answers.length > 0 && <Answers answers={answers} />}
            {rows.length > 0 && !isOver && text().answered(answered, rows.length)}
            <span role="status">
              {isOver && disagreeing.length > 0 && <><b class="differs">{words.disagree(disagreeing.length, compared, disagreeing[0]!.id)}</b>{' '}</>}
              {isOver && sentences.filter(Boolean).join(' ')}
            </span>
          </p>}
    </section>
  );
}

/** Each model's class; models that give the same are not named. */
function Answers({ answers }: { answers: Answered[] }) {
  const [first, ...others] = answers;
  const shown = others.every(({ label }) => label === first!.label) ? [{ model: '', label: first!.label }] : answers;
  return (
    <strong data-cell="summed">{shown.map(({ model, label }) => <span key={model}>{model && <><code>{model}</code> </>}{label}</span>)}</strong>
  );
}
