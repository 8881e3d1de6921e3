import { useEffect, useRef, useState } from 'preact/hooks';

import type { Comparison } from '../comparison';
import { findDisagreement } from '../disagreement';
import { FORMATS, messageOf } from '../errors';
import { bytesAt, type Sample, type Samples } from '../server';
import { text } from '../text';
import { CameraInput } from './CameraInput';
import { DrawingInput } from './DrawingInput';
import { TensorView } from './TensorView';

/** A picture's bytes, and where they come from: a file's name, a test image's number, or a way of input. */
export interface Picture {
  bytes: Uint8Array;
  from: string | number | 'drawing' | 'photograph' | 'pasted';
  /** Its true label, if known. */
  truth: string | null;
}

interface Props {
  comparison: Comparison;
  samples: Samples | null;
  picture: Picture | null;
  onPicture(picture: Picture): void;
}

const SOURCES = ['sample', 'upload', 'draw', 'camera'] as const;
type Source = (typeof SOURCES)[number];

export function titleOf({ from }: Picture): string {
  if (typeof from === 'number') return text().testImage(from);
  return from === 'drawing' || from === 'photograph' || from === 'pasted' ? text()[from] : from;
}

export function PicturePanel({ comparison, samples, picture, onPicture }: Props) {
  const [source, setSource] = useState<Source>('sample');
  const [failure, setFailure] = useState('');
  const latest = useRef<Promise<Picture | null> | null>(null);
  const take = (picture: Promise<Picture | null>) => {
    latest.current = picture; // an earlier picture that arrives later is ignored
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
      <SourceTabs source={source} onSource={setSource} />
      <div class="source" role="tabpanel" id="source" aria-labelledby={`source-${source}`}>
        {source === 'sample' && <SampleInput comparison={comparison} samples={samples} onSample={take} />}
        {source === 'upload' && <UploadInput onFile={(file) => take(pictureIn(file, file.name))} />}
        {source === 'draw' && <DrawingInput onDrawn={(blob) => take(pictureIn(blob, 'drawing'))} />}
        {source === 'camera' && <CameraInput onPhoto={(blob) => take(pictureIn(blob, 'photograph'))} />}
      </div>
    </section>
  );
}

function SourceTabs({ source, onSource }: { source: Source; onSource(source: Source): void }) {
  return (
    <div class="sources" role="tablist" aria-label={text().sourceOfPicture}>
      {SOURCES.map((name) => (
        <button key={name} id={`source-${name}`} type="button" role="tab" aria-selected={source === name} aria-controls="source"
          onClick={() => onSource(name)}>
          {text().sources[name]}
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
  const [message, setMessage] = useState('');
  if (!samples) return <p class="empty">{text().noSamples}</p>;
  const shown = samples.samples.filter((sample) => label < 0 || sample.label === label);
  const classifiers = comparison.artifacts.filter(({ classifies, model }) => classifies && comparison.chosen.has(model));
  const pick = (sample: Sample) => onSample(pictureOf(samples, sample));
  const disagree = async () => {
    setMessage(text().searching);
    const { message: answer, picture } = await findDisagreement(classifiers, samples).catch((error: unknown) =>
      ({ message: messageOf(error), picture: null }));
    setMessage(answer);
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
        <button type="button" onClick={() => pick(shown[Math.floor(Math.random() * shown.length)]!)}>{text().random}</button>
        {classifiers.length > 0 && (
          <button type="button" class="wide" data-testid="disagree" onClick={() => onSample(disagree())}>{text().disagree}</button>
        )}
      </div>
      {message && <p class="found" role="status">{message}</p>}
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
    input.value = ''; // so that choosing the same file again is a change
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
