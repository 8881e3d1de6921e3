import { useEffect, useReducer, useState } from 'preact/hooks';

import type { Comparison } from '../comparison';
import { messageOf } from '../errors';
import { hasReport, listArtifacts, listSamples, type Samples } from '../server';
import { PicturePanel, pictureOf, type Picture } from './PicturePanel';
import { ResultTable } from './ResultTable';

const PATIENCE_MS = 3000;

export function Page({ comparison }: { comparison: Comparison }) {
  const [, redraw] = useReducer((count: number) => count + 1, 0);
  const [samples, setSamples] = useState<Samples | null>(null);
  const [picture, setPicture] = useState<Picture | null>(null);
  const [problem, setProblem] = useState('');

  const choose = (chosen: Picture) => {
    setPicture(chosen);
    void comparison.show(chosen.bytes);
  };

  useEffect(() => comparison.subscribe(() => redraw(undefined)), [comparison]);
  useEffect(() => {
    const ready = addArtifacts(comparison).catch((error: unknown) => setProblem(messageOf(error)));
    const chooseFirst = (first: Picture) => comparison.picture ?? choose(first);
    if (new URLSearchParams(location.search).has('idle')) return;
    showFirst(ready, setSamples, chooseFirst).catch(() => {}); // there are still uploads, drawings and the camera
  }, [comparison]);

  return (
    <>
      <header class="masthead">
        <h1>Rosetta Serve</h1>
        <p>One trained model in every deployment format. Does it still give the same answers, how fast, and how big?</p>
      </header>
      <main>
        <PicturePanel samples={samples} picture={picture} tensors={comparison.tensors}
          problem={comparison.imageError} onPicture={choose} />
        <section class="results" aria-label="Answers" data-picture={picture?.title}>
          {problem && <p class="notice" role="alert">{problem}</p>}
          <ResultTable comparison={comparison} truth={picture?.truth ?? null} />
        </section>
      </main>
      <Footnotes />
    </>
  );
}

async function addArtifacts(comparison: Comparison): Promise<void> {
  await comparison.addRows(await listArtifacts());
  document.documentElement.dataset.ready = 'true';
}

/** Nobody should have to press a button to see what the page does. */
async function showFirst(
  ready: Promise<void>, onSamples: (samples: Samples) => void, onPicture: (picture: Picture) => void,
): Promise<void> {
  const samples = await listSamples();
  onSamples(samples);
  const first = await pictureOf(samples, samples.samples[0]!);
  await ready;
  await thumbnailsLoaded();
  onPicture(first);
}

/** Wait for the small pictures, for a while: their downloads would be in the times of the first rows. */
async function thumbnailsLoaded(): Promise<void> {
  await new Promise(requestAnimationFrame);
  const pictures = Array.from(document.querySelectorAll<HTMLImageElement>('.samples img'), (image) => image.decode());
  await Promise.race([Promise.allSettled(pictures), new Promise((done) => setTimeout(done, PATIENCE_MS))]);
}

function Footnotes() {
  const [report, setReport] = useState(false);
  useEffect(() => void hasReport().then(setReport), []);

  return (
    <footer>
      {report && <p><a href="/report/">Which format to ship</a>: everything that was measured, and what it recommends.</p>}
      <p>
        <b>Difference</b> is the largest absolute difference between a row's probabilities and its source artifact's,
        for the same picture. <b>Verified</b> artifacts passed the parity check on real test images with exactly these bytes.
      </p>
      <p>
        Rows run one after another, the server's first. Each time is one call, in the browser after one warm-up call,
        and includes reading the answer back. {isolation()}
      </p>
    </footer>
  );
}

function isolation(): string {
  if (crossOriginIsolated) return `This page may use threads: ${navigator.hardwareConcurrency} processors are seen.`;
  return 'This page may not use threads: open it as https:// or from localhost to let it.';
}
