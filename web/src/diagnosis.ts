/** What `make diagnose` wrote about an artifact and its source (verify/diagnose/show.py), and how it is laid out. */

import { json, type Artifact } from './server';

/** The version of the file that the page reads. */
export const DIAGNOSIS_SCHEMA = 3;

export interface Node {
  name: string;
  label: string;
  op: string;
  inputs: string[];
  /** Without the batch; empty where it has no value for each row. */
  shape: string;
}

export type Side = 'source' | 'artifact';

interface Layer {
  source: { name: string };
  artifact: { name: string };
  arrangement: string;
  /** Null stands for infinity. */
  difference: number | null;
  /** As a share of the source's largest value here. */
  relative: number | null;
}

export interface Diagnosis {
  schema: number;
  artifact: string;
  source: string;
  files: Record<string, Record<string, string>>;
  healthy: boolean;
  reasons: string[];
  tolerance: number;
  place: Layer | null;
  cause: string | null;
  evidence: string | null;
  advice: string | null;
  layers: Layer[];
  graphs: Record<Side, Node[]>;
}

export type Shade = 'equal' | 'near' | 'apart' | 'alone';

/** A node where it is drawn. */
export interface Placed {
  node: Node;
  side: Side;
  /** The row of the drawing, from the top. */
  at: number;
  shade: Shade;
  isPlace: boolean;
}

/** The same layer on both sides. */
export interface Match {
  at: number;
  shade: Shade;
  isPlace: boolean;
  /** The largest absolute difference, and its share; infinite for NaN. */
  difference: number;
  relative: number;
  arrangement: string;
}

/** Layers of one side that stand for one or none of the other: fused, added or left out. */
export interface Group {
  side: Side;
  from: number;
  to: number;
}

export interface Layout {
  nodes: Placed[];
  matches: Match[];
  groups: Group[];
  rows: number;
}

/** Null where `make diagnose` has not looked into it. */
export function readDiagnosis({ name }: Artifact): Promise<Diagnosis | null> {
  return json<Diagnosis | null>(`/report/diagnose-${name}.json`);
}

/** Whether a diagnosis is of exactly these files. */
export function isOf(diagnosis: Diagnosis, ...artifacts: Artifact[]): boolean {
  return artifacts.every(({ name, files }) => {
    const known = diagnosis.files[name] ?? {};
    return Object.keys(known).length === Object.keys(files).length &&
      Object.entries(files).every(([file, { sha256 }]) => known[file] === sha256);
  });
}

/** Matched layers stand side by side; between them, each side has its other layers in their order. */
export function layoutOf({ layers, graphs, place, tolerance }: Diagnosis): Layout {
  const layout: Layout = { nodes: [], matches: [], groups: [], rows: 0 };
  const next: Record<Side, number> = { source: 0, artifact: 0 };
  const until = (side: Side, end: number, from: number) => {
    const nodes = graphs[side].slice(next[side], end);
    nodes.forEach((node, i) => layout.nodes.push({ node, side, at: from + i, shade: 'alone', isPlace: false }));
    if (nodes.length) layout.groups.push({ side, from, to: from + nodes.length });
    next[side] = Math.max(next[side], end);
    return from + nodes.length;
  };
  for (const layer of layers) {
    const ends = sides((side) => graphs[side].findIndex(({ name }) => name === layer[side].name));
    if (ends.source < next.source || ends.artifact < next.artifact) continue; // matched before, or not drawn
    const from = layout.rows;
    const at = Math.max(until('source', ends.source, from), until('artifact', ends.artifact, from));
    const difference = layer.difference ?? Infinity;
    const relative = layer.relative ?? Infinity;
    const isPlace = place?.artifact.name === layer.artifact.name && place.source.name === layer.source.name;
    const shade = shadeOf(relative, tolerance);
    for (const side of SIDES) {
      layout.nodes.push({ node: graphs[side][ends[side]]!, side, at, shade, isPlace });
      next[side] = ends[side] + 1;
    }
    layout.matches.push({ at, shade, isPlace, difference, relative, arrangement: layer.arrangement });
    layout.rows = at + 1;
  }
  layout.rows = Math.max(...SIDES.map((side) => until(side, graphs[side].length, layout.rows)));
  return layout;
}

export const SIDES: readonly Side[] = ['source', 'artifact'];

function sides<T>(of: (side: Side) => T): Record<Side, T> {
  return { source: of('source'), artifact: of('artifact') };
}

function shadeOf(relative: number, tolerance: number): Shade {
  if (!(relative <= tolerance)) return 'apart';
  return relative <= tolerance / 10 ? 'equal' : 'near';
}
