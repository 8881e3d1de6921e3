import { useEffect, useReducer, useState } from 'preact/hooks';

import { DeviceCheck, deviceName, handIn, type RowCheck, type WrongAnswer } from '../deviceCheck';
import { messageOf } from '../errors';
import { difference, milliseconds } from '../figures';
import { labelOf, type Samples } from '../server';
import { text } from '../text';
import { ModelChooser } from './ModelChooser';
import { Prose } from './Prose';
import { RowName } from './RowName';
import { saveText } from './save';
import { Thumbnail } from './Thumbnail';
import type { ViewProps } from './view';

const MOST_PICTURES = 60;

/** The check goes on while another view is open. */
let check: DeviceCheck | null = null;

export function DeviceView({ comparison }: ViewProps) {
  check ??= new DeviceCheck(comparison);
  const [, redraw] = useReducer((count: number) => count + 1, 0);
  useEffect(() => check!.subscribe(() => redraw(undefined)), []);
  const words = text().device;
  const { state, checks, rows, samples } = check;
  return (
    <div class="checking" data-check={state}>
      <ModelChooser comparison={comparison} />
      <section class="card">
        <h2>{words.title}</h2>
        <p>{words.what}</p>
        <div class="actions">
          {state === 'running'
            ? <button key="cancel" type="button" class="primary" onClick={() => check!.cancel()}>{text().race.cancel}</button>
            : <button key="start" type="button" class="primary" disabled={!rows.length} onClick={() => void check!.start()}>{words.start}</button>}
        </div>
        <p role="status" class={`verdict ${checks.some(({ wrong }) => wrong.length) ? 'differs' : ''}`} hidden={state === 'new'} data-testid="device-verdict">{verdict(state, checks)}</p>
      </section>
      {checks.length > 0 && (
        <section class="card" aria-label={words.title}>
          <CheckTable checks={checks} />
          {checks.map((each) => <WrongPictures key={each.row.id} check={each} samples={samples} />)}
        </section>
      )}
      {(state === 'done' || state === 'cancelled') && checks.some(({ questions }) => questions) && <HandIn check={check} />}
    </div>
  );
}

function verdict(state: DeviceCheck['state'], checks: RowCheck[]): string {
  const words = text().device;
  if (state === 'running') return words.progress(checks.filter(({ state }) => state === 'done' || state === 'failed').length, checks.length);
  const wrong = checks.filter(({ wrong }) => wrong.length);
  const failed = checks.filter(({ state }) => state === 'failed');
  const compared = checks.filter(({ questions }) => questions);
  const lost = compared.filter(({ lost }) => lost.length);
  return [
    wrong.length ? words.someWrong(wrong.map(({ row, wrong: { length }, questions }) => words.wrongOn(row.id, length, questions)).join('; '))
      : compared.length > 0 && words.allRight(compared.length - lost.length, compared.length),
    lost.length > 0 && words.someLost(lost.length),
    failed.length > 0 && text().summary.failed(failed.length),
  ].filter(Boolean).join(' ');
}

function CheckTable({ checks }: { checks: RowCheck[] }) {
  const words = text().device;
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label={words.title}>
      <table class="figures">
        <thead><tr>{Object.values(words.columns).map((name) => <th key={name} scope="col">{name}</th>)}</tr></thead>
        <tbody>{checks.map((each) => <CheckRow key={each.row.id} check={each} />)}</tbody>
      </table>
    </div>
  );
}

function CheckRow({ check: { row, state, backend, questions, wrong, lost, difference: most, ms, error } }: { check: RowCheck }) {
  const words = text().device;
  return (
    <tr data-checked={row.id} data-state={state} data-where="browser" data-wrong={wrong.length} data-lost={lost.length}>
      <th scope="row"><RowName id={row.id} /> <small>{words.states[state]}</small></th>
      {state === 'failed' && !questions ? <td colSpan={3} class="error"><Prose words={error} /></td> : (
        <>
          <td class={`outcome ${wrong.length ? 'differs' : 'agrees'}`}>
            {questions > 0 && (wrong.length ? words.wrong(wrong.length, questions) : words.right(questions - lost.length, questions))}
            {lost.length > 0 && <p><small>{words.lost(lost.length)}</small></p>}
            {error && <p class="error"><Prose words={error} /></p>}
          </td>
          <td>{questions > 0 && (most === Infinity ? text().differs : difference(most))}</td>
          <td>{ms !== null && milliseconds(ms)}</td>
        </>
      )}
      <td data-cell="backend">{backend}</td>
    </tr>
  );
}

function WrongPictures({ check: { row, wrong }, samples }: { check: RowCheck; samples: Samples | null }) {
  const words = text().device;
  if (!wrong.length) return null;
  return (
    <section data-wrong-of={row.id}>
      <h3><code>{row.id}</code> <small>{text().report.flipCount(Math.min(MOST_PICTURES, wrong.length), wrong.length)}</small></h3>
      <ul class="gallery">
        {wrong.slice(0, MOST_PICTURES).map((answer) => (
          <li key={answer.number}>
            {answer.sample && samples && <span class="thumbnail"><Thumbnail samples={samples} sample={answer.sample} /></span>}
            <WrongWords answer={answer} row={row} words={words} />
          </li>
        ))}
      </ul>
    </section>
  );
}

function WrongWords({ answer: { number, sample, source, here }, row, words }: { answer: WrongAnswer; row: RowCheck['row']; words: ReturnType<typeof text>['device'] }) {
  const title = sample ? text().testImage(number) : words.input(number);
  if (!row.artifact.classifies) return <span>{title}</span>;
  return <span>{labelOf(row.artifact, source)} → <b>{labelOf(row.artifact, here)}</b><small>{title}</small></span>;
}

/** Download the check, or hand it to the service. */
function HandIn({ check }: { check: DeviceCheck }) {
  const words = text().device;
  const [device, setDevice] = useState(deviceName);
  const [message, setMessage] = useState('');
  const [isRefused, setRefused] = useState(false);
  const say = (words: string, refused: boolean) => {
    setMessage(words);
    setRefused(refused);
  };
  const give = () => void check.toJson(device).then(handIn).then(() => say(words.kept, false), (error: unknown) => say(messageOf(error), true));
  return (
    <section class="card" aria-label={words.handInTitle}>
      <h2>{words.handInTitle}</h2>
      <p><Prose words={words.handInWhat} /></p>
      <div class="actions">
        <label>{words.name} <input type="text" name="device" maxLength={100} value={device} onInput={({ currentTarget }) => setDevice(currentTarget.value)} /></label>
        <button type="button" onClick={() => void check.toJson(device).then((content) => saveText(content, 'device-check.json', 'application/json'))}>{words.download}</button>
        <button type="button" onClick={give}>{words.handIn}</button>
      </div>
      {message && <p class={isRefused ? 'notice' : 'found'} role={isRefused ? 'alert' : 'status'} data-testid="handed-in">{message}</p>}
    </section>
  );
}
