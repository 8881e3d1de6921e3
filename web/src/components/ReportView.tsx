import { dot, line, plot, pointer, ruleX, text as label, tip } from '@observablehq/plot';
import { useEffect, useState } from 'preact/hooks';

import { proven } from '../arm';
import { messageOf } from '../errors';
import { shown } from '../figures';
import { placed } from '../placement';
import { precisionOf, recommend, type Candidate, type Constraints, type Decision } from '../recommend';
import { figureOf, keepsAnswers, known, SCHEMA, type Measured, type Report, type ReportedArtifact } from '../report';
import { familyOf } from '../runtimes';
import { readReport } from '../server';
import { statusWord } from '../status';
import { text } from '../text';
import { Chart } from './Chart';
import { Prose } from './Prose';
import { RowName } from './RowName';

const STEPS = 100;
/** A slider reaches beyond the smallest and the largest value by this factor. */
const MARGIN = 1.1;
const AGREEMENTS = [0.9, 0.95, 0.99, 0.995, 0.999, 0.9999, 1];
const NONE: Constraints = { max_mb: null, max_ms: null, min_agreement: null, allow_precision: [] };
/** How many ties are named; the rest is a count. */
const NAMED = 3;

export function ReportView() {
  const [report, setReport] = useState<Report | null | undefined>();
  const [problem, setProblem] = useState('');
  useEffect(() => void readReport().then(setReport, (error: unknown) => setProblem(messageOf(error))), []);
  if (problem) return <p class="notice" role="alert">{problem}</p>;
  if (report === undefined) return null;
  if (!report) return <p class="card reporting" data-testid="no-report"><Prose words={text().report.none} /></p>;
  if (report.schema !== SCHEMA) return <p class="notice" role="alert"><Prose words={text().report.outdated} /></p>;
  const { processor, cores, system } = report.machine;
  return (
    <div class="reporting">
      <Advice report={report} />
      <ParityCard report={report} />
      <GalleryCard report={report} />
      <DeviceCard report={report} />
      <TrainingCard report={report} />
      <p class="hint">
        {text().report.madeOn(report.made, report.title, report.pictures, `${processor} × ${cores}, ${system}`)}{' '}
        <a href="/report/">{text().report.whole}</a>
      </p>
    </div>
  );
}

// --- What to ship

function Advice({ report }: { report: Report }) {
  const words = text().report;
  const [name, setName] = useState(Object.keys(report.targets)[0]!);
  const [constraints, setConstraints] = useState(NONE);
  const target = report.targets[name]!;
  const decision = recommend(report, target, constraints);
  const choose = (chosen: string) => { setName(chosen); setConstraints(NONE); };
  const limit = (change: Partial<Constraints>) => setConstraints({ ...constraints, ...change });
  return (
    <section class="card" aria-labelledby="advice">
      <h2 id="advice">{words.which}</h2>
      <div class="limits">
        <label>{words.target}
          <select value={name} onChange={({ currentTarget }) => choose(currentTarget.value)}>
            {Object.entries(report.targets).map(([each, { title }]) => <option key={each} value={each}>{words.targets[each] ?? title}</option>)}
          </select>
        </label>
        <NumberLimit name={words.maxTime} unit="s" values={decision.candidates.map(({ time }) => time.value)} scale={1e-3}
          value={constraints.max_ms} onChange={(max_ms) => limit({ max_ms })} />
        <NumberLimit name={words.maxSize} unit="B" values={decision.candidates.map(({ size }) => size.value)} scale={1e6}
          value={constraints.max_mb} onChange={(max_mb) => limit({ max_mb })} />
        <AgreementLimit value={constraints.min_agreement} onChange={(min_agreement) => limit({ min_agreement })} />
        <PrecisionChoice report={report} value={constraints.allow_precision?.[0] ?? ''} onChange={(only) => limit({ allow_precision: only ? [only] : [] })} />
      </div>
      <Verdict decision={decision} />
      {decision.unranked.map((row) => <Unranked key={row} report={report} row={row} size={target.size} />)}
      {target.note && <p class="hint">{words.notes[name] ?? target.note}</p>}
      {decision.candidates.length > 0 ? (
        <>
          <div class="plots">
            <Chart label={`${words.time}, ${words.size}`} draw={(width) => scatter(decision, 'size', width)} />
            <Chart label={`${words.time}, ${words.accuracy}`} draw={(width) => scatter(decision, 'accuracy', width)} />
          </div>
          <p class="hint">{words.plots}</p>
          <CandidateTable report={report} decision={decision} />
        </>
      ) : <p class="hint" data-testid="why-not">{reasonsOf(report).join(' ')}</p>}
    </section>
  );
}

