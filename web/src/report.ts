/** The results of `make compare`, as report.json keeps them (compare/report.py): the parts that the page shows. */

import type { ArmProof } from './arm';
import type { Placement } from './placement';
import type { Status } from './status';

/** The version of report.json that the page reads; an older report has other parts. */
export const SCHEMA = 2;

/** A value in a base unit: "s", "B", "1/s", "share", or "" for a plain number. */
export interface Figure {
  value: number;
  unit: string;
  low: number;
  high: number;
  samples: number;
  /** What `low` and `high` are. */
  spread: string;
}

/** A figure, or why it is missing. */
export type Measured = Figure | { missing: string };

export interface FlippedPicture {
  image: number;
  /** The picture, in base64. */
  png: string;
  label: string;
  source: string;
  artifact: string;
  source_margin: number;
  near_tie: boolean;
}

export interface ReportedArtifact {
  name: string;
  format: string;
  source: string | null;
  /** "source", "passed", for a reduced precision its class ("passed at 99 %"), or why it did not pass. */
  verdict: string;
  figures: Record<string, Measured>;
  /** A bit for every test picture, 1 where its class is right, in base64; older reports do not say it. */
  right?: string;
  flips: FlippedPicture[];
  flip_count: number;
  /** Its word on the page, when this was measured; older reports do not say it. */
  status?: Status | '';
  /** Its answers at edges that are not its source's, a phrase for each. */
  differs?: string[];
  /** Where its operators run; older reports do not say it. */
  placements?: Placement[];
  /** Whether it answers so on an ARM processor, too; null or missing where that is unknown. */
  arm?: ArmProof | null;
  /** What is known of its format's future, in English; empty where its makers go on with it. */
  outlook?: string;
  /** On what alone its answers are proven, where that is for proof, and not for time; empty for others. */
  proven_on?: string;
  /** The system that alone runs it, where nothing is known of its answers there: "macOS"; empty for others. */
  needs?: string;
}

export interface ReportedRow {
  name: string;
  artifact: string;
  where: 'server' | 'browser';
  runtime: string;
  backend: string;
  figures: Record<string, Measured>;
  /** Of a reduced precision: "slower" or "larger" than float32 beyond the noise, "stored only". */
  marks?: Mark[];
}

export type Mark = 'slower' | 'larger' | 'stored only';

/** Whether an artifact gives its source's answers: it is the source, or parity passed. */
export function keepsAnswers({ verdict }: ReportedArtifact): boolean {
  return verdict === 'source' || verdict.split(' at ')[0] === 'passed';
}

/** One artifact in one runtime of a visitor's device: see deviceCheck.ts. */
export interface ReportedDevice {
  row: string;
  device: string;
  browser: string;
  made: string;
  backend: string;
  wrong: number;
  figures: Record<string, Measured>;
}

export interface ReportedTraining {
  model: string;
  framework: string;
  figures: Record<string, Measured>;
  message: string;
}

/** Where a model is to run: which rows can run there, and which figures count as their time and size. */
export interface Target {
  /** "a server" */
  title: string;
  where: 'server' | 'browser';
  /** Families of formats that run there; null if all do. */
  families: string[] | null;
  /** Names of figures. */
  time: string;
  size: string;
  /** The figure that counts as accuracy; older reports do not say it. */
  accuracy?: string;
  /** A reservation about all rows, as a sentence; may be empty. */
  note: string;
  /** Whether its processor is of 64-bit ARM: what gives other answers there is not chosen. Older reports do not say it. */
  on_arm?: boolean;
}

export interface Report {
  schema: number;
  made: string;
  title: string;
  pictures: number;
  machine: { processor: string; cores: number; system: string };
  artifacts: Record<string, ReportedArtifact>;
  rows: Record<string, ReportedRow>;
  training: Record<string, ReportedTraining>;
  /** Missing in a report that is older than checks of devices. */
  devices?: ReportedDevice[];
  targets: Record<string, Target>;
}

/** A row's figure, or its artifact's; null if it was not measured. */
export function figureOf(report: Report, row: string, name: string): Figure | null {
  const { figures, artifact } = report.rows[row]!;
  return known(figures[name] ?? report.artifacts[artifact]!.figures[name]);
}

export function known(measured: Measured | undefined): Figure | null {
  return measured && 'value' in measured ? measured : null;
}
