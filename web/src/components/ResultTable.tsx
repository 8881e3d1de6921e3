import type { Comparison, Row } from '../comparison';
import { argmax, bytes, difference, maxAbsDiff, milliseconds, percent } from '../figures';
import type { Status } from '../server';

const BARS = 3;
const STATUS_HELP: Record<Status, string> = {
  source: 'What training wrote. The others are compared with it.',
  verified: 'Passed the parity check with exactly these bytes.',
  unverified: 'No passing parity check for exactly these bytes.',
  failed: 'Cannot be served.',
};

interface Props {
  comparison: Comparison;
  truth: string | null;
}

export function ResultTable({ comparison, truth }: Props) {
  const models = [...new Set(comparison.rows.map(({ artifact }) => artifact.model))];
  return (
    <>
      <label class="switch">
        <input type="checkbox" checked={comparison.inBrowser}
          onChange={(event) => void comparison.setInBrowser(event.currentTarget.checked)} />
        <span>Run in this browser too <small>(each runtime is downloaded once)</small></span>
      </label>
      {models.map((model) => (
        <ModelTable key={model} model={model} comparison={comparison} truth={truth} />
      ))}
    </>
  );
}

function ModelTable({ model, comparison, truth }: Props & { model: string }) {
  const isShown = ({ artifact, runtime }: Row) =>
    artifact.model === model && (comparison.inBrowser || runtime.where === 'server');
  const rows = comparison.rows.filter(isShown);
  const done = rows.filter(({ state }) => state === 'done').length;
  return (
    <article class="model">
      <header>
        <h2>{model}</h2>
        <p>{done} of {rows.length} rows have answered</p>
      </header>
      <table>
        <thead>
          <tr>
            <th scope="col">Format</th><th scope="col">Runs on</th><th scope="col">Answer</th>
            <th scope="col">Time</th><th scope="col">Size</th><th scope="col">Difference</th>
          </tr>
        </thead>
        <tbody>
          {rows.map((row) => <RowView key={row.id} row={row} source={comparison.sourceOf(row)} truth={truth} />)}
        </tbody>
      </table>
    </article>
  );
}

function RowView({ row, source, truth }: { row: Row; source: Row | undefined; truth: string | null }) {
  const { artifact, runtime, answer } = row;
  const size = Object.values(artifact.files).reduce((sum, file) => sum + file.bytes, 0);
  return (
    <tr data-row={row.id} data-state={row.state} data-where={runtime.where}
      data-probabilities={answer ? JSON.stringify(answer.probabilities) : undefined}>
      <th scope="row" class="format">
        <code>{artifact.format}</code>
        <StatusBadge row={row} />
      </th>
      <td class="where">
        <span class={`place ${runtime.where}`}>{runtime.where}</span>
        <span class="runtime">{runtime.title || artifact.runtime} {runtime.backend && <small>{runtime.backend}</small>}</span>
      </td>
      <td class="answer"><AnswerView row={row} truth={truth} /></td>
      <td class="time"><TimeView row={row} /></td>
      <td class="size" data-cell="bytes">{size ? bytes(size) : ''}</td>
      <td class="diff"><DifferenceView row={row} source={source} /></td>
    </tr>
  );
}

function StatusBadge({ row: { artifact } }: { row: Row }) {
  const { status, statusReason } = artifact;
  return <span class={`badge ${status}`} data-cell="status" title={statusReason || STATUS_HELP[status]}>{status}</span>;
}

function AnswerView({ row, truth }: { row: Row; truth: string | null }) {
  const { state, answer, error, artifact: { labels } } = row;
  if (state === 'failed') return <p class="error" data-cell="error">{error}</p>;
  if (!answer) return <p class="waiting">{WAITING[state]}</p>;
  const top = answer.probabilities.map((value, i) => ({ value, label: labels[i] ?? `class ${i}` }))
    .sort((a, b) => b.value - a.value).slice(0, BARS);
  const right = truth === null ? '' : top[0]!.label === truth ? 'right' : 'wrong';
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

const WAITING: Record<string, string> = { idle: 'waiting', loading: 'loading the runtime', running: 'running' };

function TimeView({ row: { answer, readyMs } }: { row: Row }) {
  if (!answer) return null;
  const { preprocess, queue, compute, network } = answer.ms;
  const parts: [string, number | undefined][] = [
    ['preprocess', preprocess], ['queue', queue], ['compute', compute], ['network', network],
  ];
  const known = parts.filter((part): part is [string, number] => part[1] !== undefined);
  return (
    <>
      <strong data-cell="time">{milliseconds(known.reduce((sum, [, ms]) => sum + ms, 0))}</strong>
      <dl>
        {known.map(([name, ms]) => (
          <div key={name} class={name}><dt>{name}</dt><dd>{milliseconds(ms)}</dd></div>
        ))}
        {readyMs !== null && <div class="first"><dt>first load</dt><dd>{milliseconds(readyMs)}</dd></div>}
      </dl>
    </>
  );
}

function DifferenceView({ row, source }: { row: Row; source: Row | undefined }) {
  if (!row.answer) return null;
  if (row === source) return <span class="reference" data-cell="diff">source</span>;
  if (!source?.answer) return <span class="unknown" data-cell="diff">no source answer</span>;
  const [ours, theirs] = [row.answer.probabilities, source.answer.probabilities];
  const agrees = argmax(ours) === argmax(theirs);
  return (
    <>
      <span data-cell="diff">{difference(maxAbsDiff(ours, theirs))}</span>
      <small class={agrees ? 'agrees' : 'differs'} data-cell="agrees">{agrees ? 'same class' : 'another class'}</small>
    </>
  );
}
