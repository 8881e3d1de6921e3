import { useState } from 'preact/hooks';

import type { Comparison, Row } from '../comparison';
import { tableOf, toCsv, toMarkdown, toPng } from '../tables';
import { text } from '../text';
import { save, saveText } from './save';

interface Props {
  comparison: Comparison;
  /** As they are shown. */
  rows: Row[];
  link: string;
  /** Whether the link has the picture, too. */
  hasPicture: boolean;
  filter: string;
  onFilter(filter: string): void;
}

/** Find rows, and take them along: as a link, as text, as a file, on paper. */
export function ShareTools({ comparison, rows, link, hasPicture, filter, onFilter }: Props) {
  const words = text().share;
  const [message, setMessage] = useState('');
  const [unsaved, setUnsaved] = useState('');
  const copy = (content: string, done: string) => {
    setUnsaved('');
    const written = navigator.clipboard?.writeText(content) ?? Promise.reject(new Error());
    written.then(() => setMessage(done), () => {
      setMessage(text().shipping.notCopied);
      setUnsaved(content);
    });
  };
  const title = rows.length ? [...new Set(rows.map(({ artifact }) => artifact.model))].join(', ') : '';
  const picture = () => void toPng(title, tableOf(rows, comparison)).then((png) => save(png, 'rows.png'));
  return (
    <div class="tools">
      <input type="search" aria-label={words.filter} placeholder={words.filter} value={filter} onInput={({ currentTarget }) => onFilter(currentTarget.value)} />
      <button type="button" onClick={() => copy(link, hasPicture ? words.copied : words.copiedWithoutPicture)}>{words.link}</button>
      <button type="button" onClick={() => copy(toMarkdown(tableOf(rows, comparison)), words.copied)}>Markdown</button>
      <button type="button" onClick={() => saveText(toCsv(tableOf(rows, comparison)), 'rows.csv', 'text/csv')}>CSV</button>
      <button type="button" onClick={picture}>PNG</button>
      <button type="button" onClick={() => print()}>{words.print}</button>
      <span role="status" data-testid="shared">{message}</span>
      {unsaved && <textarea readOnly rows={3} aria-label={words.text} value={unsaved} ref={(field) => field?.select()} />}
    </div>
  );
}
