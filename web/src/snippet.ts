/** What a snippet is, and what it is made of. */

import type { ImageSpec } from './image';
import type { Artifact } from './server';

export interface Snippet {
  title: string;
  language: 'sh' | 'python' | 'javascript';
  code: string;
}

/** An artifact that classifies pictures, with the names of its input and its output. */
export interface Classifier extends Artifact {
  image: ImageSpec;
  input: string;
  output: string;
}

export interface Framework {
  title: string;
  install: string;
  /** Lines that set `probabilities`, an array with one value a label. */
  run(artifact: Classifier): string;
}

export interface Library {
  title: string;
  /** What to do before, the imports, and lines that set `probabilities`, from `pixels`. */
  before(backend: string): string;
  imports(backend: string): string;
  run(artifact: Classifier, shape: string): string;
}
