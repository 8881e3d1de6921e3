import { useEffect, useRef, useState } from 'preact/hooks';

import type { Comparison } from '../comparison';
import { findDisagreement } from '../disagreement';
import { FORMATS, messageOf } from '../errors';
import { bytesAt, type Sample, type Samples } from '../server';
import { text } from '../text';
import { CameraInput } from './CameraInput';
import { DrawingInput } from './DrawingInput';
import { TensorView } from './TensorView';

/** A picture's bytes and where they come from: the name of a file, or a test image's number. */
export interface Picture {
  bytes: Uint8Array;
  from: string | number | 'drawing' | 'photograph' | 'pasted';
  /** The label that people gave it, where it is known. */
  truth: string | null;
}

interface Props {
  comparison: Comparison;
  samples: Samples | null;
  picture: Picture | null;
  onPicture(picture: Picture): void;
}

const WAYS = ['sample', 'upload', 'draw', 'camera'] as const;
type Way = (typeof WAYS)[number];

export function titleOf({ from }: Picture): string {
  if (typeof from === 'number') return text().testImage(from);
  return from === 'drawing' || from === 'photograph' || from === 'pasted' ? text()[from] : from;
}

export function PicturePanel({ comparison, samples, picture, onPicture }: Props) {
  const [way, setWay] = useState<Way>('sample');
  const [failure, setFailure] = useState('');
  const latest = useRef<Promise<Picture | null> | null>(null);
  const take = (picture: Promise<Picture | null>) => {
    latest.current = picture; // an earlier one that arrives later is not wanted any more
    setFailure('');
    picture.then(
      (ready) => ready && latest.current === picture && onPicture(ready),
      (error: unknown) => latest.current === picture && setFailure(messageOf(error)),
    );
  };
  useDropAndPaste((file) => take(pictureIn(file, file.name || 'pasted')));
  const problem = failure || comparison.imageError;

  return (
    <section class="panel" aria-label={text().picture}>
      <PictureAndTensors comparison={comparison} picture={picture} />
      {problem && <p class="notice" role="alert" data-cell="picture-error">{problem}</p>}
      <WayTabs way={way} onWay={setWay} />
      <div class="way" role="tabpanel" id="way" aria-labelledby={`way-${way}`}>
        {way === 'sample' && <SampleInput comparison={comparison} samples={samples} onSample={take} />}
        {way === 'upload' && <UploadInput onFile={(file) => take(pictureIn(file, file.name))} />}
        {way === 'draw' && <DrawingInput onDrawn={(blob) => take(pictureIn(blob, 'drawing'))} />}
        {way === 'camera' && <CameraInput onPhoto={(blob) => take(pictureIn(blob, 'photograph'))} />}
      </div>
    </section>
  );
}

function WayTabs({ way, onWay }: { way: Way; onWay(way: Way): void }) {
  return (
    <div class="ways" role="tablist" aria-label={text().whereFrom}>
      {WAYS.map((name) => (
        <button key={name} id={`way-${name}`} type="button" role="tab" aria-selected={way === name} aria-controls="way"
          onClick={() => onWay(name)}>
          {text().ways[name]}
        </button>
      ))}
    </div>
  );
}

function PictureAndTensors({ comparison, picture }: Pick<Props, 'comparison' | 'picture'>) {
  const url = useObjectUrl(picture);
  if (!picture || !url) return <p class="empty">{text().choosePicture}</p>;
  return (
    <div class="sight">
      <figure>
        <img src={url} alt={titleOf(picture)} data-testid="picture" />
        <figcaption><b>{picture.truth ?? titleOf(picture)}</b> {text().thePicture}</figcaption>
      </figure>
      {comparison.tensors.map((tensor) => (
        <TensorView key={JSON.stringify(tensor.spec)} tensor={tensor} isSeenByServer={comparison.isSeenByServer(tensor)} />
      ))}
    </div>
  );
}

interface SampleProps {
  comparison: Comparison;
  samples: Samples | null;
  onSample(picture: Promise<Picture | null>): void;
}

