import { plot, rect, ruleX, text as label } from '@observablehq/plot';
import { useCallback, useEffect, useState } from 'preact/hooks';

import type { Comparison } from '../comparison';
import { milliseconds } from '../figures';
import { frontOf, medianOf, Race, winnerOf, type Lane } from '../race';
import { text } from '../text';
import { Chart } from './Chart';
import { ModelChooser } from './ModelChooser';
import { Prose } from './Prose';
import { RowName } from './RowName';
import { saveText } from './save';
import type { ViewProps } from './view';

const MAX_SECONDS = 60;
const NARROW = 600;
/** Of the plot's font, in pixels: names of rows are as long as their models' names. */
const LETTER_WIDTH = 6.6;

/** The race goes on while another view is open. */
let race: Race | null = null;

export function RaceView({ comparison }: ViewProps) {
  race ??= new Race(comparison);
  useRedraw(race);
  const words = text().race;
  const lanes = race.lanes;
  const done = lanes.filter(({ phase }) => phase === 'done' || phase === 'failed').length;
  const shown = race.state === 'done' ? ranked(lanes) : lanes;
  return (
    <div class="racing">
      <ModelChooser comparison={comparison} />
      <RaceForm race={race} comparison={comparison} />
      {race.problem && <p class="notice" role="alert"><Prose words={race.problem} /></p>}
      {lanes.length > 0 && (
        <section class="card" aria-label={text().views.race} data-race={race.state}>
          <p class="progress" role="status">
            <progress value={done} max={lanes.length} aria-label={text().views.race} />
            {race.state === 'running' && words.progress(done, lanes.length)}
            {race.state === 'done' && words.done}
            {race.state === 'cancelled' && words.cancelled}
            {race.state !== 'running' && <button type="button" onClick={() => saveText(race!.toJson(), 'race.json', 'application/json')}>{words.exportJson}</button>}
          </p>
          <LaneChart lanes={shown.filter(({ summary }) => summary)} />
          <p class="hint">{words.chart}</p>
          <LaneTable lanes={shown} />
          <p class="hint">{words.marks}</p>
        </section>
      )}
    </div>
  );
}

function RaceForm({ race, comparison }: { race: Race; comparison: Comparison }) {
  const words = text().race;
  const rows = comparison.rows.filter(({ artifact }) => !artifact.problem && comparison.chosen.has(artifact.model));
  const [excluded, setExcluded] = useState<ReadonlySet<string>>(new Set());
  const [seconds, setSeconds] = useState(1);
  const chosen = rows.filter(({ id }) => !excluded.has(id));
  const toggle = (id: string) => setExcluded((before) => new Set(before.has(id) ? [...before].filter((other) => other !== id) : [...before, id]));
  const start = (event: Event) => {
    event.preventDefault();
    void race.start(chosen, seconds);
  };
  return (
    <form class="card" onSubmit={start}>
      <p>{words.what}</p>
      <div class="actions">
        {race.state === 'running'
          ? <button key="cancel" type="button" class="primary" onClick={() => race.cancel()}>{words.cancel}</button>
          : <button key="start" type="submit" class="primary" disabled={!chosen.length}>{words.start}</button>}
        <label>
          {words.seconds} <input type="number" name="seconds" min={0.1} max={MAX_SECONDS} step={0.1} value={seconds} required
            disabled={race.state === 'running'} onInput={({ currentTarget }) => setSeconds(Number(currentTarget.value))} />
        </label>
        {!chosen.length && <span class="hint">{words.needsRows}</span>}
      </div>
      <fieldset disabled={race.state === 'running'}>
        <legend>{words.rows}</legend>
        <div class="actions">
          <button type="button" onClick={() => setExcluded(new Set())}>{words.all}</button>
          <button type="button" onClick={() => setExcluded(new Set(rows.map(({ id }) => id)))}>{words.none}</button>
        </div>
        <div class="choices">
          {rows.map(({ id, runtime: { where } }) => (
            <label key={id} class={where}>
              <input type="checkbox" name={id} checked={!excluded.has(id)} onChange={() => toggle(id)} /> <RowName id={id} />
            </label>
          ))}
        </div>
      </fieldset>
    </form>
  );
}

/** The fastest first; those without a median last. */
function ranked(lanes: Lane[]): Lane[] {
  return lanes.toSorted((a, b) => (medianOf(a) ?? Infinity) - (medianOf(b) ?? Infinity) || 0);
}

