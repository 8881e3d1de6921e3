import { useEffect, useMemo, useRef, useState } from 'preact/hooks';

import type { Comparison } from '../comparison';
import { findDisagreement } from '../disagreement';
import { FORMATS, messageOf } from '../errors';
import { milliseconds } from '../figures';
import { bytesAt, type Sample, type Samples } from '../server';
import { currentLanguage, text } from '../text';
import { CameraInput } from './CameraInput';
import { DrawingInput, type Stroke } from './DrawingInput';
import { moveFocus } from './keys';
import { Prose } from './Prose';
import { TensorView } from './TensorView';
import { Thumbnail } from './Thumbnail';

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

/** With more classes than this, a field filters them by name. */
const MOST_CLASSES = 50;
const SOURCES = ['sample', 'upload', 'draw', 'camera'] as const;
type Source = (typeof SOURCES)[number];

export function titleOf({ from }: Picture): string {
  if (typeof from === 'number') return text().testImage(from);
  return from === 'drawing' || from === 'photograph' || from === 'pasted' ? text()[from] : from;
}

export function PicturePanel({ comparison, samples, picture, onPicture }: Props) {
  const [source, setSource] = useState<Source>('sample');
  const [failure, setFailure] = useState('');
  const strokes = useRef<Stroke[]>([]);
  const latest = useRef<Promise<Picture | null> | null>(null);
  const take = (picture: Promise<Picture | null>) => {
    latest.current = picture; // an earlier picture that arrives later is ignored
    setFailure('');
    picture.then(
      (ready) => ready && latest.current === picture && onPicture(ready),
      (error: unknown) => latest.current === picture && setFailure(messageOf(error)),
    );
  };
  useEffect(() => setFailure(''), [comparison.returns]);
  useDropAndPaste((file) => take(pictureIn(file, file.name || 'pasted')));

  return (
    <section class="panel" aria-label={text().picture}>
      <PictureAndTensors comparison={comparison} picture={picture} />
      {failure && <p class="notice" role="alert" data-cell="picture-error"><Prose words={failure} /></p>}
      <SourceTabs source={source} onSource={setSource} />
      <div class="source" role="tabpanel" id="source" aria-labelledby={`source-${source}`}>
        {source === 'sample' && <SampleInput comparison={comparison} samples={samples} chosen={picture?.from ?? null} onSample={take} />}
        {source === 'upload' && <UploadInput onFile={(file) => take(pictureIn(file, file.name))} />}
        {source === 'draw' && <DrawingInput strokes={strokes} onDrawn={(blob) => take(pictureIn(blob, 'drawing'))} />}
        {source === 'camera' && <CameraInput onPhoto={(blob) => take(pictureIn(blob, 'photograph'))} />}
      </div>
    </section>
  );
}

function SourceTabs({ source, onSource }: { source: Source; onSource(source: Source): void }) {
  return (
    <div class="sources" role="tablist" aria-label={text().sourceOfPicture}
      onKeyDown={(event) => moveFocus(event, '[role=tab]')?.click()}>
      {SOURCES.map((name) => (
        <button key={name} id={`source-${name}`} type="button" role="tab" aria-selected={source === name} aria-controls="source"
          tabIndex={source === name ? 0 : -1}
          onClick={() => onSource(name)}>
          {text().sources[name]}
        </button>
      ))}
    </div>
  );
}

function PictureAndTensors({ comparison, picture }: Pick<Props, 'comparison' | 'picture'>) {
  // A picture is shown only when it is known to be one that can be: it may have 400 megapixels.
  const isUsable = picture?.bytes === comparison.decoded && !comparison.imageError;
  const [made] = comparison.tensors;
  const url = useObjectUrl(isUsable ? picture : null);
  if (!picture || !url) {
    return (
      <div class="sight">
        <figure><div class="to-come">{(!picture || comparison.imageError) && text().choosePicture}</div><figcaption /></figure>
        <TensorToCome />
      </div>
    );
  }
  return (
    <div class="sight">
      <figure>
        <img src={url} alt={titleOf(picture)} data-testid="picture" />
        <figcaption><b>{picture.truth ?? titleOf(picture)}</b> {text().thePicture}{made && <small data-testid="made">{text().madeIn(milliseconds(made.ms))}</small>}</figcaption>
      </figure>
      {!made && <TensorToCome />}
      {comparison.tensors.map((tensor) => (
        <TensorView key={JSON.stringify(tensor.spec)} tensor={tensor} isSeenByServer={comparison.isSeenByServer(tensor)} />
      ))}
    </div>
  );
}

