import { useEffect, useRef, useState } from 'preact/hooks';

import type { ModelTensor } from '../comparison';
import { messageOf } from '../errors';
import { bytesAt, type Samples } from '../server';
import { CameraInput } from './CameraInput';
import { DrawingInput } from './DrawingInput';
import { TensorView } from './TensorView';

export interface Picture {
  bytes: Uint8Array;
  title: string;
  /** The label that people gave it, where it is known. */
  truth: string | null;
}

interface Props {
  samples: Samples | null;
  picture: Picture | null;
  tensors: ModelTensor[];
  problem: string;
  onPicture(picture: Picture): void;
}

const WAYS = ['Test image', 'Upload', 'Draw', 'Camera'] as const;
type Way = (typeof WAYS)[number];

export function PicturePanel({ samples, picture, tensors, problem, onPicture }: Props) {
  const [way, setWay] = useState<Way>('Test image');
  const [failure, setFailure] = useState('');
  const latest = useRef<Promise<Picture> | null>(null);
  const take = (picture: Promise<Picture>) => {
    latest.current = picture; // an earlier one that arrives later is not wanted any more
    setFailure('');
    picture.then(
      (ready) => latest.current === picture && onPicture(ready),
      (error: unknown) => latest.current === picture && setFailure(messageOf(error)),
    );
  };
  useDropAndPaste((file) => take(pictureIn(file, file.name || 'pasted picture')));

  return (
    <section class="panel" aria-label="Picture">
      <PictureAndTensors picture={picture} tensors={tensors} />
      {(failure || problem) && <p class="notice" role="alert" data-cell="picture-error">{failure || problem}</p>}
      <nav class="ways" role="tablist" aria-label="Where the picture comes from">
        {WAYS.map((name) => (
          <button key={name} type="button" role="tab" aria-selected={way === name} onClick={() => setWay(name)}>{name}</button>
        ))}
      </nav>
      {way === 'Test image' && <SampleInput samples={samples} onSample={take} />}
      {way === 'Upload' && <UploadInput onFile={(file) => take(pictureIn(file, file.name))} />}
      {way === 'Draw' && <DrawingInput onDrawn={(blob) => take(pictureIn(blob, 'drawing'))} />}
      {way === 'Camera' && <CameraInput onPhoto={(blob) => take(pictureIn(blob, 'photograph'))} />}
    </section>
  );
}

function PictureAndTensors({ picture, tensors }: Pick<Props, 'picture' | 'tensors'>) {
  const url = useObjectUrl(picture);
  if (!picture || !url) return <p class="empty">Choose a picture: every row answers for it.</p>;
  return (
    <div class="sight">
      <figure>
        <img src={url} alt={picture.title} data-testid="picture" />
        <figcaption><b>{picture.truth ?? picture.title}</b> the picture</figcaption>
      </figure>
      {tensors.map((tensor) => <TensorView key={JSON.stringify(tensor.spec)} tensor={tensor} />)}
    </div>
  );
}

interface SampleProps {
  samples: Samples | null;
  onSample(picture: Promise<Picture>): void;
}

function SampleInput({ samples, onSample }: SampleProps) {
  if (!samples) return <p class="empty">The server offers no test images. Upload a picture, or draw one.</p>;
  const pick = (sample: Samples['samples'][number]) => onSample(pictureOf(samples, sample));
  const random = () => pick(samples.samples[Math.floor(Math.random() * samples.samples.length)]!);
  return (
    <>
      <p class="hint">
        {samples.samples.length} pictures of the test set of {samples.title} <button type="button" onClick={random}>Any one</button>
      </p>
      <div class="samples" data-testid="samples">
        {samples.samples.map((sample) => (
          <button key={sample.file} type="button" title={samples.labels[sample.label]} data-sample={sample.file}
            onClick={() => pick(sample)}>
            <img src={`/samples/${sample.file}`} alt={samples.labels[sample.label] ?? sample.file}
              width={28} height={28} />
          </button>
        ))}
      </div>
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
      <input type="file" accept="image/png,image/jpeg,image/webp,image/gif,image/bmp"
        onChange={({ currentTarget }) => choose(currentTarget)} />
      <b>Choose a file</b>
      <span>or drop one anywhere, or paste one. PNG, JPEG, WebP, GIF or BMP; it is sent to this server only.</span>
    </label>
  );
}

export async function pictureOf({ labels }: Samples, sample: Samples['samples'][number]): Promise<Picture> {
  const { file, index, label } = sample;
  return { bytes: await bytesAt(`/samples/${file}`), title: `test image ${index}`, truth: labels[label] ?? null };
}

async function pictureIn(blob: Blob, title: string): Promise<Picture> {
  return { bytes: new Uint8Array(await blob.arrayBuffer()), title, truth: null };
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
