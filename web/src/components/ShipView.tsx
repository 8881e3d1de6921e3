import { useState } from 'preact/hooks';

import { proven } from '../arm';
import type { Row } from '../comparison';
import { bytes } from '../figures';
import { placed } from '../placement';
import type { Artifact } from '../server';
import type { Snippet } from '../snippet';
import { dockerLine, snippetsFor } from '../snippets';
import { statusWord, type Status } from '../status';
import { currentLanguage, text } from '../text';
import { Prose } from './Prose';
import type { ViewProps } from './view';

const SHOWN_MS = 1500;
/** The page warns before an artifact of such a status is shipped. */
const RESERVED: readonly Status[] = ['unverified', 'verified on ordinary inputs'];

/** For one row: what to download, what to run, and what to paste. */
export function ShipView({ comparison, row: wanted }: ViewProps) {
  const words = text().shipping;
  const rows = [...comparison.rows.filter(({ artifact }) => !artifact.problem && !artifact.own), ...comparison.notRun];
  if (!comparison.rows.length || (!rows.length && !wanted)) {
    return document.documentElement.dataset.ready ? <p class="empty">{words.nothing}</p> : null;
  }
  const ofChosen = rows.filter(({ artifact }) => comparison.chosen.has(artifact.model));
  const offered = ofChosen.length ? ofChosen : rows;
  const byDefault = offered.find(({ artifact }) => artifact.status === 'verified') ?? offered[0];
  const row = wanted ? rows.find(({ id }) => id === wanted) : byDefault;
  const broken = comparison.rows.find(({ id }) => id === wanted)?.artifact.problem;
  return (
    <div class="shipping" data-ship={row?.id ?? ''}>
      <section class="card">
        <div class="actions">
          <label for="shipped"><b>{words.which}</b></label>
          <select id="shipped" value={row?.id ?? ''} onChange={({ currentTarget }) => { location.hash = `ship/${currentTarget.value}`; }}>
            {!row && <option value="" disabled>{words.choose}</option>}
            {rows.map(({ id }) => <option key={id}>{id}</option>)}
          </select>
        </div>
        {!row && <p class="notice" role="alert"><Prose words={broken ? words.broken(wanted, broken) : words.unknown(wanted)} /></p>}
        {row && RESERVED.includes(row.artifact.status) && (
          <p class="notice" role="alert"><Prose words={words.reserved(statusWord(row.artifact.status), row.artifact.statusReason)} /></p>
        )}
        {row && <h2>{words.files}</h2>}
        {row && <FileTable artifact={row.artifact} />}
        {row?.artifact.placements?.map((placement) => <p key={placement.part} class="hint" data-placement={placement.part}>{placed(placement)}.</p>)}
        {row?.artifact.arm && <p class="hint" data-arm={row.artifact.name}>{proven(row.artifact.arm)}.</p>}
      </section>
      {row && <Calls row={row} />}
    </div>
  );
}

/** The container that serves a row's artifact, and code that calls it. */
function Calls({ row }: { row: Row }) {
  const words = text().shipping;
  const { snippets, leftOut } = snippetsFor(row, location.origin);
  const container = dockerLine(row.artifact);
  return (
    <>
      <section class="card">
        <h2>{words.container}</h2>
        {container && <Code snippet={{ title: words.container, language: 'sh', code: container }} />}
        <p class="hint"><span><Prose words={container ? words.containerNote : row.artifact.needs ? text().notRun(row.artifact.runtime, row.artifact.needs) : words.noContainer} /></span></p>
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
          <ul class="hint left-out" data-testid="left-out">{leftOut.map((why) => <li key={why}><Prose words={words.leftOut(why)} /></li>)}</ul>
        )}
      </section>
    </>
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
              <td title={bytes(about.bytes)}>{about.bytes.toLocaleString(currentLanguage())}</td>
              <td><code>{about.sha256}</code></td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function Code({ snippet: { title, language, code } }: { snippet: Snippet }) {
  const [state, setState] = useState<'copy' | 'copied' | 'notCopied'>('copy');
  const show = (result: 'copied' | 'notCopied') => {
    setState(result);
    setTimeout(() => setState('copy'), SHOWN_MS);
  };
  const copy = () => navigator.clipboard.writeText(code).then(() => show('copied'), () => show('notCopied'));
  const label = text().shipping[state];
  return (
    <div class="code">
      <pre tabIndex={0} aria-label={title} data-snippet={title} data-language={language}><code>{code}</code></pre>
      {navigator.clipboard && <button type="button" onClick={copy} aria-label={`${label}: ${title}`}>{label}</button>}
    </div>
  );
}