/** Keeps the place of a model's input. */
function TensorToCome() {
  return <figure><div class="to-come" /><figcaption /></figure>;
}

interface SampleProps {
  comparison: Comparison;
  samples: Samples | null;
  /** What the chosen picture is: a test image's number, perhaps. */
  chosen: Picture['from'] | null;
  onSample(picture: Promise<Picture | null>): void;
}

function SampleInput({ comparison, samples, chosen, onSample }: SampleProps) {
  const [filter, setFilter] = useState('');
  const [message, setMessage] = useState('');
  const shown = useMemo(() => samples?.samples.filter(isOfClass(samples, filter)) ?? [], [samples, filter]);
  const language = currentLanguage();
  // Its hundreds of buttons are not made anew whenever a row reports.
  const list = useMemo(() => samples && <SampleList samples={samples} shown={shown} chosen={chosen} onPick={(sample) => onSample(pictureOf(samples, sample))} />,
    [samples, shown, chosen, language]);
  if (!samples) return <p class="empty">{text().noSamples}</p>;
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
        <ClassFilter labels={samples.labels} value={filter} onChange={setFilter} />
        <button type="button" disabled={!shown.length} onClick={() => pick(shown[Math.floor(Math.random() * shown.length)]!)}>{text().random}</button>
        {classifiers.length > 0 && (
          <button type="button" class="wide" data-testid="disagree" onClick={() => onSample(disagree())}>{text().disagree}</button>
        )}
      </div>
      {message && <p class="found" role="status"><Prose words={message} /></p>}
      {list}
      <p class="hint">{text().samplesOf(samples.samples.length, samples.title)}</p>
    </>
  );
}

/** The classes in a list, or a field to filter them by where they are too many for one. */
function ClassFilter({ labels, value, onChange }: { labels: string[]; value: string; onChange(filter: string): void }) {
  if (labels.length > MOST_CLASSES) {
    return (
      <input type="search" aria-label={text().classFilter} placeholder={text().classFilter} value={value}
        onInput={({ currentTarget }) => onChange(currentTarget.value)} />
    );
  }
  return (
    <select aria-label={text().classFilter} value={value} onChange={({ currentTarget }) => onChange(currentTarget.value)}>
      <option value="">{text().allClasses}</option>
      {labels.map((name) => <option key={name}>{name}</option>)}
    </select>
  );
}

function isOfClass({ labels }: Samples, filter: string): (sample: Sample) => boolean {
  const wanted = filter.trim().toLowerCase();
  const isExact = labels.length <= MOST_CLASSES;
  return ({ label }) => {
    const name = (labels[label] ?? '').toLowerCase();
    return !wanted || (isExact ? name === wanted : name.includes(wanted));
  };
}

interface ListProps {
  samples: Samples;
  shown: Sample[];
  chosen: Picture['from'] | null;
  onPick(sample: Sample): void;
}

/** The test images: one stop of the tab key, and arrow keys from there. */
function SampleList({ samples, shown, chosen, onPick }: ListProps) {
  const [focused, setFocused] = useState('');
  const reached = shown.find(({ file }) => file === focused) ?? shown.find(({ index }) => index === chosen) ?? shown[0];
  return (
    <div class="samples" data-testid="samples" role="listbox" aria-label={text().sources.sample}
      onKeyDown={(event) => setFocused(moveFocus(event, '[data-sample]')?.dataset.sample ?? focused)}>
      {shown.map((sample) => (
        <button key={sample.file} type="button" role="option" title={samples.labels[sample.label]} data-sample={sample.file}
          aria-label={`${samples.labels[sample.label] ?? ''} ${sample.index}`} aria-selected={sample.index === chosen}
          tabIndex={sample === reached ? 0 : -1} onClick={() => onPick(sample)}>
          <Thumbnail samples={samples} sample={sample} />
        </button>
      ))}
    </div>
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
      <input type="file" accept={[...FORMATS, 'AVIF'].map((format) => `image/${format.toLowerCase()}`).join()}
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
    addEventListener('drop', (event) => take(event, event.dataTransfer?.files), { signal });
    addEventListener('paste', (event) => take(event, event.clipboardData?.files), { signal });
    return () => stop.abort();
  });
}

function useObjectUrl(picture: Picture | null): string | null {
  const [url, setUrl] = useState<string | null>(null);
  useEffect(() => {
    setUrl(null); // the last picture's is not this one's
    if (!picture) return undefined;
    const made = URL.createObjectURL(new Blob([picture.bytes as BlobPart]));
    setUrl(made);
    return () => URL.revokeObjectURL(made);
  }, [picture]);
  return url;
}
