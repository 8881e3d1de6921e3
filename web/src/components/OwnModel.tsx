import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks';

import type { Comparison } from '../comparison';
import { messageOf } from '../errors';
import { OWN_FILES } from '../ownModel';
import { text } from '../text';

/** A visitor's own model file: chosen here, or dropped anywhere on the page. */
export function OwnModel({ comparison }: { comparison: Comparison }) {
  const words = text().own;
  const [message, setMessage] = useState('');
  const [isRefused, setRefused] = useState(false);
  const say = (words: string, refused: boolean) => {
    setMessage(words);
    setRefused(refused);
  };
  const line = useRef<HTMLParagraphElement>(null);
  // A file may be dropped anywhere on a long page, and what becomes of it is said here.
  useEffect(() => line.current?.scrollIntoView({ block: 'nearest' }), [message]);
  const latest = useRef<object>({});
  const add = (files: File[]) => {
    const own = (latest.current = {});
    say(words.reading, false);
    comparison.addOwn(files).then(
      ({ model, own: added }) => latest.current === own && say(words.added(added!.title, model), false),
      (error: unknown) => latest.current === own && say(messageOf(error), true),
    );
  };
  // Listens from the moment it is drawn: what is dropped before would be taken for a picture.
  useLayoutEffect(() => {
    const stop = new AbortController();
    const drop = (event: DragEvent) => {
      const files = Array.from(event.dataTransfer?.files ?? []);
      if (!files.some(({ name }) => OWN_FILES.test(name))) return; // a picture
      event.preventDefault();
      event.stopImmediatePropagation();
      add(files);
    };
    addEventListener('drop', drop, { signal: stop.signal, capture: true });
    return () => stop.abort();
  });
  return (
    <div class="own-model">
      {comparison.models.length > 0 && <>
        <label class="file">
          <input type="file" multiple accept=".tflite,.onnx,.json,.bin" data-testid="own-file" aria-label={words.choose}
            onChange={({ currentTarget }) => {
              const files = Array.from(currentTarget.files ?? []);
              currentTarget.value = '';
              if (files.length) add(files);
            }} />
          <span aria-hidden="true">{words.choose}</span>
        </label>
        <small>{words.hint}</small>
      </>}
      {message && <p ref={line} class={isRefused ? 'notice' : 'found'} role={isRefused ? 'alert' : 'status'} data-testid="own-message">{message}</p>}
    </div>
  );
}