function LaneTable({ lanes }: { lanes: Lane[] }) {
  const words = text().race;
  const [winner, front] = [winnerOf(lanes), frontOf(lanes)];
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label={words.rows}>
      <table class="figures">
        <thead><tr>{Object.values(words.columns).map((name) => <th key={name} scope="col">{name}</th>)}</tr></thead>
        <tbody>{lanes.map((lane) => <LaneRow key={lane.row.id} lane={lane} isWinner={lane === winner} isFront={front.includes(lane)} />)}</tbody>
      </table>
    </div>
  );
}

interface LaneProps {
  lane: Lane;
  isWinner: boolean;
  isFront: boolean;
}

function LaneRow({ lane: { row, phase, samples, summary, timing, error, wasHidden }, isWinner, isFront }: LaneProps) {
  const words = text().race;
  return (
    <tr data-lane={row.id} data-where={row.runtime.where} data-phase={phase}>
      <th scope="row">
        <RowName id={row.id} /> {phase !== 'done' && <small>{words.phases[phase]}</small>}
        {isWinner && <span class="mark winner" data-mark="winner">★ {words.winner}</span>}
        {isFront && <span class="mark" data-mark="front">◆ {words.front}</span>}
        {wasHidden && <small class="differs">{words.hidden}</small>}
      </th>
      {phase === 'failed' ? <td colSpan={6} class="error"><Prose words={error} /></td> : (
        <>
          <td data-cell="median" data-ms={summary?.median}>{summary && milliseconds(summary.median)}</td>
          <td>{summary && milliseconds(summary.p95)}</td>
          <td>{timing && milliseconds(timing.firstAnswer)}</td>
          <td>{summary && milliseconds(summary.warmUp)}</td>
          <td data-cell="calls">{timing && samples.length * timing.callsPerSample}</td>
          <td data-cell="backend">{timing?.backend}</td>
        </>
      )}
    </tr>
  );
}

/** Drawn again only when another row is done: a drawing takes the processor, or the GPU, from the row that is timed. */
function LaneChart({ lanes }: { lanes: Lane[] }) {
  const draw = useCallback((width: number) => drawLanes(lanes, width), [...lanes, text()]);
  return lanes.length ? <Chart label={text().race.chart} draw={draw} /> : null;
}

/** One strip per row: the shares of its calls by how long they took, and the median. */
function drawLanes(lanes: Lane[], width: number): Element {
  const bars = lanes.flatMap(({ row, summary }) => summary!.bars.map((bar) => ({ ...bar, id: row.id, where: row.runtime.where })));
  const medians = lanes.map(({ row, summary }) => ({ id: row.id, x: summary!.median }));
  const isNarrow = width < NARROW; // no room for names beside the strips, so they are drawn in them
  const fill = ({ where }: { where: string }) => `var(--${where})`;
  return plot({
    width,
    height: 56 + (isNarrow ? 44 : 30) * lanes.length,
    marginLeft: isNarrow ? 8 : 12 + LETTER_WIDTH * Math.max(0, ...lanes.map(({ row }) => row.id.length)),
    marginRight: 12,
    x: { type: 'log', label: text().race.axis, grid: true, tickFormat: '~g' },
    y: { axis: null, domain: [0, isNarrow ? 1.7 : 1] }, // a name stands above its bars
    fy: { domain: lanes.map(({ row }) => row.id), label: null, padding: 0.15, axis: isNarrow ? null : 'left' },
    style: { background: 'none', color: 'var(--ink)', fontSize: '12px', overflow: 'visible' },
    marginTop: 8,
    marks: [
      rect(bars, { fy: 'id', x1: 'from', x2: 'to', y1: 0, y2: 'height', fill, inset: 0 }),
      isNarrow ? label(medians, { fy: 'id', text: 'id', frameAnchor: 'top-left', fontSize: 11, stroke: 'var(--card)', fill: 'var(--ink)' }) : null,
      ruleX(medians, { fy: 'id', x: 'x', stroke: 'var(--accent)', strokeWidth: 2 }),
    ],
  });
}

function useRedraw(source: Race): void {
  const [, redraw] = useState(0);
  useEffect(() => source.subscribe(() => redraw((count) => count + 1)), [source]);
}