/** Why rows that were measured cannot be candidates. */
function reasonsOf({ artifacts }: Report): string[] {
  const missing = Object.values(artifacts).flatMap(({ figures: { accuracy, agreement } }) => [accuracy, agreement]);
  return [...new Set(missing.flatMap((figure) => (figure && 'missing' in figure ? [figure.missing] : [])))];
}

interface NumberLimitProps {
  name: string;
  unit: string;
  /** In base units; the limit is in units of `scale`. */
  values: number[];
  scale: number;
  value: number | null;
  onChange(value: number | null): void;
}

/** A slider over a logarithmic scale; its right end means no limit. */
function NumberLimit({ name, unit, values, scale, value, onChange }: NumberLimitProps) {
  const [low, high] = [Math.min(...values) / MARGIN, Math.max(...values) * MARGIN];
  const at = (step: number) => Number(((low * (high / low) ** (step / STEPS)) / scale).toPrecision(3));
  const step = value === null ? STEPS : Math.round((STEPS * Math.log((value * scale) / low)) / Math.log(high / low));
  const limit = value === null ? text().report.noLimit : shown(value * scale, unit);
  return (
    <label>{name} <b>{limit}</b>
      <input type="range" min={0} max={STEPS} value={step} aria-valuetext={limit} disabled={!values.length}
        onInput={({ currentTarget }) => onChange(Number(currentTarget.value) === STEPS ? null : at(Number(currentTarget.value)))} />
    </label>
  );
}

function AgreementLimit({ value, onChange }: { value: number | null; onChange(value: number | null): void }) {
  const limit = value === null ? text().report.parityDecides : shown(value, 'share');
  return (
    <label>{text().report.minAgreement} <b>{limit}</b>
      <input type="range" min={0} max={AGREEMENTS.length} aria-valuetext={limit}
        value={value === null ? AGREEMENTS.length : AGREEMENTS.indexOf(value)}
        onInput={({ currentTarget }) => onChange(AGREEMENTS[Number(currentTarget.value)] ?? null)} />
    </label>
  );
}

/** Of the precisions that the report has, one or all. */
function PrecisionChoice({ report, value, onChange }: { report: Report; value: string; onChange(value: string): void }) {
  const precisions = [...new Set(Object.values(report.artifacts).map(({ format }) => precisionOf(format)))];
  return (
    <label>{text().report.precision}
      <select value={value} onChange={({ currentTarget }) => onChange(currentTarget.value)}>
        <option value="">{text().report.anyPrecision}</option>
        {precisions.map((each) => <option key={each} value={each}>{each}</option>)}
      </select>
    </label>
  );
}

