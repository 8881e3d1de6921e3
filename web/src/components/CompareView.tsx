import { useEffect, useState } from 'preact/hooks';

import { parseAddress } from '../address';
import { isIdle, listSamples, type Samples } from '../server';
import { text } from '../text';
import { ModelChooser } from './ModelChooser';
import { OwnModel } from './OwnModel';
import { PicturePanel, pictureOf, titleOf, type Picture } from './PicturePanel';
import { ResultTable } from './ResultTable';
import { TensorForm } from './TensorForm';
import { VerdictLine } from './VerdictLine';
import type { ViewProps } from './view';

/** What the address asks for when the page is opened. */
const { shared } = parseAddress(location.hash);

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
      <VerdictLine comparison={comparison} />
      {(hasPictures || forms.length > 0) && (
        <div class="questions">
          {hasPictures && <PicturePanel comparison={comparison} samples={samples} picture={picture} onPicture={choose} />}
          {forms.map((artifact) => <TensorForm key={artifact.model} comparison={comparison} artifact={artifact} />)}
        </div>
      )}
      <section class="results" aria-label={text().answers} data-picture={picture ? titleOf(picture) : undefined}>
        <ResultTable comparison={comparison} truth={picture?.truth ?? null} shared={shared}
          picture={typeof picture?.from === 'number' ? picture.from : null} />
        <OwnModel comparison={comparison} />
      </section>
    </div>
  );
}

/** Nobody should have to press a button to see what the page does. */
async function showFirst(onSamples: (samples: Samples) => void, onPicture: (picture: Picture) => void): Promise<void> {
  const samples = await listSamples();
  onSamples(samples);
  onPicture(await pictureOf(samples, samples.samples.find(({ index }) => index === shared.picture) ?? samples.samples[0]!));
}
