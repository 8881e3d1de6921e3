/** The server's HTTP interface, as far as the page needs it. Same origin always. */

import { messageOf } from './errors';
import type { ImageSpec } from './image';
import type { Report } from './report';
import { decoded, encoded, onlyTensor, type Tensor, type TensorSpec } from './tensors';

const HEADER_LENGTH = 'Inference-Header-Content-Length';
const REQUEST_VALUES = 1_000_000;

export type Status = 'source' | 'verified' | 'verified on ordinary inputs' | 'unverified' | 'failed';

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
  /** What the server runs it with: "LiteRT 2.3.0". */
  runtime: string;
  problem: string | null;
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
  failedEdges: FailedEdge[];
}

export interface ServerAnswer {
  label: string;
  probabilities: Record<string, number>;
  ms: { preprocess: number; queue: number; compute: number };
  /** The sha256 of what the model saw, as little-endian float32. */
  tensor: string;
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
    files: Artifact['files'];
    parity: object | null;
  };
}

/** Every artifact that the server knows, including those that it cannot run, and every conversion that failed. */
export async function listServed(): Promise<Served> {
  const index = await json<{ name: string; failed_edge?: Omit<FailedEdge, 'name'> }[]>(
    '/v2/repository/index', post('{}', 'application/json'));
  const artifacts = index.filter((entry) => !entry.failed_edge).map(({ name }) =>
    describe(name).catch((error: unknown) => unusable(name, error)));
  const failedEdges = index.flatMap(({ name, failed_edge: edge }) => (edge ? [{ ...edge, name }] : []));
  return { artifacts: await Promise.all(artifacts), failedEdges };
}

async function describe(name: string): Promise<Artifact> {
  const { inputs, outputs, parameters } = await json<Metadata>(`/v2/models/${name}`);
  const { model, format, runtime, status, status_reason, image, classifies, labels, layouts, files, parity } = parameters;
  const withLayout = (specs: Metadata['inputs']) => specs.map((spec) => ({ ...spec, layout: layouts[spec.name] ?? '' }));
  return {
    name, model, format, status, image, classifies, labels, files,
    statusReason: status_reason ?? '',
    runtime: runtime ?? '',
    inputs: withLayout(inputs),
    outputs: withLayout(outputs),
    compared: Boolean(parity),
    problem: null,
  };
}

function unusable(name: string, error: unknown): Artifact {
  const dash = name.indexOf('-'); // a model's name contains no dash
  return {
    name, model: name.slice(0, dash), format: name.slice(dash + 1),
    status: 'failed', statusReason: '', image: null, classifies: false, labels: [], files: {}, runtime: '',
    inputs: [], outputs: [], compared: false,
    problem: messageOf(error),
  };
}

/** The name of a class; its number if the classes have no names. */
export function labelOf({ labels }: Pick<Artifact, 'labels'>, index: number): string {
  return labels[index] ?? `class ${index}`;
}

/** Send the same bytes that the page decodes, so that both sides start from one picture. */
export function predictPicture(name: string, picture: Uint8Array, signal: AbortSignal): Promise<ServerAnswer> {
  return json<ServerAnswer>(`/predict/${name}`, { ...post(picture as BodyInit), signal });
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
export async function infer({ name, outputs }: Artifact, inputs: Tensor[], signal?: AbortSignal): Promise<Tensor[]> {
  const { body, header } = encoded(inputs, outputs);
  const call = post(body);
  const response = await request(`/v2/models/${name}/infer`, {
    ...call, headers: { ...call.headers, [HEADER_LENGTH]: String(header) }, signal: signal ?? null,
  });
  const answer = new Uint8Array(await response.arrayBuffer());
  return decoded({ body: answer, header: Number(response.headers.get(HEADER_LENGTH) ?? answer.length) });
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
  return part.catch((error: unknown) => {
    throw new Error(`Its code could not be downloaded (${messageOf(error)}). Check the server, then load the page again.`);
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