function Verdict({ decision: { choice, ties, relax, candidates } }: { decision: Decision }) {
  const words = text().report;
  const chosen = candidates.find(({ name }) => name === choice);
  return (
    <p class="verdict" role="status" data-choice={choice ?? ''}>
      {chosen && <strong>{words.ship(chosen.name, shown(chosen.time.value, 's'), shown(chosen.size.value, 'B'), shown(chosen.accuracy.value, 'share'))} </strong>}
      {chosen && <a href={`#ship/${chosen.name}`}>{text().ship}</a>}
      {ties.length > 0 && <span>{words.ties(ties.slice(0, NAMED).join(', '), Math.max(0, ties.length - NAMED))}</span>}
      {!chosen && <strong>{candidates.length ? words.nothing : words.notMeasured}</strong>}
      {relax.map(({ constraint, needed, row }) => <span key={constraint}>{words.relax[constraint](needed, row)}</span>)}
    </p>
  );
}

/** What else may run there, without a time: where it is proven, or that it is not. */
function Unranked({ report, row, size }: { report: Report; row: string; size: string }) {
  const words = text().report;
  const artifact = report.artifacts[report.rows[row]!.artifact]!;
  const place = artifact.proven_on ?? '';
  return (
    <p class="hint" data-unranked={row}>
      {artifact.needs
        ? words.unproven(artifact.name, artifact.needs, shown(figureOf(report, row, size)!.value, 'B'))
        : words.unranked(artifact.name, words.places[place] ?? place, shown(figureOf(report, row, size)!.value, 'B'))} <Outlook artifact={artifact} />
    </p>
  );
}

/** Time against size, or against accuracy with its interval. A ring marks the choice. */
function scatter({ candidates, fitting, front, choice }: Decision, y: 'size' | 'accuracy', width: number): Element {
  const words = text().report;
  const points = candidates.map((candidate) => ({
    ...candidate, x: candidate.time.value * 1e3, y: y === 'size' ? candidate.size.value / 1e6 : candidate.accuracy.value * 100,
  }));
  const colour = ({ name }: Candidate) => `var(--${name.endsWith('@server') ? 'server' : 'browser'})`;
  const details = ({ name, time, size, accuracy }: Candidate) =>
    [name, shown(time.value, 's'), shown(size.value, 'B'), shown(accuracy.value, 'share')].join('\n');
  // The front's rows that are better here than all that are faster. Others are on it for what this plot has no axis for.
  const up = y === 'size' ? -1 : 1;
  const edge = front.flatMap((name) => points.filter((point) => point.name === name))
    .filter((point, number, all) => all.slice(0, number).every((faster) => up * point.y > up * faster.y));
  const at = { x: 'x', y: 'y' };
  const chosen = points.filter(({ name }) => name === choice);
  const isLeft = chosen.every(({ x }) => x ** 2 <= Math.min(...points.map((point) => point.x)) * Math.max(...points.map((point) => point.x)));
  return plot({
    width, height: 320, marginLeft: 56, marginTop: 28, marginBottom: 40, insetRight: 12, insetLeft: 12, insetTop: 14,
    x: { type: 'log', label: `${words.time}, ms`, grid: true, tickFormat: '~g', ticks: width < 500 ? 4 : 8 },
    y: { type: y === 'size' ? 'log' : 'linear', label: y === 'size' ? `${words.size}, MB` : `${words.accuracy}, %`, grid: true, tickFormat: '~g', ticks: 6 },
    style: { background: 'none', color: 'var(--ink)', fontSize: '12px', overflow: 'visible' },
    marks: [
      y === 'accuracy' ? ruleX(points, { x: 'x', y1: ({ accuracy }) => accuracy.low * 100, y2: ({ accuracy }) => accuracy.high * 100, stroke: 'var(--faint)', strokeOpacity: 0.5 }) : null,
      line(edge, { ...at, curve: 'step-after', stroke: 'var(--accent)', strokeDasharray: '4 3' }),
      dot(points, { ...at, r: 5, fill: colour, fillOpacity: ({ name }) => (fitting.includes(name) ? 1 : 0.25) }),
      dot(chosen, { ...at, r: 10, stroke: 'var(--accent)', strokeWidth: 2.5 }),
      label(chosen, { ...at, text: 'name', dx: isLeft ? 15 : -15, textAnchor: isLeft ? 'start' : 'end', dy: y === 'size' ? -12 : 16, fontWeight: 650, fill: 'var(--ink)', stroke: 'var(--card)', strokeWidth: 4 }),
      tip(points, pointer({ ...at, title: details, fill: 'var(--card)', stroke: 'var(--line)' })),
    ],
  });
}

