/** A visitor's own model file, run in this browser beside the server's models. Nothing of it is sent. */

import { within } from './patience';
import { BROWSER_RUNTIMES, familyOf } from './runtimes';
import { inOwnWorker } from './runtimes/host';
import type { Signature } from './runtimes/model';
import type { Artifact, Own } from './server';
import { count, show, type TensorSpec } from './tensors';
import { text } from './text';

const MOST_BYTES = 1_000_000_000;
const READ_SECONDS = 90;
export const OWN_FILES = /\.(tflite|onnx|json|bin)$/i;

interface Read {
  title: string;
  format: 'tflite' | 'onnx' | 'tfjs';
  files: Own['files'];
}

/** The one model in these files. Raises Error, with what to do, where they are none. */
export async function readOwn(given: File[]): Promise<Read> {
  const size = given.reduce((sum, file) => sum + file.size, 0);
  if (size > MOST_BYTES) throw new Error(text().own.tooLarge(size, MOST_BYTES));
  const files: Own['files'] = {};
  for (const file of given) files[file.name] = new Uint8Array(await file.arrayBuffer());
  const named = (ending: string) => given.filter(({ name }) => name.toLowerCase().endsWith(ending)).map(({ name }) => name);
  const [models, [json]] = [[...named('.tflite'), ...named('.onnx')], named('.json')];
  if (models.length + named('.json').length !== 1) throw new Error(text().own.notOne(given.map(({ name }) => name).join(', ')));
  if (json) return { title: json, format: 'tfjs', files: readGraph(json, files) };
  const [title = ''] = models;
  const format = title.toLowerCase().endsWith('.onnx') ? 'onnx' : 'tflite';
  const bytes = files[title]!;
  const magic = String.fromCharCode(...bytes.subarray(4, 8));
  if (!bytes.length || (format === 'tflite' && magic !== 'TFL3')) throw new Error(text().own.notThat(title, format));
  return { title, format, files: { [`model.${format}`]: bytes } };
}

/** The files of a TF.js graph model, under the names that its runtime looks for. */
function readGraph(title: string, files: Own['files']): Own['files'] {
  const model = graphIn(files[title]!);
  if (!model?.modelTopology || !Array.isArray(model.weightsManifest)) throw new Error(text().own.notThat(title, 'tfjs'));
  if (model.format === 'layers-model') throw new Error(text().own.layers(title));
  const paths = model.weightsManifest.flatMap((group) => group.paths);
  const base = (path: string) => path.split('/').at(-1)!;
  const missing = paths.filter((path) => !files[base(path)]);
  if (missing.length) throw new Error(text().own.missing(title, missing.join(', ')));
  return { 'model.json': files[title]!, ...Object.fromEntries(paths.map((path) => [path, files[base(path)]!])) };
}

interface Graph {
  format?: string;
  modelTopology?: object;
  weightsManifest?: { paths: string[] }[];
}

function graphIn(bytes: Uint8Array): Graph | null {
  try {
    return JSON.parse(new TextDecoder().decode(bytes)) as Graph | null;
  } catch {
    return null;
  }
}

/** The file as an artifact of the model that takes the same input, or, where none does, of a model of its own. */
export async function ownArtifact(read: Read, sources: Artifact[]): Promise<Artifact> {
  const { title, format, files } = read;
  const slug = title.replace(/\.[^.]+$/, '').toLowerCase().replace(/[^a-z0-9_]+/g, '_') || 'own';
  const artifact: Artifact = {
    name: `own_${slug}-${format}`, model: `own_${slug}`, format, status: 'unverified', statusReason: text().own.reason(title),
    image: null, classifies: false, labels: [], inputs: [], outputs: [], compared: false, runtime: '', problem: null,
    files: Object.fromEntries(Object.entries(files).map(([file, bytes]) => [file, { sha256: '', bytes: bytes.length }])),
    own: { title, files, outputs: [] },
  };
  const { inputs, outputs } = await inspected(artifact);
  Object.assign(artifact, { inputs, outputs });
  const source = sources.find((candidate) => isAlike({ inputs, outputs }, candidate));
  if (!source) return artifact;
  const { model, image, classifies, labels } = source;
  return { ...artifact, model, image, classifies, labels, own: { title, files, outputs: source.outputs } };
}

async function inspected(artifact: Artifact): Promise<Signature> {
  const [runtime] = BROWSER_RUNTIMES[familyOf(artifact.format)]!; // the one on WebAssembly
  try {
    return await inOwnWorker(runtime!.id, (worker) => within(READ_SECONDS, (isAlive) => worker.call('inspect', [artifact], isAlive)));
  } catch (error) {
    throw new Error(text().own.unreadable(artifact.own!.title, error instanceof Error ? error.message : String(error)));
  }
}

/** Whether it takes and gives what another model does, row by row, whatever the names. */
function isAlike(own: Signature, other: Signature): boolean {
  const agree = (ours: TensorSpec[], theirs: TensorSpec[]) =>
    ours.length === theirs.length && ours.every((spec, i) => isSameRow(spec, theirs[i]!));
  return agree(own.inputs, other.inputs) && agree(own.outputs, other.outputs);
}

/** The same numbers in the same order: equal sizes, apart from the batch and from axes of one. */
function isSameRow(ours: TensorSpec, theirs: TensorSpec): boolean {
  if (ours.datatype !== theirs.datatype || ![1, -1].includes(ours.shape[0] ?? 1)) return false;
  const row = ({ shape }: TensorSpec) => shape.slice(1).filter((size) => size !== 1);
  return show(row(ours)) === show(row(theirs)) && count(row(ours)) > 0;
}
