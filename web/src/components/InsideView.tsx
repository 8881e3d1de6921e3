import { useEffect, useState } from 'preact/hooks';

import { DIAGNOSIS_SCHEMA, isOf, layoutOf, readDiagnosis, SIDES, type Diagnosis, type Layout, type Placed, type Side } from '../diagnosis';
import { messageOf } from '../errors';
import { difference } from '../figures';
import type { Artifact } from '../server';
import { text } from '../text';
import type { ViewProps } from './view';

const [ROW, BOX, WIDTH, GAP, MARGIN] = [52, 38, 300, 150, 46];
const LETTERS = 38;
const X: Record<Side, number> = { source: MARGIN, artifact: MARGIN + WIDTH + GAP };
const WHOLE = 2 * (MARGIN + WIDTH) + GAP;

/** Source and artifact side by side, layer by layer, and how far they are apart. */
export function InsideView({ comparison, row: wanted }: ViewProps) {
  const words = text().inside;
  const artifacts = comparison.artifacts.filter(({ status, problem, own }) => status !== 'source' && !problem && !own);
  const ofChosen = artifacts.filter(({ model }) => comparison.chosen.has(model));
  const artifact = artifacts.find(({ name }) => name === wanted) ?? (wanted ? undefined : ofChosen[0] ?? artifacts[0]);
  const source = comparison.artifacts.find(({ model, status }) => model === artifact?.model && status === 'source');
  return (
    <div class="inside" data-inside={artifact?.name ?? ''}>
      <section class="card">
        <h2>{words.title}</h2>
        <p>{words.what}</p>
        <div class="actions">
          <label>{words.artifact}{' '}
            <select name="artifact" value={artifact?.name ?? ''} onChange={({ currentTarget }) => { location.hash = `inside/${currentTarget.value}`; }}>
              {!artifact && <option value="" disabled>{words.choose}</option>}
              {artifacts.map(({ name }) => <option key={name}>{name}</option>)}
            </select>
          </label>
        </div>
        {wanted && !artifact && <p class="notice" role="alert">{text().shipping.unknown(wanted)}</p>}
      </section>
      {artifact && source && <Inside key={artifact.name} artifact={artifact} source={source} />}
    </div>
  );
}

function Inside({ artifact, source }: { artifact: Artifact; source: Artifact }) {
  const words = text().inside;
  const [diagnosis, setDiagnosis] = useState<Diagnosis | null | undefined>();
  const [problem, setProblem] = useState('');
  useEffect(() => void readDiagnosis(artifact).then(setDiagnosis, (error: unknown) => setProblem(messageOf(error))), []);
  if (problem) return <p class="notice" role="alert">{problem}</p>;
  if (diagnosis === undefined) return null;
  const command = `make diagnose MODEL=${artifact.model} FORMAT=${artifact.format}`;
  if (!diagnosis) return <p class="card" data-testid="not-diagnosed">{words.none} <code>{command}</code></p>;
  if (diagnosis.schema !== DIAGNOSIS_SCHEMA || !isOf(diagnosis, artifact, source)) return <p class="notice" role="alert">{words.outdated} <code>{command}</code></p>;
  return (
    <section class="card" aria-label={words.title} data-healthy={diagnosis.healthy}>
      <Conclusion diagnosis={diagnosis} />
      {diagnosis.layers.length > 0 && (
        <>
          <p class="hint legend">
            {(['equal', 'near', 'apart', 'alone'] as const).map((shade) => <span key={shade} class={`shade ${shade}`}>{words.shades[shade](difference(diagnosis.tolerance))}</span>)}
          </p>
          <Graphs diagnosis={diagnosis} layout={layoutOf(diagnosis)} />
        </>
      )}
    </section>
  );
}

function Conclusion({ diagnosis: { healthy, reasons, place, cause, evidence, advice, graphs } }: { diagnosis: Diagnosis }) {
  const words = text().inside;
  if (healthy) return <p class="verdict" role="status">{words.healthy}</p>;
  const label = (side: Side) => graphs[side].find(({ name }) => name === place?.[side].name)?.label ?? '';
  return (
    <div class="verdict" role="status">
      <strong>{place ? words.part(label('source'), label('artifact')) : words.wrong}</strong>
      <span>{reasons.join('; ')}</span>
      {cause && <span><b>{words.cause}</b> {cause}: {evidence}</span>}
      {advice && <span><b>{text().failedEdge.advice}</b> {advice}</span>}
    </div>
  );
}

