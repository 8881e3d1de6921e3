import { useState } from 'preact/hooks';

import { bytes } from '../figures';
import type { Artifact } from '../server';
import type { Snippet } from '../snippet';
import { dockerLine, snippetsFor } from '../snippets';
import { text } from '../text';
import type { ViewProps } from './view';

const COPIED_MS = 1500;

/** For one row: what to download, what to run, and what to paste. */
export function ShipView({ comparison, row: wanted }: ViewProps) {
  const words = text().shipping;
  const rows = comparison.rows.filter(({ artifact }) => !artifact.problem);
  const row = rows.find(({ id }) => id === wanted) ?? rows.find(({ artifact }) => artifact.status === 'verified') ?? rows[0];
  if (!row) return document.documentElement.dataset.ready ? <p class="empty">{words.nothing}</p> : null;
  const { artifact } = row;
  const { snippets, leftOut } = snippetsFor(row, location.origin);
  return (
    <div class="shipping" data-ship={row.id}>
      <section class="card">
        <div class="actions">
          <label for="shipped"><b>{words.which}</b></label>
          <select id="shipped" value={row.id} onChange={({ currentTarget }) => { location.hash = `ship/${currentTarget.value}`; }}>
            {rows.map(({ id }) => <option key={id}>{id}</option>)}
          </select>
        </div>
        {artifact.status === 'unverified' && <p class="notice" role="alert">{words.notVerified(artifact.statusReason)}</p>}
        <h2>{words.files}</h2>
        <FileTable artifact={artifact} />
      </section>
      <section class="card">
        <h2>{words.container}</h2>
        <Code snippet={{ title: words.container, language: 'sh', code: dockerLine(artifact) }} />
        <p class="hint">{words.containerNote}</p>
      </section>
      <section class="card">
        <h2>{words.snippets}</h2>
        {snippets.map((snippet) => (
          <section key={snippet.title} class="snippet">
            <h3>{snippet.title}</h3>
            <Code snippet={snippet} />
          </section>
        ))}
        {leftOut.length > 0 && (
          <ul class="hint left-out" data-testid="left-out">{leftOut.map((why) => <li key={why}>{words.leftOut(why)}</li>)}</ul>
        )}
      </section>
    </div>
  );
}

function FileTable({ artifact: { model, format, files } }: { artifact: Artifact }) {
  const words = text().shipping;
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label={words.files}>
      <table class="figures">
        <thead><tr><th scope="col">{words.file}</th><th scope="col">{words.bytes}</th><th scope="col">sha256</th></tr></thead>
        <tbody>
          {Object.entries(files).map(([file, about]) => (
            <tr key={file} data-file={file}>
              <th scope="row"><a href={`/artifacts/${model}/${format}/${file}`} download={file.split('/').at(-1)}>{file}</a></th>
              <td title={bytes(about.bytes)}>{about.bytes.toLocaleString()}</td>
              <td><code>{about.sha256}</code></td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function Code({ snippet: { title, language, code } }: { snippet: Snippet }) {
  const [copied, setCopied] = useState(false);
  const copy = async () => {
    await navigator.clipboard.writeText(code).catch(() => {}); // refused: it can still be marked and copied
    setCopied(true);
    setTimeout(() => setCopied(false), COPIED_MS);
  };
  return (
    <div class="code">
      <pre tabIndex={0} aria-label={title} data-snippet={title} data-language={language}><code>{code}</code></pre>
      {navigator.clipboard && (
        <button type="button" onClick={copy} aria-label={`${text().shipping.copy}: ${title}`}>
          {copied ? text().shipping.copied : text().shipping.copy}
        </button>
      )}
    </div>
  );
}
