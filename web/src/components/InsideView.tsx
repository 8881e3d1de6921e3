import { useEffect, useState } from 'preact/hooks';

import { DIAGNOSIS_SCHEMA, isOf, layoutOf, readDiagnosis, SIDES, type Diagnosis, type Layout, type Placed, type Side } from '../diagnosis';
import { messageOf } from '../errors';
import { difference } from '../figures';
import type { Artifact } from '../server';
import { text } from '../text';
import type { ViewProps } from './view';

const [ROW, BOX] = [52, 38];

/** The measures of both graphs, across. On a phone both have to be seen at once. */
interface Across {
  box: number;
  /** Between the graphs. */
  gap: number;
  /** Beside them, where edges go around layers. */
  margin: number;
  /** So many letters of a name have room in a box. */
  letters: number;
}
const WIDE: Across = { box: 300, gap: 150, margin: 46, letters: 38 };
const NARROW: Across = { box: 156, gap: 92, margin: 20, letters: 19 };
const PHONE = matchMedia('(max-width: 700px)');

function left(side: Side, { box, gap, margin }: Across): number {
  return side === 'source' ? margin : margin + box + gap;
}

/** Source and artifact side by side, layer by layer, and how far they are apart. */
export function InsideView({ comparison, row: wanted }: ViewProps) {
  const words = text().inside;
  const artifacts = comparison.artifacts.filter(({ status, problem, own }) => status !== 'source' && !problem && !own);
  const ofChosen = artifacts.filter(({ model }) => comparison.chosen.has(model));
  const first = useFirstDiagnosed(wanted ? [] : ofChosen.length > 0 ? ofChosen : artifacts);
  const artifact = wanted ? artifacts.find(({ name }) => name === wanted) : first;
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

/** Of some artifacts, the first with a diagnosis, or the first of all where none has; undefined until that is known. */
function useFirstDiagnosed(artifacts: Artifact[]): Artifact | undefined {
  const [first, setFirst] = useState<Artifact>();
  const names = artifacts.map(({ name }) => name).join();
  useEffect(() => {
    let isStale = false;
    void (async () => {
      for (const artifact of artifacts) {
        // What cannot be read counts as there: its view then shows the error.
        if (await readDiagnosis(artifact).catch(() => true)) return artifact;
      }
      return artifacts[0];
    })().then((artifact) => { if (!isStale) setFirst(artifact); });
    return () => { isStale = true; };
  }, [names]);
  return first;
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
  const across = useAcross();
  const { box, gap, margin } = across;
  const height = layout.rows * ROW + 40;
  const y = (at: number) => 34 + at * ROW;
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label={words.graphs}>
      <svg class="graphs" viewBox={`0 0 ${2 * (margin + box) + gap} ${height}`} role="img" aria-label={words.graphs}>
        {SIDES.map((side) => <text key={side} class="side" x={left(side, across)} y={18}>{diagnosis[side]}</text>)}
        {layout.groups.map(({ side, from, to }) => (
          <rect key={`${side}${from}`} class="group" x={left(side, across) - 7} y={y(from) - 6} width={box + 14} height={(to - from) * ROW - 2} rx={9} />
        ))}
        {SIDES.flatMap((side) => edgesOf(layout.nodes.filter((placed) => placed.side === side), across, y))}
        {layout.matches.map(({ at, shade, isPlace, difference: off, relative, arrangement }) => (
          <g key={at} class={`match ${shade}`} data-match={shade} data-place={isPlace ? '' : undefined}>
            <line x1={margin + box} x2={margin + box + gap} y1={y(at) + BOX / 2} y2={y(at) + BOX / 2} />
            <text x={margin + box + gap / 2} y={y(at) + BOX / 2 - 5}>{off === Infinity ? text().differs : difference(off)}</text>
            {arrangement && <text class="arrangement" x={margin + box + gap / 2} y={y(at) + BOX / 2 + 14}>{arrangement}</text>}
            <title>{words.apart(difference(off), difference(relative))}</title>
          </g>
        ))}
        {layout.nodes.map((placed) => <NodeBox key={`${placed.side}${placed.node.name}`} placed={placed} across={across} y={y(placed.at)} />)}
      </svg>
    </div>
  );
}

/** Of the window as it is now: a phone may be turned. */
function useAcross(): Across {
  const [isNarrow, setNarrow] = useState(PHONE.matches);
  useEffect(() => {
    const look = () => setNarrow(PHONE.matches);
    PHONE.addEventListener('change', look);
    return () => PHONE.removeEventListener('change', look);
  }, []);
  return isNarrow ? NARROW : WIDE;
}

interface NodeProps {
  placed: Placed;
  across: Across;
  y: number;
}

function NodeBox({ placed: { node: { label, op, shape }, side, shade, isPlace }, across, y }: NodeProps) {
  const { box, letters } = across;
  const x = left(side, across);
  const short = (value: string) => (value.length > letters ? `…${value.slice(1 - letters)}` : value);
  return (
    <g class={`node ${shade}${isPlace ? ' parting' : ''}`} data-node={label} data-side={side} data-shade={shade} data-place={isPlace ? '' : undefined}>
      <title>{[label, op, shape].filter(Boolean).join('\n')}</title>
      <rect x={x} y={y} width={box} height={BOX} rx={7} />
      <text x={x + 10} y={y + 16}>{short(label)}</text>
      <text class="about" x={x + 10} y={y + 31}>{short([op, shape].filter(Boolean).join(' · '))}</text>
    </g>
  );
}

/** From each layer to those that take its output: straight to the next, around the others. */
function edgesOf(placed: Placed[], across: Across, y: (at: number) => number) {
  const places = new Map(placed.map((each) => [each.node.name, each]));
  const ordered = placed.toSorted((a, b) => a.at - b.at);
  return placed.flatMap(({ node, side, at }) => node.inputs.flatMap((name) => {
    const from = places.get(name);
    if (!from || from.at >= at) return [];
    const isNext = ordered[ordered.indexOf(from) + 1]?.node === node;
    const x = left(side, across);
    const centre = x + across.box / 2;
    if (isNext) return [<path key={`${side}${name} ${node.name}`} class="edge" d={`M${centre},${y(from.at) + BOX}V${y(at)}`} />];
    const around = across.margin * 0.65;
    const [edge, out] = side === 'source' ? [x, x - around] : [x + across.box, x + across.box + around];
    const [top, bottom] = [y(from.at) + BOX / 2, y(at) + BOX / 2];
    return [<path key={`${side}${name} ${node.name}`} class="edge" d={`M${edge},${top}C${out},${top} ${out},${bottom} ${edge},${bottom}`} />];
  }));
}
