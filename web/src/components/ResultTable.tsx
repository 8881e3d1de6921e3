import { useState } from 'preact/hooks';

import { probabilitiesOf, type Answer, type Comparison, type Row } from '../comparison';
import { agreeingDigits, argmax, bytes, difference, milliseconds, percent } from '../figures';
import { labelOf, type FailedEdge } from '../server';
import { distance, firstValues, largestDistance, show } from '../tensors';
import { text } from '../text';

const BARS = 3;
const VALUES = 8;
const PARTS = ['preprocess', 'queue', 'compute', 'network', 'whole'] as const;

type Column = 'format' | 'where' | 'answer' | 'time' | 'size' | 'diff';
/** Null keeps the server's order, with the source first. */
type Sorting = { column: Column; down: boolean } | null;

interface Props {
  comparison: Comparison;
  truth: string | null;
}

export function ResultTable({ comparison, truth }: Props) {
  const [sorting, setSorting] = useState<Sorting>(null);
  const models = comparison.models.filter((model) => comparison.chosen.has(model));
  /** Ascending, descending, then unsorted. */
  const sortBy = (column: Column) =>
    setSorting(sorting?.column !== column ? { column, down: false } : sorting.down ? null : { column, down: true });
  if (comparison.models.length && !models.length) return <p class="empty">{text().models.chooseOne}</p>;
  return (
    <>
      <label class="switch">
        <input type="checkbox" checked={comparison.inBrowser}
          onChange={(event) => void comparison.setInBrowser(event.currentTarget.checked)} />
        <span>{text().inBrowserToo} <small>{text().downloadedOnce}</small></span>
      </label>
      {models.map((model) => (
        <ModelTable key={model} model={model} comparison={comparison} truth={truth} sorting={sorting} onSort={sortBy} />
      ))}
    </>
  );
}

interface TableProps extends Props {
  model: string;
  sorting: Sorting;
  onSort(column: Column): void;
}

function ModelTable({ model, comparison, truth, sorting, onSort }: TableProps) {
  const rows = sorted(comparison.shownRows.filter(({ artifact }) => artifact.model === model), comparison, sorting);
  const done = rows.filter(({ state }) => state === 'done').length;
  const slowest = Math.max(...rows.map(({ answer }) => (answer ? total(answer) : 0)));
  return (
    <article class="model">
      <header>
        <h2>{model}</h2>
        <p>{text().answered(done, rows.length)}</p>
      </header>
      <table>
        <thead>
          <tr>
            {(Object.keys(text().columns) as Column[]).map((column) => (
              <ColumnHead key={column} column={column} sorting={sorting} onSort={onSort} />
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map((row) => (
            <RowView key={row.id} row={row} source={comparison.sourceOf(row)} truth={truth} slowest={slowest} />
          ))}
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
    if (sorting.column === 'size') return sizeOf(row) || null;
    if (!answer) return null;
    if (sorting.column === 'time') return total(answer);
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

function total({ ms }: Answer): number {
  return PARTS.reduce((sum, part) => sum + (ms[part] ?? 0), 0);
}

export function sizeOf({ artifact }: Row): number {
  return Object.values(artifact.files).reduce((sum, file) => sum + file.bytes, 0);
}

interface RowProps {
  row: Row;
  source: Row | undefined;
  truth: string | null;
  slowest: number;
}

function RowView({ row, source, truth, slowest }: RowProps) {
  const { artifact, runtime, answer } = row;
  return (
    <tr data-row={row.id} data-state={row.state} data-where={runtime.where}
      data-probabilities={answer && artifact.classifies ? JSON.stringify(probabilitiesOf(answer)) : undefined}>
      <th scope="row" class="format">
        <code>{artifact.format}</code>
        <StatusBadge row={row} />
      </th>
      <td class="where">
        <span class={`place ${runtime.where}`}>{text()[runtime.where]}</span>
        <span class="runtime">{runtime.title || artifact.runtime} {runtime.backend && <small>{runtime.backend}</small>}</span>
      </td>
      <td class="answer"><AnswerView row={row} truth={truth} /></td>
      <td class="time"><TimeView row={row} slowest={slowest} /></td>
      <td class="size">
        <span data-cell="bytes" title={sizeOf(row).toLocaleString()}>{sizeOf(row) ? bytes(sizeOf(row)) : ''}</span>
        <a class="ship" href={`#ship/${row.id}`} aria-label={`${text().ship}: ${row.id}`}>{text().ship}</a>
      </td>
      <td class="diff"><DifferenceView row={row} source={source} /></td>
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
    <span class={`badge ${status}`} data-cell="status" title={statusReason || text().statusHelp[status]}>
      {text().status[status]}
    </span>
  );
}

function AnswerView({ row, truth }: { row: Row; truth: string | null }) {
  const { state, answer, error, artifact } = row;
  if (state === 'failed') return <p class="error" data-cell="error">{error}</p>;
  if (!answer) return <p class="waiting">{text().states[state]}</p>;
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

function TimeView({ row: { answer, readyMs }, slowest }: { row: Row; slowest: number }) {
  if (!answer) return null;
  const known = PARTS.flatMap((part) => (answer.ms[part] === undefined ? [] : [[part, answer.ms[part]] as const]));
  return (
    <>
      <strong data-cell="time">{milliseconds(total(answer))}</strong>
      <div class="split" aria-hidden="true">
        {known.map(([part, ms]) => <i key={part} class={part} style={{ width: `${(100 * ms) / slowest}%` }} />)}
      </div>
      <dl>
        {known.map(([part, ms]) => (
          <div key={part} class={part}><dt>{text().parts[part]}</dt><dd>{milliseconds(ms)}</dd></div>
        ))}
        {readyMs !== null && <div class="first"><dt>{text().firstLoad}</dt><dd>{milliseconds(readyMs)}</dd></div>}
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