function Graphs({ diagnosis, layout }: { diagnosis: Diagnosis; layout: Layout }) {
  const words = text().inside;
  const height = layout.rows * ROW + 40;
  const y = (at: number) => 34 + at * ROW;
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label={words.graphs}>
      <svg class="graphs" viewBox={`0 0 ${WHOLE} ${height}`} role="img" aria-label={words.graphs}>
        {SIDES.map((side) => <text key={side} class="side" x={X[side]} y={18}>{diagnosis[side]}</text>)}
        {layout.groups.map(({ side, from, to }) => (
          <rect key={`${side}${from}`} class="group" x={X[side] - 7} y={y(from) - 6} width={WIDTH + 14} height={(to - from) * ROW - 2} rx={9} />
        ))}
        {SIDES.flatMap((side) => edgesOf(layout.nodes.filter((placed) => placed.side === side), y))}
        {layout.matches.map(({ at, shade, isPlace, difference: off, relative, arrangement }) => (
          <g key={at} class={`match ${shade}`} data-match={shade} data-place={isPlace ? '' : undefined}>
            <line x1={X.source + WIDTH} x2={X.artifact} y1={y(at) + BOX / 2} y2={y(at) + BOX / 2} />
            <text x={X.source + WIDTH + GAP / 2} y={y(at) + BOX / 2 - 5}>{off === Infinity ? text().differs : difference(off)}</text>
            {arrangement && <text class="arrangement" x={X.source + WIDTH + GAP / 2} y={y(at) + BOX / 2 + 14}>{arrangement}</text>}
            <title>{words.apart(difference(off), difference(relative))}</title>
          </g>
        ))}
        {layout.nodes.map((placed) => <NodeBox key={`${placed.side}${placed.node.name}`} placed={placed} y={y(placed.at)} />)}
      </svg>
    </div>
  );
}

function NodeBox({ placed: { node: { label, op, shape }, side, shade, isPlace }, y }: { placed: Placed; y: number }) {
  const short = (value: string) => (value.length > LETTERS ? `…${value.slice(1 - LETTERS)}` : value);
  return (
    <g class={`node ${shade}${isPlace ? ' place' : ''}`} data-node={label} data-side={side} data-shade={shade} data-place={isPlace ? '' : undefined}>
      <title>{[label, op, shape].filter(Boolean).join('\n')}</title>
      <rect x={X[side]} y={y} width={WIDTH} height={BOX} rx={7} />
      <text x={X[side] + 10} y={y + 16}>{short(label)}</text>
      <text class="about" x={X[side] + 10} y={y + 31}>{short([op, shape].filter(Boolean).join(' · '))}</text>
    </g>
  );
}

/** From each layer to those that take its output: straight to the next, around the others. */
function edgesOf(placed: Placed[], y: (at: number) => number) {
  const places = new Map(placed.map((each) => [each.node.name, each]));
  const ordered = placed.toSorted((a, b) => a.at - b.at);
  return placed.flatMap(({ node, side, at }) => node.inputs.flatMap((name) => {
    const from = places.get(name);
    if (!from || from.at >= at) return [];
    const isNext = ordered[ordered.indexOf(from) + 1]?.node === node;
    const centre = X[side] + WIDTH / 2;
    if (isNext) return [<path key={`${side}${name} ${node.name}`} class="edge" d={`M${centre},${y(from.at) + BOX}V${y(at)}`} />];
    const [edge, out] = side === 'source' ? [X.source, X.source - 30] : [X.artifact + WIDTH, X.artifact + WIDTH + 30];
    const [top, bottom] = [y(from.at) + BOX / 2, y(at) + BOX / 2];
    return [<path key={`${side}${name} ${node.name}`} class="edge" d={`M${edge},${top}C${out},${top} ${out},${bottom} ${edge},${bottom}`} />];
  }));
}
