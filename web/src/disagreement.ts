/** A picture that formats disagree on, from the parity results: they hold every picture whose class changed. */

import { argmax, difference } from './figures';
import { tensorsFrom } from './pictures';
import { bytesAt, inferPictures, labelOf, parityOf, readReport, type Artifact, type Sample, type Samples } from './server';
import { text } from './text';

/** A message for the user, and the picture to show; null if the picture is not here. */
export interface Disagreement {
  message: string;
  picture: { sample: Sample } | { png: Uint8Array; index: number } | null;
}

/** If no format disagrees, the message says so, and the picture is the closest call. */
export async function findDisagreement(artifacts: Artifact[], samples: Samples): Promise<Disagreement> {
  const compared = artifacts.filter(({ compared }) => compared);
  if (!compared.length) return { message: text().notCompared, picture: null };
  const parities = await Promise.all(compared.map(async (artifact) => ({ artifact, parity: await parityOf(artifact) })));
  const flips = parities.flatMap(({ artifact, parity }) =>
    parity.batches.flatMap((batch) => batch.flips.map((flip) => ({ artifact, flip, source: parity.source }))));
  const here = (image: number) => samples.samples.find(({ index }) => index === image);
  const known = flips.find(({ flip }) => here(flip.image)) ?? flips[0];
  if (!known) {
    const nearest = await findNearest(artifacts, samples);
    const none = text().noFlip(Math.max(...parities.map(({ parity }) => parity.images)));
    return { message: `${none} ${nearest.message}`, picture: nearest.picture };
  }
  const { artifact, flip } = known;
  const message = text().flipFound(flip.image, artifact.name, labelOf(artifact, flip.source), labelOf(artifact, flip.artifact));
  const sample = here(flip.image);
  if (sample) return { message, picture: { sample } };
  const reported = (await readReport())?.artifacts[artifact.name]?.flips.find(({ image }) => image === flip.image);
  if (!reported) return { message: text().flipNotHere(flip.image, artifact.name), picture: null };
  const png = Uint8Array.from(atob(reported.png), (letter) => letter.charCodeAt(0));
  return { message, picture: { png, index: flip.image } };
}

/** Run all test images through the sources, and take the picture with the smallest margin. */
async function findNearest(artifacts: Artifact[], samples: Samples): Promise<Disagreement> {
  const pictures = await Promise.all(samples.samples.map(({ file }) => bytesAt(`/samples/${file}`)));
  let best = { margin: Infinity, message: '', picture: null as Disagreement['picture'] };
  for (const source of artifacts) {
    if (source.status !== 'source' || !source.classifies || source.problem) continue;
    const tensors = await Promise.all(pictures.map(async (picture) => (await tensorsFrom(picture, [source.image!])).tensors[0]!));
    const answers = await inferPictures(source, tensors);
    answers.forEach((probabilities, i) => {
      const first = argmax(probabilities);
      const second = argmax(probabilities.map((value, label) => (label === first ? -1 : value)));
      const margin = probabilities[first]! - probabilities[second]!;
      if (margin >= best.margin) return;
      const sample = samples.samples[i]!;
      const [label, other] = [labelOf(source, first), labelOf(source, second)];
      best = { margin, message: text().nearest(sample.index, source.model, label, other, difference(margin)), picture: { sample } };
    });
  }
  return best;
}
