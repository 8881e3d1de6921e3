/** What `make compare` found, as report.json keeps it (compare/report.py): the parts that the page shows. */

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

/** A figure, or why there is none. */
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

export interface Report {
  made: string;
  title: string;
  pictures: number;
  machine: { processor: string; cores: number; system: string };
  artifacts: Record<string, ReportedArtifact>;
  rows: Record<string, ReportedRow>;
  training: Record<string, ReportedTraining>;
}

/** A row's figure, or its artifact's; null where it was not measured. */
export function figureOf(report: Report, row: string, name: string): Figure | null {
  const { figures, artifact } = report.rows[row]!;
  return known(figures[name] ?? report.artifacts[artifact]!.figures[name]);
}

export function known(measured: Measured | undefined): Figure | null {
  return measured && 'value' in measured ? measured : null;
}
