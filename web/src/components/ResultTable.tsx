import { useMemo, useState } from 'preact/hooks';

import { COLUMNS, linkTo, type Column, type Shared, type Sorting } from '../address';
import { probabilitiesOf, type Answer, type Comparison, type Download, type Row } from '../comparison';
import { agreeingDigits, argmax, bytes, difference, milliseconds, percent } from '../figures';
import { labelOf, type FailedEdge } from '../server';
import { limitOf, statusHelp, statusWord } from '../status';
import { distance, firstValues, largestDistance, show } from '../tensors';
import { currentLanguage, text } from '../text';
import { downloadOf, sizeOf } from '../verdict';
import { Prose } from './Prose';
import { ShareTools } from './ShareTools';

const BARS = 3;
/** The pace of a download is known after so long. */
const SURE_SECONDS = 1;
const VALUES = 8;
const PARTS = ['queue', 'network'] as const;
/** Names of graphics adapters that are not hardware. */
const SOFTWARE = /swiftshader|llvmpipe|software|basic render/i;

interface Props {
  comparison: Comparison;
  truth: string | null;
}

interface AllProps extends Props {
  /** What the page's address asked for. */
  shared: Shared;
  /** The test image that is shown, if it is one. */
  picture: number | null;
}

export function ResultTable({ comparison, truth, shared, picture }: AllProps) {
  const [sorting, setSorting] = useState<Sorting>(shared.sorting);
  const [filter, setFilter] = useState(shared.filter);
  const models = comparison.models.filter((model) => comparison.chosen.has(model));
  /** Ascending, descending, then unsorted. */
  const sortBy = (column: Column) =>
    setSorting(sorting?.column !== column ? { column, down: false } : sorting.down ? null : { column, down: true });
  if (comparison.models.length && !models.length) return <p class="empty">{text().models.chooseOne}</p>;
  const wanted = filter.trim().toLowerCase();
  const rows = comparison.shownRows.filter(({ id }) => id.toLowerCase().includes(wanted));
  const link = new URL(`#${linkTo({ picture, models, inBrowser: comparison.inBrowser, sorting, filter })}`, location.href).href;
  return (
    <>
      <label class="switch">
        <input type="checkbox" checked={comparison.inBrowser}
          onChange={(event) => void comparison.setInBrowser(event.currentTarget.checked)} />
        <span>{text().inBrowserToo} <small>{text().downloadedOnce}</small></span>
      </label>
      <ShareTools comparison={comparison} rows={models.flatMap((model) => sorted(rows.filter(({ artifact }) => artifact.model === model), comparison, sorting))}
        link={link} hasPicture={picture !== null} filter={filter} onFilter={setFilter} />
      {models.map((model) => (
        <ModelTable key={model} model={model} comparison={comparison} rows={rows} truth={truth} sorting={sorting} onSort={sortBy} />
      ))}
    </>
  );
}

interface TableProps extends Props {
  model: string;
  /** Of all models. */
  rows: Row[];
  sorting: Sorting;
  onSort(column: Column): void;
}

