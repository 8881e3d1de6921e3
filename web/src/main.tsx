import { render } from 'preact';

import { Comparison } from './comparison';
import { Page } from './components/Page';
import './style.css';
import type { Timing } from './timing';

const comparison = new Comparison();

/**
 * The page's programmatic interface: the same numbers through any row of a model with one input, without a picture.
 *
 * `rows()` names them, `<artifact>@<runtime>`, once `document.documentElement.dataset.ready` is set.
 * `infer(row, pixels)` takes height * width * channels numbers, 0..255, and gives the probabilities in the order of the
 * labels. Calls wait for each other. `tensor(row, picture)` takes a picture file's bytes and gives the numbers that the
 * row's model would see. `time(row, pictures, seconds)` loads the row anew and calls it again and again for that long;
 * with `?idle` in its address the page runs nothing by itself meanwhile. `more` pictures are then asked once each, for
 * `moreSeconds` at the most.
 */
export interface Rosetta {
  rows(): string[];
  infer(row: string, pixels: number[]): Promise<number[]>;
  tensor(row: string, picture: number[]): Promise<number[]>;
  time(row: string, pictures: number[][], seconds: number, more?: number[][], moreSeconds?: number): Promise<Timing>;
}

declare global {
  interface Window {
    rosetta: Rosetta;
  }
}

window.rosetta = {
  rows: () => comparison.rows.map(({ id }) => id),
  infer: (row, pixels) => comparison.infer(row, pixels),
  time: async (row, pictures, seconds, more = [], moreSeconds = 0) => {
    const tensors = (pixels: number[]) => comparison.pictureTensors(row, pixels);
    const further = { questions: more.map(tensors), seconds: moreSeconds };
    return comparison.time(row, pictures.map(tensors), seconds, undefined, undefined, further);
  },
  tensor: async (row, picture) => Array.from(await comparison.tensor(row, Uint8Array.from(picture))),
};

// What is dropped would replace the page, also while nothing takes it yet; a text field takes text, but no files.
for (const type of ['dragover', 'drop'] as const) {
  addEventListener(type, (event) => {
    const isText = (event.target as Element).closest?.('input:not([type=file]), textarea');
    if (!isText || event.dataTransfer?.types.includes('Files')) event.preventDefault();
  });
}

render(<Page comparison={comparison} />, document.getElementById('page')!);
