import { useEffect, useState } from 'preact/hooks';

import { watched } from '../offline';
import { isIdle, listSamples, type Samples } from '../server';
import { text } from '../text';
import { ModelChooser } from './ModelChooser';
import { PicturePanel, pictureOf, titleOf, type Picture } from './PicturePanel';
import { ResultTable } from './ResultTable';
import { TensorForm } from './TensorForm';
import type { ViewProps } from './view';

const PATIENCE_MS = 3000;

export function CompareView({ comparison }: ViewProps) {
  const [samples, setSamples] = useState<Samples | null>(null);
  const [picture, setPicture] = useState<Picture | null>(null);
  const choose = (chosen: Picture) => {
    setPicture(chosen);
    void comparison.show(chosen.bytes);
  };
  useEffect(() => {
    if (isIdle) return;
    const chooseFirst = (first: Picture) => comparison.picture ?? choose(first);
    showFirst(setSamples, chooseFirst).catch(() => {}); // there are still uploads, drawings and the camera
  }, [comparison]);

  const chosen = comparison.models.filter((model) => comparison.chosen.has(model));
  // Before anything is known, the page is one for pictures.
  const hasPictures = !comparison.models.length || chosen.some((model) => comparison.takesPictures(model));
  const forms = chosen.flatMap((model) => comparison.tensorArtifactOf(model) ?? []);
  return (
    <div class="comparing">
      <ModelChooser comparison={comparison} />
      {(hasPictures || forms.length > 0) && (
        <div class="questions">
          {hasPictures && <PicturePanel comparison={comparison} samples={samples} picture={picture} onPicture={choose} />}
          {forms.map((artifact) => <TensorForm key={artifact.model} comparison={comparison} artifact={artifact} />)}
        </div>
      )}
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

/** Wait for the thumbnails, but not for long: their downloads would add to the times of the first rows. */
async function thumbnailsLoaded(): Promise<void> {
  await new Promise(requestAnimationFrame);
  const pictures = Array.from(document.querySelectorAll<HTMLImageElement>('.samples img'), (image) => image.decode());
  await Promise.race([Promise.allSettled(pictures), new Promise((done) => setTimeout(done, PATIENCE_MS))]);
}
