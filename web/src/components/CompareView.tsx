import { useEffect, useState } from 'preact/hooks';

import { watched } from '../offline';
import { listSamples, type Samples } from '../server';
import { text } from '../text';
import type { ViewProps } from './Page';
import { PicturePanel, pictureOf, titleOf, type Picture } from './PicturePanel';
import { ResultTable } from './ResultTable';

const PATIENCE_MS = 3000;

export function CompareView({ comparison }: ViewProps) {
  const [samples, setSamples] = useState<Samples | null>(null);
  const [picture, setPicture] = useState<Picture | null>(null);
  const choose = (chosen: Picture) => {
    setPicture(chosen);
    void comparison.show(chosen.bytes);
  };
  useEffect(() => {
    if (new URLSearchParams(location.search).has('idle')) return;
    const chooseFirst = (first: Picture) => comparison.picture ?? choose(first);
    showFirst(setSamples, chooseFirst).catch(() => {}); // there are still uploads, drawings and the camera
  }, [comparison]);

  return (
    <div class="comparing">
      <PicturePanel comparison={comparison} samples={samples} picture={picture} onPicture={choose} />
      <section class="results" aria-label={text().answers} data-picture={picture ? titleOf(picture) : undefined}>
        <ResultTable comparison={comparison} truth={picture?.truth ?? null} />
      </section>
    </div>
  );
}

/** Nobody should have to press a button to see what the page does. */
async function showFirst(onSamples: (samples: Samples) => void, onPicture: (picture: Picture) => void): Promise<void> {
  const samples = await listSamples();
  onSamples(samples);
  const first = await pictureOf(samples, samples.samples[0]!);
  await Promise.all([thumbnailsLoaded(), watched]);
  onPicture(first);
}

/** Wait for the small pictures, for a while: their downloads would be in the times of the first rows. */
async function thumbnailsLoaded(): Promise<void> {
  await new Promise(requestAnimationFrame);
  const pictures = Array.from(document.querySelectorAll<HTMLImageElement>('.samples img'), (image) => image.decode());
  await Promise.race([Promise.allSettled(pictures), new Promise((done) => setTimeout(done, PATIENCE_MS))]);
}