function SampleInput({ comparison, samples, onSample }: SampleProps) {
  const [label, setLabel] = useState(-1);
  const [found, setFound] = useState('');
  if (!samples) return <p class="empty">{text().noSamples}</p>;
  const shown = samples.samples.filter((sample) => label < 0 || sample.label === label);
  const classifiers = comparison.artifacts.filter(({ classifies, model }) => classifies && comparison.chosen.has(model));
  const pick = (sample: Sample) => onSample(pictureOf(samples, sample));
  const disagree = async () => {
    setFound(text().searching);
    const { says, picture } = await findDisagreement(classifiers, samples).catch((error: unknown) =>
      ({ says: messageOf(error), picture: null }));
    setFound(says);
    if (!picture) return null;
    return 'sample' in picture ? pictureOf(samples, picture.sample) : { bytes: picture.png, from: picture.index, truth: null };
  };
  return (
    <>
      <div class="picking">
        <select aria-label={text().classFilter} value={label} onChange={({ currentTarget }) => setLabel(Number(currentTarget.value))}>
          <option value={-1}>{text().allClasses}</option>
          {samples.labels.map((name, i) => <option key={name} value={i}>{name}</option>)}
        </select>
        <button type="button" onClick={() => pick(shown[Math.floor(Math.random() * shown.length)]!)}>{text().anyOne}</button>
        {classifiers.length > 0 && (
          <button type="button" class="wide" data-testid="disagree" onClick={() => onSample(disagree())}>{text().disagree}</button>
        )}
      </div>
      {found && <p class="found" role="status">{found}</p>}
      <div class="samples" data-testid="samples">
        {shown.map((sample) => (
          <button key={sample.file} type="button" title={samples.labels[sample.label]} data-sample={sample.file}
            onClick={() => pick(sample)}>
            <img src={`/samples/${sample.file}`} alt={`${samples.labels[sample.label] ?? ''} ${sample.index}`}
              width={28} height={28} />
          </button>
        ))}
      </div>
      <p class="hint">{text().samplesOf(samples.samples.length, samples.title)}</p>
    </>
  );
}

function UploadInput({ onFile }: { onFile(file: File): void }) {
  const choose = (input: HTMLInputElement) => {
    const file = input.files?.[0];
    input.value = ''; // the same file, saved again, is to be a change
    if (file) onFile(file);
  };
  return (
    <label class="drop">
      <input type="file" accept={FORMATS.map((format) => `image/${format.toLowerCase()}`).join()}
        onChange={({ currentTarget }) => choose(currentTarget)} />
      <b>{text().chooseFile}</b>
      <span>{text().dropHint(FORMATS.join(', '))}</span>
    </label>
  );
}

export async function pictureOf({ labels }: Samples, { file, index, label }: Sample): Promise<Picture> {
  return { bytes: await bytesAt(`/samples/${file}`), from: index, truth: labels[label] ?? null };
}

async function pictureIn(blob: Blob, from: string): Promise<Picture> {
  return { bytes: new Uint8Array(await blob.arrayBuffer()), from, truth: null };
}

function useDropAndPaste(onFile: (file: File) => void): void {
  useEffect(() => {
    const stop = new AbortController();
    const take = (event: Event, files: FileList | undefined) => {
      if (!files?.[0]) return;
      event.preventDefault();
      onFile(files[0]);
    };
    const { signal } = stop;
    addEventListener('dragover', (event) => event.preventDefault(), { signal });
    addEventListener('drop', (event) => take(event, event.dataTransfer?.files), { signal });
    addEventListener('paste', (event) => take(event, event.clipboardData?.files), { signal });
    return () => stop.abort();
  });
}

function useObjectUrl(picture: Picture | null): string | null {
  const [url, setUrl] = useState<string | null>(null);
  useEffect(() => {
    if (!picture) return undefined;
    const made = URL.createObjectURL(new Blob([picture.bytes as BlobPart]));
    setUrl(made);
    return () => URL.revokeObjectURL(made);
  }, [picture]);
  return url;
}