function CandidateTable({ decision, report }: { decision: Decision; report: Report }) {
  const words = text().report;
  const rows = decision.candidates.toSorted((a, b) => a.cost.value - b.cost.value);
  return (
    <Table label={words.which} head={[text().race.columns.row, words.time, words.size, words.accuracy, words.agreement, words.front, words.fits]}>
      {rows.map(({ name, time, size, accuracy, agreement }) => (
        <tr key={name} data-candidate={name} data-where={name.endsWith('@server') ? 'server' : 'browser'}>
          <th scope="row">
            <RowName id={name} />
            {report.rows[name]?.marks?.map((mark) => <span key={mark} class="badge failed" data-mark={mark} title={text().markHelp[mark]}>{text().marks[mark]}</span>)}
            <Outlook artifact={report.artifacts[report.rows[name]!.artifact]!} />
          </th>
          {[time, size, accuracy, agreement].map((figure, i) => <Cell key={i} measured={figure} />)}
          <td>{decision.front.includes(name) ? '●' : ''}</td>
          <td>{decision.fitting.includes(name) ? '✓' : '✗'}</td>
        </tr>
      ))}
    </Table>
  );
}

function Outlook({ artifact: { format, outlook } }: { artifact: ReportedArtifact }) {
  return outlook ? <small class="outlook">{text().report.outlooks[familyOf(format)] ?? outlook}</small> : null;
}

// --- Parity, flipped pictures, training

function ParityCard({ report }: { report: Report }) {
  const words = text().report;
  const figures = ['agreement', 'max_abs_diff@1', 'max_abs_diff@64', 'accuracy', 'accuracy_change'];
  return (
    <section class="card">
      <h2>{words.parity}</h2>
      <Table label={words.parity} head={[words.artifact, words.verdict, words.agreement, words.diff(1), words.diff(64), words.accuracy, words.change, text().arm.title, text().placement.title]}>
        {Object.values(report.artifacts).map((artifact) => (
          <tr key={artifact.name} data-parity={artifact.name}>
            <th scope="row"><code>{artifact.name}</code></th>
            <td class={`parity ${keepsAnswers(artifact) ? '' : artifact.needs ? 'unknown' : 'error'}`} title={artifact.differs?.join('\n')}>{wordOf(artifact)}</td>
            {figures.map((figure) => <Cell key={figure} measured={artifact.figures[figure]} />)}
            <td class={artifact.arm?.passed === false ? 'error' : ''} title={artifact.arm ? proven(artifact.arm) : ''}>{artifact.arm && text().arm.word(artifact.arm.passed)}</td>
            <td class="words">{artifact.placements?.map((placement) => <div key={placement.part}>{placed(placement)}</div>)}</td>
          </tr>
        ))}
      </Table>
    </section>
  );
}

/** The status of what passed, and the system that alone runs it; of an older report, and of what did not pass, its verdict. */
function wordOf(artifact: ReportedArtifact): string {
  if (artifact.needs) return text().report.verdicts.needs(artifact.needs);
  return keepsAnswers(artifact) && artifact.status ? statusWord(artifact.status) : verdictIn(artifact.verdict);
}

/** "passed at 99 %" in the page's language; a reason stays as it is. */
function verdictIn(verdict: string): string {
  const words = text().report.verdicts;
  const [, limit] = /^passed at (.*)$/.exec(verdict) ?? [];
  return limit ? words.passedAt(limit) : verdict === 'source' || verdict === 'passed' ? words[verdict] : verdict;
}