function ModelTable({ model, comparison, rows: all, truth, sorting, onSort }: TableProps) {
  const rows = sorted(all.filter(({ artifact }) => artifact.model === model), comparison, sorting);
  const done = rows.filter(({ state }) => state === 'done').length;
  const slowest = Math.max(...rows.map(({ time }) => time?.runtime ?? 0));
  return (
    <article class="model">
      <header>
        <h2>{model}</h2>
        <p>{text().answered(done, rows.length)}</p>
      </header>
      <table>
        <thead>
          <tr>
            {COLUMNS.map((column) => (
              <ColumnHead key={column} column={column} sorting={sorting} onSort={onSort} />
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map((row) => (
            <RowView key={row.id} row={row} source={comparison.sourceOf(row)} truth={truth} slowest={slowest} />
          ))}
          {comparison.notRun.filter(({ artifact }) => artifact.model === model).map((row) => <NotRunRow key={row.id} row={row} />)}
          {comparison.failedEdges.filter((edge) => edge.model === model).map((edge) => <FailedRow key={edge.name} edge={edge} />)}
        </tbody>
      </table>
    </article>
  );
}

function ColumnHead({ column, sorting, onSort }: Pick<TableProps, 'sorting' | 'onSort'> & { column: Column }) {
  const down = sorting?.column === column ? sorting.down : null;
  const name = text().columns[column];
  return (
    <th scope="col" aria-sort={down === null ? 'none' : down ? 'descending' : 'ascending'}>
      <button type="button" class="sort" title={text().sortBy(name)} data-sort={column} onClick={() => onSort(column)}>
        {name}<span aria-hidden="true">{down === null ? '' : down ? ' ▼' : ' ▲'}</span>
      </button>
    </th>
  );
}

/** Rows without a figure come last in both directions. */
function sorted(rows: Row[], comparison: Comparison, sorting: Sorting): Row[] {
  if (!sorting) return rows;
  const figure = (row: Row): string | number | null => {
    const { artifact, runtime, answer } = row;
    if (sorting.column === 'format') return artifact.format;
    if (sorting.column === 'where') return runtime.where + (runtime.title || artifact.runtime);
    if (sorting.column === 'size') return downloadOf(row) || null;
    if (sorting.column === 'time') return row.time?.runtime ?? null;
    if (!answer) return null;
    if (sorting.column === 'answer') return artifact.classifies ? -Math.max(...probabilitiesOf(answer)) : null;
    const source = comparison.sourceOf(row)?.answer;
    return source ? largestDistance(answer.outputs, source.outputs) : null;
  };
  const sign = sorting.down ? -1 : 1;
  const keyed = rows.map((row) => ({ row, key: figure(row) }));
  keyed.sort((a, b) => {
    if (a.key === null || b.key === null) return Number(a.key === null) - Number(b.key === null);
    return sign * (a.key < b.key ? -1 : Number(a.key > b.key));
  });
  return keyed.map(({ row }) => row);
}

interface RowProps {
  row: Row;
  source: Row | undefined;
  truth: string | null;
  slowest: number;
}

/** A row is made anew when it has changed: another one reports a hundred times meanwhile. */
function RowView({ row, source, truth, slowest }: RowProps) {
  const { state, answer, error, time, download, loaded } = row;
  return useMemo(() => <RowCells row={row} source={source} truth={truth} slowest={slowest} />,
    [row, state, answer, error, time, download, loaded, source?.answer, truth, slowest, currentLanguage()]);
}

function RowCells({ row, source, truth, slowest }: RowProps) {
  const { artifact, runtime, answer, loaded } = row;
  const backend = loaded?.backend ?? runtime.backend;
  return (
    <tr data-row={row.id} data-state={row.state} data-where={runtime.where} data-timed={row.time ? '' : undefined} data-broken={artifact.problem ? '' : undefined}
      data-probabilities={answer && artifact.classifies ? JSON.stringify(probabilitiesOf(answer)) : undefined}>
      <th scope="row" class="format">
        <code>{artifact.format}</code>
        {artifact.own && <small class="own">{artifact.own.title}</small>}
        <StatusBadge row={row} />
        {artifact.storedOnly && <span class="badge failed" data-cell="stored" title={text().markHelp['stored only']}>{text().marks['stored only']}</span>}
      </th>
      <td class="where">
        <span class={`place ${runtime.where}`}>{text()[runtime.where]}</span>
        <span class="runtime">{runtime.title || artifact.runtime} {backend && <small title={backend}>{backend}</small>}</span>
        {SOFTWARE.test(backend) && <small class="software">{text().software}</small>}
      </td>
      <td class="answer" colSpan={row.state === 'failed' ? 2 : 1}><AnswerView row={row} truth={truth} /></td>
      {row.state !== 'failed' && <td class="time"><TimeView row={row} slowest={slowest} /></td>}
      <td class="size">
        <span data-cell="bytes" title={downloadOf(row).toLocaleString()}>{sizeOf(row) ? bytes(sizeOf(row)) : ''}</span>
        {loaded && loaded.runtimeBytes > 0 && <small data-cell="runtime-bytes">{text().andRuntime(bytes(loaded.runtimeBytes))}</small>}
        {!artifact.own && !artifact.problem && <a class="ship" href={`#ship/${row.id}`} aria-label={`${text().ship}: ${row.id}`}>{text().ship}</a>}
      </td>
      <td class="diff" data-column={row.answer && row !== source ? text().columns.diff : undefined}><DifferenceView row={row} source={source} /></td>
    </tr>
  );
}

/** A format that is converted here, and runs elsewhere. */
function NotRunRow({ row }: { row: Row }) {
  const { id, artifact } = row;
  return (
    <tr data-not-run={artifact.name}>
      <th scope="row" class="format">
        <code>{artifact.format}</code>
        <StatusBadge row={row} />
      </th>
      <td colSpan={3}><p class="waiting">{text().notRun(artifact.runtime, artifact.needs!)}</p></td>
      <td class="size">
        <span data-cell="bytes">{bytes(sizeOf(row))}</span>
        <a class="ship" href={`#ship/${id}`} aria-label={`${text().ship}: ${id}`}>{text().ship}</a>
      </td>
      <td />
    </tr>
  );
}

/** A format that is missing because its conversion failed. */
function FailedRow({ edge: { name, format, parent, reason, cause, try: advice, routes, log } }: { edge: FailedEdge }) {
  const words = text().failedEdge;
  return (
    <tr data-failed-edge={name} class="failed-edge">
      <th scope="row" class="format">
        <code>{format}</code>
        <span class="badge failed">{words.badge}</span>
      </th>
      <td colSpan={5}><div>
        <p class="error">{words.from(parent)} {reason}</p>
        {cause && <p><b>{words.cause}</b> {cause}</p>}
        {advice && <p><b>{words.advice}</b> {advice}</p>}
        {routes.length > 0 && (
          <details>
            <summary>{words.routes(routes.length)}</summary>
            <dl>{routes.map(({ route, error }) => <div key={route}><dt><code>{route}</code></dt><dd>{error}</dd></div>)}</dl>
          </details>
        )}
        {log && <a href={log} target="_blank" rel="noopener">{words.log}</a>}
      </div></td>
    </tr>
  );
}

function StatusBadge({ row: { artifact } }: { row: Row }) {
  const { status, statusReason } = artifact;
  return (
    <span class={`badge ${limitOf(status) ? 'verified' : status}`} data-cell="status" title={statusReason || statusHelp(status)}>
      {statusWord(status)}
    </span>
  );
}

function AnswerView({ row, truth }: { row: Row; truth: string | null }) {
  const { state, answer, error, artifact } = row;
  if (state === 'failed') return <p class="error" data-cell="error"><Prose words={error} /></p>;
  if (!answer) return <p class="waiting">{text().states[state]}{state === 'loading' && row.download && progressOf(row.download)}</p>;
  if (!artifact.classifies) return <OutputsView answer={answer} />;
  const top = probabilitiesOf(answer).map((value, i) => ({ value, label: labelOf(artifact, i) }))
    .sort((a, b) => b.value - a.value).slice(0, BARS);
  const isKnown = truth !== null && artifact.labels.includes(truth);
  const right = !isKnown ? '' : top[0]!.label === truth ? 'right' : 'wrong';
  return (
    <>
      <strong class={right} data-cell="label">{top[0]!.label}</strong>
      <ol class="bars">
        {top.map(({ value, label }) => (
          <li key={label}>
            <span>{label}</span>
            <span class="bar" title={String(value)}><i style={{ width: percent(value).replace(' ', '') }} /></span>
            <span>{percent(value)}</span>
          </li>
        ))}
      </ol>
    </>
  );
}

/** How much has come, and how long the rest will take at this pace, where that can be known. */
function progressOf({ bytes: come, total, since }: Download): string {
  const seconds = (performance.now() - since) / 1000;
  const left = (seconds * (total - come)) / come;
  const size = total > come ? text().bytesOf(bytes(come), bytes(total)) : bytes(come);
  if (!come) return '';
  return `, ${size}${total > come && seconds > SURE_SECONDS ? `, ${text().secondsLeft(Math.ceil(left))}` : ''}`;
}

function OutputsView({ answer: { outputs } }: { answer: Answer }) {
  return (
    <dl class="outputs">
      {outputs.map((tensor) => (
        <div key={tensor.name} data-output={tensor.name}>
          <dt><code>{tensor.name}</code> <small>{tensor.datatype} {show(tensor.shape)}</small></dt>
          <dd>{firstValues(tensor, VALUES)}</dd>
        </div>
      ))}
    </dl>
  );
}

function TimeView({ row: { answer, time }, slowest }: { row: Row; slowest: number }) {
  if (!answer) return null;
  if (!time) return <span class="waiting">{text().notTimed}</span>;
  return (
    <>
      <strong data-cell="time" data-ms={time.runtime}>{milliseconds(time.runtime)}</strong>
      <div class="split" aria-hidden="true"><i class="compute" style={{ width: `${(100 * time.runtime) / slowest}%` }} /></div>
      <dl>
        <div><dt>{text().medianOf(time.calls)}</dt></div>
        {PARTS.map((part) => time[part] !== undefined && (
          <div key={part}><dt>{text().parts[part]}</dt><dd>{milliseconds(time[part])}</dd></div>
        ))}
      </dl>
    </>
  );
}

function DifferenceView({ row, source }: { row: Row; source: Row | undefined }) {
  if (!row.answer) return null;
  if (!row.artifact.classifies) return <OutputDifferences row={row} source={source} />;
  const ours = probabilitiesOf(row.answer);
  const best = argmax(ours);
  if (row === source) {
    return <><span class="reference" data-cell="diff">{text().isSource}</span><Digits same={agreeingDigits(ours[best]!, ours[best]!)[0]} /></>;
  }
  if (!source?.answer) return <span class="unknown" data-cell="diff">{text().noSourceAnswer}</span>;
  const theirs = probabilitiesOf(source.answer);
  const agrees = best === argmax(theirs);
  const [same, other] = agreeingDigits(ours[best]!, theirs[best]!);
  return (
    <>
      <span data-cell="diff">{difference(largestDistance(row.answer.outputs, source.answer.outputs))}</span>
      <small class={agrees ? 'agrees' : 'differs'} data-cell="agrees">{agrees ? text().sameClass : text().otherClass}</small>
      <Digits same={same} other={other} />
    </>
  );
}

/** The largest difference, and each output's if there are several. */
function OutputDifferences({ row: { answer, id }, source }: { row: Row; source: Row | undefined }) {
  if (id === source?.id) return <span class="reference" data-cell="diff">{text().isSource}</span>;
  if (!source?.answer) return <span class="unknown" data-cell="diff">{text().noSourceAnswer}</span>;
  const theirs = source.answer.outputs;
  const { outputs } = answer!;
  return (
    <>
      <span data-cell="diff">{differenceOrWord(largestDistance(outputs, theirs))}</span>
      {outputs.length > 1 && outputs.map((tensor) => (
        <small key={tensor.name}>{tensor.name} {differenceOrWord(distance(tensor, theirs.find(({ name }) => name === tensor.name)))}</small>
      ))}
    </>
  );
}

/** An infinite difference, of texts, shapes or NaN, is a word. */
function differenceOrWord(value: number): string {
  return value === Infinity ? text().differs : difference(value);
}

function Digits({ same, other = '' }: { same: string; other?: string }) {
  return <code class="digits" title={text().digits}>{same}{other && <mark>{other}</mark>}</code>;
}
