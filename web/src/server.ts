/** The server's HTTP interface, as far as the page needs it. Same origin always. */

import { messageOf } from './errors';
import type { ImageSpec } from './image';
import type { Report } from './report';

export type Status = 'source' | 'verified' | 'unverified' | 'failed';

/** One artifact as the server tells of it. One that cannot be run has a `problem`, and little else. */
export interface Artifact {
  name: string;
  model: string;
  format: string;
  status: Status;
  statusReason: string;
  image: ImageSpec | null;
  labels: string[];
  files: Record<string, { sha256: string; bytes: number }>;
  input: string;
  output: string;
  /** Whether there is a parity result for exactly these bytes. */
  compared: boolean;
  /** What the server runs it with: "LiteRT 2.3.0". */
  runtime: string;
  problem: string | null;
}

export interface ServerAnswer {
  label: string;
  probabilities: Record<string, number>;
  ms: { preprocess: number; queue: number; compute: number };
  /** The sha256 of what the model saw, as little-endian float32. */
  tensor: string;
}

/** What `make verify` wrote of an artifact, as far as the page needs it. */
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

interface Tensor {
  name: string;
}

interface Metadata {
  name: string;
  inputs: Tensor[];
  outputs: Tensor[];
  parameters: {
    model: string;
    format: string;
    runtime?: string;
    status: Status;
    status_reason?: string;
    image: ImageSpec | null;
    labels: string[];
    files: Artifact['files'];
    parity: object | null;
  };
}

/** Every artifact that the server knows, those that it cannot run too. */
export async function listArtifacts(): Promise<Artifact[]> {
  const index = await json<{ name: string }[]>('/v2/repository/index', post('{}', 'application/json'));
  return Promise.all(index.map(({ name }) => describe(name).catch((error: unknown) => unusable(name, error))));
}

async function describe(name: string): Promise<Artifact> {
  const { inputs, outputs, parameters } = await json<Metadata>(`/v2/models/${name}`);
  const { model, format, runtime, status, status_reason, image, labels, files, parity } = parameters;
  return {
    name, model, format, status, image, labels, files,
    statusReason: status_reason ?? '',
    runtime: runtime ?? '',
    input: inputs[0]?.name ?? '',
    output: outputs[0]?.name ?? '',
    compared: Boolean(parity),
    problem: image ? null : `${name} does not take pictures: its manifest has no image part. Call it with tensors.`,
  };
}

function unusable(name: string, error: unknown): Artifact {
  const dash = name.indexOf('-'); // a model's name holds none
  return {
    name, model: name.slice(0, dash), format: name.slice(dash + 1),
    status: 'failed', statusReason: '', image: null, labels: [], files: {}, runtime: '', input: '', output: '', compared: false,
    problem: messageOf(error),
  };
}

/** The same bytes that the page reads, so that both sides start from one picture. */
export function predictPicture(name: string, picture: Uint8Array, signal: AbortSignal): Promise<ServerAnswer> {
  return json<ServerAnswer>(`/predict/${name}`, { ...post(picture as BodyInit), signal });
}

export async function isAlive(): Promise<boolean> {
  return fetch('/v2/health/live').then(({ ok }) => ok, () => false);
}

export function listSamples(): Promise<Samples> {
  return json<Samples>('/samples/index.json');
}

export function parityOf({ model, format }: Artifact): Promise<Parity> {
  return json<Parity>(`/artifacts/${model}/${format}/parity.json`);
}

/** What `make compare` wrote; null where it has not run. */
export function readReport(): Promise<Report | null> {
  return json<Report | null>('/report/report.json');
}

/** Many pictures' pixels in one request, by the Open Inference Protocol: probabilities, one list a picture. */
export async function inferBatch({ name, image, input, output }: Artifact, pictures: Float32Array[]): Promise<number[][]> {
  const { height, width, channels } = image!;
  const data = pictures.flatMap((pixels) => Array.from(pixels));
  const tensor = { name: input, shape: [pictures.length, height, width, channels], datatype: 'FP32', data };
  const body = JSON.stringify({ inputs: [tensor], outputs: [{ name: output }] });
  const answer = await json<{ outputs: [{ data: number[] }] }>(`/v2/models/${name}/infer`, post(body, 'application/json'));
  const all = answer.outputs[0].data;
  const each = all.length / pictures.length;
  return pictures.map((_, i) => all.slice(i * each, (i + 1) * each));
}

export async function bytesAt(path: string): Promise<Uint8Array> {
  return new Uint8Array(await (await request(path)).arrayBuffer());
}

/** A part of the page's own code, which is fetched when it is first used. */
export function code<T>(part: Promise<T>): Promise<T> {
  return part.catch((error: unknown) => {
    throw new Error(`Its code did not come (${messageOf(error)}). Check the server, then load the page again.`);
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
    if (error instanceof DOMException) throw error; // aborted, or too late
    throw new Error(`The server did not answer ${path} (${messageOf(error)}). Check that it runs, then try again.`);
  });
  if (response.ok) return response;
  const body = (await response.json().catch(() => ({}))) as { error?: string };
  throw new Error(body.error ?? `${path} answered with status ${response.status}. The server's log says more.`);
}
