/** The results of `make compare`, as report.json keeps them (compare/report.py): the parts that the page shows. */

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
  /** "source", "passed", or why it did not pass. */
  verdict: string;
  figures: Record<string, Measured>;
  flips: FlippedPicture[];
  flip_count: number;
}

export interface ReportedRow {
  name: string;
  artifact: string;
  where: 'server' | 'browser';
  runtime: string;
  backend: string;
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
  /** A reservation about all rows, as a sentence; may be empty. */
  note: string;
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
