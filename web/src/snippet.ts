/** What a snippet is, and what it is made of. */

import type { ImageSpec } from './image';
import type { Artifact } from './server';

export interface Snippet {
  title: string;
  language: 'sh' | 'python' | 'javascript' | 'r' | 'kotlin' | 'swift' | 'cpp';
  code: string;
}

/** An artifact that classifies pictures, with the names of its input and its output. */
export interface Classifier extends Artifact {
  image: ImageSpec;
  input: string;
  output: string;
}

/** A Python framework that runs an artifact. */
export interface Framework {
  title: string;
  install: string;
  /** Lines that set `probabilities`, an array with one value per label. */
  run(artifact: Classifier): string;
}

/** A JavaScript library that runs an artifact in the browser. */
export interface Library {
  title: string;
  /** Shell commands to run first, as comments. */
  before(backend: string): string;
  imports(backend: string): string;
  /** Lines that set `probabilities` from `pixels`. */
  run(artifact: Classifier, shape: string): string;
}
