import { useEffect, useState } from 'preact/hooks';

import type { Comparison } from '../comparison';
import { messageOf } from '../errors';
import { isIdle, type Artifact } from '../server';
import { batchAxis, emptyEntry, fillsOf, MAX_ROWS, tensorsOf, type Entry, type Fill, type TensorSpec } from '../tensors';
import { text } from '../text';

/** Values for every input of a model that takes no pictures. */
export function TensorForm({ comparison, artifact: { model, inputs } }: { comparison: Comparison; artifact: Artifact }) {
  const words = text().form;
  const [entries, setEntries] = useState(() => inputs.map(emptyEntry));
  const [rows, setRows] = useState(1);
  const [problem, setProblem] = useState('');
  const run = () => {
    setProblem('');
    try {
      void comparison.give(model, tensorsOf(inputs, entries, rows));
    } catch (error) {
      setProblem(messageOf(error));
    }
  };
  useEffect(() => { if (!isIdle) run(); }, []); // nobody should have to press a button to see what the page does
  const submit = (event: Event) => {
    event.preventDefault();
    run();
  };
  const change = (i: number, to: Partial<Entry>) =>
    setEntries(entries.map((entry, at) => (at === i ? { ...entry, ...to } : entry)));
  return (
    <form class="panel tensors" aria-label={words.title(model)} onSubmit={submit} data-form={model}>
      <h2>{model}</h2>
      {inputs.some((spec) => spec.shape[batchAxis(spec)] === -1) && (
        <NumberField label={words.batch} value={rows} most={MAX_ROWS} onChange={setRows} />
      )}
      {inputs.map((spec, i) => (
        <InputField key={spec.name} spec={spec} entry={entries[i]!} onChange={(to) => change(i, to)}
          current={() => flatJson(spec, entries[i]!, rows)} />
      ))}
      {problem && <p class="notice" role="alert">{problem}</p>}
      <button type="submit" class="primary">{words.run}</button>
    </form>
  );
}

interface FieldProps {
  spec: TensorSpec;
  entry: Entry;
  onChange(to: Partial<Entry>): void;
  /** The current values as JSON. */
  current(): string;
}

function InputField({ spec, entry, onChange, current }: FieldProps) {
  const words = text().form;
  const { name, datatype, shape, layout } = spec;
  const choose = (fill: Fill) => onChange(fill === 'json' ? { fill, text: current() } : { fill });
  const resize = (axis: number, size: number) => onChange({ sizes: entry.sizes.map((old, at) => (at === axis ? size : old)) });
  return (
    <fieldset data-input={name}>
      <legend>
        <code>{name}</code> <small>{datatype} {shape.map((size) => (size < 0 ? words.any : size)).join(' × ')} {layout}</small>
      </legend>
      <div class="fields">
        <label>{words.values}
          <select value={entry.fill} onChange={({ currentTarget }) => choose(currentTarget.value as Fill)}>
            {fillsOf(spec).map((fill) => <option key={fill} value={fill}>{words.fills[fill]}</option>)}
          </select>
        </label>
        {entry.fill === 'random' && (
          <NumberField label={words.seed} value={entry.seed} least={0} onChange={(seed) => onChange({ seed })} />
        )}
        {shape.map((size, axis) => (size < 0 && axis !== batchAxis(spec) && (
          <NumberField key={axis} label={words.size(axis + 1)} value={entry.sizes[axis]!} onChange={(to) => resize(axis, to)} />
        )))}
      </div>
      {(entry.fill === 'json' || entry.fill === 'lines') && (
        <textarea rows={3} spellcheck={false} aria-label={`${name}: ${entry.fill === 'json' ? 'JSON' : words.onePerLine}`} value={entry.text}
          onInput={({ currentTarget }) => onChange({ text: currentTarget.value })} />
      )}
    </fieldset>
  );
}

interface NumberProps {
  label: string;
  value: number;
  least?: number;
  most?: number;
  onChange(value: number): void;
}

function NumberField({ label, value, least = 1, most = 1_000_000, onChange }: NumberProps) {
  return (
    <label>{label}
      <input type="number" required step={1} min={least} max={most} value={value}
        onInput={({ currentTarget }) => onChange(Number(currentTarget.value))} />
    </label>
  );
}

const MAX_EDITABLE = 200;

/** The values as JSON if they are few enough to edit; otherwise an empty text. */
function flatJson(spec: TensorSpec, entry: Entry, rows: number): string {
  try {
    const [{ data } = { data: [] }] = tensorsOf([spec], [entry], rows);
    return data.length > MAX_EDITABLE ? '' : JSON.stringify(Array.from(data as string[], (value) => (typeof value === 'bigint' ? Number(value) : value)));
  } catch {
    return entry.text;
  }
}
