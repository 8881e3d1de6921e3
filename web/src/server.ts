/** The server's HTTP interface, as far as the page needs it. Same origin always. */

import type { ArmProof } from './arm';
import { messageOf } from './errors';
import type { ImageSpec } from './image';
import type { Placement } from './placement';
import type { Report } from './report';
import type { Status } from './status';
import { decoded, encoded, onlyTensor, parametersOf, type Message, type Tensor, type TensorSpec } from './tensors';
import { text } from './text';

const HEADER_LENGTH = 'Inference-Header-Content-Length';
const REQUEST_VALUES = 1_000_000;

/** One artifact as the server describes it. If it cannot be run, it has a `problem` and few other values. */
export interface Artifact {
  name: string;
  model: string;
  format: string;
  status: Status;
  statusReason: string;
  image: ImageSpec | null;
  /** Whether it takes one picture and gives one probability per class. */
  classifies: boolean;
  /** Empty if the classes have no names. */
  labels: string[];
  files: Record<string, { sha256: string; bytes: number }>;
  inputs: TensorSpec[];
  outputs: TensorSpec[];
  /** Whether there is a parity result for exactly these bytes. */
  compared: boolean;
  /** Whether a reduced precision is stored in its file, and nothing computes in it. */
  storedOnly?: boolean;
  /** Where its operators run. */
  placements?: Placement[];
  /** Whether it answers so on an ARM processor, too; null where that is unknown. */
  arm?: ArmProof | null;
  /** What the server runs it with: "LiteRT 2.3.0". */
  runtime: string;
  problem: string | null;
  /** The system that alone runs it: it is converted here, and not run. */
  needs?: string;
  /** A visitor's own file, which stays in this browser. */
  own?: Own;
}

/** A file that was dropped on the page. */
export interface Own {
  title: string;
  /** Path -> bytes. */
  files: Record<string, Uint8Array<ArrayBuffer>>;
  /** The outputs of the model that it is compared with, to which its own are renamed by their order. */
  outputs: TensorSpec[];
}

/** A format that a model could not be converted to: contract/failed_edge.py. */
export interface FailedEdge {
  name: string;
  model: string;
  format: string;
  parent: string;
  reason: string;
  cause: string;
  try: string;
  routes: { route: string; error: string }[];
  /** The address of the full log. */
  log: string | null;
}

export interface Served {
  artifacts: Artifact[];
  /** What is converted here, and runs elsewhere. */
  notRun?: Artifact[];
  failedEdges: FailedEdge[];
}

/** Milliseconds of one call: in the server's queue, in its runtime, and all that was there besides. */
export interface CallTimes {
  queue: number;
  compute: number;
  network: number;
}

/** What `make verify` wrote about an artifact, as far as the page needs it. */
export interface Parity {
  source: string;
  images: number;
  batches: { flips: { image: number; source: number; artifact: number }[] }[];
}

export interface Sample {
  file: string;
  index: number;
  label: number;
}

export interface Samples {
  title: string;
  labels: string[];
  samples: Sample[];
  /** One picture of all samples, in their order, row by row. */
  sprite?: { file: string; columns: number };
}

interface Metadata {
  name: string;
  inputs: Omit<TensorSpec, 'layout'>[];
  outputs: Omit<TensorSpec, 'layout'>[];
  parameters: {
    model: string;
    format: string;
    runtime?: string;
    status: Status;
    status_reason?: string;
    image: ImageSpec | null;
    classifies: boolean;
    labels: string[];
    layouts: Record<string, string>;
    least?: Record<string, number[]>;
    files: Artifact['files'];
    parity: { placements?: Placement[] } | null;
    arm?: ArmProof | null;
    stored_only?: boolean;
    needs?: string;
  };
}

/** Every artifact that the server knows, including those that it cannot run, and every conversion that failed. */
export async function listServed(): Promise<Served> {
  const index = await json<{ name: string; failed_edge?: Omit<FailedEdge, 'name'>; not_run?: Metadata }[]>(
    '/v2/repository/index', post('{}', 'application/json'));
  const artifacts = index.filter((entry) => !entry.failed_edge && !entry.not_run).map(({ name }) =>
    json<Metadata>(`/v2/models/${name}`).then(described).catch((error: unknown) => unusable(name, error)));
  const failedEdges = index.flatMap(({ name, failed_edge: edge }) => (edge ? [{ ...edge, name }] : []));
  const notRun = index.flatMap(({ not_run: metadata }) => (metadata ? [described(metadata)] : []));
  return { artifacts: await Promise.all(artifacts), notRun, failedEdges };
}

function described({ name, inputs, outputs, parameters }: Metadata): Artifact {
  const { model, format, runtime, status, status_reason, image, classifies, labels, layouts, least, files, parity, arm, stored_only, needs } = parameters;
  const withLayout = (specs: Metadata['inputs']) =>
    specs.map((spec) => ({ ...spec, layout: layouts[spec.name] ?? '', least: least?.[spec.name] }));
  return {
    name, model, format, status, image, classifies, labels, files,
    statusReason: status_reason ?? '',
    runtime: runtime ?? '',
    inputs: withLayout(inputs),
    outputs: withLayout(outputs),
    compared: Boolean(parity),
    storedOnly: Boolean(stored_only),
    placements: parity?.placements ?? [],
    arm: arm ?? null,
    problem: null,
    ...(needs ? { needs } : {}),
  };
}

