/** A picture that formats disagree on: from the parity results, which hold every picture that changed its class. */

import { argmax, difference } from './figures';
import { imageToTensor } from './image';
import { bytesAt, inferPictures, labelOf, parityOf, readReport, type Artifact, type Sample, type Samples } from './server';
import { text } from './text';

/** What was found, in words, and the picture to show; null where it is not here. */
export interface Found {
  says: string;
  picture: { sample: Sample } | { png: Uint8Array; index: number } | null;
}

/** Where no format disagrees this says so, and gives the picture with the smallest margin between its two best classes. */
export async function findDisagreement(artifacts: Artifact[], samples: Samples): Promise<Found> {
  const compared = artifacts.filter(({ compared }) => compared);
  if (!compared.length) return { says: text().notCompared, picture: null };
  const parities = await Promise.all(compared.map(async (artifact) => ({ artifact, parity: await parityOf(artifact) })));
  const flips = parities.flatMap(({ artifact, parity }) =>
    parity.batches.flatMap((batch) => batch.flips.map((flip) => ({ artifact, flip, source: parity.source }))));
  const here = (image: number) => samples.samples.find(({ index }) => index === image);
  const known = flips.find(({ flip }) => here(flip.image)) ?? flips[0];
  if (!known) {
    const nearest = await findNearest(artifacts, samples);
    const none = text().noFlip(Math.max(...parities.map(({ parity }) => parity.images)));
    return { says: `${none} ${nearest.says}`, picture: nearest.picture };
  }
  const { artifact, flip } = known;
  const says = text().flipFound(flip.image, artifact.name, labelOf(artifact, flip.source), labelOf(artifact, flip.artifact));
  const sample = here(flip.image);
  if (sample) return { says, picture: { sample } };
  const reported = (await readReport())?.artifacts[artifact.name]?.flips.find(({ image }) => image === flip.image);
  if (!reported) return { says: text().flipNotHere(flip.image, artifact.name), picture: null };
  const png = Uint8Array.from(atob(reported.png), (letter) => letter.charCodeAt(0));
  return { says, picture: { png, index: flip.image } };
}

/** The sources answer all test images at once; the closest call of any of them is the one. */
async function findNearest(artifacts: Artifact[], samples: Samples): Promise<Found> {
  const pictures = await Promise.all(samples.samples.map(({ file }) => bytesAt(`/samples/${file}`)));
  let best = { margin: Infinity, says: '', picture: null as Found['picture'] };
  for (const source of artifacts) {
    if (source.status !== 'source' || !source.classifies || source.problem) continue;
    const tensors = await Promise.all(pictures.map((picture) => imageToTensor(picture, source.image!)));
    const answers = await inferPictures(source, tensors);
    answers.forEach((probabilities, i) => {
      const first = argmax(probabilities);
      const second = argmax(probabilities.map((value, label) => (label === first ? -1 : value)));
      const margin = probabilities[first]! - probabilities[second]!;
      if (margin >= best.margin) return;
      const sample = samples.samples[i]!;
      const [one, other] = [labelOf(source, first), labelOf(source, second)];
      best = { margin, says: text().nearest(sample.index, source.model, one, other, difference(margin)), picture: { sample } };
    });
  }
  return best;
}