function GalleryCard({ report }: { report: Report }) {
  const words = text().report;
  const flipped = Object.values(report.artifacts).filter(({ flips }) => flips.length);
  return (
    <section class="card" data-testid="gallery">
      <h2>{words.flipped}</h2>
      {!flipped.length && <p>{words.noFlips(report.pictures)}</p>}
      {flipped.map(({ name, flips, flip_count: count }) => (
        <section key={name}>
          <h3><code>{name}</code> <small>{words.flipCount(flips.length, count)}</small></h3>
          <ul class="gallery">
            {flips.map((flip) => (
              <li key={flip.image}>
                <img src={`data:image/png;base64,${flip.png}`} alt={text().testImage(flip.image)} width={64} height={64} />
                <span>{flip.source} → <b>{flip.artifact}</b><small>{words.right(flip.label)}{flip.near_tie && ` · ${words.nearTie}`}</small></span>
              </li>
            ))}
          </ul>
        </section>
      ))}
    </section>
  );
}

function DeviceCard({ report: { devices = [] } }: { report: Report }) {
  const words = text().device;
  if (!devices.length) return null;
  return (
    <section class="card" data-testid="devices">
      <h2>{words.measuredOn}</h2>
      <Table label={words.measuredOn} head={[words.columns.row, words.name, words.columns.answers, text().report.agreement, words.columns.difference, words.columns.time]}>
        {devices.map(({ row, device, browser, made, backend, wrong, figures }) => {
          const { value: agreement = 0, samples: questions = 0 } = known(figures.agreement) ?? {};
          return (
            <tr key={`${row} ${device} ${made}`} data-device-row={row}>
              <th scope="row"><code>{row}</code><small>{backend}</small></th>
              <td title={browser}>{device}<small class="when">{made.slice(0, 10)}</small></td>
              <td class={wrong ? 'differs' : 'agrees'}>{questions > 0 && (wrong ? words.wrong(wrong, questions) : words.right(Math.round(agreement * questions), questions))}</td>
              {['agreement', 'difference', 'time'].map((name) => <Cell key={name} measured={figures[name]} />)}
            </tr>
          );
        })}
      </Table>
    </section>
  );
}

function TrainingCard({ report }: { report: Report }) {
  const words = text().report;
  const runs = Object.values(report.training);
  if (!runs.length) return null;
  const figures = Object.keys(words.training) as (keyof typeof words.training)[];
  return (
    <section class="card">
      <h2>{words.trainings}</h2>
      <Table label={words.trainings} head={['', ...runs.map(({ framework }) => framework)]}>
        {figures.map((name) => (
          <tr key={name}>
            <th scope="row">{words.training[name]}</th>
            {runs.map(({ model, figures: has }) => <Cell key={model} measured={has[name]} />)}
          </tr>
        ))}
      </Table>
      {runs.map(({ model, framework, message }) => (
        <details key={model}><summary>{words.fault(framework)}</summary><pre tabIndex={0} aria-label={framework}>{message}</pre></details>
      ))}
    </section>
  );
}

function Table({ label: name, head, children }: { label: string; head: string[]; children: preact.ComponentChildren }) {
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label={name}>
      <table class="figures">
        <thead><tr>{head.map((title, i) => (title ? <th key={i} scope="col">{title}</th> : <td key={i} />))}</tr></thead>
        <tbody>{children}</tbody>
      </table>
    </div>
  );
}

/** A figure, with its spread as a tooltip; or, if it is missing, why. */
function Cell({ measured }: { measured: Measured | undefined }) {
  const figure = known(measured);
  if (!figure) {
    const why = measured && 'missing' in measured ? measured.missing : '';
    return <td class="unknown" title={why}>{why.startsWith('unknown') ? text().report.unknown : '–'}</td>;
  }
  const { value, low, high, unit, spread } = figure;
  return <td title={low === high ? spread : `${shown(low, unit)} – ${shown(high, unit)}, ${spread}`}>{shown(value, unit)}</td>;
}