function unusable(name: string, error: unknown): Artifact {
  const dash = name.indexOf('-'); // a model's name contains no dash
  return {
    name, model: name.slice(0, dash), format: name.slice(dash + 1),
    status: 'failed', statusReason: '', image: null, classifies: false, labels: [], files: {}, runtime: '',
    inputs: [], outputs: [], compared: false, storedOnly: false,
    problem: messageOf(error),
  };
}

/** The name of a class; its number if the classes have no names. */
export function labelOf({ labels }: Pick<Artifact, 'labels'>, index: number): string {
  return labels[index] ?? text().nameless(index);
}

/** The sha256 of what the server makes of a picture for a model: of the tensor, as little-endian float32. */
export async function tensorHash(name: string, picture: Uint8Array, signal: AbortSignal): Promise<string> {
  const { tensor } = await json<{ tensor: string }>(`/predict/${name}`, { ...post(picture as BodyInit), signal });
  return tensor;
}

/** With `?idle` in its address the page runs nothing by itself. */
export const isIdle = new URLSearchParams(globalThis.location?.search).has('idle');

export async function isAlive(): Promise<boolean> {
  return fetch('/v2/health/live').then(({ ok }) => ok, () => false);
}

/** The test images. Throws if the server has none. */
export async function listSamples(): Promise<Samples> {
  const samples = await json<Samples | null>('/samples/index.json');
  if (!samples) throw new Error('There is no folder `samples` beside the artifacts.');
  return samples;
}

export function parityOf({ model, format }: Artifact): Promise<Parity> {
  return json<Parity>(`/artifacts/${model}/${format}/parity.json`);
}

/** What `make compare` wrote; null where it has not run. */
export function readReport(): Promise<Report | null> {
  return json<Report | null>('/report/report.json');
}

/** Tensors by the Open Inference Protocol: every output, in the model's order. */
export async function infer(artifact: Artifact, inputs: Tensor[], signal?: AbortSignal): Promise<Tensor[]> {
  return decoded(await ask(artifact, encoded(inputs, artifact.outputs), signal));
}

/** Where the time of such a call goes. */
export async function timedInfer(artifact: Artifact, inputs: Tensor[]): Promise<CallTimes> {
  const message = encoded(inputs, artifact.outputs, { times: true });
  const start = performance.now();
  const answer = await ask(artifact, message);
  const whole = performance.now() - start;
  const { queue_ms: queue = 0, compute_ms: compute = whole } = parametersOf(answer);
  return { queue, compute, network: Math.max(0, whole - queue - compute) };
}

async function ask({ name }: Artifact, { body, header }: Message, signal?: AbortSignal): Promise<Message> {
  const call = post(body);
  const response = await request(`/v2/models/${name}/infer`, {
    ...call, headers: { ...call.headers, [HEADER_LENGTH]: String(header) }, signal: signal ?? null,
  });
  const answer = new Uint8Array(await response.arrayBuffer());
  return { body: answer, header: Number(response.headers.get(HEADER_LENGTH) ?? answer.length) };
}

/** The probabilities of each picture. A request holds as many pictures as the model and REQUEST_VALUES allow. */
export async function inferPictures(artifact: Artifact, pictures: Float32Array[]): Promise<number[][]> {
  const batch = artifact.inputs[0]!.shape[0] === 1 ? 1 : Math.max(1, Math.floor(REQUEST_VALUES / pictures[0]!.length));
  const answers: number[][] = [];
  for (let at = 0; at < pictures.length; at += batch) {
    const pixels = pictures.slice(at, at + batch);
    const [{ data } = { data: [] }] = await infer(artifact, onlyTensor(artifact.inputs, pixels.flatMap((each) => Array.from(each))));
    const each = data.length / pixels.length;
    answers.push(...pixels.map((_, i) => Array.from(data.slice(i * each, (i + 1) * each) as Float32Array)));
  }
  return answers;
}

export async function bytesAt(path: string): Promise<Uint8Array> {
  return new Uint8Array(await (await request(path)).arrayBuffer());
}

/** A part of the page's own code, which is downloaded when it is first used. */
export function code<T>(part: Promise<T>): Promise<T> {
  return part.catch(async (error: unknown) => {
    if (!(await isAlive())) throw new Error('The server does not answer, and this part of the page was not loaded before. Start the server, then load the page again.');
    throw new Error(
      `Its code could not be downloaded (${messageOf(error)}). If the page was built anew since it was opened, its old parts ` +
        'are gone. Check the server, then load the page again.',
    );
  });
}

export function post(body: BodyInit, type = 'application/octet-stream'): RequestInit {
  return { method: 'POST', body, headers: { 'Content-Type': type } };
}

export async function json<T>(path: string, options?: RequestInit): Promise<T> {
  return (await (await request(path, options)).json()) as T;
}

async function request(path: string, options?: RequestInit): Promise<Response> {
  const response = await fetch(path, options).catch((error: unknown) => {
    if (error instanceof DOMException) throw error; // aborted, or timed out
    throw new Error(`The server did not answer ${path} (${messageOf(error)}). Check that it runs, then try again.`);
  });
  if (response.ok) return response;
  const body = (await response.json().catch(() => ({}))) as { error?: string };
  throw new Error(body.error ?? `${path} answered with status ${response.status}. See the server's log.`);
}
